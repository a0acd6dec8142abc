//! The root file systems that go into the images.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::debian::{CERTIFICATES, LIBRARIES, LOADER, PROGRAMS, Unpacked};

/// Directories that are empty: tether mounts over them or writes into them.
const EMPTY: [&str; 8] = ["proc", "sys", "dev", "run", "tmp", "mnt", "etc", "root"];
const PASSWD: &str =
    "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// A root file system under construction.
pub(super) struct Root {
    archive: iso::cpio::Writer<Vec<u8>>,
    dirs: BTreeSet<String>,
}

impl Root {
    /// An empty one, whose files all have the time `mtime`.
    pub(super) fn new(mtime: u32) -> Self {
        let mut archive = iso::cpio::Writer::new(Vec::new());
        archive.mtime(mtime);
        Self {
            archive,
            dirs: BTreeSet::new(),
        }
    }

    /// What every container's VM boots.
    pub(super) fn bootstrap(mut self, tether: &Path) -> Result<Vec<u8>> {
        self.base(tether)?;
        Ok(self.archive.finish()?)
    }

    /// What the appliance boots.
    pub(super) fn appliance(
        mut self,
        tether: &Path,
        vch: &Path,
        packages: &Unpacked,
    ) -> Result<Vec<u8>> {
        self.base(tether)?;
        self.copy("sbin/vch", vch, 0o755)?;
        for (name, package) in PROGRAMS {
            self.copy(
                &format!("sbin/{name}"),
                &find_program(packages, name, package)?,
                0o755,
            )?;
        }
        for (soname, (_, file)) in libraries(packages)? {
            self.copy(&format!("{LIBRARIES}/{soname}"), &file, 0o644)?;
        }
        self.copy(LOADER, &find(packages, LOADER)?.1, 0o755)?;
        self.dir("usr")?;
        self.archive.symlink("usr/sbin", "../sbin")?;
        self.archive.symlink("usr/lib", "../lib")?;
        self.copy(
            "etc/mke2fs.conf",
            &find(packages, "etc/mke2fs.conf")?.1,
            0o644,
        )?;
        self.write("etc/passwd", PASSWD.as_bytes(), 0o644)?;
        self.write("etc/group", GROUP.as_bytes(), 0o644)?;
        self.write(
            "etc/ssl/certs/ca-certificates.crt",
            &certificates(packages)?,
            0o644,
        )?;
        for (name, dir) in packages {
            let notice = format!("usr/share/doc/{name}/copyright");
            if dir.join(&notice).is_file() {
                self.copy(&notice, &dir.join(&notice), 0o644)?;
            }
        }
        Ok(self.archive.finish()?)
    }

    fn base(&mut self, tether: &Path) -> Result<()> {
        for name in EMPTY {
            self.dir(name)?;
        }
        self.archive.char_device("dev/console", 0o600, 5, 1)?;
        self.copy("init", tether, 0o755)
    }

    fn dir(&mut self, path: &str) -> Result<()> {
        if path.is_empty() || self.dirs.contains(path) {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent)?;
        }
        self.dirs.insert(path.to_owned());
        let permissions = if path == "tmp" { 0o1777 } else { 0o755 };
        Ok(self.archive.dir(path, permissions)?)
    }

    fn copy(&mut self, path: &str, from: &Path, permissions: u32) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.write(path, &bytes, permissions)
    }

    fn write(&mut self, path: &str, bytes: &[u8], permissions: u32) -> Result<()> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent)?;
        }
        Ok(self.archive.file(path, permissions, bytes)?)
    }
}

/// The packages that something of the appliance comes from, the certificates' left out.
pub(super) fn used_packages(packages: &Unpacked) -> Result<BTreeSet<String>> {
    let mut used: BTreeSet<String> = PROGRAMS
        .iter()
        .map(|(_, package)| (*package).to_owned())
        .collect();
    used.extend(
        libraries(packages)?
            .into_values()
            .map(|(package, _)| package),
    );
    used.insert(find(packages, LOADER)?.0);
    Ok(used)
}

fn find_program(packages: &Unpacked, name: &str, package: &str) -> Result<PathBuf> {
    let dir = packages
        .get(package)
        .with_context(|| format!("iso/appliance.lock does not name {package}"))?;
    ["sbin", "usr/sbin", "usr/bin", "bin"]
        .iter()
        .map(|folder| dir.join(folder).join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("the package {package} has no {name}"))
}

/// Finds a file, with or without `usr` in front: which package has it, and where.
fn find(packages: &Unpacked, path: &str) -> Result<(String, PathBuf)> {
    for (name, dir) in packages {
        for candidate in [dir.join(path), dir.join("usr").join(path)] {
            // A loader is a link with an absolute goal: seen from outside, it leads nowhere.
            if let Ok(goal) =
                fs::read_link(&candidate).map(|goal| goal.to_string_lossy().into_owned())
                && let Some(inner) = goal.strip_prefix('/')
            {
                return Ok((name.clone(), dir.join(inner)));
            }
            if candidate.is_file() {
                return Ok((name.clone(), candidate));
            }
        }
    }
    bail!("none of the appliance's packages has {path}")
}

/// The shared libraries of all programs: soname to package and file.
fn libraries(packages: &Unpacked) -> Result<BTreeMap<String, (String, PathBuf)>> {
    let (_, loader) = find(packages, LOADER)?;
    let folders: Vec<String> = packages
        .values()
        .flat_map(|dir| [dir.join(LIBRARIES), dir.join("usr").join(LIBRARIES)])
        .filter(|folder| folder.is_dir())
        .map(|folder| folder.to_string_lossy().into_owned())
        .collect();
    let mut libraries = BTreeMap::new();
    for (program, package) in PROGRAMS {
        // The packages' own loader says what it would load.
        let output = Command::new(&loader)
            .args([
                "--inhibit-cache",
                "--library-path",
                &folders.join(":"),
                "--list",
            ])
            .arg(find_program(packages, program, package)?)
            .output()
            .with_context(|| format!("running {}", loader.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || text.contains("not found") {
            bail!("{program} lacks libraries in the appliance's packages:\n{text}");
        }
        let names = text.lines().filter_map(|line| line.split_once(" => "));
        // The loader itself is listed by its path.
        for soname in names
            .map(|(name, _)| name.trim())
            .filter(|name| !name.starts_with('/'))
        {
            let found = find(packages, &format!("{LIBRARIES}/{soname}")).with_context(|| {
                format!(
                    "{program} needs {soname}; refresh the lock with `cargo xtask lock-appliance`"
                )
            })?;
            libraries.insert(soname.to_owned(), found);
        }
    }
    Ok(libraries)
}

/// The CA certificates, one after the other, in the order of their files' names.
fn certificates(packages: &Unpacked) -> Result<Vec<u8>> {
    let dir = packages
        .get(CERTIFICATES)
        .context("iso/appliance.lock does not name ca-certificates")?
        .join("usr/share/ca-certificates/mozilla");
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .with_context(|| format!("reading {}", dir.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    let mut bundle = Vec::new();
    for file in files {
        bundle.extend(fs::read(file)?);
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    Ok(bundle)
}
