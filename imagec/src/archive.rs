//! Archives for `docker load`: what `docker save` writes, old and new, and OCI layouts.
//!
//! The archive is a file that can be read at any place; [`spool`] makes one of an upload,
//! uncompressed on the way. Layers are read from it in place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::Error;
use crate::image::{Image, Source};
use crate::model::{self, Descriptor, Document, MAX_CONFIG, MAX_MANIFEST};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::unpack::{Kind, TarError, TarReader, decompress};

/// Names in an archive that are looked at.
const MAX_NAMES: usize = 200_000;
/// Links followed from one name.
const MAX_LINKS: usize = 8;
/// Indexes within indexes.
const MAX_DEPTH: usize = 4;
/// Images in one archive.
const MAX_IMAGES: usize = 1024;

/// An image of an archive, with the names that it had.
#[derive(Clone, Debug)]
pub struct LoadedImage {
    /// The image.
    pub image: Image,
    /// Its names; empty: it is known by its id only.
    pub tags: Vec<Reference>,
}

/// Writes an upload, uncompressed, into `file`. Blocks. Returns the length.
///
/// # Errors
/// When the upload or the file fails.
pub fn spool(upload: impl Read, file: &mut File) -> io::Result<u64> {
    let mut plain = decompress(upload)?;
    let mut buffer = vec![0u8; 256 * 1024];
    let mut total = 0;
    loop {
        match plain.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(got) => {
                file.write_all(&buffer[..got])?;
                total += got as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Reads what images an uncompressed archive holds. Blocks, but reads no layer.
///
/// Of indexes, the image for `platform` (this machine's when `None`) is taken.
///
/// # Errors
/// [`Error::Archive`], with docker's text where it has one.
pub fn open(file: File, platform: Option<&Platform>) -> Result<Vec<LoadedImage>, Error> {
    let archive = Archive::index(file)?;
    if archive.names.contains_key("manifest.json") {
        return archive.docker_images();
    }
    if archive.names.contains_key("index.json") {
        return archive.oci_images(&platform.cloned().unwrap_or_else(Platform::host));
    }
    Err(Error::archive("does not contain a manifest.json"))
}

#[derive(Clone, Debug)]
enum Item {
    File { offset: u64, size: u64 },
    Link(String),
}

struct Archive {
    file: Arc<File>,
    names: HashMap<String, Item>,
}

impl Archive {
    fn index(mut file: File) -> Result<Self, Error> {
        file.seek(SeekFrom::Start(0))
            .map_err(Error::local("read the archive"))?;
        let mut tar = TarReader::new(Seeking(BufReader::with_capacity(4096, file)));
        let mut names = HashMap::new();
        let bad = |error: TarError| match error {
            TarError::Read(source) => Error::Local {
                what: "read the archive",
                source,
            },
            TarError::Truncated => Error::archive("unexpected EOF"),
            other => Error::archive(other),
        };
        while let Some(entry) = tar.next_entry().map_err(bad)? {
            let (offset, left) = (tar.position(), tar.left());
            let name = clean(&entry.path);
            let item = match &entry.kind {
                Kind::File if entry.sparse.is_none() => Item::File {
                    offset,
                    size: entry.size,
                },
                Kind::Symlink(target) if !target.starts_with(b"/") => {
                    let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
                    Item::Link(clean(
                        format!("{dir}/{}", String::from_utf8_lossy(target)).as_bytes(),
                    ))
                }
                Kind::Hardlink(target) => Item::Link(clean(target)),
                _ => continue,
            };
            if names.len() == MAX_NAMES {
                return Err(Error::archive("too many entries"));
            }
            names.insert(name, item);
            // Over the data by a seek, not by reading it.
            tar.skip_data(left).map_err(bad)?;
        }
        Ok(Self {
            file: Arc::new(tar.into_inner().0.into_inner()),
            names,
        })
    }

    /// Where a file's data is.
    fn find(&self, name: &str) -> Result<(u64, u64), Error> {
        let mut name = clean(name.as_bytes());
        for _ in 0..MAX_LINKS {
            match self.names.get(&name) {
                Some(Item::File { offset, size }) => return Ok((*offset, *size)),
                Some(Item::Link(target)) => name = target.clone(),
                None => return Err(Error::archive(format!("{name} is missing"))),
            }
        }
        Err(Error::archive(format!("{name} is a link without end")))
    }

    fn read(&self, name: &str, limit: u64) -> Result<Bytes, Error> {
        let (offset, size) = self.find(name)?;
        if size > limit {
            return Err(Error::archive(format!("{name} is too large")));
        }
        let mut data = vec![0u8; size as usize];
        self.file
            .read_exact_at(&mut data, offset)
            .map_err(Error::local("read the archive"))?;
        Ok(data.into())
    }

    fn layer(
        &self,
        name: &str,
        media_type: &str,
        digest: Option<Digest>,
    ) -> Result<(Descriptor, Source), Error> {
        let (offset, size) = self.find(name)?;
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            // Nobody states the digest of an old archive's layers; the diff id is what counts.
            digest: digest.unwrap_or_else(|| Digest::of(name.as_bytes())),
            size,
            platform: None,
            annotations: Default::default(),
        };
        Ok((
            descriptor,
            Source::Archive {
                file: self.file.clone(),
                offset,
            },
        ))
    }

    fn docker_images(&self) -> Result<Vec<LoadedImage>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Listed {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Option<Vec<String>>,
        }
        let json = self.read("manifest.json", MAX_MANIFEST)?;
        let listed: Vec<Listed> = serde_json::from_slice(&json)
            .map_err(|e| Error::archive(format!("manifest.json: {e}")))?;
        if listed.len() > MAX_IMAGES {
            return Err(Error::archive("too many images"));
        }
        let mut all = Vec::new();
        for one in listed {
            let config = self.read(&one.config, MAX_CONFIG)?;
            let layers = one.layers.unwrap_or_default();
            let blobs = layers.iter().map(|name| {
                let digest = name
                    .strip_prefix("blobs/sha256/")
                    .map(|hex| format!("sha256:{hex}"));
                self.layer(name, "", digest.and_then(|d| d.parse().ok()))
            });
            let image = Image::assemble(config, None, blobs.collect::<Result<_, _>>()?)?;
            let tags = one.repo_tags.unwrap_or_default();
            let tags = tags
                .iter()
                .map(|t| Reference::parse(t).map(Reference::with_default_tag));
            let tags = tags
                .collect::<Result<Vec<_>, _>>()
                .map_err(Error::Reference)?;
            all.push(LoadedImage { image, tags });
        }
        Ok(all)
    }

    fn oci_images(&self, platform: &Platform) -> Result<Vec<LoadedImage>, Error> {
        let json = self.read("index.json", MAX_MANIFEST)?;
        let Document::Index(entries) = model::parse(&json, model::OCI_INDEX, "index.json")? else {
            return Err(Error::archive("index.json is not an index"));
        };
        let mut all: Vec<LoadedImage> = Vec::new();
        for entry in entries.into_iter().take(MAX_IMAGES) {
            let name = entry
                .annotations
                .get("io.containerd.image.name")
                .or_else(|| entry.annotations.get("org.opencontainers.image.ref.name"));
            // A bare tag, which some tools write, is no name.
            let tag = name
                .filter(|n| n.contains(['/', ':']))
                .and_then(|n| Reference::parse(n).ok());
            let Some(image) = self.oci_image(&entry, platform, 0)? else {
                continue;
            };
            let tags = tag.map(Reference::with_default_tag);
            match all.iter_mut().find(|seen| seen.image.id == image.id) {
                Some(seen) => seen.tags.extend(tags),
                None => all.push(LoadedImage {
                    image,
                    tags: tags.into_iter().collect(),
                }),
            }
        }
        if all.is_empty() {
            return Err(Error::NoPlatform {
                platform: platform.to_string(),
            });
        }
        Ok(all)
    }

    fn oci_image(
        &self,
        entry: &Descriptor,
        platform: &Platform,
        depth: usize,
    ) -> Result<Option<Image>, Error> {
        if entry
            .platform
            .as_ref()
            .is_some_and(|p| !platform.accepts(p))
        {
            return Ok(None);
        }
        if depth == MAX_DEPTH {
            return Err(Error::archive("too many indexes within indexes"));
        }
        let body = self.blob(&entry.digest, MAX_MANIFEST)?;
        match model::parse(&body, &entry.media_type, entry.digest.as_str())? {
            Document::Index(inner) => {
                let chosen =
                    platform
                        .choose(&inner, |d| d.platform.as_ref())
                        .or(match inner.as_slice() {
                            [one] if one.platform.is_none() => Some(one),
                            _ => None,
                        });
                match chosen {
                    Some(chosen) => self.oci_image(chosen, platform, depth + 1),
                    None => Ok(None),
                }
            }
            Document::Manifest(manifest) => {
                let config = self.blob(&manifest.config.digest, MAX_CONFIG)?;
                let blobs = manifest.layers.iter().map(|layer| {
                    let name = blob_name(&layer.digest);
                    self.layer(&name, &layer.media_type, Some(layer.digest.clone()))
                });
                Image::assemble(config, None, blobs.collect::<Result<_, _>>()?).map(Some)
            }
        }
    }

    /// A small blob, checked.
    fn blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, Error> {
        let body = self.read(&blob_name(digest), limit)?;
        if !digest.matches(&body) {
            return Err(Error::ManifestDigest {
                digest: digest.clone(),
            });
        }
        Ok(body)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// A name without `./`, `//` and `..`.
fn clean(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A file behind a buffer that can jump.
struct Seeking(BufReader<File>);

impl Read for Seeking {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl TarReader<Seeking> {
    /// Jumps over `left` bytes of data.
    fn skip_data(&mut self, left: u64) -> Result<(), TarError> {
        // The last byte is read, so that a file that is too short is noticed.
        let Some(jump) = left.checked_sub(1).filter(|j| *j > 0) else {
            return Ok(());
        };
        self.jump(jump, |stream| {
            let jump = i64::try_from(jump).map_err(io::Error::other)?;
            stream.0.seek_relative(jump)
        })
    }
}
