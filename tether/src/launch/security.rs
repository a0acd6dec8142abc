//! What a process may do: limits, capabilities, the system call filter. The meaning is docker's.

use std::fs;

use nix::libc;
use tether_protocol::config::{Security, Session, Ulimit};
use tether_sys::caps::{self, CapSet};
use tether_sys::process;
use tether_sys::seccomp::{self, DenyList};

use super::Sandbox;
use super::error::{LaunchError, Step};
use crate::accounts::Account;

/// Takes everything away that the process may not have, and makes it the user. The last step
/// before its program: afterwards nothing privileged works any more.
pub(super) fn confine(
    sandbox: &Sandbox<'_>,
    spec: &Session,
    account: &Account,
) -> Result<(), LaunchError> {
    let security = &spec.security;
    for ulimit in &security.ulimits {
        limit(ulimit)?;
    }
    if security.oom_score_adj != 0 {
        // Not possible everywhere, and not worth a failed start.
        let _ = fs::write(
            "/proc/self/oom_score_adj",
            security.oom_score_adj.to_string(),
        );
    }
    if sandbox.root.is_none() {
        return Ok(());
    }
    let held = caps::permitted().step("reading capabilities")?;
    let wanted = capabilities(security)?.and(held);
    if let Some(filter) = filter(security, wanted) {
        seccomp::install(&filter).step("installing the system call filter")?;
    }
    caps::limit_bounding(wanted).step("limiting capabilities")?;
    caps::keep_across_setuid(true).step("keeping capabilities")?;
    process::become_user(account.uid, account.gid, &account.groups).step("becoming the user")?;
    let own = if account.uid == 0 { wanted } else { CapSet(0) };
    caps::set(own, own, CapSet(0)).step("setting capabilities")?;
    caps::clear_ambient().step("clearing ambient capabilities")?;
    if security.no_new_privileges {
        caps::set_no_new_privs().step("forbidding new privileges")?;
    }
    Ok(())
}

fn limit(ulimit: &Ulimit) -> Result<(), LaunchError> {
    let resource = match ulimit
        .name
        .trim_start_matches("RLIMIT_")
        .to_ascii_lowercase()
        .as_str()
    {
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "locks" => libc::RLIMIT_LOCKS,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "msgqueue" => libc::RLIMIT_MSGQUEUE,
        "nice" => libc::RLIMIT_NICE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rss" => libc::RLIMIT_RSS,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "rttime" => libc::RLIMIT_RTTIME,
        "sigpending" => libc::RLIMIT_SIGPENDING,
        "stack" => libc::RLIMIT_STACK,
        _ => {
            return Err(LaunchError::plain(format!(
                "invalid ulimit type: {}",
                ulimit.name
            )));
        }
    };
    let value = |v: i64| u64::try_from(v).unwrap_or(libc::RLIM_INFINITY);
    #[allow(
        clippy::useless_conversion,
        reason = "musl has these numbers as i32, glibc as u32"
    )]
    let resource = u32::try_from(resource).unwrap_or(u32::MAX);
    process::set_rlimit(resource, value(ulimit.soft), value(ulimit.hard))
        .step(&format!("setting the limit {}", ulimit.name))
}

fn capabilities(security: &Security) -> Result<CapSet, LaunchError> {
    if security.privileged {
        return Ok(CapSet::ALL);
    }
    let all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let numbers = |list: &[String]| {
        list.iter()
            .filter(|name| !name.eq_ignore_ascii_case("ALL"))
            .map(|name| {
                let text = || LaunchError::plain(format!("unknown capability: {name}"));
                CapSet::number(name).ok_or_else(text)
            })
            .collect::<Result<Vec<_>, _>>()
    };
    let base = match (all(&security.cap_add), all(&security.cap_drop)) {
        (true, _) => CapSet::ALL,
        (false, true) => CapSet(0),
        (false, false) => CapSet::DOCKER_DEFAULT,
    };
    let added = numbers(&security.cap_add)?
        .into_iter()
        .fold(base, CapSet::with);
    Ok(numbers(&security.cap_drop)?
        .into_iter()
        .fold(added, CapSet::without))
}

/// Flags of clone that make namespaces.
const NAMESPACE_FLAGS: u32 = 0x7e02_0080;

/// Calls that docker's default profile leaves to those with a capability, and that capability.
const GUARDED: &[(&str, &[i64])] = &[
    (
        "SYS_ADMIN",
        &[
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_mount_setattr,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_fsopen,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fspick,
            libc::SYS_pivot_root,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_sethostname,
            libc::SYS_setdomainname,
            libc::SYS_quotactl,
            libc::SYS_fanotify_init,
            libc::SYS_lookup_dcookie,
            libc::SYS_swapon,
            libc::SYS_swapoff,
        ],
    ),
    ("BPF", &[libc::SYS_bpf]),
    ("PERFMON", &[libc::SYS_perf_event_open]),
    ("DAC_READ_SEARCH", &[libc::SYS_open_by_handle_at]),
    (
        "SYS_BOOT",
        &[
            libc::SYS_reboot,
            libc::SYS_kexec_load,
            libc::SYS_kexec_file_load,
        ],
    ),
    (
        "SYS_MODULE",
        &[
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
        ],
    ),
    ("SYS_PACCT", &[libc::SYS_acct]),
    (
        "SYS_PTRACE",
        &[
            libc::SYS_kcmp,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_madvise,
        ],
    ),
    ("SYS_RAWIO", &[libc::SYS_iopl, libc::SYS_ioperm]),
    (
        "SYS_TIME",
        &[libc::SYS_settimeofday, libc::SYS_clock_settime],
    ),
    ("SYS_TTY_CONFIG", &[libc::SYS_vhangup]),
    ("SYSLOG", &[libc::SYS_syslog]),
    (
        "SYS_NICE",
        &[
            libc::SYS_get_mempolicy,
            libc::SYS_mbind,
            libc::SYS_set_mempolicy,
            libc::SYS_move_pages,
            libc::SYS_migrate_pages,
        ],
    ),
];

/// Calls that docker's default profile gives to nobody.
const NEVER: &[i64] = &[
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_nfsservctl,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS_vmsplice,
];

/// The program of the filter; none for those who run without.
fn filter(security: &Security, capabilities: CapSet) -> Option<Vec<seccomp::Instruction>> {
    if security.privileged || security.seccomp_unconfined {
        return None;
    }
    let has = |name: &str| CapSet::number(name).is_some_and(|number| capabilities.has(number));
    let mut list = DenyList::new();
    for call in NEVER {
        list = list.deny(*call, libc::EPERM);
    }
    for (capability, calls) in GUARDED {
        // Who has SYS_ADMIN had these before they got capabilities of their own.
        let split = matches!(*capability, "BPF" | "PERFMON" | "SYSLOG");
        if has(capability) || (split && has("SYS_ADMIN")) {
            continue;
        }
        for call in *calls {
            list = list.deny(*call, libc::EPERM);
        }
    }
    if !has("SYS_ADMIN") {
        list = list
            .deny_if_set(libc::SYS_clone, 0, NAMESPACE_FLAGS & !0x80, libc::EPERM)
            // Its flags are out of a filter's sight: programs fall back to clone.
            .deny(libc::SYS_clone3, libc::ENOSYS);
    }
    // AF_VSOCK reaches the hypervisor, AF_ALG the kernel's crypto.
    list = list
        .deny_if_equal(libc::SYS_socket, 0, u32::MAX, 40, libc::EPERM)
        .deny_if_equal(libc::SYS_socket, 0, u32::MAX, 38, libc::EPERM);
    Some(list.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_added_and_dropped_by_name() {
        let security = Security {
            cap_add: vec!["NET_ADMIN".into()],
            cap_drop: vec!["cap_chown".into()],
            ..Default::default()
        };
        let set = capabilities(&security).unwrap();
        assert!(set.has(12) && !set.has(0) && set.has(1));
        let none = Security {
            cap_drop: vec!["ALL".into()],
            ..Default::default()
        };
        assert_eq!(capabilities(&none).unwrap(), CapSet(0));
        let unknown = Security {
            cap_add: vec!["NOPE".into()],
            ..Default::default()
        };
        assert_eq!(
            capabilities(&unknown).unwrap_err().text,
            "unknown capability: NOPE"
        );
    }

    #[test]
    fn the_privileged_have_no_filter() {
        let security = Security {
            privileged: true,
            ..Default::default()
        };
        assert_eq!(filter(&security, CapSet::ALL), None);
        assert!(filter(&Security::default(), CapSet::DOCKER_DEFAULT).is_some());
    }
}
