//! The state directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Tried};
use crate::tls::files;

/// The file with the CA certificate of the simulator's endpoint.
const AUTHORITY: &str = "vsphere-ca.pem";
/// There while the first `up` makes the VCH.
const BEGUN: &str = "begun";

/// What is known of the running (or last) simulator and its VCH.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Up {
    /// The simulator's process.
    pub(crate) pid: u32,
    /// Its address.
    pub(crate) url: String,
    /// Its port, which the next `up` takes again.
    pub(crate) vsphere_port: u16,
    /// SHA-1 fingerprint of its certificate.
    pub(crate) thumbprint: String,
    /// Who may log in.
    pub(crate) user: String,
    /// Where docker's API is published.
    pub(crate) port: u16,
    /// The appliance.
    pub(crate) vch: Option<String>,
    /// The VCH's own address.
    pub(crate) address: Option<String>,
    /// Ports of this machine's loopback for containers.
    #[serde(default)]
    pub(crate) host_ports: Vec<u16>,
}

/// A state directory.
#[derive(Clone, Debug)]
pub(crate) struct State {
    dir: PathBuf,
}

/// The right to start and stop things in a state directory.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code)] Flock<File>);

impl State {
    /// Opens the directory, makes it where missing; nobody else may look into it.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failure> {
        let what = || format!("cannot use the state directory {}", dir.display());
        if !dir.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .tried(what())?;
        }
        let dir = fs::canonicalize(dir).tried(what())?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).tried(what())?;
        Ok(Self { dir })
    }

    /// A directory that an `up` has begun to use; an error where there is none.
    pub(crate) fn at(dir: &Path) -> Result<Self, Failure> {
        let dir = fs::canonicalize(dir).map_err(|_| no_vch(dir))?;
        Ok(Self { dir })
    }

    /// The directory of an `up` that has been; an error where there was none.
    pub(crate) fn existing(dir: &Path) -> Result<(Self, Up), Failure> {
        let state = Self::at(dir)?;
        let up = state.load()?.ok_or_else(|| no_vch(dir))?;
        Ok((state, up))
    }

    /// The directory itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The simulator's own directory.
    pub(crate) fn simulator(&self) -> PathBuf {
        self.dir.join("sim")
    }

    /// The simulator's log.
    pub(crate) fn simulator_log(&self) -> PathBuf {
        self.dir.join("vic-sim.log")
    }

    /// Certificates of the docker API.
    pub(crate) fn certificates(&self) -> PathBuf {
        self.dir.join("certs")
    }

    /// The file with the password of the simulator's user.
    pub(crate) fn password_file(&self) -> PathBuf {
        self.dir.join("password")
    }

    /// Takes the right to start things here; names who has it, or whose simulator still runs.
    pub(crate) fn lock(&self) -> Result<Lock, Failure> {
        let busy = |pid: Option<u32>| {
            let who = pid.map_or_else(
                || "another process".to_owned(),
                |pid| format!("process {pid}"),
            );
            Failure::new(format!(
                "the state directory {} is in use by {who}: stop it with 'vic-machine down --state {}'",
                self.dir.display(),
                self.dir.display()
            ))
        };
        let path = self.dir.join("lock");
        let lock = match try_lock(&path)? {
            Ok(lock) => lock,
            Err(pid) => return Err(busy(pid)),
        };
        if let Some(pid) = holder_of(&self.simulator().join("lock"))? {
            return Err(busy(pid));
        }
        Ok(Lock(lock))
    }

    /// Who holds the right to start things here, if somebody does.
    pub(crate) fn holder(&self) -> Result<Option<u32>, Failure> {
        Ok(holder_of(&self.dir.join("lock"))?.flatten())
    }

    /// Waits, without limit, until the simulator of this directory has ended.
    pub(crate) async fn simulator_ended(&self) -> Result<(), Failure> {
        wait_for(self.simulator().join("lock")).await
    }

    /// Waits, without limit, until nobody holds the right to start things here.
    pub(crate) async fn released(&self) -> Result<(), Failure> {
        wait_for(self.dir.join("lock")).await
    }

    /// The process of this directory's simulator, if it runs.
    pub(crate) fn simulator_holder(&self) -> Result<Option<u32>, Failure> {
        Ok(holder_of(&self.simulator().join("lock"))?.flatten())
    }

    /// The CA certificate of the simulator's endpoint, once [`State::keep_authority`] was there.
    pub(crate) fn authority_file(&self) -> PathBuf {
        self.dir.join(AUTHORITY)
    }

    /// Takes the CA certificate out of the chain that the simulator serves: what its clients are to trust.
    pub(crate) fn keep_authority(&self) -> Result<(), Failure> {
        let what = "the simulator's CA certificate cannot be kept";
        let chain = files::read_authority(&self.simulator().join("cert.pem")).tried(what)?;
        let begin = chain.rfind("-----BEGIN CERTIFICATE-----").unwrap_or(0);
        files::write(&self.authority_file(), &chain[begin..], 0o644).tried(what)
    }

    /// Says that the first `up` has begun to make the VCH; [`State::save`] takes that back.
    pub(crate) fn begin(&self) -> Result<(), Failure> {
        files::write(&self.dir.join(BEGUN), "", 0o600)
            .tried("cannot write into the state directory")
    }

    /// Removes what a first `up` has left that did not come to its end: nobody has got anything from it. Tells
    /// whether there was such a one.
    pub(crate) fn start_over(&self) -> Result<bool, Failure> {
        let begun = self.dir.join(BEGUN);
        if !begun.exists() || self.load()?.is_some() {
            return Ok(false);
        }
        for dir in [self.simulator(), self.certificates()] {
            if dir.exists() {
                fs::remove_dir_all(&dir).tried(format!("cannot remove {}", dir.display()))?;
            }
        }
        fs::remove_file(&begun).tried(format!("cannot remove {}", begun.display()))?;
        Ok(true)
    }

    /// What the last `up` has left.
    pub(crate) fn load(&self) -> Result<Option<Up>, Failure> {
        let path = self.dir.join("up.json");
        if !path.exists() {
            return Ok(None);
        }
        let what = format!("cannot read {}", path.display());
        let text = fs::read_to_string(&path).tried(&what)?;
        serde_json::from_str(&text).map(Some).tried(what)
    }

    /// Leaves it for the next.
    pub(crate) fn save(&self, up: &Up) -> Result<(), Failure> {
        let path = self.dir.join("up.json");
        let what = format!("cannot write {}", path.display());
        let text = serde_json::to_string_pretty(up).tried(&what)?;
        let new = self.dir.join("up.json.new");
        files::write(&new, &text, 0o600).tried(&what)?;
        fs::rename(&new, &path).tried(&what)?;
        match fs::remove_file(self.dir.join(BEGUN)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).tried(what),
            _ => Ok(()),
        }
    }

    /// The password of the simulator's user, made at the first `up`.
    pub(crate) fn password(&self) -> Result<String, Failure> {
        let path = self.password_file();
        if let Ok(password) = fs::read_to_string(&path) {
            return Ok(password.trim().to_owned());
        }
        let password = hex::encode(rand::random::<[u8; 16]>());
        files::write(&path, &password, 0o600).tried("cannot write the password")?;
        Ok(password)
    }
}

fn no_vch(dir: &Path) -> Failure {
    Failure::new(format!(
        "no VCH was started with the state directory {}",
        dir.display()
    ))
}

/// Looks whether somebody holds a lock, and who, without touching it.
fn holder_of(path: &Path) -> Result<Option<Option<u32>>, Failure> {
    let what = || format!("cannot look at the lock {}", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        result => result.tried(what())?,
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(None),
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => Ok(Some(read_pid(&mut file))),
        Err((_, error)) => Err(error).tried(what()),
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Takes a lock; else tells the process in the file.
fn try_lock(path: &Path) -> Result<Result<Flock<File>, Option<u32>>, Failure> {
    let what = || format!("cannot lock {}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .tried(what())?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            write_pid(&mut lock).tried(what())?;
            Ok(Ok(lock))
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => Ok(Err(read_pid(&mut file))),
        Err((_, error)) => Err(error).tried(what()),
    }
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

async fn wait_for(path: PathBuf) -> Result<(), Failure> {
    if !path.exists() {
        return Ok(());
    }
    let waited = tokio::task::spawn_blocking(move || {
        let file = File::open(&path)?;
        Flock::lock(file, FlockArg::LockShared)
            .map(drop)
            .map_err(|(_, error)| error.into())
    });
    let result: std::io::Result<()> = waited.await.tried("cannot wait")?;
    result.tried("cannot wait for the simulator's end")
}

/// The lines for a shell; with a password, those for govc too.
pub(crate) fn exports(up: &Up, state: &Path, password: &str) -> Vec<String> {
    let mut lines = vec![
        format!("export DOCKER_HOST=tcp://127.0.0.1:{}", up.port),
        "export DOCKER_TLS_VERIFY=1".to_owned(),
        format!(
            "export DOCKER_CERT_PATH={}",
            quoted(&state.join("certs").display().to_string())
        ),
    ];
    if !password.is_empty() {
        lines.push(format!("export GOVC_URL={}", quoted(&up.url)));
        lines.push(format!("export GOVC_USERNAME={}", quoted(&up.user)));
        lines.push(format!("export GOVC_PASSWORD={}", quoted(password)));
        let authority = state.join(AUTHORITY);
        lines.push(if authority.exists() {
            let path = quoted(&authority.display().to_string());
            format!("export GOVC_TLS_CA_CERTS={path}")
        } else {
            "export GOVC_INSECURE=true".to_owned()
        });
    }
    lines
}

/// Quotes a word for a shell where it needs that.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@=+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_master_who_is_named() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(&root.path().join("vic")).unwrap();
        let mode = fs::metadata(state.dir()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let lock = state.lock().unwrap();
        let error = state.lock().unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        assert_eq!(state.holder().unwrap(), Some(std::process::id()));
        drop(lock);
        assert_eq!(state.holder().unwrap(), None);
        assert_eq!(state.simulator_holder().unwrap(), None);
    }

    #[test]
    fn what_was_saved_is_loaded_and_the_password_stays() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(root.path()).unwrap();
        assert_eq!(state.load().unwrap(), None);
        assert!(State::existing(root.path()).is_err());
        let up = Up {
            port: 2376,
            url: "https://127.0.0.1:1/sdk".into(),
            ..Up::default()
        };
        state.save(&up).unwrap();
        assert_eq!(State::existing(root.path()).unwrap().1, up);
        assert_eq!(state.password().unwrap(), state.password().unwrap());
    }

    #[test]
    fn a_first_up_that_was_cut_off_is_begun_anew_and_any_other_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(root.path()).unwrap();
        fs::create_dir_all(state.simulator()).unwrap();
        fs::create_dir_all(state.certificates()).unwrap();
        assert!(!state.start_over().unwrap() && state.simulator().exists());
        state.begin().unwrap();
        assert!(state.start_over().unwrap());
        assert!(!state.simulator().exists() && !state.certificates().exists());
        assert!(!state.start_over().unwrap());

        fs::create_dir_all(state.simulator()).unwrap();
        state.begin().unwrap();
        state.save(&Up::default()).unwrap();
        assert!(!state.start_over().unwrap() && state.simulator().exists());
    }

    #[test]
    fn govc_is_given_the_authority_where_there_is_one() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(root.path()).unwrap();
        let last = || exports(&Up::default(), state.dir(), "p").pop().unwrap();
        assert_eq!(last(), "export GOVC_INSECURE=true");
        fs::create_dir_all(state.simulator()).unwrap();
        let chain = "-----BEGIN CERTIFICATE-----\nc2VydmVy\n-----END CERTIFICATE-----\n\
                     -----BEGIN CERTIFICATE-----\nY2E=\n-----END CERTIFICATE-----\n";
        fs::write(state.simulator().join("cert.pem"), chain).unwrap();
        state.keep_authority().unwrap();
        let path = state.authority_file();
        assert_eq!(
            last(),
            format!("export GOVC_TLS_CA_CERTS={}", path.display())
        );
        let kept = fs::read_to_string(path).unwrap();
        assert!(
            kept.contains("Y2E=") && !kept.contains("c2VydmVy"),
            "{kept}"
        );
    }

    #[test]
    fn exports_survive_a_shell() {
        let up = Up {
            port: 1,
            url: "https://h/sdk".into(),
            user: "it's me".into(),
            ..Up::default()
        };
        let lines = exports(&up, Path::new("/a b"), "p");
        assert_eq!(
            lines,
            [
                "export DOCKER_HOST=tcp://127.0.0.1:1",
                "export DOCKER_TLS_VERIFY=1",
                "export DOCKER_CERT_PATH='/a b/certs'",
                "export GOVC_URL=https://h/sdk",
                "export GOVC_USERNAME='it'\\''s me'",
                "export GOVC_PASSWORD=p",
                "export GOVC_INSECURE=true",
            ]
        );
    }
}
