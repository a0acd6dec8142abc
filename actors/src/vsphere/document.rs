//! State documents: what has no VM is a small JSON file on the datastore, replaced as a whole.
//!
//! Each carries a generation, which grows by one with every write, and the name of its writer. Before a write the file
//! is read again: one of another generation was written by a second `vch` of the same name, and is not overwritten.
//! vSphere offers no exchange of files on a condition, so two that write within the same few milliseconds are not told
//! apart until the next write of either.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Vsphere;
use crate::error::Error;

/// The head of every state document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Head {
    generation: u64,
    writer: String,
}

/// A whole document.
#[derive(Serialize)]
struct Whole<'a, T> {
    #[serde(flatten)]
    head: &'a Head,
    #[serde(flatten)]
    content: &'a T,
}

/// A state document, as its one writer knows it.
#[derive(Debug)]
pub struct Document {
    vsphere: Vsphere,
    path: String,
    writer: String,
    generation: u64,
}

impl Document {
    /// Reads a document and what is in it; the default when there is none. `writer` names this program.
    ///
    /// # Errors
    /// vSphere's, and [`Error::Failed`] for a file that is no document.
    pub async fn read<T: DeserializeOwned + Default>(
        vsphere: &Vsphere,
        path: String,
        writer: &str,
    ) -> Result<(Self, T), Error> {
        let (generation, content) = match vsphere.read_file(&path).await? {
            None => (0, T::default()),
            Some(bytes) => {
                let head: Head = parse(&path, &bytes)?;
                (head.generation, parse(&path, &bytes)?)
            }
        };
        let document = Self {
            vsphere: vsphere.clone(),
            path,
            writer: writer.to_owned(),
            generation,
        };
        Ok((document, content))
    }

    /// Replaces the content.
    ///
    /// # Errors
    /// [`Error::Superseded`] when somebody else has written since; vSphere's.
    pub async fn write<T: Serialize + Sync>(&mut self, content: &T) -> Result<(), Error> {
        let found: Head = match self.vsphere.read_file(&self.path).await? {
            None => Head::default(),
            Some(bytes) => parse(&self.path, &bytes)?,
        };
        if found.generation == self.generation + 1 && found.writer == self.writer {
            // Our own last write, of which we did not hear that it was done.
            self.generation = found.generation;
        }
        if found.generation != self.generation {
            return Err(Error::Superseded {
                path: self.path.clone(),
                found: found.generation,
                expected: self.generation,
            });
        }
        let head = Head {
            generation: self.generation + 1,
            writer: self.writer.clone(),
        };
        let whole = Whole {
            head: &head,
            content,
        };
        self.vsphere.write_document(&self.path, &whole).await?;
        self.generation = head.generation;
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|why| Error::failed(format!("read {path}"), &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Names {
        names: Vec<String>,
    }

    #[test]
    fn the_head_lies_beside_the_content() {
        let names = Names {
            names: vec!["a".into()],
        };
        let head = Head {
            generation: 7,
            writer: "w".into(),
        };
        let whole = Whole {
            head: &head,
            content: &names,
        };
        let bytes = serde_json::to_vec(&whole).unwrap();
        assert_eq!(bytes, br#"{"generation":7,"writer":"w","names":["a"]}"#);
        assert_eq!(parse::<Head>("x", &bytes).unwrap(), head);
        assert_eq!(parse::<Names>("x", &bytes).unwrap(), names);
        let old = br#"{"generation":3,"names":[]}"#;
        assert_eq!(parse::<Head>("x", old).unwrap().generation, 3);
    }
}
