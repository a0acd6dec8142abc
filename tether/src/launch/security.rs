//! What a process may do: limits, capabilities, the system call filter. The meaning is docker's.

use std::fs;

use nix::libc;
use tether_protocol::config::{Security, Session, Ulimit, capability_number};
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
                capability_number(name).ok_or_else(text)
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
            libc::SYS_quotactl_fd,
            STATMOUNT,
            LISTMOUNT,
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
            libc::SYS_set_mempolicy_home_node,
        ],
    ),
];

/// Calls that docker's default profile gives to nobody. The profile is a list of what is allowed; with
/// [`LAST_KNOWN`] as its end this list of what is not means the same, and is a tenth as long.
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
    // lsm_get_self_attr, lsm_set_self_attr, lsm_list_modules
    459,
    460,
    461,
];

/// The last call that was weighed (mseal). What kernels have added since does not exist for a container.
const LAST_KNOWN: i64 = 462;
const STATMOUNT: i64 = 457;
const LISTMOUNT: i64 = 458;

/// Personalities that a process may take: Linux, as its own or as one of 32 bits, each with or without
/// addresses that are the same in every run; and asking for the present one.
const PERSONALITIES: &[u32] = &[0, 0x0008, 0x2_0000, 0x2_0008, u32::MAX];

/// The program of the filter; none for those who run without.
fn filter(security: &Security, capabilities: CapSet) -> Option<Vec<seccomp::Instruction>> {
    if security.privileged || security.seccomp_unconfined {
        return None;
    }
    let has = |name: &str| capability_number(name).is_some_and(|number| capabilities.has(number));
    let mut list = DenyList::new().last_known(LAST_KNOWN).deny_unless(
        libc::SYS_personality,
        0,
        PERSONALITIES,
        libc::EPERM,
    );
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

    /// What the filter of a container with default capabilities answers.
    fn answer(call: i64, args: [u64; 6]) -> u32 {
        let program = filter(&Security::default(), CapSet::DOCKER_DEFAULT).unwrap();
        seccomp::verdict(&program, call, args)
    }

    #[test]
    fn every_call_that_dockers_default_profile_refuses_is_refused() {
        // By number on x86_64, so that a call which this code does not name cannot be missed.
        let refused = [
            103, 134, 136, 139, 153, 155, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172, 173,
            175, 176, 179, 180, 212, 227, 237, 238, 239, 246, 248, 249, 250, 256, 272, 279, 298,
            300, 304, 308, 312, 313, 320, 321, 323, 425, 426, 427, 428, 429, 430, 431, 432, 433,
            438, 440, 442, 443, 450, 457, 458, 459, 460, 461,
        ];
        for call in 0..=LAST_KNOWN {
            let expected = match call {
                435 => libc::ENOSYS,
                call if refused.contains(&call) => libc::EPERM,
                _ => 0,
            };
            assert_eq!(answer(call, [0; 6]), expected as u32, "call {call}");
        }
        for call in [LAST_KNOWN + 1, 500, 1000] {
            assert_eq!(answer(call, [0; 6]), libc::ENOSYS as u32, "call {call}");
        }
    }

    #[test]
    fn arguments_are_judged_as_docker_does() {
        let eperm = libc::EPERM as u32;
        let clone = |flags: i32| answer(libc::SYS_clone, [flags as u64, 0, 0, 0, 0, 0]);
        assert_eq!(clone(libc::CLONE_VM | libc::CLONE_THREAD), 0);
        for flag in [
            libc::CLONE_NEWNS,
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWCGROUP,
        ] {
            assert_eq!(clone(flag | libc::SIGCHLD), eperm, "{flag:#x}");
        }
        let socket = |family: i32| answer(libc::SYS_socket, [family as u64, 0, 0, 0, 0, 0]);
        assert_eq!(socket(libc::AF_INET), 0);
        assert_eq!(socket(libc::AF_PACKET), 0);
        assert_eq!(socket(libc::AF_VSOCK), eperm);
        let personality = |what: u64| answer(libc::SYS_personality, [what, 0, 0, 0, 0, 0]);
        assert_eq!(personality(0xffff_ffff), 0);
        assert_eq!(
            personality(0x0004_0000),
            0x0001_u32,
            "no address randomisation"
        );
        assert_eq!(personality(0x0040_0000), eperm);
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
