//! Decides which certificates serve the docker API, and makes those that are missing.
//!
//! | options | server's certificate | clients |
//! |---|---|---|
//! | `--no-tls` | none | anybody |
//! | `--no-tlsverify` | supplied, else self-signed | anybody |
//! | `--tls-server-cert/-key` | supplied | those of `--tls-ca`, or of the `ca.pem` in the folder |
//! | `--tls-cname`, or a static address | made, or found in the folder | those of the CA made with it |
//! | none of these | an error that lists the ways out | |
//! | none of these, in a command line with old names | self-signed | anybody, as such command lines expect |

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tracing::{debug, info, warn};

use super::Mode;
use super::files::{self, FileError};
use super::issue::{self, Authority, IssueError, Pair};
use crate::cli::TlsArgs;

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A certificate without its key, or the other way round.
    #[error("--tls-server-cert and --tls-server-key must be given together")]
    Half,
    /// Nothing to make a certificate out for.
    #[error(
        "no certificate can be made: give --tls-cname (a name or address of the VCH), a static address with \
         --public-network-ip, your own --tls-server-cert and --tls-server-key, or --no-tlsverify"
    )]
    NoName,
    /// Supplied certificate, but nothing to check clients with.
    #[error(
        "--tls-server-cert without a CA for clients: give --tls-ca, put ca.pem into the certificate folder, \
         or give --no-tlsverify"
    )]
    NoClientCa,
    /// Files are in the way.
    #[error(
        "the certificate folder {dir} is not empty and holds no complete set for {names}: \
         empty it, or name another with --tls-cert-path"
    )]
    InTheWay {
        /// The folder.
        dir: PathBuf,
        /// The names wanted.
        names: String,
    },
    /// A file.
    #[error("certificates cannot be read or written")]
    File(#[source] FileError),
    /// A CA file.
    #[error("Unable to load certificate authority data")]
    Authority(#[source] FileError),
    /// Making one.
    #[error("certificates cannot be made")]
    Issue(#[source] IssueError),
}

/// What serves the docker API.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// How.
    pub(crate) mode: Mode,
    /// The server's certificate and key; none with `--no-tls`.
    pub(crate) server: Option<Pair>,
    /// CA certificates of clients, PEM.
    pub(crate) client_ca: String,
    /// The folder with `ca.pem`, `cert.pem` and `key.pem` for clients, where there is one.
    pub(crate) client_dir: Option<PathBuf>,
}

/// What the choice depends on besides the TLS options.
#[derive(Clone, Debug)]
pub(crate) struct Situation<'a> {
    /// The VCH's name.
    pub(crate) name: &'a str,
    /// Its static address, where it has one.
    pub(crate) static_ip: Option<IpAddr>,
    /// Whether the command line has old names.
    pub(crate) legacy: bool,
    /// How many days certificates hold.
    pub(crate) days: i64,
}

/// Chooses; makes and writes what is missing.
pub(crate) fn choose(args: &TlsArgs, at: &Situation<'_>) -> Result<Chosen, TlsError> {
    if args.no_tls {
        warn!("Configuring without TLS - all communications will be insecure");
        return Ok(Chosen {
            mode: Mode::Plain,
            server: None,
            client_ca: String::new(),
            client_dir: None,
        });
    }
    let dir = args
        .tls_cert_path
        .clone()
        .unwrap_or_else(|| PathBuf::from(".").join(at.name));
    let mut names = args.tls_cname.clone();
    if names.is_empty() {
        names.extend(at.static_ip.map(|ip| ip.to_string()));
    }
    let supplied = supplied(args)?;
    if let (Some(pair), Some(name)) = (&supplied, names.first()) {
        check_supplied(pair, name);
    }
    if args.no_tlsverify {
        warn!("Configuring without TLS verify - certificate-based authentication disabled");
        let pair = match supplied {
            Some(pair) => pair,
            None => self_signed(&names, at, &dir)?,
        };
        return Ok(Chosen {
            mode: Mode::NoVerify,
            server: Some(pair),
            client_ca: String::new(),
            client_dir: None,
        });
    }
    let given_ca = read_authorities(&args.tls_ca)?;
    match supplied {
        Some(pair) => with_supplied(pair, given_ca, &dir),
        None if names.is_empty() && at.legacy => legacy(at),
        None if names.is_empty() => Err(TlsError::NoName),
        None => with_names(&names, given_ca, &dir, args, at),
    }
}

fn supplied(args: &TlsArgs) -> Result<Option<Pair>, TlsError> {
    match (&args.tls_server_cert, &args.tls_server_key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => files::read_pair(certificate, key)
            .map(Some)
            .map_err(TlsError::File),
        _ => Err(TlsError::Half),
    }
}

fn check_supplied(pair: &Pair, name: &str) {
    match files::names(&pair.certificate) {
        None => warn!("Failed to load x509 leaf of the server certificate"),
        Some(names) if !files::covers(&names, name) => {
            warn!(
                "Server certificate hostname doesn't match: it is made out for {}, not for {name}",
                names.join(", ")
            );
        }
        Some(_) => info!("Loaded server certificate"),
    }
}

fn read_authorities(paths: &[PathBuf]) -> Result<Option<String>, TlsError> {
    let mut all = String::new();
    for path in paths {
        all.push_str(&files::read_authority(path).map_err(TlsError::Authority)?);
        all.push('\n');
    }
    Ok(Some(all).filter(|all| !all.is_empty()))
}

fn with_supplied(pair: Pair, given_ca: Option<String>, dir: &Path) -> Result<Chosen, TlsError> {
    let (client_ca, client_dir) = match given_ca {
        Some(ca) => (ca, None),
        None => {
            let path = dir.join("ca.pem");
            if !path.exists() {
                debug!("Unable to locate existing CA in cert path");
                return Err(TlsError::NoClientCa);
            }
            let ca = files::read_authority(&path).map_err(TlsError::Authority)?;
            info!(
                "Loaded CA with default name from certificate path {}",
                dir.display()
            );
            (ca, client_dir(dir))
        }
    };
    Ok(Chosen {
        mode: Mode::Verify,
        server: Some(pair),
        client_ca,
        client_dir,
    })
}

fn with_names(
    names: &[String],
    given_ca: Option<String>,
    dir: &Path,
    args: &TlsArgs,
    at: &Situation<'_>,
) -> Result<Chosen, TlsError> {
    if let Some(found) = reuse(names, dir)? {
        return Ok(found);
    }
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        return Err(TlsError::InTheWay {
            dir: dir.to_owned(),
            names: names.join(", "),
        });
    }
    files::make_dir(dir).map_err(TlsError::File)?;
    let organization = organization(args, at.name);
    let say = |what: &str, key: &str| {
        info!(
            "Generating {what}certificate/key pair - private key in {}",
            dir.join(key).display()
        );
    };
    say("CA ", "ca-key.pem");
    let authority = Authority::new(&organization, at.days).map_err(TlsError::Issue)?;
    files::write_pair(dir, "ca", "ca-key", &authority.pair).map_err(TlsError::File)?;
    say("server ", "server-key.pem");
    let server = authority.server(names).map_err(TlsError::Issue)?;
    files::write_pair(dir, "server-cert", "server-key", &server).map_err(TlsError::File)?;
    if let Some(client_ca) = given_ca {
        return Ok(Chosen {
            mode: Mode::Verify,
            server: Some(server),
            client_ca,
            client_dir: None,
        });
    }
    say("client ", "key.pem");
    let client = authority.client().map_err(TlsError::Issue)?;
    files::write_pair(dir, "cert", "key", &client).map_err(TlsError::File)?;
    Ok(Chosen {
        mode: Mode::Verify,
        server: Some(server),
        client_ca: authority.pair.certificate,
        client_dir: client_dir(dir),
    })
}

/// Takes what an earlier `create` has left, when it is complete and made out for all names.
fn reuse(names: &[String], dir: &Path) -> Result<Option<Chosen>, TlsError> {
    let (certificate, key) = (dir.join("server-cert.pem"), dir.join("server-key.pem"));
    let ca = dir.join("ca.pem");
    if ![&certificate, &key, &ca].iter().all(|path| path.exists()) {
        return Ok(None);
    }
    let pair = files::read_pair(&certificate, &key).map_err(TlsError::File)?;
    let own = files::names(&pair.certificate).unwrap_or_default();
    if !names
        .iter()
        .all(|name| files::covers(&own, name) || own.contains(name))
    {
        return Ok(None);
    }
    info!("Loaded server certificate {}", certificate.display());
    let client_ca = files::read_authority(&ca).map_err(TlsError::Authority)?;
    info!(
        "Loaded CA with default name from certificate path {}",
        dir.display()
    );
    let client_dir = client_dir(dir);
    if client_dir.is_some() {
        info!(
            "Loaded client certificate with default name from certificate path {}",
            dir.display()
        );
    }
    Ok(Some(Chosen {
        mode: Mode::Verify,
        server: Some(pair),
        client_ca,
        client_dir,
    }))
}

fn self_signed(names: &[String], at: &Situation<'_>, dir: &Path) -> Result<Pair, TlsError> {
    let names = if names.is_empty() {
        vec![at.name.replace(' ', "-")]
    } else {
        names.to_vec()
    };
    files::make_dir(dir).map_err(TlsError::File)?;
    info!(
        "Generating self-signed certificate/key pair - private key in {}",
        dir.join("server-key.pem").display()
    );
    let pair = issue::self_signed(&names, at.name).map_err(TlsError::Issue)?;
    files::write_pair(dir, "server-cert", "server-key", &pair).map_err(TlsError::File)?;
    Ok(pair)
}

/// What releases did that knew the old names: a self-signed certificate, its key in the working directory.
fn legacy(at: &Situation<'_>) -> Result<Chosen, TlsError> {
    info!(
        "Generating certificate/key pair - private key in ./{}-key.pem",
        at.name
    );
    let pair =
        issue::self_signed(&[at.name.replace(' ', "-")], at.name).map_err(TlsError::Issue)?;
    let (cert, key) = (format!("{}-cert", at.name), format!("{}-key", at.name));
    files::write_pair(Path::new("."), &cert, &key, &pair).map_err(TlsError::File)?;
    warn!("Clients are not asked for certificates; --tls-cname makes a VCH that asks");
    Ok(Chosen {
        mode: Mode::NoVerify,
        server: Some(pair),
        client_ca: String::new(),
        client_dir: None,
    })
}

fn organization(args: &TlsArgs, name: &str) -> String {
    if args.organization.is_empty() {
        name.to_owned()
    } else {
        args.organization.join(", ")
    }
}

/// The folder by its absolute path, if a client can use it.
fn client_dir(dir: &Path) -> Option<PathBuf> {
    let complete = ["ca.pem", "cert.pem", "key.pem"]
        .iter()
        .all(|name| dir.join(name).exists());
    complete.then(|| fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn situation(name: &str) -> Situation<'_> {
        Situation {
            name,
            static_ip: None,
            legacy: false,
            days: issue::DAYS,
        }
    }

    fn args(dir: &Path, cname: &[&str]) -> TlsArgs {
        TlsArgs {
            tls_cname: cname.iter().map(|name| (*name).to_owned()).collect(),
            tls_cert_path: Some(dir.to_owned()),
            ..TlsArgs::default()
        }
    }

    #[test]
    fn a_name_makes_a_ca_a_server_and_a_client_that_are_used_again() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("certs");
        let first = choose(
            &args(&dir, &["*.example.com", "127.0.0.1"]),
            &situation("VCH"),
        )
        .unwrap();
        assert_eq!(first.mode, Mode::Verify);
        assert_eq!(
            first.client_dir.as_deref(),
            Some(fs::canonicalize(&dir).unwrap().as_path())
        );
        let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("ca-key.pem"), mode("key.pem"), mode("cert.pem")),
            (0o600, 0o600, 0o644)
        );
        assert_eq!(
            fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let pair = first.server.clone().unwrap();
        let names = files::names(&pair.certificate).unwrap();
        assert!(files::covers(&names, "vch.example.com") && files::covers(&names, "127.0.0.1"));
        assert!(!files::covers(&names, "a.b.example.com"));

        let again = choose(&args(&dir, &["127.0.0.1"]), &situation("VCH")).unwrap();
        assert_eq!(again.server, first.server);
        let other = choose(&args(&dir, &["other.net"]), &situation("VCH"));
        assert!(matches!(other, Err(TlsError::InTheWay { .. })));
    }

    #[test]
    fn without_a_name_there_is_an_error_unless_the_command_line_is_old() {
        let root = tempfile::tempdir().unwrap();
        let none = choose(&args(root.path(), &[]), &situation("VCH"));
        assert!(matches!(none, Err(TlsError::NoName)));
        let address = Situation {
            static_ip: Some("10.0.0.9".parse().unwrap()),
            ..situation("VCH")
        };
        let made = choose(&args(&root.path().join("x"), &[]), &address).unwrap();
        let names = files::names(&made.server.unwrap().certificate).unwrap();
        assert!(files::covers(&names, "10.0.0.9"));
    }

    #[test]
    fn no_tls_wins_over_everything() {
        let root = tempfile::tempdir().unwrap();
        let mut args = args(root.path(), &["x"]);
        (args.no_tls, args.no_tlsverify) = (true, true);
        args.tls_server_key = Some("missing".into());
        let chosen = choose(&args, &situation("VCH")).unwrap();
        assert_eq!((chosen.mode, chosen.mode.port()), (Mode::Plain, 2375));
    }

    #[test]
    fn supplied_files_are_told_apart_when_switched() {
        let root = tempfile::tempdir().unwrap();
        let pair = issue::self_signed(&["a".into()], "o").unwrap();
        let other = issue::self_signed(&["a".into()], "o").unwrap();
        files::write_pair(root.path(), "cert", "key", &pair).unwrap();
        files::write_pair(root.path(), "cert2", "key2", &other).unwrap();
        let path = |name: &str| root.path().join(name);
        assert!(files::read_pair(&path("cert.pem"), &path("key.pem")).is_ok());
        let text = |result: Result<Pair, FileError>| result.unwrap_err().to_string();
        assert!(
            text(files::read_pair(&path("key.pem"), &path("cert.pem")))
                .contains("PEM inputs may have been switched")
        );
        assert!(
            text(files::read_pair(&path("cert.pem"), &path("cert2.pem")))
                .contains("found a certificate rather than a key")
        );
        assert!(
            text(files::read_pair(&path("cert.pem"), &path("key2.pem")))
                .contains("does not belong")
        );
        let mut args = args(root.path(), &[]);
        args.tls_server_cert = Some(path("cert.pem"));
        assert!(matches!(
            choose(&args, &situation("V")),
            Err(TlsError::Half)
        ));
        args.tls_server_key = Some(path("key.pem"));
        assert!(matches!(
            choose(&args, &situation("V")),
            Err(TlsError::NoClientCa)
        ));
        args.tls_ca = vec![path("key.pem")];
        assert!(
            choose(&args, &situation("V"))
                .unwrap_err()
                .to_string()
                .contains("Unable to load certificate authority data")
        );
        args.tls_ca = vec![path("cert2.pem")];
        assert_eq!(choose(&args, &situation("V")).unwrap().mode, Mode::Verify);
    }
}
