//! Images: pull from a real registry, load, list, tag, remove.

use anyhow::{Context, Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::json;
use system_tests::image::Recipe;
use system_tests::registry::{PASSWORD, USER};
use system_tests::run::Ran;
use system_tests::world::{World, path};

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("pull_from_a_registry_and_run", pull),
    ("ten_pulls_at_once_write_each_layer_once", ten_pulls),
    ("pull_of_a_missing_tag_says_so", missing_tag),
    (
        "a_closed_registry_opens_for_the_credentials_of_the_client",
        closed_registry,
    ),
    ("localhost_inside_a_vch_is_explained", localhost),
    ("load_tag_inspect_and_rmi", load_tag_rmi),
    (
        "rmi_f_takes_the_name_of_a_running_container_s_image",
        force_untags,
    ),
    ("an_image_in_use_is_not_removed", in_use),
];

fn registry(world: &World) -> String {
    world.registry.name_in_a_vch()
}

fn pull(world: &World) -> Result<()> {
    let name = format!("{}/test/busybox:1", registry(world));
    let out = world.docker(&["pull", &name])?.ok()?;
    ensure!(
        out.contains("Status: Downloaded newer image for ") || out.contains("Image is up to date"),
        "{out}"
    );
    ensure!(out.contains("Digest: sha256:"), "{out}");
    ensure!(
        world
            .docker(&["run", "--rm", &name, "cat", "/etc/image"])?
            .ok()?
            == "busybox of the tests"
    );
    let again = world.docker(&["pull", &name])?.ok()?;
    ensure!(
        again.contains("Status: Image is up to date for "),
        "{again}"
    );
    Ok(())
}

fn ten_pulls(world: &World) -> Result<()> {
    let mut recipe = Recipe::busybox("ten:1");
    recipe
        .layers
        .push(vec![("ten".to_owned(), vec![7; 3 << 20])]);
    world
        .registry
        .push(&world.archive(&recipe)?, "test/ten:1")?;
    let name = format!("{}/test/ten:1", registry(world));
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..10)
            .map(|_| scope.spawn(|| world.docker(&["pull", "-q", &name])?.ok()))
            .collect();
        pulls
            .into_iter()
            .try_for_each(|p| p.join().map_err(|_| anyhow::anyhow!("panicked"))?.map(drop))
    })?;
    ensure!(
        world
            .docker(&["run", "--rm", &name, "sh", "-c", "wc -c < /ten"])?
            .ok()?
            .trim()
            == (3 << 20).to_string()
    );
    Ok(())
}

fn missing_tag(world: &World) -> Result<()> {
    world
        .docker(&["pull", &format!("{}/test/busybox:nosuch", registry(world))])?
        .fails_with(1, "manifest unknown")
}

/// The client sends what its configuration holds for a registry as `X-Registry-Auth`.
fn closed_registry(world: &World) -> Result<()> {
    let closed = world.closed.as_ref().context("no closed registry")?;
    let mut recipe = Recipe::busybox("closed:1");
    recipe
        .layers
        .push(vec![("closed".to_owned(), b"behind a password".to_vec())]);
    world
        .registry
        .push(&world.archive(&recipe)?, "test/closed:1")?;
    let server = closed.name_in_a_vch();
    let name = format!("{server}/test/closed:1");
    let pull_as = |user: &str, password: &str| -> Result<Ran> {
        let config = tempfile::tempdir()?;
        let auth = BASE64_STANDARD.encode(format!("{user}:{password}"));
        let content = json!({"auths": {&server: {"auth": auth}}});
        std::fs::write(config.path().join("config.json"), content.to_string())?;
        world.docker(&["--config", path(config.path())?, "pull", &name])
    };
    world
        .docker(&["pull", &name])?
        .fails_with(1, "no basic auth credentials")?;
    pull_as(USER, "wrong")?.fails_with(1, "unauthorized: authentication required")?;
    world
        .docker(&["image", "inspect", &name])?
        .fails_with(1, "No such image")?;
    let out = pull_as(USER, PASSWORD)?.ok()?;
    ensure!(out.contains("Status: Downloaded newer image for "), "{out}");
    let run = world.docker(&["run", "--rm", &name, "cat", "/closed"])?;
    ensure!(run.ok()? == "behind a password");
    Ok(())
}

fn localhost(world: &World) -> Result<()> {
    world
        .docker(&["pull", "localhost:5000/x"])?
        .fails_with(1, "host.docker.internal")
}

fn load_tag_rmi(world: &World) -> Result<()> {
    let mut recipe = Recipe::busybox("loaded:1");
    recipe.config = json!({"Cmd": ["echo", "from the image"], "Env": ["COLOUR=blue"], "WorkingDir": "/var", "User": "alice"});
    let archive = world.archive(&recipe)?;
    let out = world.docker(&["load", "-i", path(&archive)?])?.ok()?;
    ensure!(out.contains("Loaded image: loaded:1"), "{out}");
    ensure!(world.docker(&["run", "--rm", "loaded:1"])?.ok()? == "from the image");
    ensure!(
        world
            .docker(&[
                "run",
                "--rm",
                "loaded:1",
                "sh",
                "-c",
                "echo $COLOUR $(pwd) $(id -un)"
            ])?
            .ok()?
            == "blue /var alice"
    );
    world.docker(&["tag", "loaded:1", "other:2"])?.ok()?;
    let list = world
        .docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"])?
        .ok()?;
    ensure!(
        list.lines().any(|l| l == "other:2") && list.lines().any(|l| l == "loaded:1"),
        "{list}"
    );
    ensure!(
        world
            .docker(&["rmi", "other:2"])?
            .ok()?
            .contains("Untagged: other:2")
    );
    ensure!(
        world
            .docker(&["rmi", "loaded:1"])?
            .ok()?
            .contains("Deleted: sha256:")
    );
    world
        .docker(&["image", "inspect", "loaded:1"])?
        .fails_with(1, "No such image: loaded:1")
}

fn force_untags(world: &World) -> Result<()> {
    let mut recipe = Recipe::busybox("forced:1");
    recipe.config = json!({"Labels": {"of": "forced"}});
    let archive = world.archive(&recipe)?;
    let loaded = world.docker(&["load", "-i", path(&archive)?])?.ok()?;
    ensure!(loaded == "Loaded image: forced:1", "{loaded}");
    let id = world
        .docker(&["images", "-q", "--no-trunc", "forced:1"])?
        .ok()?;
    world
        .docker(&["run", "-d", "--name", "runs", "forced:1", "sleep", "1000"])?
        .ok()?;
    world
        .docker(&["rmi", "forced:1"])?
        .fails_with(1, "(must force) - container")?;
    let out = world.docker(&["rmi", "-f", "forced:1"])?.ok()?;
    ensure!(out == "Untagged: forced:1", "{out}");
    world
        .docker(&["rmi", "-f", &id])?
        .fails_with(1, "cannot be forced")?;
    world.docker(&["restart", "-t", "0", "runs"])?.ok()?;
    world.docker(&["rm", "-f", "runs"])?.ok()?;
    let out = world.docker(&["rmi", &id])?.ok()?;
    ensure!(out.contains(&format!("Deleted: {id}")), "{out}");
    Ok(())
}

fn in_use(world: &World) -> Result<()> {
    let mut recipe = Recipe::busybox("inuse:1");
    // Content of its own, and so no other name.
    recipe
        .layers
        .push(vec![("inuse".to_owned(), b"in use".to_vec())]);
    let archive = world.archive(&recipe)?;
    world.docker(&["load", "-q", "-i", path(&archive)?])?.ok()?;
    let id = world.docker(&["create", "--name", "user", "inuse:1", "cat", "/inuse"])?;
    let id = id.ok()?;
    let short = id.get(..12).context("a short id")?;
    world.docker(&["rmi", "inuse:1"])?.fails_with(
        1,
        &format!("unable to remove repository reference \"inuse:1\" (must force) - container {short} is using its referenced image "),
    )?;
    ensure!(world.docker(&["start", "-a", "user"])?.ok()? == "in use");
    // Another name may go as long as one is left.
    world.docker(&["tag", "inuse:1", "inuse:2"])?.ok()?;
    world.docker(&["rmi", "inuse:2"])?.ok()?;
    world.docker(&["rm", "user"])?.ok()?;
    let gone = world.docker(&["rmi", "inuse:1"])?.ok()?;
    ensure!(gone.contains("Deleted: sha256:"), "{gone}");
    Ok(())
}
