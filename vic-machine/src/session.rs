//! A logged-in client of the target.

use tracing::{debug, info, warn};
use vmomi::client::{Client, Config};
use vmomi::tls::{Thumbprint, Trust};

use crate::VERSION;
use crate::failure::{Failure, Tried};
use crate::interrupt::Interrupts;
use crate::known_hosts::KnownHosts;
use crate::target::Target;
use crate::tls::probe::{self, Shown};

/// How a server that nobody vouches for is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strangers {
    /// Refused, with the fingerprint to give.
    Refuse,
    /// Accepted, with a warning (`--force`).
    Accept,
    /// Accepted once and remembered (command lines with old names).
    Remember,
}

/// A session; [`Session::close`] it on every way out.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) thumbprint: String,
}

impl Session {
    /// Looks at the server, decides whether to trust it, logs in.
    pub(crate) async fn open(target: &Target, strangers: Strangers) -> Result<Self, Failure> {
        let (trust, thumbprint) = if target.scheme == "http" {
            (Trust::Anybody, String::new())
        } else {
            let host = target.host.to_string();
            let host = host.trim_matches(['[', ']']);
            let shown = probe::look(host, target.port)
                .await
                .tried(format!("cannot connect to {}", target.url()))?;
            let known = KnownHosts::of_user();
            let verified = judge(target, &shown, strangers, known.as_ref())?;
            let sha1 = shown.sha1();
            let trust = if verified {
                let parsed = Thumbprint::parse(&sha1);
                Trust::Thumbprint(parsed.ok_or_else(|| Failure::new("no thumbprint"))?)
            } else {
                // Test servers have keys so short that their signatures count for nothing.
                Trust::Anybody
            };
            (trust, sha1)
        };
        let mut config = Config::new(&target.url())
            .tried("the target's address cannot be used")?
            .with_password(&target.user, &target.password)
            .with_trust(trust);
        config.user_agent = format!("vic-machine/{VERSION}");
        let client = Client::connect(config).await.tried(format!(
            "Failed to log in to {} as {}",
            target.url(),
            target.user
        ))?;
        debug!(
            "logged in to {}, {}",
            target.url(),
            client.content().about.full_name
        );
        Ok(Self { client, thumbprint })
    }

    /// Does `work`, unless it is interrupted, and logs out whatever comes of it.
    pub(crate) async fn during<T>(
        &self,
        interrupts: &Interrupts,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let result = interrupts.or(work).await;
        self.close().await;
        result
    }

    /// Logs out. A server that does not answer ends the session by itself in time.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.client.close().await {
            debug!("cannot log out: {error}");
        }
    }
}

/// Decides whether the shown certificate may be the target's; tells whether anything vouches for it.
fn judge(
    target: &Target,
    shown: &Shown,
    strangers: Strangers,
    known: Option<&KnownHosts>,
) -> Result<bool, Failure> {
    let server = format!("{}:{}", target.host, target.port);
    if let Some(wanted) = &target.thumbprint {
        return if shown.has(wanted) {
            Ok(true)
        } else {
            Err(Failure::new(format!(
                "thumbprint does not match: {server} presents {}, expected was {wanted}",
                shown.sha1()
            )))
        };
    }
    if shown.trusted {
        return Ok(true);
    }
    let sha1 = shown.sha1();
    match known.and_then(|known| known.find(&server)) {
        Some(accepted) if shown.has(&accepted) => return Ok(true),
        Some(accepted) if strangers != Strangers::Accept => {
            return Err(Failure::new(format!(
                "the certificate of {server} has changed: accepted was {accepted}, now it presents {sha1}; \
                 if that is right, give --thumbprint={sha1}"
            )));
        }
        _ => {}
    }
    match strangers {
        Strangers::Refuse => Err(Failure::new(format!(
            "Failed to verify certificate for target={server} (thumbprint={sha1}): \
             if that is the right fingerprint, give --thumbprint={sha1}"
        ))),
        Strangers::Accept => {
            warn!("Accepting host {server} with thumbprint {sha1}, unverified (--force)");
            Ok(false)
        }
        Strangers::Remember => {
            warn!(
                "Accepting host {server} with thumbprint {sha1}, unverified; no other will be accepted from now on"
            );
            if let Some(Err(error)) = known.map(|known| known.remember(&server, &sha1)) {
                info!("the thumbprint cannot be remembered: {error}");
            }
            Ok(true)
        }
    }
}
