//! What is said about a VCH that answers.

use std::fmt::Write as _;
use std::path::Path;

use tracing::{info, warn};

use crate::cli::CreateArgs;
use crate::create::Installed;
use crate::plan::Plan;
use crate::tls::{Mode, files};

/// Options for TLS with a server that nobody vouches for. Without the second, the CLI wants a ca.pem in its folder.
const UNVERIFIED: &str = " --tls --tlscacert=\"\"";

/// How docker's clients reach a VCH.
#[derive(Clone, Debug)]
pub(crate) struct DockerLines {
    /// `host:port`.
    pub(crate) host: String,
    /// The `docker -H …` line.
    pub(crate) command: String,
    /// Variables and their values.
    pub(crate) variables: Vec<(&'static str, String)>,
}

impl DockerLines {
    /// The lines for a VCH served like this, with the client's certificates there.
    pub(crate) fn new(docker: &(String, u16), mode: Mode, client_dir: Option<&Path>) -> Self {
        let host = format!("{}:{}", docker.0, docker.1);
        let dir = client_dir.map(|dir| dir.display().to_string());
        let options = match (mode, &dir) {
            (Mode::Plain, _) => String::new(),
            (Mode::NoVerify, _) => UNVERIFIED.to_owned(),
            (Mode::Verify, Some(dir)) => format!(
                " --tlsverify --tlscacert=\"{dir}/ca.pem\" --tlscert=\"{dir}/cert.pem\" --tlskey=\"{dir}/key.pem\""
            ),
            (Mode::Verify, None) => " --tlsverify".to_owned(),
        };
        let mut variables = Vec::new();
        if mode == Mode::Verify {
            variables.push(("DOCKER_TLS_VERIFY", "1".to_owned()));
            variables.extend(dir.map(|dir| ("DOCKER_CERT_PATH", dir)));
        }
        variables.push(("DOCKER_HOST", host.clone()));
        if mode != Mode::Plain {
            variables.push(("COMPOSE_TLS_VERSION", "TLSv1_2".to_owned()));
        }
        Self {
            command: format!("docker -H {host}{options} info"),
            host,
            variables,
        }
    }

    /// One line with all variables.
    fn joined(&self) -> String {
        let all: Vec<String> = self
            .variables
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        all.join(" ")
    }
}

/// Tells how to use what was installed, and leaves it in a file for shells.
pub(crate) fn installed(plan: &Plan, installed: &Installed, legacy: bool) {
    let lines = DockerLines::new(
        &installed.ready.docker,
        plan.tls.mode,
        plan.tls.client_dir.as_deref(),
    );
    info!("");
    if !legacy {
        info!("VCH ID: {}", installed.vm.value);
        info!("");
        let range = format!("{}/{}", plan.bridge.range.ip, plan.bridge.width);
        networks(
            &plan.bridge.network,
            &range,
            &installed.ready.address.to_string(),
        );
        docker(&lines);
        environment_file(plan, &lines);
    } else {
        info!("DOCKER_HOST={}", lines.host);
        info!("");
        info!("Connect to docker:");
        // As it was printed in its time.
        info!("{}", lines.command.replace(UNVERIFIED, " --tls"));
    }
}

/// Where containers are, and where their ports.
pub(crate) fn networks(bridge: &str, range: &str, address: &str) {
    info!("Default bridge network: {bridge}");
    info!("Default bridge network range: {range}");
    info!("");
    info!("Published ports can be reached at:");
    info!("{address}");
    info!("");
}

/// The variables and the command line.
pub(crate) fn docker(lines: &DockerLines) {
    info!("Docker environment variables:");
    info!("{}", lines.joined());
    info!("");
    info!("Connect to docker:");
    info!("{}", lines.command);
}

fn environment_file(plan: &Plan, lines: &DockerLines) {
    let dir = match &plan.tls.client_dir {
        Some(dir) => dir.clone(),
        None => Path::new(".").join(&plan.name),
    };
    let path = dir.join(format!("{}.env", plan.name));
    let mut text = String::new();
    for (name, value) in &lines.variables {
        let _ = writeln!(text, "{name}={value}");
    }
    let written = files::make_dir(&dir).and_then(|()| files::write(&path, &text, 0o644));
    match written {
        Ok(()) => {
            info!("");
            info!("Environment saved in {}", path.display());
        }
        Err(error) => warn!(
            "the environment file is not written: {}",
            crate::failure::Chain(&error)
        ),
    }
}

/// The options of a `create`, as they are kept in the VCH: without passwords and files of this machine.
pub(crate) fn options(args: &CreateArgs) -> Vec<String> {
    let mut options = vec![format!("--name={}", args.name)];
    let mut keep = |name: &str, value: Option<&str>| {
        options.extend(value.map(|value| format!("--{name}={value}")));
    };
    let target = args.target.target.as_deref();
    keep(
        "target",
        target.map(|text| text.rsplit_once('@').map_or(text, |(_, host)| host)),
    );
    keep("user", args.target.user.as_deref());
    keep("thumbprint", args.target.thumbprint.as_deref());
    keep("compute-resource", args.common.compute_resource.as_deref());
    keep("image-store", args.storage.image_store.as_deref());
    keep("bridge-network", args.network.bridge_network.as_deref());
    keep("public-network", Some(&args.network.public_network));
    keep("client-network", args.network.client_network.as_deref());
    keep(
        "management-network",
        args.network.management_network.as_deref(),
    );
    for store in &args.storage.volume_store {
        keep(
            "volume-store",
            Some(&format!("{}:{}", store.at.url(), store.label)),
        );
    }
    for name in &args.tls.tls_cname {
        keep("tls-cname", Some(name));
    }
    for registry in &args.registry.insecure_registry {
        keep("insecure-registry", Some(registry));
    }
    for (name, set) in [
        ("no-tls", args.tls.no_tls),
        ("no-tlsverify", args.tls.no_tlsverify),
    ] {
        if set {
            options.push(format!("--{name}"));
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_serving_has_its_own_lines() {
        let at = ("10.0.0.9".to_owned(), 2376);
        let old = DockerLines::new(&at, Mode::NoVerify, None);
        assert_eq!(
            old.command,
            "docker -H 10.0.0.9:2376 --tls --tlscacert=\"\" info"
        );
        let plain = DockerLines::new(&("h".into(), 2375), Mode::Plain, None);
        assert_eq!(plain.joined(), "DOCKER_HOST=h:2375");
        let verified = DockerLines::new(&at, Mode::Verify, Some(Path::new("/c")));
        assert_eq!(
            verified.joined(),
            "DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=/c DOCKER_HOST=10.0.0.9:2376 COMPOSE_TLS_VERSION=TLSv1_2"
        );
        assert!(
            verified
                .command
                .contains("--tlsverify --tlscacert=\"/c/ca.pem\"")
        );
    }

    #[test]
    fn kept_options_have_no_credentials() {
        let mut args = CreateArgs::default();
        args.target.target = Some("root:secret@esx".into());
        args.target.password = Some("secret".into());
        let kept = options(&args).join(" ");
        assert!(
            kept.contains("--target=esx") && !kept.contains("secret"),
            "{kept}"
        );
    }
}
