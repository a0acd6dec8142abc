//! Servers whose certificates were accepted before, as ssh keeps them.
//!
//! Old command lines name no fingerprint and expect none to be asked for. For them the first certificate seen is
//! accepted, loudly, and remembered here; from then on every command accepts that one and no other.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file of accepted servers: `host:port fingerprint` in each line.
#[derive(Clone, Debug)]
pub(crate) struct KnownHosts {
    path: PathBuf,
}

impl KnownHosts {
    /// The user's file; none when the user has no home.
    pub(crate) fn of_user() -> Option<Self> {
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
        Some(Self::at(&config.join("vic-machine/known_hosts")))
    }

    /// A file at a given place.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The fingerprint that was accepted last for a server.
    pub(crate) fn find(&self, server: &str) -> Option<String> {
        let text = fs::read_to_string(&self.path).ok()?;
        let last = text
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(server)?.strip_prefix(' '));
        last.map(str::to_owned)
    }

    /// Remembers a fingerprint.
    pub(crate) fn remember(&self, server: &str, fingerprint: &str) -> io::Result<()> {
        if self.find(server).as_deref() == Some(fingerprint) {
            return Ok(());
        }
        if let Some(dir) = self.path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
        }
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        writeln!(file, "{server} {fingerprint}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_fingerprint_counts() {
        let dir = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(&dir.path().join("deep/known_hosts"));
        assert_eq!(known.find("a:443"), None);
        known.remember("a:443", "AA").unwrap();
        known.remember("a:4430", "BB").unwrap();
        known.remember("a:443", "CC").unwrap();
        assert_eq!(known.find("a:443").as_deref(), Some("CC"));
        assert_eq!(known.find("a:4430").as_deref(), Some("BB"));
    }
}
