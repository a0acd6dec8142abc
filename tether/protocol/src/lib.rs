//! What guest and host share: link frames and session, guest RPC, extraConfig codec, configuration models.
//!
//! A leaf crate without a runtime: everything here is bytes in, values out.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the models of a containerVM and of the appliance, and their extraConfig keys |
//! | [`session`] | the link between VCH and guest: preamble, TLS, frames, credit, retransmission |
//! | [`rpci`] | guest RPC messages and their framing on a socket |
//! | [`nicinfo`] | the XDR document by which a guest reports its addresses |
//! | [`log`] | one line of a container's log file |
//!
//! ```
//! use tether_protocol::config::{ExecutorConfig, Session};
//!
//! let mut config = ExecutorConfig { id: "ab12".into(), ..Default::default() };
//! let process = Session { args: vec!["sh".into(), "-c".into(), "a | b".into()], ..Default::default() };
//! config.sessions.insert("ab12".into(), process);
//! let keys = config.encode();
//! assert_eq!(keys["guestinfo.vice./sessions|ab12/cmd/Args|2"], "a | b");
//! assert_eq!(ExecutorConfig::decode(&keys).unwrap(), config);
//! ```

pub mod config;
pub mod log;
pub mod nicinfo;
pub mod rpci;
pub mod session;
