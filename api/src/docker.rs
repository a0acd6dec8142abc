//! The Docker Engine API: one actor that listens, a task per connection, thin translators.
//!
//! ```text
//! listener ─ accept ─ TLS ─ connection task ─ route ─ handler ─ one message to one actor
//!                                │                        └── or a read of snapshots
//!                                └─ 101: the same task goes on with the raw stream
//! ```
//!
//! A crash of this actor loses the open connections and nothing else: what was asked for is carried out by the
//! actors, and clients connect again.

mod connection;
mod containers;
mod detach;
mod engine;
mod error;
mod events;
mod exec;
mod filters;
mod frames;
mod hijack;
mod human;
mod images;
mod listener;
mod networks;
mod reply;
mod request;
mod route;
mod system;
mod timestamp;
mod tls;
mod version;
mod versions;
mod volumes;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use engine::Engine;
pub use listener::{Bind, Listener};
pub use route::{Route, Verdict, routes};
pub use tls::{TlsError, server_config};
pub use version::{ApiVersion, NEWEST, OLDEST};

/// Clients beyond this wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;

/// A pause after a failed `accept`, which means that file descriptors have run out for now.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the requests of all connections share.
pub struct Shared {
    /// The engine that the persona speaks for.
    pub engine: Engine,
}

/// What the persona is started with.
#[derive(Clone)]
pub struct Args {
    /// Where to listen.
    pub bind: Bind,
    /// The server's certificate, and whom it lets in; none: plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The engine.
    pub engine: Engine,
}

/// What the persona can be asked.
pub enum Message {
    /// The address that it listens on, as `tcp://…` or `unix://…`.
    Address(RpcReplyPort<String>),
    /// Accept nobody any more; answer when the last connection has closed: long
    /// polls and raw streams end with their containers, so the asker sets a deadline.
    Drain(RpcReplyPort<()>),
    /// The accept loop ended, which it never should.
    Ended,
}

/// The persona's state: the task that all its connections belong to.
pub struct State {
    address: String,
    draining: watch::Sender<bool>,
    accepting: Task,
    idle: watch::Receiver<usize>,
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The Docker persona.
pub struct Persona;

impl Actor for Persona {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        args: Args,
    ) -> Result<State, ActorProcessingErr> {
        let listener = Listener::bind(&args.bind).await?;
        let address = listener.address();
        tracing::info!(%address, tls = args.tls.is_some(), "serving the Docker API");
        let (draining, drain) = watch::channel(false);
        let (busy, idle) = watch::channel(0);
        let shared = Arc::new(Shared {
            engine: args.engine,
        });
        let accepting = Task(tokio::spawn(async move {
            accept(listener, args.tls, shared, drain, busy).await;
            let _ = myself.cast(Message::Ended);
        }));
        Ok(State {
            address,
            draining,
            accepting,
            idle,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Address(reply) => {
                let _ = reply.send(state.address.clone());
            }
            Message::Drain(reply) => {
                let _ = state.draining.send(true);
                let mut idle = state.idle.clone();
                tokio::spawn(async move {
                    let _ = idle.wait_for(|busy| *busy == 0).await;
                    let _ = reply.send(());
                });
            }
            Message::Ended if *state.draining.borrow() => {}
            Message::Ended => {
                state.accepting.0.abort();
                return Err("the accept loop of the Docker API ended".into());
            }
        }
        Ok(())
    }
}

/// Starts the persona without a supervisor and answers its reference and its address.
///
/// # Errors
///
/// When the address cannot be bound.
pub async fn serve(args: Args) -> Result<(ActorRef<Message>, String), ractor::SpawnErr> {
    let (actor, _) = Actor::spawn(None, Persona, args).await?;
    let address = ractor::call!(actor, Message::Address)
        .map_err(|why| ractor::SpawnErr::StartupFailed(why.to_string().into()))?;
    Ok((actor, address))
}

async fn accept(
    listener: Listener,
    tls: Option<Arc<rustls::ServerConfig>>,
    shared: Arc<Shared>,
    mut drain: watch::Receiver<bool>,
    busy: watch::Sender<usize>,
) {
    let mut connections = JoinSet::new();
    let watched = drain.clone();
    loop {
        let full = connections.len() >= MAX_CONNECTIONS;
        tokio::select! {
            biased;
            () = async { let _ = drain.wait_for(|on| *on).await; } => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                note(ended);
                busy.send_replace(connections.len());
            }
            client = listener.accept(), if !full => match client {
                Ok(client) => {
                    let (tls, shared, drain) = (tls.clone(), shared.clone(), watched.clone());
                    connections.spawn(async move {
                        match client.secure(tls.as_ref()).await {
                            Ok(conn) => connection::serve(conn, shared, drain).await,
                            Err(error) => tracing::debug!(%error, "a client was not let in"),
                        }
                    });
                    busy.send_replace(connections.len());
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        note(ended);
        busy.send_replace(connections.len());
    }
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task failed");
    }
}
