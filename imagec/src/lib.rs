//! OCI and Docker registry client, archive loading, layer unpacking; no knowledge of vSphere.
//!
//! ```text
//! Reference ─ Client::resolve ─┐                      ┌─ Fetch::reader ─ unpack::unpack ─ directory
//!                              ├─ Image { layers } ─ Layer::fetch
//! archive ─── archive::open ───┘
//! ```
//!
//! An [`Image`] is the same thing from either side: the configuration as it came, and layers that
//! can be fetched one by one, in any order, a few at a time. Every byte is checked against the
//! digest that named it: manifests and configurations before they are parsed, layers at the end of
//! their stream, and what was unpacked by the `diff_id` that [`unpack::unpack`] returns.
//!
//! Errors are docker's, text included ([`Error`]).
//!
//! ```no_run
//! # async fn pull(root: std::path::PathBuf) -> Result<(), Box<dyn std::error::Error>> {
//! use imagec::{Client, Credentials, Options, Reference, Spool, unpack};
//!
//! let client = Client::new(Options::default().with_system_roots())?;
//! let name = Reference::parse("busybox")?.with_default_tag();
//! let image = client.resolve(&name, None, &Credentials::default()).await?;
//! let spool = Spool::new("/var/tmp".as_ref());
//! let tell = std::sync::Arc::new(|event: imagec::FetchEvent| println!("{}", event.status()));
//! // All downloads start now, three at a time; unpacking follows them in order.
//! let fetches: Result<Vec<_>, _> =
//!     image.layers.iter().map(|layer| layer.fetch(&spool, tell.clone())).collect();
//! for (layer, fetch) in image.layers.iter().zip(fetches?) {
//!     let (reader, root) = (fetch.reader(), root.clone());
//!     let unpacked = tokio::task::spawn_blocking(move || {
//!         unpack::unpack(reader, &root, &unpack::Limits::default())
//!     });
//!     assert_eq!(unpacked.await??.diff_id, layer.diff_id);
//! }
//! # Ok(())
//! # }
//! ```

pub mod archive;
mod credentials;
mod digest;
mod error;
mod fetch;
mod image;
mod model;
mod platform;
mod reference;
mod registry;
pub mod unpack;

pub use credentials::Credentials;
pub use digest::{Digest, DigestError, Hasher, chain_ids};
pub use error::{Error, Kind};
pub use fetch::{DOWNLOADS, Events, Fetch, FetchEvent, Reader, Spool};
pub use image::{Image, Layer};
pub use model::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, OCI_INDEX, OCI_MANIFEST, fuzz_parse};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
pub use registry::{Client, LocalPolicy, Options, fuzz_challenge};
