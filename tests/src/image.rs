//! The image of the tests: Debian's static busybox as a `docker save` archive.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Programs that the image links to busybox.
const APPLETS: &[&str] = &[
    "sh",
    "true",
    "false",
    "echo",
    "cat",
    "sleep",
    "ls",
    "ps",
    "id",
    "env",
    "pwd",
    "hostname",
    "mount",
    "mknod",
    "dd",
    "head",
    "tail",
    "touch",
    "mkdir",
    "rm",
    "cp",
    "mv",
    "kill",
    "test",
    "[",
    "printf",
    "seq",
    "wc",
    "grep",
    "sed",
    "awk",
    "ip",
    "ifconfig",
    "nslookup",
    "wget",
    "nc",
    "ping",
    "stty",
    "tty",
    "trap",
    "yes",
    "sync",
    "stat",
    "chmod",
    "chown",
    "ln",
    "readlink",
    "df",
    "free",
    "uname",
    "date",
    "vi",
    "top",
    "unshare",
    "nsenter",
    "insmod",
    "reboot",
    "md5sum",
    "sha256sum",
    "tar",
    "gzip",
    "find",
    "xargs",
    "sort",
    "uniq",
    "tr",
    "cut",
    "expr",
    "basename",
    "dirname",
    "who",
    "whoami",
    "umount",
];

/// What is special about one image.
#[derive(Default, Clone)]
pub struct Recipe {
    /// `name:tag` in the archive.
    pub tag: String,
    /// Extra members of `config`: `Cmd`, `Env`, `User`, `Volumes`, …
    pub config: serde_json::Value,
    /// Owners of directories of the base, where it is not root: user and group.
    pub owners: BTreeMap<String, (u64, u64)>,
    /// More layers on top, each a list of (path, content).
    pub layers: Vec<Vec<(String, Vec<u8>)>>,
}

impl Recipe {
    /// Plain busybox: `sh` as its command, and a second small layer.
    #[must_use]
    pub fn busybox(tag: &str) -> Self {
        Self {
            tag: tag.to_owned(),
            config: json!({"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}),
            owners: BTreeMap::new(),
            layers: vec![vec![(
                "etc/image".to_owned(),
                b"busybox of the tests\n".to_vec(),
            )]],
        }
    }
}

/// Writes the archive of `recipe` into `dir` and gives its path.
///
/// # Errors
/// When busybox is not installed or the disk is full.
pub fn archive(dir: &Path, recipe: &Recipe) -> Result<PathBuf> {
    let mut layers = vec![base_layer(&recipe.owners)?];
    for files in &recipe.layers {
        layers.push(files_layer(files)?);
    }
    let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    let mut config = json!({"Env": [], "Cmd": ["sh"]});
    if let (Some(base), Some(more)) = (config.as_object_mut(), recipe.config.as_object()) {
        base.extend(more.clone());
    }
    let image = serde_json::to_vec(&json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": layers.iter().map(|_| json!({"created": "2026-01-01T00:00:00Z", "created_by": "test"})).collect::<Vec<_>>(),
    }))?;
    let id = digest(&image);
    let config_name = format!("{}.json", id.trim_start_matches("sha256:"));
    let names: Vec<String> = (0..layers.len())
        .map(|i| format!("layer{i}/layer.tar"))
        .collect();
    let manifest = serde_json::to_vec(
        &json!([{"Config": config_name, "RepoTags": [recipe.tag], "Layers": names}]),
    )?;
    let path = dir.join(format!("{}.tar", recipe.tag.replace([':', '/'], "_")));
    let mut tar = tar::Builder::new(std::fs::File::create(&path)?);
    append(&mut tar, &config_name, &image, 0o644)?;
    for (name, layer) in names.iter().zip(&layers) {
        append(&mut tar, name, layer, 0o644)?;
    }
    append(&mut tar, "manifest.json", &manifest, 0o644)?;
    tar.finish()?;
    Ok(path)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn append(
    tar: &mut tar::Builder<impl std::io::Write>,
    path: &str,
    content: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, path, content)?;
    Ok(())
}

fn directory(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    mode: u32,
    (user, group): (u64, u64),
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_uid(user);
    header.set_gid(group);
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(mode);
    header.set_size(0);
    tar.append_data(&mut header, path, std::io::empty())?;
    Ok(())
}

fn base_layer(owners: &BTreeMap<String, (u64, u64)>) -> Result<Vec<u8>> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|p| std::fs::read(p).ok());
    let busybox = busybox.context("Debian's busybox-static is missing")?;
    let mut tar = tar::Builder::new(Vec::new());
    for (dir, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("proc", 0o555),
        ("sys", 0o555),
        ("dev", 0o755),
        ("var", 0o755),
    ] {
        let owner = owners.get(dir).copied().unwrap_or_default();
        directory(&mut tar, dir, mode, owner)?;
    }
    append(&mut tar, "bin/busybox", &busybox, 0o755)?;
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    append(&mut tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nalice:x:1000:1000::/home:/bin/sh\n", 0o644)?;
    append(
        &mut tar,
        "etc/group",
        b"root:x:0:\ndaemon:x:1:\nalice:x:1000:\nstaff:x:50:alice\n",
        0o644,
    )?;
    append(&mut tar, "etc/not-executable", b"plain text\n", 0o644)?;
    Ok(tar.into_inner()?)
}

fn files_layer(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        append(&mut tar, path, content, 0o644)?;
    }
    Ok(tar.into_inner()?)
}
