//! What the engine's tests share: the probe guest, and a simulator's engine and network.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use simulator::engine::namespace::walls::Walls;
use simulator::engine::namespace::{self, NamespaceEngine};
use simulator::engine::{
    GuestEngine, GuestEvent, GuestInfo, PowerOffCause, PowerOnSpec, PoweredOn,
};
use simulator::network::{self, Network};

/// How long a test waits for anything.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Tells whether the test can run; fails without root unless that was asked for.
pub fn can_run() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("VIC_TEST_NO_ROOT").is_some(),
        "this test needs root (VIC_TEST_NO_ROOT=1 leaves such tests out)"
    );
    false
}

/// Builds the probe once, and returns an initramfs with it as `/init`.
pub fn initramfs() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let target = "x86_64-unknown-linux-musl";
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let out = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), PathBuf::from)
            .join(target)
            .join("debug/examples/probe");
        // Another cargo at work would be waited for: ask only when there is something to build.
        if !is_newer(&out, &root.join("tether/sys")) {
            let built = Command::new(env!("CARGO"))
                .current_dir(&root)
                .args([
                    "build",
                    "-q",
                    "-p",
                    "tether-sys",
                    "--example",
                    "probe",
                    "--target",
                    target,
                ])
                .status()
                .expect("cargo runs");
            assert!(built.success(), "the probe does not build");
        }
        let probe = std::fs::read(out).expect("the probe");
        let mut writer = iso::cpio::Writer::new(Vec::new());
        for dir in ["dev", "proc", "sys", "run", "tmp", "mnt", "etc"] {
            writer.dir(dir, 0o755).expect("in memory");
        }
        writer.file("init", 0o755, &probe).expect("in memory");
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("probe-{}.cpio", std::process::id()));
        std::fs::write(&path, writer.finish().expect("in memory")).expect("a file");
        path
    })
}

/// An engine with its network.
pub struct World {
    pub engine: NamespaceEngine,
    pub network: Arc<Network>,
    pub dir: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        Self::with(network::Config::default(), Walls::default()).await
    }

    pub async fn with(config: network::Config, walls: Walls) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let network = Network::start(config).await.expect("the network");
        let config = namespace::Config {
            program: env!("CARGO_BIN_EXE_vic-sim").into(),
            network: Arc::clone(&network),
            disks: None,
            console: Some(dir.path().join("console")),
            walls,
        };
        let engine = NamespaceEngine::start(config).await.expect("the engine");
        Self {
            engine,
            network,
            dir,
        }
    }

    /// Powers a guest on with a script.
    pub async fn boot(&self, spec: PowerOnSpec, script: &str) -> Vm {
        let info = GuestInfo::new(BTreeMap::from([(
            "guestinfo.probe".to_owned(),
            script.to_owned(),
        )]));
        let spec = PowerOnSpec {
            guestinfo: info.clone(),
            ..spec
        };
        let on = self.engine.power_on(spec).await.expect("power on");
        Vm { on, info }
    }
}

/// A spec with everything that a test does not care about.
pub fn spec(instance: &str) -> PowerOnSpec {
    PowerOnSpec {
        instance: instance.to_owned(),
        name: instance.to_owned(),
        cpu_millis: 2000,
        memory_mb: 256,
        iso: Some(initramfs().to_owned()),
        ..PowerOnSpec::default()
    }
}

/// A guest that runs a script.
pub struct Vm {
    pub on: PoweredOn,
    pub info: GuestInfo,
}

impl Vm {
    /// Waits until the script is done and returns each command's outcome.
    pub async fn outcomes(&mut self) -> Vec<String> {
        self.wait_for("guestinfo.vice..done").await;
        let all = self.info.snapshot();
        (0..)
            .map_while(|n| all.get(&format!("guestinfo.vice..out.{n}")).cloned())
            .collect()
    }

    /// Waits until the guest has set a key.
    pub async fn wait_for(&mut self, wanted: &str) -> String {
        let wait = async {
            while let Some(event) = self.on.events.recv().await {
                match event {
                    GuestEvent::GuestInfoSet { key, value } if key == wanted => return value,
                    GuestEvent::PoweredOff(cause) => panic!("the guest is gone: {cause:?}"),
                    _ => {}
                }
            }
            panic!("no more events");
        };
        tokio::time::timeout(DEADLINE, wait)
            .await
            .expect("the guest in time")
    }

    /// Waits for the last event.
    pub async fn ended(&mut self) -> GuestEvent {
        let wait = async {
            let mut last = GuestEvent::PoweredOff(PowerOffCause::Lost);
            while let Some(event) = self.on.events.recv().await {
                last = event;
            }
            last
        };
        tokio::time::timeout(DEADLINE, wait)
            .await
            .expect("the guest's end in time")
    }
}

/// Tells whether a file is newer than everything in a directory.
fn is_newer(file: &Path, dir: &Path) -> bool {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified());
    let Ok(built) = changed(file) else {
        return false;
    };
    std::fs::read_dir(dir)
        .expect("a directory")
        .flatten()
        .all(|entry| {
            let path = entry.path();
            if path.is_dir() {
                is_newer(file, &path)
            } else {
                changed(&path).is_ok_and(|source| source < built)
            }
        })
}
