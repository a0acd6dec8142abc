//! Unpacks an archive into a directory, which it never leaves.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{Member, ReadError, Reader};

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is damaged.
    #[error("cannot read the archive to unpack")]
    Read(#[source] ReadError),
    /// A member could not be made.
    #[error("cannot create {path}")]
    Create {
        /// The member.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A member lies beneath something that is no directory of the archive: a symbolic link, say, that leads outside.
    #[error("{path} does not lie in a directory of the archive")]
    Parent {
        /// The member.
        path: String,
    },
}

/// Unpacks directories, files, links and symbolic links into `target`, which must exist and be empty.
///
/// Missing parents are made. Device nodes and the like are skipped: whoever boots the archive gives it a `/dev`.
/// Owners are not set. A member is only ever made in a directory that this call has made itself.
///
/// # Errors
/// When the archive is damaged, a member leads outside, or a file cannot be written; `target` is then half full.
pub fn unpack<R: Read>(reader: &mut Reader<R>, target: &Path) -> Result<(), UnpackError> {
    let mut tree = Tree {
        target,
        dirs: HashSet::from([String::new()]),
        links: HashMap::new(),
    };
    while let Some(member) = reader.next_member().map_err(UnpackError::Read)? {
        tree.add(reader, &member)?;
    }
    Ok(())
}

struct Tree<'a> {
    target: &'a Path,
    dirs: HashSet<String>,
    /// First path of each inode that has several.
    links: HashMap<u32, PathBuf>,
}

impl Tree<'_> {
    fn add<R: Read>(&mut self, reader: &mut Reader<R>, member: &Member) -> Result<(), UnpackError> {
        let create = |source| UnpackError::Create {
            path: member.path.clone(),
            source,
        };
        if member.path.is_empty() || self.dirs.contains(&member.path) {
            let permissions = fs::Permissions::from_mode(member.mode & 0o7777);
            return if member.is_dir() {
                fs::set_permissions(self.target.join(&member.path), permissions).map_err(create)
            } else {
                Err(create(io::ErrorKind::IsADirectory.into()))
            };
        }
        self.parents(&member.path)?;
        let path = self.target.join(&member.path);
        if member.is_dir() {
            make_dir(&path, member.mode).map_err(create)?;
            self.dirs.insert(member.path.clone());
        } else if member.is_symlink() {
            let mut goal = String::new();
            reader
                .take(4096)
                .read_to_string(&mut goal)
                .map_err(create)?;
            symlink(goal, &path).map_err(create)?;
        } else if member.is_file() {
            self.file(reader, member, &path).map_err(create)?;
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        member: &Member,
        path: &Path,
    ) -> io::Result<()> {
        let mut file = match self.links.get(&member.inode) {
            Some(first) if member.links > 1 => {
                fs::hard_link(first, path)?;
                if member.size == 0 {
                    return Ok(());
                }
                File::options().write(true).truncate(true).open(path)?
            }
            _ => OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(member.mode & 0o777)
                .open(path)?,
        };
        if member.links > 1 {
            self.links
                .entry(member.inode)
                .or_insert_with(|| path.to_owned());
        }
        io::copy(reader, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(member.mode & 0o7777))
    }

    /// Makes the directories above `path` that the archive did not name.
    fn parents(&mut self, path: &str) -> Result<(), UnpackError> {
        for (end, _) in path.match_indices('/') {
            let parent = &path[..end];
            if self.dirs.contains(parent) {
                continue;
            }
            make_dir(&self.target.join(parent), 0o755).map_err(|_| UnpackError::Parent {
                path: path.to_owned(),
            })?;
            self.dirs.insert(parent.to_owned());
        }
        Ok(())
    }
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
}
