//! The programs that the fake knows.

use actors::streams::{Input, Stream};
use bytes::Bytes;
use tokio::sync::mpsc;

/// Runs one of the programs that the fake knows, answering its exit code.
pub(super) async fn program<F: Future<Output = ()>>(
    argv: &[String],
    input: Option<mpsc::Receiver<Input>>,
    tty: bool,
    send: impl Fn(Stream, Bytes) -> F,
) -> i32 {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo", rest @ ..] => {
            send(
                Stream::Stdout,
                Bytes::from(format!(
                    "{}{}",
                    rest.join(" "),
                    if tty { "\r\n" } else { "\n" }
                )),
            )
            .await;
            0
        }
        ["fail", text, code] => {
            send(Stream::Stderr, Bytes::from(format!("{text}\n"))).await;
            code.parse().expect("a code")
        }
        ["cat"] => {
            let mut input = input;
            while let Some(input) = &mut input {
                match input.recv().await {
                    Some(Input::Data(data)) => send(Stream::Stdout, data).await,
                    Some(Input::Close) | None => break,
                }
            }
            0
        }
        ["flood", megabytes] => {
            let piece = Bytes::from(vec![b'x'; 32 * 1024]);
            for _ in 0..megabytes.parse::<usize>().expect("a number") * 32 {
                send(Stream::Stdout, piece.clone()).await;
            }
            0
        }
        ["nosuch"] => {
            send(
                Stream::Stdout,
                Bytes::from_static(
                    b"OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuch\": \
                      executable file not found in $PATH: unknown\r\n",
                ),
            )
            .await;
            127
        }
        ["true"] => 0,
        ["exit", code] => code.parse().expect("a code"),
        _ => std::future::pending().await,
    }
}
