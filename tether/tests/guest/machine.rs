//! A VM without a hypervisor: tether as PID 1 in namespaces of its own, with guest RPC, serial ports
//! and disks played by the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tether_protocol::config::{
    ApplianceConfig, ExecutorConfig, Mount, NetworkEndpoint, ProcessState, Rootfs, Secret, Session,
};
use tether_protocol::rpci::{self, Command, Reply};
use tether_protocol::session::{
    Event, Greeting, Identity, Message, Process, PublicKey, SessionHost, Stream,
};
use tether_sys::loopdev::{LoopDevice, Options};

mod cgroups;
mod dhcp;

use cgroups::Cgroups;
pub use dhcp::DhcpServer;

pub const ID: &str = "c0ffee0000000000000000000000000000000000000000000000000000000001";
const PATIENCE: Duration = Duration::from_secs(60);

/// The static program: the tests' own build of it, or the one that was named.
pub fn program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("TETHER_PROGRAM") {
                return path.into();
            }
            let target = "x86_64-unknown-linux-musl";
            let status = Program::new(env!("CARGO"))
                .args(["build", "--release", "-p", "tether", "--target", target])
                .status()
                .unwrap();
            assert!(status.success(), "the static tether does not build");
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
            let dir = std::env::var_os("CARGO_TARGET_DIR");
            let dir = dir.map_or_else(|| workspace.join("target"), PathBuf::from);
            dir.join(target).join("release/tether")
        })
        .clone()
}

/// A disk image with ext4 in it, made of the directory `content`.
fn make_disk(path: &Path, content: &Path) {
    File::create(path).unwrap().set_len(32 << 20).unwrap();
    let made = Program::new("mke2fs")
        .args([
            "-q",
            "-t",
            "ext4",
            "-E",
            "lazy_itable_init=0,nodiscard",
            "-d",
        ])
        .arg(content)
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}

/// Guest variables and who waits for them.
#[derive(Default)]
struct Variables {
    values: Mutex<(BTreeMap<String, String>, Vec<Command>)>,
    changed: Condvar,
}

impl Variables {
    fn serve(self: &Arc<Self>, mut socket: UnixStream) {
        let mut buffer = Vec::new();
        let mut chunk = [0; 65536];
        while let Ok(count) = socket.read(&mut chunk) {
            if count == 0 {
                return;
            }
            buffer.extend_from_slice(&chunk[..count]);
            let mut out = Vec::new();
            while let Some(message) = rpci::take_message(&mut buffer).unwrap() {
                rpci::write_message(&mut out, &self.answer(&message).encode());
            }
            if socket.write_all(&out).is_err() {
                return;
            }
        }
    }

    fn answer(&self, message: &[u8]) -> Reply {
        let command = Command::decode(message);
        let mut guard = self.values.lock().unwrap();
        let reply = match &command {
            Command::InfoGet(key) => guard
                .0
                .get(key)
                .map_or_else(Reply::no_value, |v| Reply::Ok(v.clone().into_bytes())),
            Command::InfoSet { key, value } if value.is_empty() => {
                guard.0.remove(key);
                Reply::Ok(Vec::new())
            }
            Command::InfoSet { key, value } => {
                let value = String::from_utf8(value.clone()).unwrap();
                guard.0.insert(key.clone(), value);
                Reply::Ok(Vec::new())
            }
            _ => Reply::Ok(Vec::new()),
        };
        if !matches!(command, Command::InfoGet(_)) {
            guard.1.push(command);
        }
        self.changed.notify_all();
        reply
    }

    fn wait<T>(
        &self,
        what: &str,
        mut find: impl FnMut(&BTreeMap<String, String>) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut guard = self.values.lock().unwrap();
        loop {
            if let Some(found) = find(&guard.0) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what}; variables: {:?}", guard.0);
            guard = self.changed.wait_timeout(guard, left).unwrap().0;
        }
    }
}

/// What a VM is made of.
pub struct Builder {
    pub config: ExecutorConfig,
    pub identity: Identity,
    dir: tempfile::TempDir,
    image: PathBuf,
    volumes: Vec<PathBuf>,
}

impl Builder {
    /// A container of busybox that runs `args`.
    pub fn new(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        for sub in ["bin", "etc", "root", "data/sub", "usr/local/bin"] {
            fs::create_dir_all(image.join(sub)).unwrap();
        }
        fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "echo", "ls", "id", "ps", "true", "stty", "mount", "hostname", "mknod",
            "unshare", "env", "stat", "kill", "touch", "readlink", "tty", "trap", "pwd", "head",
            "grep", "dd", "yes", "ip", "wc", "date", "sleep",
        ] {
            symlink("busybox", image.join("bin").join(applet)).unwrap();
        }
        fs::write(
            image.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:/x\n",
        )
        .unwrap();
        fs::write(
            image.join("etc/group"),
            "root:x:0:\nweb:x:33:\nextra:x:77:web\n",
        )
        .unwrap();
        fs::write(image.join("data/sub/file"), "from the image").unwrap();
        let identity = Identity::generate().unwrap();
        let mut config = ExecutorConfig {
            id: ID.into(),
            vch_key: identity.fingerprint(),
            log_port: Some(1),
            rootfs: Rootfs {
                slot: "0:0".parse().ok(),
                read_only: false,
            },
            ..Default::default()
        };
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        config.sessions.insert(
            ID.into(),
            Session {
                args,
                attach: true,
                ..Default::default()
            },
        );
        Self {
            config,
            identity,
            dir,
            image,
            volumes: Vec::new(),
        }
    }

    pub fn session(mut self, change: impl FnOnce(&mut Session)) -> Self {
        change(self.config.sessions.get_mut(ID).unwrap());
        self
    }

    /// A new volume at `dest`.
    pub fn volume(mut self, dest: &str, copy_up: bool) -> Self {
        let number = self.volumes.len() + 1;
        let empty = self.dir.path().join("empty");
        fs::create_dir_all(&empty).unwrap();
        let path = self.dir.path().join(format!("volume{number}.img"));
        make_disk(&path, &empty);
        self.volumes.push(path);
        self.config.mounts.push(Mount {
            name: format!("v{number}"),
            slot: format!("0:{number}").parse().ok(),
            dest: dest.into(),
            copy_up,
            ..Default::default()
        });
        self
    }

    pub fn network(mut self, endpoint: NetworkEndpoint) -> Self {
        self.config.networks.push(endpoint);
        self
    }

    pub fn boot(self) -> Machine {
        let disk = self.dir.path().join("root.img");
        make_disk(&disk, &self.image);
        let disks = std::iter::once(disk).chain(self.volumes).collect();
        Machine::boot(self.dir, self.config.encode(), self.identity, disks)
    }
}

/// A VM that is on.
pub struct Machine {
    /// None once the VM was powered on again: what is in it belongs to the next.
    dir: Option<tempfile::TempDir>,
    pub disks: Vec<PathBuf>,
    identity: Identity,
    cgroups: Cgroups,
    /// The network beyond the VM's NIC.
    outside: OwnedFd,
    held: BTreeMap<(Process, Stream), usize>,
    loops: Vec<LoopDevice>,
    variables: Arc<Variables>,
    serial: UnixListener,
    tclo: UnixListener,
    hypervisor: Option<UnixStream>,
    pub child: Child,
    host: SessionHost,
    line: Option<UnixStream>,
    events: VecDeque<Event>,
    collected: BTreeMap<(Process, Stream), Vec<u8>>,
    pub messages: Vec<Message>,
}

impl Machine {
    /// An appliance that supervises one process, with busybox in place of everything.
    pub fn appliance(id: &str, session: Session) -> Self {
        let mut config = ApplianceConfig {
            name: "test".into(),
            ..Default::default()
        };
        config.connect.password = Secret("hunter2".into());
        config.executor.id = "vm-1".into();
        config.executor.log_port = Some(1);
        config.executor.sessions.insert(id.into(), session);
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("guest/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in ["sh", "cat", "wc", "echo"] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        Self::boot(
            dir,
            config.encode(),
            Identity::generate().unwrap(),
            Vec::new(),
        )
    }

    /// Waits until a variable has a value.
    pub fn until_variable(&self, key: &str, value: &str) {
        self.variables
            .wait(key, |v| v.get(key).filter(|v| *v == value).map(drop));
    }

    /// Waits until a variable has a value that fits.
    pub fn until_variable_fits(&self, key: &str, fits: impl Fn(&str) -> bool) {
        self.variables
            .wait(key, |v| v.get(key).filter(|v| fits(v)).map(drop));
    }

    fn boot(
        dir: tempfile::TempDir,
        keys: BTreeMap<String, String>,
        identity: Identity,
        disks: Vec<PathBuf>,
    ) -> Self {
        let cgroups = Cgroups::make();
        let outside = tether_sys::net::new_namespace().unwrap();
        let root = dir.path().join("guest");
        // What an earlier boot left.
        for name in ["dev/vmware", "dev/disk", "dev/ttyS0"] {
            let path = root.join(name);
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
        for sub in [
            "dev/vmware",
            "dev/disk/by-slot",
            "proc",
            "sys",
            "run",
            "tmp",
            "mnt",
            "etc",
        ] {
            fs::create_dir_all(root.join(sub)).unwrap();
        }
        fs::copy(program(), root.join("init")).unwrap();
        let variables = Arc::new(Variables::default());
        variables.values.lock().unwrap().0 = keys;
        let rpci = UnixListener::bind(root.join("dev/vmware/rpci")).unwrap();
        let serving = variables.clone();
        thread::spawn(move || {
            for socket in rpci.incoming().flatten() {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(socket));
            }
        });
        let tclo = UnixListener::bind(root.join("dev/vmware/tclo")).unwrap();
        let serial = UnixListener::bind(root.join("dev/ttyS0")).unwrap();
        let log = File::options()
            .append(true)
            .create(true)
            .open(root.join("dev/ttyS1"));
        log.unwrap();
        let mut nodes = String::new();
        let mut loops = Vec::new();
        for (unit, path) in disks.iter().enumerate() {
            let file = File::options().read(true).write(true).open(path).unwrap();
            let device = LoopDevice::attach(file.as_fd(), Options::default()).unwrap();
            let (major, minor) = device.device();
            let target = format!("/dev/disk{unit}");
            nodes += &format!("rm -f $R{target}; mknod $R{target} b {major} {minor}\n");
            symlink(
                &target,
                root.join("dev/disk/by-slot").join(format!("0:{unit}")),
            )
            .unwrap();
            loops.push(device);
        }
        for (name, major, minor) in [("null", 1, 3), ("zero", 1, 5), ("urandom", 1, 9)] {
            nodes +=
                &format!("[ -e $R/dev/{name} ] || mknod -m 666 $R/dev/{name} c {major} {minor}\n");
        }
        let script = format!(
            "set -e; R={}\n{nodes}mount --bind $R $R; mount -t tmpfs none $R/run\n\
             ip link add eth0 type veth peer name other0\n\
             ip link set other0 netns /proc/{}/fd/{}\n\
             cd $R; pivot_root . mnt; cd /; unset BOOT; exec /init 2>&1",
            root.display(),
            std::process::id(),
            outside.as_raw_fd(),
        );
        // The old root stays under /mnt in the guest: only tests run here.
        // The shell is in the VM's cgroups before the cgroup namespace is made.
        let enter = format!(
            "set -e\n{}exec unshare --pid --fork --mount --uts --ipc --net --cgroup --kill-child \
             sh -c \"$BOOT\"",
            cgroups.enter()
        );
        let child = Program::new("sh")
            .args(["-c", &enter])
            .env("BOOT", script)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let key = variables.wait("key", |v| {
            PublicKey::from_base64(v.get("guestinfo.vice..key")?)
        });
        drop(key);
        let host = SessionHost::new(&identity);
        Self {
            dir: Some(dir),
            identity,
            cgroups,
            outside,
            held: BTreeMap::new(),
            disks,
            loops,
            variables,
            serial,
            tclo,
            hypervisor: None,
            child,
            host,
            line: None,
            events: VecDeque::new(),
            collected: BTreeMap::new(),
            messages: Vec::new(),
        }
    }

    /// Powers the VM on again, with its disks, its log, and the variables as they are.
    pub fn again(mut self) -> Self {
        self.power_cut();
        let dir = self.dir.take().unwrap();
        let mut keys = self.variables.values.lock().unwrap().0.clone();
        // As the VCH does with every PowerOn.
        for key in ProcessState::cleared(ID) {
            keys.remove(&key);
        }
        let identity = self.identity.clone();
        Self::boot(dir, keys, identity, std::mem::take(&mut self.disks))
    }

    /// Takes the power away, as a hard power-off does.
    pub fn power_cut(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.cgroups.kill();
        self.line = None;
        self.loops.clear();
    }

    /// A DHCP server on the VM's network; its own address is 10.9.0.1.
    pub fn dhcp_server(&self, range: (&str, &str), lease: u32) -> DhcpServer {
        let dir = self.dir.as_ref().unwrap().path();
        DhcpServer::start(dir, &self.outside, range, lease)
    }

    /// Reads no more of a stream than its first window, as a client does that is slow.
    pub fn hold(&mut self, process: Process, stream: Stream) {
        self.held.insert((process, stream), 0);
    }

    /// Bytes of a stream on hold that have come.
    pub fn held(&self, process: Process, stream: Stream) -> usize {
        self.held.get(&(process, stream)).copied().unwrap_or(0)
    }

    /// Goes on reading.
    pub fn let_go(&mut self, process: Process, stream: Stream) {
        let count = self.held.remove(&(process, stream)).unwrap_or(0);
        self.host.consumed(process, stream, count);
        self.transmit();
    }

    /// Waits for what the guest says of its process.
    pub fn state(&self, what: &str, wanted: impl Fn(&ProcessState) -> bool) -> ProcessState {
        self.variables.wait(what, |v| {
            Some(ProcessState::decode(ID, v)).filter(|s| wanted(s))
        })
    }

    pub fn variable(&self, key: &str) -> String {
        self.variables.wait(key, |v| v.get(key).cloned())
    }

    /// All that the guest told the hypervisor, in order.
    pub fn told(&self) -> Vec<Command> {
        self.variables.values.lock().unwrap().1.clone()
    }

    /// Takes the line that the guest offers, and greets.
    pub fn connect(&mut self) {
        let key = self.variable("guestinfo.vice..key");
        let (mut line, _) = self.serial.accept().unwrap();
        line.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = Greeting::new();
        line.write_all(&greeting.preamble()).unwrap();
        let mut buffer = [0; 4096];
        let echo = loop {
            let count = line.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "the guest hung up");
            if let Some(echo) = greeting.receive(&buffer[..count]) {
                break echo;
            }
        };
        assert_eq!(echo.id(), ID);
        self.host
            .connect(echo, &PublicKey::from_base64(&key).unwrap())
            .unwrap();
        self.line = Some(line);
        self.transmit();
    }

    /// Cuts the line.
    pub fn cut(&mut self) {
        self.line = None;
        self.host.line_down();
    }

    /// Forgets everything, as a VCH does that was killed.
    pub fn forget(&mut self, identity: &Identity) {
        self.cut();
        self.host = SessionHost::new(identity);
    }

    pub fn subscribe(&mut self, process: Process) {
        self.send(Message::Subscribe {
            process,
            stdout: true,
            stderr: true,
            log: false,
        });
    }

    pub fn send(&mut self, message: Message) {
        self.host.send(message);
        self.transmit();
    }

    pub fn type_in(&mut self, process: Process, bytes: &[u8]) {
        assert_eq!(
            self.host.send_data(process, Stream::Stdin, bytes),
            bytes.len()
        );
        self.transmit();
    }

    fn transmit(&mut self) {
        let out = self.host.take_output();
        if let Some(line) = &mut self.line {
            let _ = line.write_all(&out);
        }
    }

    /// Reads the line once; it must not have ended.
    pub fn read(&mut self) {
        assert!(self.receive(), "the line ended: {:?}", self.messages);
    }

    /// Reads the line once; false when it has ended.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; 65536];
        let Some(line) = &mut self.line else {
            return false;
        };
        let count = match line.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) => panic!("the guest says nothing: {error}"),
        };
        self.host.receive(&buffer[..count]).unwrap();
        while let Some(event) = self.host.poll_event() {
            match event {
                Event::Data {
                    process,
                    stream,
                    data,
                } => {
                    match self.held.get_mut(&(process, stream)) {
                        Some(held) => *held += data.len(),
                        None => self.host.consumed(process, stream, data.len()),
                    }
                    self.collected
                        .entry((process, stream))
                        .or_default()
                        .extend(data);
                }
                Event::Message(message) => self.messages.push(message),
                other => self.events.push_back(other),
            }
        }
        self.transmit();
        true
    }

    pub fn output(&self, process: Process, stream: Stream) -> String {
        let bytes = self
            .collected
            .get(&(process, stream))
            .cloned()
            .unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads until the output holds `text`.
    pub fn until(&mut self, process: Process, text: &str) {
        while !self.output(process, Stream::Stdout).contains(text) {
            let got = self.receive();
            assert!(got, "the line ended before {text:?}: {:?}", self.collected);
        }
    }

    /// Reads until a message fits.
    pub fn message<T>(&mut self, what: &str, find: impl Fn(&Message) -> Option<T>) -> T {
        loop {
            if let Some(found) = self.messages.iter().find_map(&find) {
                return found;
            }
            let got = self.receive();
            assert!(got, "the line ended before {what}: {:?}", self.messages);
        }
    }

    pub fn exit_of(&mut self, wanted: Process) -> i32 {
        self.message("an exit", |m| match m {
            Message::Exited { process, code, .. } if *process == wanted => Some(*code),
            _ => None,
        })
    }

    /// Tells the guest something, as vSphere does.
    pub fn tell(&mut self, request: rpci::Request) {
        if self.hypervisor.is_none() {
            self.hypervisor = Some(self.tclo.accept().unwrap().0);
        }
        let mut out = Vec::new();
        rpci::write_message(&mut out, &request.encode());
        self.hypervisor.as_mut().unwrap().write_all(&out).unwrap();
    }

    /// Waits until the VM is off, and tells whether it asked for a restart. `unshare` ends as its child
    /// does: with SIGINT for reboot(2)'s power-off, with SIGHUP for its restart.
    pub fn off(&mut self) -> bool {
        while self.line.is_some() && self.receive() {}
        let status = self.child.wait().unwrap();
        self.loops.clear();
        match status.signal() {
            Some(nix::libc::SIGINT) => false,
            Some(nix::libc::SIGHUP) => true,
            _ => panic!("the VM ended with {status}"),
        }
    }

    pub fn log(&self) -> Vec<tether_protocol::log::Record> {
        let dir = self.dir.as_ref().unwrap().path();
        let text = fs::read(dir.join("guest/dev/ttyS1")).unwrap();
        // The last line may be half there while the guest runs, or after a power cut.
        text.split_inclusive(|b| *b == b'\n')
            .filter(|line| line.ends_with(b"\n"))
            .map(|line| tether_protocol::log::Record::decode(line).unwrap())
            .collect()
    }

    /// Checks the file system of a disk: it must be clean.
    pub fn fsck(&self, disk: usize) {
        let checked = Program::new("e2fsck")
            .arg("-fn")
            .arg(&self.disks[disk])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{text}");
        assert!(!text.contains("recover"), "{text}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_cut();
    }
}
