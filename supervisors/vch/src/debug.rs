//! The debug socket: prints the live tree and kills in it. There only with `--debug 3` at create.
//!
//! One command a line:
//!
//! | command | answer |
//! |---|---|
//! | `tree` | a line per actor, `PATH kind=KIND actor=N busy=B below=M`, and a line `.`: B requests are outstanding at it, M at the actors below it, which end with it |
//! | `kinds` | every kind of actor that there is, one a line, and a line `.` |
//! | `kill PATTERN` | `ok` and the actor's line as it was at the moment of the kill, when it has ended; `no such actor` |
//! | `arm PATTERN MS` | the same, but the kill waits until a request is outstanding there; `timeout` when none was in time |
//!
//! A pattern is a path in which `*` stands for any text, or `kind:KIND`; the first actor that it means is taken.

use std::net::SocketAddr;
use std::time::Duration;

use actors::world::KINDS;
use strategy::{Entry, Tree};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Longest command.
const MAX_COMMAND: u64 = 4096;

/// Most that one connection may say.
const MAX_COMMANDS: u64 = 1 << 20;

/// Serves until the program ends.
pub async fn serve(tree: Tree, address: SocketAddr) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(why) => {
            tracing::warn!(%address, %why, "no debug socket");
            return;
        }
    };
    while let Ok((connection, _)) = listener.accept().await {
        let tree = tree.clone();
        tokio::spawn(async move {
            // The client may leave at any time.
            let _ = talk(connection, &tree).await;
        });
    }
}

async fn talk(connection: TcpStream, tree: &Tree) -> std::io::Result<()> {
    use tokio::io::AsyncReadExt as _;
    let (reader, mut writer) = connection.into_split();
    let mut lines = BufReader::new(reader.take(MAX_COMMAND * MAX_COMMANDS)).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = answer(tree, line.trim()).await;
        writer.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// Carries out one command.
async fn answer(tree: &Tree, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words[..] {
        ["tree"] => listed(tree.entries()),
        ["kinds"] => listed(KINDS),
        ["kill", pattern] => killed(tree.kill(pattern).await, "no such actor"),
        ["arm", pattern, patience] => match patience.parse() {
            Ok(patience) => {
                let patience = Duration::from_millis(patience);
                killed(tree.arm(pattern, patience).await, "timeout")
            }
            Err(_) => "not a number of milliseconds\n".to_owned(),
        },
        _ => "commands: tree, kinds, kill PATTERN, arm PATTERN MS\n".to_owned(),
    }
}

fn listed<T: ToString>(lines: impl IntoIterator<Item = T>) -> String {
    let lines = lines.into_iter().map(|line| line.to_string());
    lines
        .chain([".".to_owned()])
        .map(|line| line + "\n")
        .collect()
}

fn killed(entry: Option<Entry>, otherwise: &str) -> String {
    match entry {
        Some(entry) => format!("ok {entry}\n"),
        None => format!("{otherwise}\n"),
    }
}

#[cfg(test)]
mod tests {
    use ractor::{Actor, ActorProcessingErr, ActorRef};
    use strategy::Busy;

    use super::*;

    struct Idler;

    impl Actor for Idler {
        type Msg = ();
        type State = ();
        type Arguments = ();
        async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_tree_is_printed_and_killed_in_by_pattern() {
        let tree = Tree::default();
        let busy = Busy::default();
        let (actor, _) = Actor::spawn(None, Idler, ()).await.unwrap();
        let number = actor.get_id().pid();
        tree.enter("vch/events", "events", actor.get_cell(), busy.clone());
        let line = format!("vch/events kind=events actor={number} busy=0 below=0");
        assert_eq!(answer(&tree, "tree").await, format!("{line}\n.\n"));
        assert_eq!(answer(&tree, "kill vch/x*").await, "no such actor\n");
        assert_eq!(answer(&tree, "arm vch/events 0").await, "timeout\n");
        let _request = busy.request();
        let line = line.replace("busy=0", "busy=1");
        assert_eq!(
            answer(&tree, "arm kind:events 0").await,
            format!("ok {line}\n")
        );
        assert_eq!(actor.get_status(), ractor::ActorStatus::Stopped);
        assert!(answer(&tree, "kinds").await.contains("\nrepository\n"));
        assert!(answer(&tree, "dance").await.starts_with("commands:"));
    }
}
