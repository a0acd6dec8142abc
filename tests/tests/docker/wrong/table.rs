//! The wrong commands, and what is said of each.

/// What is expected of the texts.
pub enum Text {
    /// Both say the same, ids left out of account.
    Same,
    /// Both say something else; what each must contain.
    Differs {
        theirs: &'static str,
        ours: &'static str,
    },
}
use Text::{Differs, Same};

/// Command lines, split at blanks.
pub const WRONG: &[(&str, Text)] = &[
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

/// How the last request of a command is answered where the two differ.
pub struct Statuses {
    /// The command.
    pub line: &'static str,
    /// Debian's answer.
    pub theirs: &'static str,
    /// Ours.
    pub ours: &'static str,
}

/// Commands whose requests are not answered with the same statuses: 20.10 called some mistakes of the client errors of
/// the server (500), which newer engines do not either, and looks at networks and IPC modes only at the start. We know
/// at the creation that no such VM can be made; 404 there would make the client pull the image.
pub const STATUSES: &[Statuses] = &[
    Statuses {
        line: "run --rm --network nosuchnet busybox:test true",
        theirs: "POST /containers/<id>/start 404",
        ours: "POST /containers/create 400",
    },
    Statuses {
        line: "run --rm -v vol:relative busybox:test true",
        theirs: "POST /containers/create 500",
        ours: "POST /containers/create 400",
    },
    Statuses {
        line: "run --rm -v vol:/ busybox:test true",
        theirs: "POST /containers/create 500",
        ours: "POST /containers/create 400",
    },
    Statuses {
        line: "run --rm -v vol:/x:nosuchmode busybox:test true",
        theirs: "POST /containers/create 500",
        ours: "POST /containers/create 400",
    },
    Statuses {
        line: "run --rm --ipc nosuch busybox:test true",
        theirs: "POST /containers/<id>/start 500",
        ours: "POST /containers/create 400",
    },
    Statuses {
        line: "ps --filter exited=x",
        theirs: "GET /containers/json 500",
        ours: "GET /containers/json 400",
    },
];
