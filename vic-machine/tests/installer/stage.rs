//! A simulator, a working directory, and the program in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
    simulator: Simulator,
    user: String,
    password: String,
}

impl Stage {
    pub async fn new(mut config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        config.state = dir.path().join("state");
        let (user, password) = (config.user.clone(), config.password.clone());
        let simulator = Simulator::start(config).await.unwrap();
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
            simulator,
            user,
            password,
        }
    }

    pub async fn stop(self) {
        self.simulator.stop().await;
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    pub fn host(&self) -> String {
        self.simulator.address().to_string()
    }

    pub fn thumbprint(&self) -> String {
        self.simulator.thumbprint().to_owned()
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
        command
            .current_dir(self.dir())
            .env("HOME", self.dir())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("VIC_MACHINE_PASSWORD")
            .env_remove("SSL_CERT_FILE");
        tokio::task::spawn_blocking(move || command.output().unwrap().into())
            .await
            .unwrap()
    }

    pub async fn client(&self) -> Client {
        let config = ClientConfig::new(&self.simulator.url())
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
        tokio::spawn(async move {
            let vm = appears(&client, &name).await;
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
