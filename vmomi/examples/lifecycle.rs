//! Times the life of an empty VM on a vSphere: create, power on, power off, destroy.
//!
//! `cargo run -p vmomi --example lifecycle -- https://user:password@host/sdk [rounds]` trusts whoever
//! answers, makes `rounds` (10) VMs one after the other in the first datacenter and pool that it
//! finds, removes them, and prints the middle time of each step and the calls that were made.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use vmomi::tls::Trust;
use vmomi::types::*;
use vmomi::{Client, Config, ManagedObjectReference};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: lifecycle URL [ROUNDS]")?;
    let rounds: usize = arguments.next().map_or(Ok(10), |n| n.parse())?;
    let client = Client::connect(Config::new(&url)?.with_trust(Trust::Anybody)).await?;
    let root = client.content().root_folder.clone();
    let first = async |kind: &str, path: &str| -> Result<_, Box<dyn Error>> {
        let found = client.below(&root, &[kind], &[path]).await?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| format!("there is no {kind}").into())
    };
    let folder: ManagedObjectReference = first("Datacenter", "vmFolder")
        .await?
        .get("vmFolder")
        .ok_or("the datacenter has no VM folder")?;
    let pool = first("ResourcePool", "name").await?.object;
    let datastore: String = first("Datastore", "name")
        .await?
        .get("name")
        .ok_or("a datastore has no name")?;
    client.watch().await?;
    client.calls().clear();

    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for round in 0..rounds {
        let files = VirtualMachineFileInfo {
            vm_path_name: Some(format!("[{datastore}]")),
            ..Default::default()
        };
        let config = VirtualMachineConfigSpec {
            name: Some(format!("lifecycle-{}-{round}", std::process::id())),
            guest_id: Some("otherGuest64".into()),
            files: Some(files),
            ..Default::default()
        };
        let request = CreateVMRequest {
            config,
            pool: pool.clone(),
            host: None,
        };
        let mut step = |name, begun: Instant| times.entry(name).or_default().push(begun.elapsed());
        let begun = Instant::now();
        let created = client.run_task(&folder, request).await?;
        step("1 create", begun);
        let vm = created
            .result
            .as_ref()
            .and_then(|r| r.as_reference())
            .ok_or("no VM was made")?
            .clone();
        let begun = Instant::now();
        client.run_task(&vm, PowerOnVMRequest::default()).await?;
        step("2 power on", begun);
        let begun = Instant::now();
        client.run_task(&vm, PowerOffVMRequest {}).await?;
        step("3 power off", begun);
        let begun = Instant::now();
        client.run_task(&vm, DestroyRequest {}).await?;
        step("4 destroy", begun);
    }
    for (name, mut list) in times {
        list.sort();
        println!(
            "{name:12} {:8.2} ms",
            list[list.len() / 2].as_secs_f64() * 1e3
        );
    }
    for (method, calls) in client.calls().snapshot() {
        let mean = calls.total.as_secs_f64() * 1e3 / calls.count as f64;
        println!("{method:20} {:4} calls {mean:8.2} ms each", calls.count);
    }
    client.close().await?;
    Ok(())
}
