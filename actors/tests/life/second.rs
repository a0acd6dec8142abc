//! Two `vch` of one name: the state documents have one writer.

use actors::Error;
use actors::volume::VolumeSpec;
use actors::world::World;

use crate::bench::Bench;

fn named(name: &str) -> VolumeSpec {
    VolumeSpec {
        name: Some(name.to_owned()),
        ..VolumeSpec::default()
    }
}

fn volumes(world: &World) -> Vec<String> {
    let volumes = world.engine.snapshots().volumes();
    volumes.iter().map(|volume| volume.name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_second_vch_has_written_is_not_overwritten() {
    let bench = Bench::start().await;
    let first = &bench.world.engine;
    first.create_volume(named("mine")).await.expect("a volume");
    let other = bench.second().await;
    let second = &other.engine;
    assert_eq!(volumes(&other), ["mine"]);
    second
        .create_volume(named("theirs"))
        .await
        .expect("a volume");

    let refused = first.create_volume(named("late")).await.unwrap_err();
    assert!(matches!(refused, Error::Superseded { .. }), "{refused:?}");
    assert!(
        refused
            .to_string()
            .contains("another vch writes this host's state"),
        "{refused}"
    );
    assert_eq!(volumes(&bench.world), ["mine"]);
    // The second's word stands: whoever reads the state next finds what it wrote, and nothing of what was refused.
    let third = bench.second().await;
    assert_eq!(volumes(&third), ["mine", "theirs"]);
    third.stop().await;
    other.stop().await;
    bench.stop().await;
}
