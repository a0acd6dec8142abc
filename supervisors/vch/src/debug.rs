//! The debug socket: prints the live tree and kills in it by path. There only with `--debug 3` at create.
//!
//! One command a line: `tree` answers with the paths, their outstanding requests, and a line `.`; `kill PATH`
//! answers `ok` or `no such actor`.

use std::net::SocketAddr;

use strategy::Tree;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Longest command.
const MAX_COMMAND: u64 = 4096;

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
    let mut lines = BufReader::new(reader.take(MAX_COMMAND * 1024)).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match line.trim().split_once(' ') {
            None if line.trim() == "tree" => {
                let mut text = String::new();
                for entry in tree.entries() {
                    text.push_str(&format!(
                        "{} actor={} busy={}\n",
                        entry.path, entry.actor, entry.busy
                    ));
                }
                text + ".\n"
            }
            Some(("kill", path)) if tree.kill(path.trim()) => "ok\n".to_owned(),
            Some(("kill", _)) => "no such actor\n".to_owned(),
            _ => "commands: tree, kill PATH\n".to_owned(),
        };
        writer.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
