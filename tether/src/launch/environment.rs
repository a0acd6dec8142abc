//! The environment of a process: what docker adds, what the image and the user say.

use tether_protocol::config::{ExecutorConfig, Session};

use crate::accounts::Account;

/// Docker's default search path.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment in docker's order; the last word on a key wins, a key alone removes it.
pub(super) fn complete(config: &ExecutorConfig, spec: &Session, account: &Account) -> Vec<String> {
    let mut out = vec![
        format!("PATH={PATH}"),
        format!("HOSTNAME={}", config.host_name()),
    ];
    if spec.tty {
        out.push("TERM=xterm".to_owned());
    }
    merge(&mut out, &spec.env);
    if !out.iter().any(|entry| entry.starts_with("HOME=")) {
        out.push(format!("HOME={}", account.home));
    }
    out
}

/// Lays `more` over `env`.
pub(crate) fn merge(env: &mut Vec<String>, more: &[String]) {
    for entry in more {
        let key = entry.split_once('=').map_or(entry.as_str(), |(key, _)| key);
        let same = |old: &String| old.split_once('=').is_some_and(|(old, _)| old == key);
        let place = env.iter().position(same);
        match (place, entry.contains('=')) {
            (Some(at), true) => env[at].clone_from(entry),
            (Some(at), false) => drop(env.remove(at)),
            (None, true) => env.push(entry.clone()),
            (None, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_adds_what_nobody_said() {
        let config = ExecutorConfig {
            hostname: "h".into(),
            ..Default::default()
        };
        let env = vec![
            "A=1".into(),
            "A=2".into(),
            "PATH=/bin".into(),
            "HOSTNAME".into(),
        ];
        let spec = Session {
            env,
            tty: true,
            ..Default::default()
        };
        let account = Account {
            home: "/root".into(),
            ..Default::default()
        };
        let out = complete(&config, &spec, &account);
        assert_eq!(out, ["PATH=/bin", "TERM=xterm", "A=2", "HOME=/root"]);
    }
}
