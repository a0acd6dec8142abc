//! The vSphere that a command is for, and who logs in to it.

use std::io::IsTerminal;

use percent_encoding::percent_decode_str;
use tracing::info;
use url::{Host, Url};

use crate::cli::TargetArgs;

/// Why a target cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// No `--target`.
    #[error("--target argument must be specified")]
    Missing,
    /// Something that is no address.
    #[error("--target {text:?} is not an address such as root@esxi.example.com: {why}")]
    Malformed {
        /// What was given.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// More than a datacenter behind the host.
    #[error("--target may name a datacenter only; use --compute-resource for {path:?}")]
    Deep {
        /// What stands behind the host.
        path: String,
    },
    /// Nobody to log in as.
    #[error("vSphere user must be specified, with --user or in --target")]
    User,
    /// No password, and nobody to ask.
    #[error(
        "no password, and no terminal to ask for it: give --password, set VIC_MACHINE_PASSWORD, \
         or write it into --target"
    )]
    NoTerminal(#[source] std::io::Error),
}

/// A parsed target with its credentials.
#[derive(Clone)]
pub(crate) struct Target {
    /// `https`, or `http` when asked for.
    pub(crate) scheme: String,
    /// Name or address.
    pub(crate) host: Host,
    /// Port, the scheme's when not given.
    pub(crate) port: u16,
    /// The datacenter, by its inventory path without slashes at the ends.
    pub(crate) datacenter: Option<String>,
    /// Who logs in.
    pub(crate) user: String,
    /// With which password.
    pub(crate) password: String,
    /// The certificate that is expected.
    pub(crate) thumbprint: Option<String>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} as {}", self.url(), self.user)
    }
}

impl Target {
    /// Reads the options; asks for the password when there is none.
    pub(crate) fn resolve(args: &TargetArgs) -> Result<Self, TargetError> {
        let text = args
            .target
            .as_deref()
            .map(str::trim)
            .filter(|text| !text.is_empty());
        let mut target = Parsed::from_text(text.ok_or(TargetError::Missing)?)?;
        if let Some(user) = &args.user {
            target.user = Some(user.clone());
        }
        if args.password.is_some() {
            target.password.clone_from(&args.password);
        }
        let user = target
            .user
            .filter(|user| !user.is_empty())
            .ok_or(TargetError::User)?;
        let password = match target.password {
            Some(password) => password,
            None => ask()?,
        };
        Ok(Self {
            scheme: target.scheme,
            host: target.host,
            port: target.port,
            datacenter: target.datacenter,
            user,
            password,
            thumbprint: args.thumbprint.clone().filter(|text| !text.is_empty()),
        })
    }

    /// `scheme://host:port`, without credentials.
    pub(crate) fn url(&self) -> String {
        let default = if self.scheme == "http" { 80 } else { 443 };
        if self.port == default {
            format!("{}://{}", self.scheme, self.host)
        } else {
            format!("{}://{}:{}", self.scheme, self.host, self.port)
        }
    }

    /// Whether the target is this machine itself, as seen from here.
    pub(crate) fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
            Host::Ipv4(ip) => ip.is_loopback(),
            Host::Ipv6(ip) => ip.is_loopback(),
        }
    }
}

/// Asks for the password; it is not shown.
fn ask() -> Result<String, TargetError> {
    info!("Please enter ESX or vCenter password:");
    if !std::io::stdin().is_terminal() {
        let error = std::io::Error::other("standard input is not a terminal");
        return Err(TargetError::NoTerminal(error));
    }
    rpassword::read_password().map_err(TargetError::NoTerminal)
}

struct Parsed {
    scheme: String,
    host: Host,
    port: u16,
    datacenter: Option<String>,
    user: Option<String>,
    password: Option<String>,
}

impl Parsed {
    fn from_text(text: &str) -> Result<Self, TargetError> {
        let wrong = |why: &str| TargetError::Malformed {
            text: text.to_owned(),
            why: why.to_owned(),
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
        if scheme != "https" && scheme != "http" {
            return Err(wrong("only https is spoken"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // A user's name may contain an @ of its own: administrator@vsphere.local.
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, authority),
        };
        let url = Url::parse(&format!("{scheme}://{address}"))
            .map_err(|error| wrong(&error.to_string()))?;
        let host = url
            .host()
            .ok_or_else(|| wrong("it has no host"))?
            .to_owned();
        let port = url
            .port_or_known_default()
            .ok_or_else(|| wrong("it has no port"))?;
        let (user, password) =
            match credentials.map(|both| both.split_once(':').unwrap_or((both, "\0"))) {
                Some((user, "\0")) => (Some(decode(user)), None),
                Some((user, password)) => (Some(decode(user)), Some(decode(password))),
                None => (None, None),
            };
        let path = decode(path.trim_matches('/'));
        // What govc's URLs end with.
        let path = if path == "sdk" { String::new() } else { path };
        if path.contains('/') {
            return Err(TargetError::Deep { path });
        }
        let datacenter = Some(path).filter(|path| !path.is_empty());
        Ok(Self {
            scheme: scheme.to_owned(),
            host,
            port,
            datacenter,
            user,
            password,
        })
    }
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(target: &str, user: Option<&str>) -> Result<Target, TargetError> {
        Target::resolve(&TargetArgs {
            target: Some(target.to_owned()),
            user: user.map(str::to_owned),
            password: Some("secret".into()),
            thumbprint: None,
        })
    }

    #[test]
    fn a_target_may_be_as_short_as_user_at_host() {
        let target = resolve("root@esxi01.think-v.com", None).unwrap();
        assert_eq!(target.url(), "https://esxi01.think-v.com");
        assert_eq!((target.user.as_str(), target.datacenter), ("root", None));
    }

    #[test]
    fn users_may_have_a_domain_and_odd_passwords() {
        let target = resolve(
            "https://administrator@vsphere.local:p%40ss@vc:8989/DC0/",
            None,
        )
        .unwrap();
        assert_eq!(target.user, "administrator@vsphere.local");
        assert_eq!(target.url(), "https://vc:8989");
        assert_eq!(target.datacenter.as_deref(), Some("DC0"));
        assert_eq!(target.password, "secret", "the option wins over the URL");
    }

    #[test]
    fn the_option_wins_over_the_url_and_somebody_must_log_in() {
        assert_eq!(resolve("a@host", Some("b")).unwrap().user, "b");
        assert!(matches!(resolve("host", None), Err(TargetError::User)));
    }

    #[test]
    fn deeper_paths_belong_to_the_compute_resource() {
        assert!(matches!(
            resolve("u@host/DC0/host/C0", None),
            Err(TargetError::Deep { .. })
        ));
        assert!(resolve("u@host/sdk", None).unwrap().datacenter.is_none());
        assert!(matches!(
            resolve("ftp://u@host", None),
            Err(TargetError::Malformed { .. })
        ));
    }

    #[test]
    fn only_loopback_addresses_are_loopback() {
        assert!(resolve("u@127.0.0.1:8989", None).unwrap().is_loopback());
        assert!(resolve("u@[::1]", None).unwrap().is_loopback());
        assert!(!resolve("u@10.0.0.1", None).unwrap().is_loopback());
    }
}
