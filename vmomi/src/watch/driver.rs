//! The two tasks of a watch: one waits for updates, one changes what is waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::state::{Command, Shared};
use crate::client::{Error, Retry};
use crate::types::{WaitForUpdatesExRequest, WaitOptions};

/// Between attempts to reach a server that is away: at first at once, later every five seconds.
const AWAY: Retry = Retry {
    attempts: u32::MAX,
    first: Duration::from_millis(50),
    longest: Duration::from_secs(5),
};

/// Waits for updates for ever.
pub(super) async fn wait(shared: Arc<Shared>) {
    let mut version = String::new();
    let mut failures = 0;
    loop {
        let turn = tokio::select! {
            turn = next(&shared, &version) => turn.map_err(Some),
            () = shared.gone.notified() => {
                if !shared.is_gone() {
                    continue;
                }
                Err(None)
            }
        };
        match turn {
            Ok(Some(set)) => {
                failures = 0;
                version.clone_from(&set.version);
                shared.dispatch(set);
            }
            Ok(None) => failures = 0,
            Err(error) if error.as_ref().is_none_or(is_gone) => {
                tracing::info!("the collector of updates is gone; making it anew");
                pause(&mut failures).await;
                match shared.build().await {
                    Ok(()) => version.clear(),
                    Err(error) => {
                        tracing::warn!(%error, "the collector of updates cannot be made");
                    }
                }
            }
            Err(error) => {
                if let Some(error) = error {
                    tracing::debug!(%error, "the wait for updates broke off");
                }
                pause(&mut failures).await;
            }
        }
    }
}

async fn next(shared: &Shared, version: &str) -> Result<Option<crate::types::UpdateSet>, Error> {
    let session = &shared.session;
    let longest = session.longest_wait();
    let request = WaitForUpdatesExRequest {
        version: Some(version.to_owned()),
        options: Some(WaitOptions {
            max_wait_seconds: Some(i32::try_from(longest.as_secs()).unwrap_or(i32::MAX)),
            max_object_updates: None,
        }),
    };
    session
        .invoke_within(&shared.collector(), request, longest + session.timeout())
        .await
}

/// Whether the collector is not there any more, or does not know where we were.
fn is_gone(error: &Error) -> bool {
    [
        "ManagedObjectNotFound",
        "InvalidCollectorVersion",
        "NotAuthenticated",
    ]
    .iter()
    .any(|name| error.is_fault(name))
}

async fn pause(failures: &mut u32) {
    if let Some(pause) = AWAY.pause(*failures) {
        tokio::time::sleep(pause).await;
    }
    *failures = failures.saturating_add(1);
}

/// Puts tasks on the list and drops filters, as commands come.
pub(super) async fn list(shared: Arc<Shared>, mut inbox: mpsc::UnboundedReceiver<Command>) {
    while let Some(command) = inbox.recv().await {
        match command {
            // Commands that came meanwhile find nothing left to list.
            Command::List => shared.list().await,
            Command::Drop(id) => shared.drop_filter(id).await,
        }
    }
}
