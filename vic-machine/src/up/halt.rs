//! Stops what runs on a simulator: containers by their stop signal, then the appliance.

use std::time::Duration;

use tether_protocol::config::ExecutorConfig;
use tracing::{info, warn};
use vmomi::ManagedObjectReference as Reference;
use vmomi::client::{Client, Error, property_spec};
use vmomi::types::{
    ObjectSpec, PowerOffVMRequest, PropertyFilterSpec, ShutdownGuestRequest,
    VirtualMachinePowerState,
};

use super::simulator;
use super::state::{State, Up};
use crate::cli::StateArgs;
use crate::failure::{Chain, Failure, Tried};
use crate::session::{Session, Strangers};
use crate::vch::text_options;

/// How long a container has for its end when it does not say; docker's own measure.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a guest may take beyond its container's time.
const SLACK: Duration = Duration::from_secs(5);
/// How long the simulator may take to end.
const SIMULATOR: Duration = Duration::from_secs(30);

/// `vic-machine down`.
pub(crate) async fn run(args: StateArgs) -> Result<(), Failure> {
    let state = State::at(&args.state)?;
    if let Some(pid) = state.holder()? {
        info!("Stopping the VCH of process {pid}");
        simulator::terminate(pid)?;
        state.released().await?;
        info!("Completed successfully");
        return Ok(());
    }
    let Some(pid) = state.simulator_holder()? else {
        return Err(Failure::new(format!(
            "nothing runs with the state directory {}",
            state.dir().display()
        )));
    };
    // A first `up` that was killed has left its simulator, and no word of a VCH.
    if let Some(up) = state.load()? {
        info!("Stopping containers");
        if let Err(failure) = guests(&state, &up).await {
            warn!("{}", Chain(&failure));
        }
    }
    info!("Stopping the simulator");
    simulator::terminate(pid)?;
    tokio::time::timeout(SIMULATOR, state.simulator_ended())
        .await
        .tried(format!("vic-sim (process {pid}) does not end"))??;
    info!("Completed successfully");
    Ok(())
}

/// `vic-machine env`.
pub(crate) fn environment(args: &StateArgs) -> Result<(), Failure> {
    let (state, up) = State::existing(&args.state)?;
    if state.simulator_holder()?.is_none() {
        return Err(Failure::new(format!(
            "nothing runs with the state directory {}",
            state.dir().display()
        )));
    }
    for line in super::state::exports(&up, state.dir(), &state.password()?) {
        println!("{line}");
    }
    Ok(())
}

/// Stops every VM that runs, containers first.
pub(super) async fn guests(state: &State, up: &Up) -> Result<(), Failure> {
    let target = simulator::target(&up.url, &up.thumbprint, &up.user, &state.password()?)?;
    let session = Session::open(&target, Strangers::Refuse).await?;
    let result = stop_all(&session.client, up)
        .await
        .tried("cannot stop the containers");
    session.close().await;
    result
}

async fn stop_all(client: &Client, up: &Up) -> Result<(), Error> {
    let paths = ["name", "config.extraConfig", "runtime.powerState"];
    let root = &client.content().root_folder;
    let mut containers = Vec::new();
    let mut others = Vec::new();
    for properties in client.below(root, &["VirtualMachine"], &paths).await? {
        let on: Option<VirtualMachinePowerState> = properties.get("runtime.powerState");
        if on != Some(VirtualMachinePowerState::PoweredOn) {
            continue;
        }
        let options = text_options(properties.get("config.extraConfig").unwrap_or_default());
        let own = up.vch.as_deref() == Some(properties.object.value.as_str());
        if own {
            others.push((properties.object, PATIENCE));
        } else {
            containers.push((properties.object, patience(&options)));
        }
    }
    let stops = containers
        .iter()
        .map(|(vm, patience)| stop(client, vm, *patience));
    futures_util::future::join_all(stops).await;
    for (vm, patience) in &others {
        stop(client, vm, *patience).await;
    }
    Ok(())
}

/// How long a container may take for its end.
fn patience(options: &std::collections::BTreeMap<String, String>) -> Duration {
    let own = ExecutorConfig::decode(options)
        .ok()
        .and_then(|config| config.sessions.get(&config.id)?.stop_timeout)
        .map_or(PATIENCE, |seconds| Duration::from_secs(u64::from(seconds)));
    own + SLACK
}

/// Asks the guest to end; then switches it off.
async fn stop(client: &Client, vm: &Reference, patience: Duration) {
    let asked = async {
        client.invoke(vm, ShutdownGuestRequest {}).await?;
        until_off(client, vm).await
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => info!("{} does not shut down: {error}", vm.value),
        Err(_) => info!("{} has not ended within {patience:?}", vm.value),
    }
    match client.run_task(vm, PowerOffVMRequest {}).await {
        Err(error) if !error.is_fault("InvalidPowerState") => {
            warn!("cannot power off {}: {error}", vm.value)
        }
        _ => {}
    }
}

async fn until_off(client: &Client, vm: &Reference) -> Result<(), Error> {
    let spec = PropertyFilterSpec {
        prop_set: vec![property_spec("VirtualMachine", &["runtime.powerState"])],
        object_set: vec![ObjectSpec {
            obj: vm.clone(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut filter = client.watch().await?.filter(spec).await?;
    while let Some(batch) = filter.next().await {
        let off = batch
            .objects
            .into_iter()
            .flat_map(|object| object.change_set)
            .any(|change| {
                change
                    .val
                    .and_then(|value| value.to::<VirtualMachinePowerState>().ok())
                    == Some(VirtualMachinePowerState::PoweredOff)
            });
        if off {
            break;
        }
    }
    Ok(())
}
