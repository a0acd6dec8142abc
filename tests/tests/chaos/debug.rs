//! The client's side of the debug socket.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// One actor of the live tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: String,
    pub kind: String,
    /// Another one after each restart.
    pub actor: u64,
    /// Requests outstanding, of those at the actors below it too.
    pub busy: usize,
}

/// A debug socket; each command has a connection of its own.
#[derive(Debug, Clone, Copy)]
pub struct Socket(pub SocketAddr);

/// The server answers at once, but for `arm`.
const PATIENCE: Duration = Duration::from_secs(30);

impl Socket {
    /// The live tree, in the order in which it is printed.
    pub fn tree(self) -> Result<Vec<Entry>> {
        self.list("tree")?.iter().map(|line| entry(line)).collect()
    }

    /// All kinds of actors that the program knows.
    pub fn kinds(self) -> Result<Vec<String>> {
        self.list("kinds")
    }

    /// Kills the first actor that matches; `None` when none does.
    pub fn kill(self, pattern: &str) -> Result<Option<Entry>> {
        killed(&self.send(&format!("kill {pattern}"))?.one()?)
    }

    /// Arms a kill for the moment when an actor that matches has a request outstanding.
    pub fn arm(self, pattern: &str, wait: Duration) -> Result<Armed> {
        self.send(&format!("arm {pattern} {}", wait.as_millis()))
            .map(Armed)
    }

    fn list(self, command: &str) -> Result<Vec<String>> {
        let mut reader = self.send(command)?;
        let mut lines = Vec::new();
        loop {
            let line = reader.one()?;
            if line == "." {
                return Ok(lines);
            }
            lines.push(line);
        }
    }

    fn send(self, command: &str) -> Result<Reply> {
        let mut stream = TcpStream::connect_timeout(&self.0, PATIENCE).context("debug socket")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        Ok(Reply(BufReader::new(stream)))
    }
}

/// A kill that waits for its moment.
pub struct Armed(Reply);

impl Armed {
    /// The actor as it was when it was killed; `None` when the moment did not come.
    pub fn wait(mut self) -> Result<Option<Entry>> {
        killed(&self.0.one()?)
    }
}

struct Reply(BufReader<TcpStream>);

impl Reply {
    fn one(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.0.read_line(&mut line)? > 0,
            "the debug socket broke off"
        );
        Ok(line.trim_end().to_owned())
    }
}

fn killed(line: &str) -> Result<Option<Entry>> {
    match line.strip_prefix("ok ") {
        Some(rest) => entry(rest).map(Some),
        None if line == "timeout" || line == "no such actor" => Ok(None),
        None => bail!("the debug socket says {line:?}"),
    }
}

fn entry(line: &str) -> Result<Entry> {
    let field = |name: &str| {
        line.split(' ')
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            .with_context(|| format!("no {name} in {line:?}"))
    };
    Ok(Entry {
        path: line.split(' ').next().unwrap_or_default().to_owned(),
        kind: field("kind")?.to_owned(),
        actor: field("actor")?.parse()?,
        busy: field("busy")?.parse::<usize>()? + field("below")?.parse::<usize>()?,
    })
}
