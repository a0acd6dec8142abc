//! The serial hub: accepts the serial lines of containers' VMs and hands each to its container.
//!
//! Each connection is greeted until it echoes; the echo says whose line it is (TLS proves it later). A connection
//! that does not answer in time is closed and dials again. What a crash loses: connections that have not said who
//! they are; all others belong to their links.

use std::net::SocketAddr;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tether_protocol::session::Greeting;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::container::link::Line;
use crate::container::{Input, Message as ContainerMessage};
use crate::context::Context;
use crate::ids::ContainerId;

/// How often the greeting is repeated until it is answered.
const REPEAT: Duration = Duration::from_millis(100);

/// How long a connection may stay silent.
const SILENCE: Duration = Duration::from_secs(60);

/// What the hub can be asked.
#[derive(Debug)]
pub enum Message {
    /// Where it listens.
    Address(RpcReplyPort<SocketAddr>),
}

/// What the hub is started with.
#[derive(Debug, Clone)]
pub struct Args {
    /// What all share.
    pub context: Context,
    /// Where to listen; port 0 takes any, and keeps it over restarts of the actor.
    pub listen: SocketAddr,
    /// The port that was taken at the first start.
    pub bound: std::sync::Arc<std::sync::OnceLock<SocketAddr>>,
    /// Counts the lines that are being greeted.
    pub busy: strategy::Busy,
}

/// The hub.
#[derive(Debug)]
pub struct Serial;

/// The running hub.
#[derive(Debug)]
pub struct State {
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl Actor for Serial {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        args: Args,
    ) -> Result<State, ActorProcessingErr> {
        let wanted = args.bound.get().copied().unwrap_or(args.listen);
        let listener = TcpListener::bind(wanted).await?;
        let address = listener.local_addr()?;
        let _ = args.bound.set(address);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, args.context, args.busy));
        Ok(State {
            address,
            _accepting: accepting,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Message::Address(reply) = message;
        let _ = reply.send(state.address);
        Ok(())
    }
}

async fn accept(listener: TcpListener, context: Context, busy: strategy::Busy) {
    let mut greetings = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((connection, from)) => {
                let (context, greeted) = (context.clone(), busy.request());
                greetings.spawn(async move {
                    let _greeted = greeted;
                    if let Err(why) = greet(connection, &context).await {
                        tracing::debug!(%from, %why, "serial line");
                    }
                });
            }
            // Out of descriptors: others end.
            Err(why) => {
                tracing::warn!(%why, "cannot accept serial lines");
                tokio::time::sleep(REPEAT).await;
            }
        }
        while greetings.try_join_next().is_some() {}
    }
}

async fn greet(mut connection: TcpStream, context: &Context) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut greeting = Greeting::new();
    let mut buffer = vec![0; 4096];
    let mut repeat = tokio::time::interval(REPEAT);
    let silence = tokio::time::sleep(SILENCE);
    tokio::pin!(silence);
    let echo = loop {
        tokio::select! {
            _ = repeat.tick() => connection.write_all(&greeting.preamble()).await?,
            n = connection.read(&mut buffer) => match n? {
                0 => return Ok(()),
                n => if let Some(echo) = greeting.receive(&buffer[..n]) { break echo },
            },
            () = &mut silence => return Ok(()),
        }
    };
    let Ok(id) = echo.id().parse::<ContainerId>() else {
        return Ok(());
    };
    let Some(container) = context.container(id) else {
        return Ok(());
    };
    let (reader, writer) = connection.into_split();
    let line = Line {
        reader: Box::new(reader),
        writer: Box::new(writer),
        echo,
    };
    container.tell(ContainerMessage::Event(Box::new(Input::Line(Box::new(
        line,
    )))));
    Ok(())
}
