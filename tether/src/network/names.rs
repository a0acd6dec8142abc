//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`, as docker writes them.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tether_protocol::config::ExecutorConfig;

/// The files, by their names in `/etc`.
pub const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

const HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// Writes the three files into `dir`, and returns their paths in the order of [`FILES`].
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    dir: &Path,
    config: &ExecutorConfig,
    address: Option<IpAddr>,
    servers: &[IpAddr],
    domain: Option<&str>,
) -> io::Result<[PathBuf; 3]> {
    fs::create_dir_all(dir)?;
    let paths = FILES.map(|name| dir.join(name));
    let texts = [
        format!("{}\n", config.host_name()),
        hosts(config, address),
        resolv_conf(config, servers, domain),
    ];
    for (path, text) in paths.iter().zip(texts) {
        fs::write(path, text)?;
    }
    Ok(paths)
}

fn hosts(config: &ExecutorConfig, address: Option<IpAddr>) -> String {
    let mut text = HOSTS.to_owned();
    for entry in &config.extra_hosts {
        if let Some(ip) = entry.ip {
            text.push_str(&format!("{ip}\t{}\n", entry.name));
        }
    }
    if let Some(ip) = address {
        let mut full = config.host_name().to_owned();
        if !config.domainname.is_empty() {
            full = format!("{full}.{}", config.domainname);
        }
        // The first part alone is a name of the container's too, whichever of the two options the rest came from.
        let short = full.split_once('.').map(|(short, _)| format!(" {short}"));
        text.push_str(&format!("{ip}\t{full}{}\n", short.unwrap_or_default()));
    }
    text
}

fn resolv_conf(config: &ExecutorConfig, servers: &[IpAddr], domain: Option<&str>) -> String {
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let mut search = config.dns_search.join(" ");
    if search.is_empty() {
        search = domain.unwrap_or_default().to_owned();
    }
    if !search.is_empty() && search != "." {
        text.push_str(&format!("search {search}\n"));
    }
    if !config.dns_options.is_empty() {
        text.push_str(&format!("options {}\n", config.dns_options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_finds_itself_and_the_extra_hosts() {
        let mut config = ExecutorConfig {
            hostname: "web".into(),
            ..Default::default()
        };
        config.domainname = "lab".into();
        config.extra_hosts.push(tether_protocol::config::HostEntry {
            name: "db".into(),
            ip: "10.0.0.9".parse().ok(),
        });
        let text = hosts(&config, "172.16.0.2".parse().ok());
        assert!(text.ends_with("10.0.0.9\tdb\n172.16.0.2\tweb.lab web\n"));
        config.domainname.clear();
        let text = hosts(&config, "172.16.0.2".parse().ok());
        assert!(text.ends_with("\n172.16.0.2\tweb\n"));
        config.hostname = "web.vm.lab".into();
        let text = hosts(&config, "172.16.0.2".parse().ok());
        assert!(text.ends_with("\n172.16.0.2\tweb.vm.lab web\n"));
        let servers = ["172.16.0.1".parse().unwrap()];
        let text = resolv_conf(&config, &servers, Some("vm.example"));
        assert_eq!(text, "nameserver 172.16.0.1\nsearch vm.example\n");
    }
}
