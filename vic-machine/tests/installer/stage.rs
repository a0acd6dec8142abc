//! A simulator, a working directory, and the program in it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use simulator::{Config, Simulator};
use vmomi::client::{Client, Config as ClientConfig, property_spec};
use vmomi::tls::Trust;
use vmomi::types::{
    ObjectSpec, OptionValue, PropertyFilterSpec, ReconfigVMRequest, VirtualMachineConfigSpec,
    VirtualMachinePowerState,
};
use vmomi::{Any, ManagedObjectReference};

/// What a run has printed, both streams in one, and how it ended.
pub struct Run {
    pub text: String,
    pub success: bool,
    pub code: Option<i32>,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let mut text = String::from_utf8(output.stdout).unwrap();
        text.push_str(&String::from_utf8(output.stderr).unwrap());
        Self {
            text: text.replace('\r', ""),
            success: output.status.success(),
            code: output.status.code(),
        }
    }
}

pub struct Stage {
    dir: tempfile::TempDir,
    target: Target,
    user: String,
    password: String,
}

/// The vSphere that commands are for.
pub enum Target {
    Ours(Box<Simulator>),
    Peer(crate::peer::Peer),
}

impl Stage {
    pub async fn new(mut config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        config.state = dir.path().join("state");
        let (user, password) = (config.user.clone(), config.password.clone());
        let simulator = Simulator::start(config).await.unwrap();
        Self::with(dir, Target::Ours(Box::new(simulator)), user, password)
    }

    /// A stage on any vSphere, with images for the appliance in its directory.
    pub fn with(dir: tempfile::TempDir, target: Target, user: String, password: String) -> Self {
        for name in ["APPLIANCE", "BOOTSTRAP"] {
            let mut bytes = Vec::new();
            let mut builder = iso::Builder::new(name);
            builder.publisher(&format!("test {}", env!("CARGO_PKG_VERSION")));
            builder.file(iso::INITRD_PATH, vec![0; 100_000]).unwrap();
            builder.write(&mut bytes).unwrap();
            std::fs::write(
                dir.path().join(format!("{}.iso", name.to_lowercase())),
                bytes,
            )
            .unwrap();
        }
        Self {
            dir,
            target,
            user,
            password,
        }
    }

    pub async fn stop(self) {
        if let Target::Ours(simulator) = self.target {
            simulator.stop().await;
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn simulator(&self) -> &Simulator {
        match &self.target {
            Target::Ours(simulator) => simulator,
            Target::Peer(_) => panic!("this is not our simulator"),
        }
    }

    pub fn host(&self) -> String {
        match &self.target {
            Target::Ours(simulator) => simulator.address().to_string(),
            Target::Peer(peer) => peer.host.clone(),
        }
    }

    pub fn thumbprint(&self) -> String {
        match &self.target {
            Target::Ours(simulator) => simulator.thumbprint().to_owned(),
            Target::Peer(peer) => peer.thumbprint.clone(),
        }
    }

    /// From now on the peer is known by this thumbprint.
    pub fn learn(&mut self, thumbprint: &str) {
        if let Target::Peer(peer) = &mut self.target {
            peer.thumbprint = thumbprint.to_owned();
        }
    }

    /// Runs a command with target, credentials and thumbprint.
    pub async fn run(&self, args: &[&str]) -> Run {
        self.run_as(args, &[]).await
    }

    /// The same, with options that win over the usual ones.
    pub async fn run_as(&self, args: &[&str], own: &[&str]) -> Run {
        let mut all: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        for (name, value) in [
            ("--target", self.host()),
            ("--user", self.user.clone()),
            ("--password", self.password.clone()),
            ("--thumbprint", self.thumbprint()),
        ] {
            if !own.contains(&name) {
                all.extend([name.to_owned(), value]);
            }
        }
        all.extend(own.iter().map(|&arg| arg.to_owned()));
        self.bare(&all.iter().map(String::as_str).collect::<Vec<_>>())
            .await
    }

    /// Starts a command with target, credentials and thumbprint; its standard output is to be read.
    pub fn start(&self, args: &[&str]) -> Child {
        let mut command = Command::new(program());
        command
            .args(args)
            .args(["--target", &self.host(), "--user", &self.user])
            .args(["--password", &self.password])
            .args(["--thumbprint", &self.thumbprint()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        self.at_home(&mut command);
        command.spawn().unwrap()
    }

    /// Runs a command with nothing added and no terminal.
    pub async fn bare(&self, args: &[&str]) -> Run {
        let mut command = Command::new(program());
        command.args(args).stdin(Stdio::null());
        self.finish(command).await
    }

    /// Runs a command line of a shell on a terminal, where the password is typed.
    pub async fn on_terminal(&self, line: &str, password: &str) -> Run {
        let (_, rest) = line.split_once(' ').unwrap();
        let whole = format!("{} {rest}", program().display());
        let mut command = Command::new("script");
        command.args([
            "--quiet",
            "--return",
            "--echo",
            "never",
            "--command",
            &whole,
            "/dev/null",
        ]);
        let typed = self.dir().join("typed");
        std::fs::write(&typed, format!("{password}\n")).unwrap();
        command.stdin(std::fs::File::open(typed).unwrap());
        let run = self.finish(command).await;
        assert!(
            !run.text.lines().any(|line| line.trim() == password),
            "the password is not shown"
        );
        run
    }

    async fn finish(&self, mut command: Command) -> Run {
        self.at_home(&mut command);
        tokio::task::spawn_blocking(move || command.output().unwrap().into())
            .await
            .unwrap()
    }

    /// The directory is the user's home, and where the command is run.
    fn at_home(&self, command: &mut Command) {
        command
            .current_dir(self.dir())
            .env("HOME", self.dir())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("VIC_MACHINE_PASSWORD")
            .env_remove("SSL_CERT_FILE");
    }

    pub async fn client(&self) -> Client {
        let config = ClientConfig::new(&format!("https://{}/sdk", self.host()))
            .unwrap()
            .with_password(&self.user, &self.password)
            .with_trust(Trust::Anybody);
        Client::connect(config).await.unwrap()
    }

    /// Everything that a VCH could leave in the inventory: kind and name, sorted.
    pub async fn inventory(&self) -> Vec<String> {
        let client = self.client().await;
        let mut all = Vec::new();
        for kind in ["VirtualMachine", "ResourcePool", "Folder", "Network"] {
            for found in client
                .below(&client.content().root_folder, &[kind], &["name"])
                .await
                .unwrap()
            {
                all.push(format!(
                    "{} {}",
                    found.object.r#type,
                    found.text("name").unwrap()
                ));
            }
        }
        client.close().await.unwrap();
        all.sort();
        all
    }

    /// What lies on the datastores.
    pub fn datastore_files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for datastore in std::fs::read_dir(self.dir().join("state/datastores")).unwrap() {
            for entry in std::fs::read_dir(datastore.unwrap().path()).unwrap() {
                found.push(entry.unwrap().file_name().into_string().unwrap());
            }
        }
        found
    }

    /// Says that docker is served, as soon as the VM of this name runs.
    pub async fn play_vch(&self, name: &str) {
        let client = self.client().await;
        let name = name.to_owned();
        let live_views = matches!(self.target, Target::Ours(_));
        tokio::spawn(async move {
            let vm = if live_views {
                appears(&client, &name).await
            } else {
                shows_up(&client, &name).await
            };
            let ready = OptionValue {
                key: "vch.ready".into(),
                value: Some(Any::from("192.0.2.7:2376".to_owned())),
            };
            let spec = VirtualMachineConfigSpec {
                extra_config: vec![ready],
                ..Default::default()
            };
            client
                .run_task(&vm, ReconfigVMRequest { spec })
                .await
                .unwrap();
            client.close().await.unwrap();
        });
    }
}

/// Asks until a VM of this name is on: the peer's views do not tell of VMs that come later.
async fn shows_up(client: &Client, name: &str) -> ManagedObjectReference {
    let root = client.content().root_folder.clone();
    let paths = ["name", "runtime.powerState"];
    let asked = async {
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        loop {
            pause.tick().await;
            let vms = client.below(&root, &["VirtualMachine"], &paths).await;
            let on = vms.unwrap_or_default().into_iter().find(|vm| {
                vm.text("name") == Some(name)
                    && vm.get("runtime.powerState") == Some(VirtualMachinePowerState::PoweredOn)
            });
            if let Some(vm) = on {
                return vm.object;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), asked)
        .await
        .unwrap()
}

/// Waits until a VM of this name is on.
async fn appears(client: &Client, name: &str) -> ManagedObjectReference {
    use vmomi::types::CreateContainerViewRequest;
    let manager = client.content().view_manager.clone().unwrap();
    let request = CreateContainerViewRequest {
        container: client.content().root_folder.clone(),
        r#type: vec!["VirtualMachine".into()],
        recursive: true,
    };
    let view = client.invoke(&manager, request).await.unwrap();
    let spec = vmomi::client::view_spec(&view, &["VirtualMachine"], &["name"]);
    let mut filter = client.watch().await.unwrap().filter(spec).await.unwrap();
    loop {
        let batch = filter.next().await.unwrap();
        for update in batch.objects {
            let named = update
                .change_set
                .iter()
                .any(|change| change.val.as_ref().and_then(|value| value.as_str()) == Some(name));
            if named {
                is_on(client, &update.obj).await;
                return update.obj;
            }
        }
    }
}

async fn is_on(client: &Client, vm: &ManagedObjectReference) {
    let spec = PropertyFilterSpec {
        prop_set: vec![property_spec("VirtualMachine", &["runtime.powerState"])],
        object_set: vec![ObjectSpec {
            obj: vm.clone(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut filter = client.watch().await.unwrap().filter(spec).await.unwrap();
    loop {
        let batch = filter.next().await.unwrap();
        let on = batch
            .objects
            .into_iter()
            .flat_map(|object| object.change_set)
            .any(|change| {
                change
                    .val
                    .and_then(|value| value.to::<VirtualMachinePowerState>().ok())
                    == Some(VirtualMachinePowerState::PoweredOn)
            });
        if on {
            return;
        }
    }
}

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_vic-machine").into()
}

/// Compares lines without their times; the simulator's address and thumbprint have names.
pub fn golden(stage: &Stage, run: &Run, wanted: &str) {
    let text: String = run
        .text
        .replace(&stage.host(), "ESX")
        .replace(&stage.thumbprint(), "THUMBPRINT")
        .lines()
        .map(|line| match (line.find('['), line.find(']')) {
            (Some(4), Some(end)) => {
                format!("{} {}", &line[..4], line[end + 1..].trim())
                    .trim_end()
                    .to_owned()
                    + "\n"
            }
            _ => format!("{line}\n"),
        })
        .filter(|line| !line.trim().is_empty())
        .collect();
    assert!(text == wanted, "printed:\n{text}\nwanted:\n{wanted}");
}
