//! Installs what building and testing need, or says exactly what is missing.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// A Debian package and a file that tells that it (or an equal of it) is there.
struct Need {
    package: &'static str,
    /// Any of these paths present means that nothing has to be installed.
    present: &'static [&'static str],
    why: &'static str,
}

const BUILD: &[Need] = &[
    Need {
        package: "gcc",
        present: &["/usr/bin/gcc", "/usr/bin/cc"],
        why: "C parts of the TLS library",
    },
    Need {
        package: "musl-tools",
        present: &["/usr/bin/musl-gcc"],
        why: "static vch",
    },
    Need {
        package: "nftables",
        present: &["/usr/sbin/nft"],
        why: "the simulator's networks",
    },
    Need {
        package: "e2fsprogs",
        present: &["/usr/sbin/mke2fs", "/sbin/mke2fs"],
        why: "file systems in tests",
    },
    Need {
        package: "iproute2",
        present: &["/usr/sbin/ip", "/sbin/ip", "/bin/ip"],
        why: "looking at networks",
    },
];

const TEST: &[Need] = &[
    Need {
        package: "docker.io",
        present: &["/usr/sbin/dockerd"],
        why: "the peer that we are compared with",
    },
    Need {
        package: "docker-registry",
        present: &["/usr/bin/docker-registry"],
        why: "a real registry",
    },
    Need {
        package: "skopeo",
        present: &["/usr/bin/skopeo"],
        why: "putting images into the registry",
    },
    Need {
        package: "busybox-static",
        present: &["/bin/busybox", "/usr/bin/busybox"],
        why: "the image of the tests",
    },
    Need {
        package: "qemu-utils",
        present: &["/usr/bin/qemu-img"],
        why: "judge of our VMDKs",
    },
    Need {
        package: "xorriso",
        present: &["/usr/bin/xorriso"],
        why: "judge of our ISOs",
    },
    Need {
        package: "golang-go",
        present: &["/usr/bin/go"],
        why: "builds the peer simulator",
    },
    Need {
        package: "golang-github-vmware-govmomi-dev",
        present: &["/usr/share/gocode/src/github.com/vmware/govmomi"],
        why: "the peer simulator's library",
    },
    Need {
        package: "cpio",
        present: &["/usr/bin/cpio", "/bin/cpio"],
        why: "judge of our initramfs",
    },
    Need {
        package: "bsdutils",
        present: &["/usr/bin/script"],
        why: "a terminal for tests",
    },
    Need {
        package: "curl",
        present: &["/usr/bin/curl"],
        why: "a client that checks any name in a certificate",
    },
    Need {
        package: "ca-certificates",
        present: &["/etc/ssl/certs/ca-certificates.crt"],
        why: "trust of registries",
    },
];

const PYTHON: Need = Need {
    package: "python3-venv",
    present: &[],
    why: "pyvmomi, as an admin's scripts use it",
};

/// Any Python will do that can make a virtual environment with pip in it.
fn python_has_venv() -> bool {
    let probe = Command::new("python3")
        .args(["-c", "import venv, ensurepip"])
        .stderr(Stdio::null())
        .status();
    probe.is_ok_and(|status| status.success())
}

const MUSL: &str = "x86_64-unknown-linux-musl";

/// Installs the missing ones of what building needs, and with `tests` of what the tests need.
pub(crate) fn install(tests: bool) -> Result<()> {
    let missing = missing(tests, |path| std::path::Path::new(path).exists());
    if !missing.is_empty() {
        apt(&missing)?;
    }
    if tests && !python_has_venv() {
        apt(&[&PYTHON])?;
    }
    musl_target()
}

/// Which packages are not there, as far as `exists` knows.
fn missing(tests: bool, exists: impl Fn(&str) -> bool) -> Vec<&'static Need> {
    let wanted = BUILD.iter().chain(if tests { TEST } else { &[] });
    wanted
        .filter(|need| !need.present.iter().any(|path| exists(path)))
        .collect()
}

fn apt(missing: &[&Need]) -> Result<()> {
    let (names, list) = told(missing);
    let root = nix::unistd::geteuid().is_root();
    if !root
        || Command::new("apt-get")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_err()
    {
        bail!(refusal(missing));
    }
    eprintln!("installing:\n{list}");
    crate::run(Command::new("apt-get").args(["update", "-qq"]))?;
    crate::run(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&names)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// The names of packages, and a list of them with what each is for.
fn told<'a>(missing: &[&'a Need]) -> (Vec<&'a str>, String) {
    let names = missing.iter().map(|n| n.package).collect();
    let list: Vec<String> = missing
        .iter()
        .map(|n| format!("  {} ({})", n.package, n.why))
        .collect();
    (names, list.join("\n"))
}

/// What is said when packages are missing and may not be installed.
fn refusal(missing: &[&Need]) -> String {
    let (names, list) = told(missing);
    format!(
        "these Debian packages are missing:\n{list}\ninstall them as root: apt-get install {}",
        names.join(" ")
    )
}

fn musl_target() -> Result<()> {
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()?;
    let sysroot = String::from_utf8(sysroot.stdout)?;
    let lib = std::path::Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(MUSL);
    if lib.exists() {
        return Ok(());
    }
    match Command::new("rustup")
        .args(["target", "add", MUSL])
        .status()
    {
        Ok(status) if status.success() => Ok(()),
        _ => bail!("the Rust target {MUSL} is missing: rustup target add {MUSL}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_reason_and_the_command_that_installs_it() {
        let lacking = missing(false, |path| {
            path != "/usr/sbin/nft" && path != "/usr/bin/musl-gcc"
        });
        let said = refusal(&lacking);
        for wanted in [
            "  musl-tools (static vch)\n",
            "  nftables (the simulator's networks)\n",
            "apt-get install musl-tools nftables",
        ] {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
    }

    #[test]
    fn nothing_is_installed_where_everything_is() {
        assert!(missing(true, |_| true).is_empty());
        let for_tests = missing(true, |_| false).len();
        assert!(for_tests > missing(false, |_| false).len());
    }

    #[test]
    fn one_of_several_places_is_enough() {
        let lacking = missing(false, |path| path == "/bin/ip" || path == "/usr/bin/cc");
        let names = told(&lacking).0;
        assert!(
            !names.contains(&"iproute2") && !names.contains(&"gcc"),
            "{names:?}"
        );
        assert!(names.contains(&"nftables"));
    }
}
