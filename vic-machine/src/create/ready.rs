//! Waits until a VCH that was powered on serves docker.
//!
//! Its address and what tether says of `vch` come by one property watch; the keys are also read once a second, since not
//! every vSphere tells that they have changed (govmomi's simulator does not). Whether docker answers is asked of docker
//! itself when it can be reached from here, and read from a key that `vch` writes when it cannot.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tether_protocol::config::{ProcessState, ProcessStatus};
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{debug, info};
use vmomi::ManagedObjectReference as Reference;
use vmomi::client::{Client, property_spec};
use vmomi::types::{
    GuestNicInfo, ObjectSpec, OptionValue, PropertyFilterSpec, VirtualMachinePowerState,
};
use vmomi::watch::Batch;

use super::appliance::PROCESS;
use crate::failure::{Failure, Tried};
use crate::tls::choose::Chosen;
use crate::tls::probe::DockerPeer;
use crate::vch::text_options;

/// The key that `vch` writes when docker's API is served; cleared before each start.
pub(crate) const READY_KEY: &str = "vch.ready";
/// First pause between two questions to docker; it doubles up to a second.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the keys are read.
const READ_AGAIN: Duration = Duration::from_secs(1);
const KEYS: &str = "config.extraConfig";
const PATHS: [&str; 4] = ["guest.ipAddress", "guest.net", KEYS, "runtime.powerState"];

/// Where docker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    /// The VCH's own address.
    pub(crate) address: IpAddr,
    /// Host and port for docker's clients.
    pub(crate) docker: (String, u16),
}

/// What is known so far.
#[derive(Debug, Default)]
struct Known {
    address: Option<IpAddr>,
    options: BTreeMap<String, String>,
    running: bool,
}

/// Waits; `published` is where the API is forwarded to, if it is.
pub(crate) async fn wait(
    client: &Client,
    vm: &Reference,
    tls: &Chosen,
    published: Option<(String, u16)>,
) -> Result<Ready, Failure> {
    info!("Waiting for IP information");
    let spec = PropertyFilterSpec {
        prop_set: vec![property_spec("VirtualMachine", &PATHS)],
        object_set: vec![ObjectSpec {
            obj: vm.clone(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let watch = client.watch().await.tried("cannot watch the appliance")?;
    let filter = watch
        .filter(spec)
        .await
        .tried("cannot watch the appliance")?;
    let mut news = News {
        client,
        vm,
        filter,
        again: tokio::time::interval(READ_AGAIN),
    };
    news.again
        .set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Known::default();
    let address = loop {
        news.next(&mut known).await?;
        if let Some(address) = known.address {
            break address;
        }
    };
    info!("Waiting for major appliance components to launch");
    let docker = published.unwrap_or_else(|| (address.to_string(), tls.mode.port()));
    let peer = peer(docker.clone(), tls).tried("cannot use the docker API's certificates")?;
    let answers = answers(&peer);
    tokio::pin!(answers);
    loop {
        if known.options.contains_key(READY_KEY) {
            debug!("the VCH says that it serves docker");
            break;
        }
        tokio::select! {
            () = &mut answers => break,
            changed = news.next(&mut known) => changed?,
        }
    }
    Ok(Ready { address, docker })
}

/// Where changes come from.
struct News<'a> {
    client: &'a Client,
    vm: &'a Reference,
    filter: vmomi::watch::Filter,
    again: Interval,
}

impl News<'_> {
    /// Waits for something that is new, or may be.
    async fn next(&mut self, known: &mut Known) -> Result<(), Failure> {
        tokio::select! {
            batch = self.filter.next() => {
                let lost = || Failure::new("the session with the target was lost");
                known.take(batch.ok_or_else(lost)?);
            }
            _ = self.again.tick() => match self.client.property(self.vm, KEYS).await {
                Ok(options) => known.take_options(options.unwrap_or_default()),
                // The watch tells what there is to know of a target that does not answer.
                Err(error) => debug!("cannot read the appliance's keys: {error}"),
            },
        }
        let state = ProcessState::decode(PROCESS, &known.options);
        if let ProcessStatus::Failed { error, .. } = state.status {
            return Err(Failure::new(format!(
                "the appliance cannot start its program: {error}"
            )));
        }
        Ok(())
    }
}

impl Known {
    fn take(&mut self, batch: Batch) {
        for change in batch
            .objects
            .into_iter()
            .flat_map(|object| object.change_set)
        {
            let Some(value) = change.val else {
                if change.name == "guest.ipAddress" {
                    self.address = None;
                }
                continue;
            };
            match change.name.as_str() {
                "runtime.powerState" => {
                    let state: Option<VirtualMachinePowerState> = value.to().ok();
                    self.running = state == Some(VirtualMachinePowerState::PoweredOn);
                }
                "guest.ipAddress" => {
                    self.address = value.as_str().and_then(usable).or(self.address)
                }
                "guest.net" => {
                    let nics: Vec<GuestNicInfo> = value.to().unwrap_or_default();
                    let first = nics
                        .iter()
                        .flat_map(|nic| &nic.ip_address)
                        .find_map(|text| usable(text));
                    self.address = self.address.or(first);
                }
                KEYS => self.take_options(value.to().unwrap_or_default()),
                _ => {}
            }
        }
    }
}

impl Known {
    fn take_options(&mut self, options: Vec<OptionValue>) {
        self.options = text_options(options);
        // What serves docker knows its address, even where tools do not tell it.
        let own = self
            .options
            .get(READY_KEY)
            .and_then(|text| text.parse::<SocketAddr>().ok());
        self.address = self.address.or(own.map(|own| own.ip()));
    }
}

/// An address that somebody else can use.
fn usable(text: &str) -> Option<IpAddr> {
    let address: Ipv4Addr = text.parse().ok()?;
    (!address.is_loopback() && !address.is_unspecified() && !address.is_link_local())
        .then_some(IpAddr::V4(address))
}

fn peer(docker: (String, u16), tls: &Chosen) -> std::io::Result<DockerPeer> {
    match &tls.server {
        None => Ok(DockerPeer::plain(docker)),
        Some(pair) => DockerPeer::pinned(docker, &pair.certificate, tls.client_dir.as_deref()),
    }
}

/// Asks docker until it answers.
async fn answers(peer: &DockerPeer) {
    let mut pause = PAUSE;
    while let Err(error) = peer.ping().await {
        debug!(
            "{}:{} does not answer yet: {error}",
            peer.address.0, peer.address.1
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
