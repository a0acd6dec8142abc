//! Wrong commands: Debian's dockerd and we must agree on the exit code, and on the text but where this table says
//! otherwise (Debian's is 20.10, our texts are those of the newest engine).

use anyhow::{Result, ensure};
use system_tests::dockerd::Dockerd;
use system_tests::image::Recipe;
use system_tests::run::Ran;
use system_tests::world::{World, path};

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[("wrong_commands_fail_as_on_debian_s_dockerd", agree)];

/// What is expected of the texts.
enum Text {
    /// Both say the same, ids left out of account.
    Same,
    /// Both say something else; what each must contain.
    Differs {
        theirs: &'static str,
        ours: &'static str,
    },
}
use Text::{Differs, Same};

const I: &str = "busybox:test";

/// Command lines, split at blanks.
const WRONG: &[(&str, Text)] = &[
    ("run --rm --memory 1m busybox:test true", Same),
    (
        "run --rm busybox:test nosuch",
        Differs {
            theirs: "failed to create shim task: OCI",
            ours: "failed to create task for container: failed to create shim task: OCI",
        },
    ),
    (
        "run --rm busybox:test /no/such",
        Differs {
            theirs: "no such file or directory",
            ours: "no such file or directory: unknown",
        },
    ),
    (
        "run --rm busybox:test /etc/not-executable",
        Differs {
            theirs: "permission denied: unknown",
            ours: "permission denied: unknown",
        },
    ),
    (
        "run --rm busybox:test /etc",
        Differs {
            theirs: "permission denied",
            ours: "is a directory: permission denied",
        },
    ),
    ("run --rm -w relative busybox:test true", Same),
    ("run --rm --name bad/name busybox:test true", Same),
    ("run --rm --name x busybox:test true", Same),
    ("run --rm --name taken busybox:test true", Same),
    (
        "run --rm -u nosuchuser busybox:test true",
        Differs {
            theirs: "unable to find user nosuchuser",
            ours: "unable to find user nosuchuser: no matching entries in passwd file",
        },
    ),
    (
        "run --rm -u 0:nosuchgroup busybox:test true",
        Differs {
            theirs: "unable to find group nosuchgroup",
            ours: "unable to find group nosuchgroup: no matching entries in group file",
        },
    ),
    (
        "run --rm --cpus 1000 busybox:test true",
        Differs {
            theirs: "Range of CPUs is from 0.01 to",
            ours: "range of CPUs is from 0.01 to",
        },
    ),
    ("run --rm --network nosuchnet busybox:test true", Same),
    ("run --rm -v relative/path:/x busybox:test true", Same),
    ("run --rm -v vol:relative busybox:test true", Same),
    ("run --rm -v vol:/ busybox:test true", Same),
    (
        "run --rm -v vol:/x:nosuchmode busybox:test true",
        Differs {
            theirs: "invalid mode: nosuchmode",
            ours: "invalid mode: nosuchmode",
        },
    ),
    (
        "run --rm --mount type=bind,source=/no/such/path,target=/x busybox:test true",
        Same,
    ),
    ("run --rm --cap-add NOSUCH busybox:test true", Same),
    (
        "run --rm --stop-signal NOSUCH busybox:test true",
        Differs {
            theirs: "Invalid signal: NOSUCH",
            ours: "invalid signal: NOSUCH",
        },
    ),
    (
        "run --rm --ipc nosuch busybox:test true",
        Differs {
            theirs: "Invalid IPC mode: nosuch",
            ours: "invalid IPC mode: nosuch",
        },
    ),
    (
        "run --rm --runtime nosuch busybox:test true",
        Differs {
            theirs: "Unknown runtime specified nosuch",
            ours: "unknown or invalid runtime name: nosuch",
        },
    ),
    (
        "run --rm --log-driver nosuch busybox:test true",
        Differs {
            theirs: "error looking up logging plugin nosuch",
            ours: "logger: no log driver named 'nosuch' is registered",
        },
    ),
    ("run --rm -m 10m --memory-swap 5m busybox:test true", Same),
    ("run --rm --cpu-period 10 busybox:test true", Same),
    ("run --rm --cpu-quota 10 busybox:test true", Same),
    ("run --rm --oom-score-adj 2000 busybox:test true", Same),
    ("create --name taken busybox:test true", Same),
    ("start nosuch", Same),
    ("stop nosuch", Same),
    (
        "kill nosuch",
        Differs {
            theirs: "Cannot kill container: nosuch: No such container: nosuch",
            ours: "No such container: nosuch",
        },
    ),
    (
        "kill stopped",
        Differs {
            theirs: "Cannot kill container: stopped: Container",
            ours: "cannot kill container: stopped: container",
        },
    ),
    (
        "kill -s NOSUCH running",
        Differs {
            theirs: "Invalid signal: NOSUCH",
            ours: "invalid signal: NOSUCH",
        },
    ),
    ("rm nosuch", Same),
    (
        "rm running",
        Differs {
            theirs: "You cannot remove a running container",
            ours: "cannot remove container \"running\": container is running",
        },
    ),
    (
        "pause stopped",
        Differs {
            theirs: "is not running",
            ours: "is not running",
        },
    ),
    ("unpause running", Same),
    ("rename nosuch other", Same),
    (
        "rename running taken",
        Differs {
            theirs: "Conflict. The container name \"/taken\"",
            ours: "Conflict. The container name \"/taken\"",
        },
    ),
    (
        "rename running bad/name",
        Differs {
            theirs: "Invalid container name (/bad/name)",
            ours: "Invalid container name (",
        },
    ),
    (
        "exec stopped true",
        Differs {
            theirs: "is not running",
            ours: "is not running",
        },
    ),
    ("exec nosuch true", Same),
    ("logs nosuch", Same),
    ("logs --since nonsense running", Same),
    (
        "top stopped",
        Differs {
            theirs: "is not running",
            ours: "is not running",
        },
    ),
    ("top nosuch", Same),
    ("inspect nosuch", Same),
    ("wait nosuch", Same),
    ("attach stopped", Same),
    ("attach nosuch", Same),
    ("port nosuch", Same),
    ("rmi nosuch", Same),
    ("tag nosuch other:1", Same),
    ("tag busybox:test sha256:abc", Same),
    ("volume rm nosuch", Same),
    ("volume rm inuse", Same),
    ("volume inspect nosuch", Same),
    ("volume create a", Same),
    ("volume create bad/name", Same),
    ("network inspect nosuch", Same),
    ("network rm bridge", Same),
    ("network rm nosuch", Same),
    (
        "image inspect nosuch",
        Differs {
            theirs: "No such image: nosuch:latest",
            ours: "No such image: nosuch:latest",
        },
    ),
    (
        "ps --filter nosuch=1",
        Differs {
            theirs: "Invalid filter 'nosuch'",
            ours: "invalid filter 'nosuch'",
        },
    ),
    (
        "ps --filter status=nosuch",
        Differs {
            theirs: "Invalid filter 'status=nosuch'",
            ours: "invalid filter 'status=nosuch'",
        },
    ),
    (
        "ps --filter exited=x",
        Differs {
            theirs: "parsing \"x\": invalid syntax",
            ours: "invalid filter 'exited=x'",
        },
    ),
    (
        "images --filter nosuch=1",
        Differs {
            theirs: "Invalid filter 'nosuch'",
            ours: "invalid filter 'nosuch'",
        },
    ),
    (
        "volume ls --filter nosuch=1",
        Differs {
            theirs: "Invalid filter 'nosuch'",
            ours: "invalid filter 'nosuch'",
        },
    ),
    (
        "network ls --filter nosuch=1",
        Differs {
            theirs: "Invalid filter 'nosuch'",
            ours: "invalid filter 'nosuch'",
        },
    ),
];

/// Both sides get the same containers and volumes.
fn set_up(docker: &dyn Fn(&[&str]) -> Result<Ran>) -> Result<()> {
    docker(&[
        "run", "-d", "--name", "running", "-v", "inuse:/v", I, "sleep", "10000",
    ])?
    .ok()?;
    docker(&["run", "--name", "stopped", I, "true"])?.ok()?;
    docker(&["create", "--name", "taken", I, "true"])?.ok()?;
    Ok(())
}

/// Ids become `<id>`: runs of 12 or 64 hexadecimal digits.
fn without_ids(text: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    for c in text.chars().chain(std::iter::once('\n')) {
        if c.is_ascii_hexdigit() && !c.is_ascii_uppercase() {
            run.push(c);
            continue;
        }
        out.push_str(if matches!(run.len(), 12 | 64) {
            "<id>"
        } else {
            &run
        });
        run.clear();
        out.push(c);
    }
    out
}

fn judge(line: &str, text: &Text, ours: &Ran, theirs: &Ran) -> Result<()> {
    ensure!(
        ours.code() == theirs.code(),
        "docker {line}: exit {} instead of {}: {}",
        ours.code(),
        theirs.code(),
        ours.stderr
    );
    ensure!(theirs.code() != 0, "docker {line}: is not wrong at all");
    let (we, they) = (without_ids(&ours.stderr), without_ids(&theirs.stderr));
    match text {
        Same => ensure!(
            we == they,
            "docker {line}:\n  ours:   {we}\n  theirs: {they}"
        ),
        Differs { theirs, ours } => {
            ensure!(they.contains(theirs), "docker {line}: dockerd says {they}");
            ensure!(we.contains(ours), "docker {line}: we say {we}");
        }
    }
    Ok(())
}

fn agree(world: &World) -> Result<()> {
    let peer = Dockerd::start()?;
    let archive = world.archive(&Recipe::busybox(I))?;
    peer.docker(&["load", "-q", "-i", path(&archive)?], b"")?
        .ok()?;
    set_up(&|args| peer.docker(args, b""))?;
    set_up(&|args| world.docker(args))?;
    let mut wrong = Vec::new();
    for (line, text) in WRONG {
        let args: Vec<&str> = line.split(' ').collect();
        let (ours, theirs) = (world.docker(&args)?, peer.docker(&args, b"")?);
        if let Err(error) = judge(line, text, &ours, &theirs) {
            wrong.push(format!("{error:#}"));
        }
    }
    world
        .docker(&["rm", "-f", "running", "stopped", "taken"])?
        .ok()?;
    ensure!(
        WRONG.len() >= 60 && wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        WRONG.len(),
        wrong.join("\n")
    );
    Ok(())
}
