//! Cgroups of a VM's own, as the engine gives them: else the container's would be the host's, and shared
//! by all tests.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PREFIX: &str = "tether-test.";

/// One cgroup in each hierarchy that a guest uses.
pub struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    /// Makes them.
    pub fn make() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}.{number}", std::process::id());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut made = Vec::new();
        for line in mounts.lines() {
            let (left, right) = line.split_once(" - ").unwrap();
            let place = PathBuf::from(left.split(' ').nth(4).unwrap());
            let mut right = right.split(' ');
            let (kind, options) = (right.next().unwrap(), right.nth(1).unwrap_or_default());
            let pids = options.split(',').any(|option| option == "pids");
            if kind == "cgroup2" || (kind == "cgroup" && pids) {
                if kind == "cgroup2" {
                    // Refused where the controller is in a hierarchy of its own.
                    let _ = fs::write(place.join("cgroup.subtree_control"), "+pids");
                }
                let dir = place.join(&name);
                match fs::create_dir(&dir) {
                    // A hierarchy that is mounted twice.
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    other => {
                        other.unwrap();
                        made.push(dir);
                    }
                }
            }
        }
        Self(made)
    }

    /// Lines of a shell script that move the shell into them.
    pub fn enter(&self) -> String {
        let line = |dir: &PathBuf| format!("echo $$ > {}/cgroup.procs\n", dir.display());
        self.0.iter().map(line).collect()
    }

    /// Ends whatever is still in them, and waits until it is gone.
    pub fn kill(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        for dir in &self.0 {
            // Only cgroup2 has these files.
            let _ = fs::write(dir.join("cgroup.kill"), "1");
            let events = || fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default();
            while events().contains("populated 1") && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.kill();
        let deadline = Instant::now() + Duration::from_secs(10);
        for dir in &self.0 {
            for child in ["container", "tether"] {
                // Processes that were killed take a moment to go.
                while fs::remove_dir(dir.join(child)).is_err()
                    && dir.join(child).exists()
                    && Instant::now() < deadline
                {
                    std::thread::yield_now();
                }
            }
            while fs::remove_dir(dir).is_err() && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
    }
}
