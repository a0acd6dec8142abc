//! A real DHCP server (busybox's) in the network beyond the VM's NIC.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::PATIENCE;

/// A server that runs until it is dropped.
pub struct DhcpServer {
    child: Child,
    log: PathBuf,
}

impl DhcpServer {
    pub(super) fn start(dir: &Path, network: &OwnedFd, range: (&str, &str), lease: u32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = |kind: &str| dir.join(format!("dhcp{number}.{kind}"));
        let (config, log) = (file("conf"), file("log"));
        let text = format!(
            "start {}\nend {}\ninterface other0\nlease_file {}\npidfile {}\n\
             option subnet 255.255.255.0\noption router 10.9.0.1\noption dns 10.9.0.3\n\
             option domain lab.example\noption lease {lease}\n",
            range.0,
            range.1,
            file("leases").display(),
            file("pid").display(),
        );
        fs::write(&config, text).unwrap();
        File::create(file("leases")).unwrap();
        let netns = format!(
            "--net=/proc/{}/fd/{}",
            std::process::id(),
            network.as_raw_fd()
        );
        // 10 ms for a look whether somebody else has the address.
        let script = format!(
            "ip link set lo up; ip address replace 10.9.0.1/24 dev other0; ip link set other0 up\n\
             exec busybox udhcpd -f -a 10 {}",
            config.display()
        );
        let out = File::create(&log).unwrap();
        let child = Command::new("nsenter")
            .args([&netns, "sh", "-ec", &script])
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// How often it has granted an address, or more time.
    pub fn grants(&self) -> usize {
        let text = fs::read_to_string(&self.log).unwrap();
        text.matches("sending ACK").count()
    }

    /// Waits until it has granted `count` times.
    pub fn until_grants(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.grants() < count {
            let text = || fs::read_to_string(&self.log).unwrap();
            assert!(Instant::now() < deadline, "{}", text());
            std::thread::yield_now();
        }
    }
}

impl Drop for DhcpServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
