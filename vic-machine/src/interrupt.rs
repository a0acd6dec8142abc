//! Ctrl-C and its like, for commands that have something to put away first.
//!
//! Signals are counted from [`Interrupts::listen`] on, so that one that comes between two waits is not lost. The
//! first asks to end in order, the second to end at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::failure::{Failure, Tried};

/// The signals so far; clones see the same.
#[derive(Clone, Debug)]
pub(crate) struct Interrupts(watch::Receiver<u32>);

impl Interrupts {
    /// From now on the signals are ours: they no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let take = |kind| signal(kind).tried("cannot wait for signals");
        let mut all = [
            take(SignalKind::interrupt())?,
            take(SignalKind::terminate())?,
            take(SignalKind::hangup())?,
        ];
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(async move {
            while any(&mut all).await {
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(receiver))
    }

    /// Waits for the first.
    ///
    /// # Cancel safety
    /// Nothing is lost: whoever waits later sees it too.
    pub(crate) async fn first(&self) -> Failure {
        self.reach(1).await
    }

    /// Waits for the second.
    ///
    /// # Cancel safety
    /// As [`Interrupts::first`].
    pub(crate) async fn second(&self) -> Failure {
        self.reach(2).await
    }

    /// Does `work` unless it is interrupted.
    pub(crate) async fn or<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            result = work => result,
            failure = self.first() => Err(failure),
        }
    }

    async fn reach(&self, count: u32) -> Failure {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|seen| *seen >= count).await.is_err() {
            std::future::pending::<()>().await;
        }
        Failure::new("interrupted")
    }
}

/// Waits for any of them; `false` when none can come any more.
async fn any([interrupt, terminate, hangup]: &mut [Signal; 3]) -> bool {
    let came = tokio::select! {
        came = interrupt.recv() => came,
        came = terminate.recv() => came,
        came = hangup.recv() => came,
    };
    came.is_some()
}
