//! A simulator with a client, and the specifications that many tests need.

use simulator::{Config, Simulator};
use vmomi::types::*;
use vmomi::{Client, ManagedObjectReference as Moref, Poly};

/// A simulator, and a client that has logged in to it.
pub struct Bench {
    pub simulator: Simulator,
    pub client: Client,
    pub dir: tempfile::TempDir,
}

pub fn client_config(simulator: &Simulator, user: &str) -> vmomi::Config {
    vmomi::Config::new(&simulator.url())
        .expect("a URL")
        .with_password(user, "password")
        .with_trust(vmomi::tls::Trust::Authorities(
            simulator.certificate().to_owned(),
        ))
}

pub async fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("temp dir");
    let simulator = Simulator::start(Config::esx(dir.path()))
        .await
        .expect("starts");
    let client = Client::connect(client_config(&simulator, "root"))
        .await
        .expect("logs in");
    Bench {
        simulator,
        client,
        dir,
    }
}

pub fn pool() -> Moref {
    Moref::new("ResourcePool", "ha-root-pool")
}

pub fn folder() -> Moref {
    Moref::new("Folder", "ha-folder-vm")
}

pub fn add(device: impl Into<Poly<VirtualDevice>>, create: bool) -> Poly<VirtualDeviceConfigSpec> {
    VirtualDeviceConfigSpec {
        operation: Some(VirtualDeviceConfigSpecOperation::Add),
        file_operation: create.then_some(VirtualDeviceConfigSpecFileOperation::Create),
        device: device.into(),
        ..Default::default()
    }
    .into()
}

pub fn disk(key: i32, unit: Option<i32>, file: &str, kb: i64, parent: Option<&str>) -> VirtualDisk {
    let parent = parent.map(|p| {
        VirtualDiskFlatVer2BackingInfo {
            file_name: p.into(),
            ..Default::default()
        }
        .into()
    });
    let backing = VirtualDiskFlatVer2BackingInfo {
        file_name: file.into(),
        disk_mode: "persistent".into(),
        parent,
        ..Default::default()
    };
    VirtualDisk {
        key,
        controller_key: Some(-1),
        unit_number: unit,
        capacity_in_kb: kb,
        backing: Some(backing.into()),
        ..Default::default()
    }
}

pub fn spec(name: &str, devices: Vec<Poly<VirtualDeviceConfigSpec>>) -> VirtualMachineConfigSpec {
    let mut device_change = vec![add(
        ParaVirtualSCSIController {
            key: -1,
            ..Default::default()
        },
        false,
    )];
    device_change.extend(devices);
    VirtualMachineConfigSpec {
        name: Some(name.into()),
        num_cpus: Some(1),
        memory_mb: Some(64),
        files: Some(VirtualMachineFileInfo {
            vm_path_name: Some("[datastore1]".into()),
            ..Default::default()
        }),
        device_change,
        ..Default::default()
    }
}

pub fn option(key: &str, value: &str) -> OptionValue {
    OptionValue {
        key: key.into(),
        value: Some(value.into()),
        ..Default::default()
    }
}

impl Bench {
    pub async fn create(&self, config: VirtualMachineConfigSpec) -> Result<Moref, vmomi::Error> {
        let request = CreateVMRequest {
            config,
            pool: pool(),
            ..Default::default()
        };
        let info = self.client.run_task(&folder(), request).await?;
        Ok(info
            .result
            .and_then(|r| r.as_reference().cloned())
            .expect("the VM"))
    }

    pub async fn config(&self, vm: &Moref) -> VirtualMachineConfigInfo {
        let found: Option<VirtualMachineConfigInfo> =
            self.client.property(vm, "config").await.expect("reads");
        found.expect("is set")
    }

    pub async fn power(&self, vm: &Moref) -> String {
        let found: Option<String> = self
            .client
            .property(vm, "runtime.powerState")
            .await
            .expect("reads");
        found.expect("is set")
    }

    pub fn guest(
        &self,
        config: &VirtualMachineConfigInfo,
    ) -> std::sync::Arc<simulator::engine::inert::InertGuest> {
        let instance = config.instance_uuid.as_deref().expect("has one");
        self.simulator.guest(instance).expect("is on")
    }
}

pub fn fault_of<T: std::fmt::Debug>(result: Result<T, vmomi::Error>) -> String {
    let error = result.expect_err("a fault");
    error.fault().expect("a fault").name().to_owned()
}

/// A vCenter, and a client that has logged in to it.
pub async fn vcenter() -> Bench {
    let dir = tempfile::tempdir().expect("temp dir");
    let simulator = Simulator::start(Config::vc(dir.path()))
        .await
        .expect("starts");
    let config = client_config(&simulator, "administrator@vsphere.local");
    let client = Client::connect(config).await.expect("logs in");
    Bench {
        simulator,
        client,
        dir,
    }
}

impl Bench {
    /// The one object of this type and name.
    pub async fn named(&self, kind: &str, name: &str) -> Moref {
        let root = self.client.content().root_folder.clone();
        let all = self.client.below(&root, &[kind], &["name"]).await;
        let all = all.expect("lists");
        let found = all.iter().find(|o| o.text("name") == Some(name));
        found
            .unwrap_or_else(|| panic!("no {kind} is called {name}"))
            .object
            .clone()
    }

    /// The first object of this type.
    pub async fn first(&self, kind: &str) -> Moref {
        let root = self.client.content().root_folder.clone();
        let all = self.client.below(&root, &[kind], &["name"]).await;
        let first = all.expect("lists").into_iter().next();
        first.expect("there is one").object
    }
}

/// What came back of a call that was sent without our client.
pub struct Reply {
    pub status: u16,
    pub cookie: Option<String>,
    pub body: Vec<u8>,
}

/// SOAP and files without our client: what a stranger may send.
pub struct Raw {
    pub http: reqwest::Client,
    pub base: String,
    pub cookie: Option<String>,
}

impl Raw {
    pub fn new(simulator: &Simulator) -> Self {
        let tls = vmomi::tls::client_config(&vmomi::tls::Trust::Anybody).expect("TLS");
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .build()
            .expect("an HTTP client");
        Raw {
            http,
            base: format!("https://{}", simulator.address()),
            cookie: None,
        }
    }

    /// One that has logged in.
    pub async fn logged_in(simulator: &Simulator, user: &str, manager: &Moref) -> Self {
        let mut raw = Raw::new(simulator);
        let login = LoginRequest {
            user_name: user.into(),
            password: "password".into(),
            ..Default::default()
        };
        let reply = raw.send(manager, &login).await;
        assert_eq!(reply.status, 200);
        raw.cookie = reply.cookie;
        raw
    }

    /// Sends a call.
    pub async fn send(&self, this: &Moref, request: &dyn vmomi::Data) -> Reply {
        let name = request.info().name.trim_end_matches("RequestType");
        let method = vmomi::method::all()
            .find(|m| (m.arguments)().name == request.info().name)
            .unwrap_or_else(|| panic!("{name} is no request"));
        let version = vmomi::Version::newest();
        let body = vmomi::soap::request(method, this, request, &Default::default(), version);
        self.post(body).await
    }

    /// Sends what may be no call at all.
    pub async fn post(&self, body: impl Into<reqwest::Body>) -> Reply {
        let mut request = self
            .http
            .post(format!("{}/sdk", self.base))
            .header("SOAPAction", "urn:vim25/8.0.1.0")
            .body(body);
        if let Some(cookie) = &self.cookie {
            request = request.header("Cookie", format!("vmware_soap_session={cookie}"));
        }
        let response = request.send().await.expect("an answer");
        let cookie = response.headers().get("set-cookie").map(|value| {
            let text = value.to_str().expect("text");
            let value = text
                .split(';')
                .next()
                .and_then(|pair| pair.split_once('='))
                .expect("a cookie");
            value.1.trim_matches('"').to_owned()
        });
        Reply {
            status: response.status().as_u16(),
            cookie,
            body: response.bytes().await.expect("a body").to_vec(),
        }
    }
}

impl Reply {
    /// The answer to a call of `M`.
    pub fn of<M: vmomi::Method>(&self) -> Result<M::Response, vmomi::soap::Fault> {
        let answer = vmomi::soap::parse_response::<M>(&self.body).expect("an answer of the API");
        assert_eq!(answer.is_ok(), self.status == 200, "the status fits");
        answer
    }

    /// The name of the fault that the answer is.
    pub fn fault<M: vmomi::Method>(&self) -> String {
        let fault = self.of::<M>().map(drop).expect_err("a fault");
        fault.name().to_owned()
    }
}
