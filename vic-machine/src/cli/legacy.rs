//! Names that options had in earlier releases, as old articles and scripts still have them.
//!
//! They are rewritten before the command line is parsed, each with a warning. A `create` that uses one also gets the
//! defaults of its time (see [`crate::tls::choose`] and [`crate::known_hosts`]).

/// Old name and new name.
const NAMES: [(&str, &str); 12] = [
    ("--external-network", "--public-network"),
    ("--external-network-ip", "--public-network-ip"),
    ("--external-network-gateway", "--public-network-gateway"),
    ("--image-datastore", "--image-store"),
    ("--kv", "--no-tlsverify"),
    ("--docker-insecure-registry", "--insecure-registry"),
    ("--cert", "--tls-server-cert"),
    ("--key", "--tls-server-key"),
    ("--yes", "--force"),
    ("--passwd", "--password"),
    ("--compute-resource-path", "--compute-resource"),
    ("--appliance-size-memory", "--endpoint-memory"),
];

/// A command line without old names, and what was said in them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Modern {
    /// The arguments, the program's name first.
    pub(crate) args: Vec<String>,
    /// One text for each old name.
    pub(crate) warnings: Vec<String>,
}

/// Replaces old names. What follows `--` is left alone.
pub(crate) fn modernise(args: impl IntoIterator<Item = String>) -> Modern {
    let mut modern = Modern {
        args: Vec::new(),
        warnings: Vec::new(),
    };
    let mut done = false;
    for arg in args {
        done |= arg == "--";
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (arg.as_str(), None),
        };
        match NAMES.iter().find(|(old, _)| !done && *old == name) {
            Some((old, new)) => {
                modern.warnings.push(format!(
                    "Using deprecated flag {old}; its name is now {new}"
                ));
                modern
                    .args
                    .push(value.map_or_else(|| (*new).to_owned(), |v| format!("{new}={v}")));
            }
            None => modern.args.push(arg),
        }
    }
    modern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_become_new_ones_with_a_warning_each() {
        let line = "vic-machine create --external-network=net --image-datastore ds --name x";
        let modern = modernise(line.split(' ').map(str::to_owned));
        assert_eq!(
            modern.args.join(" "),
            "vic-machine create --public-network=net --image-store ds --name x"
        );
        assert_eq!(
            modern.warnings,
            [
                "Using deprecated flag --external-network; its name is now --public-network",
                "Using deprecated flag --image-datastore; its name is now --image-store",
            ]
        );
    }
}
