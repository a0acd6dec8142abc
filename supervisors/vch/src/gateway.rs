//! The appliance as gateway of the default bridge: forwarding, and a masquerade by `nft`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use actors::network::Pool;

/// Lets containers out. What fails is logged: containers without a way out are of use too.
pub async fn open(bridge: &Pool) {
    if let Err(why) = std::fs::write("/proc/sys/net/ipv4/ip_forward", "1") {
        tracing::warn!(%why, "cannot forward for containers");
    }
    let rules = rules(bridge);
    let loaded = tokio::task::spawn_blocking(move || load(&rules)).await;
    match loaded {
        Ok(Ok(())) => {}
        Ok(Err(why)) => tracing::warn!(%why, "cannot masquerade containers"),
        Err(why) => tracing::warn!(%why, "cannot masquerade containers"),
    }
}

/// The whole table, replaced at once: loading it twice is loading it once.
fn rules(bridge: &Pool) -> String {
    let range = format!("{}/{}", bridge.network, bridge.prefix_len);
    format!(
        "table ip vch\ndelete table ip vch\ntable ip vch {{\n\
         \tchain out {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip saddr {range} ip daddr != {range} masquerade\n\t}}\n}}\n"
    )
}

fn load(rules: &str) -> std::io::Result<()> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = nft.stdin.take() {
        input.write_all(rules.as_bytes())?;
    }
    let output = nft.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_replace_themselves_and_name_the_range() {
        let pool = Pool {
            network: [172, 16, 0, 0].into(),
            prefix_len: 16,
            gateway: [172, 16, 0, 1].into(),
        };
        let text = rules(&pool);
        assert!(text.contains("ip saddr 172.16.0.0/16 ip daddr != 172.16.0.0/16 masquerade"));
        assert!(text.starts_with("table ip vch\ndelete table ip vch\n"));
    }
}
