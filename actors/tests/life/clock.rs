//! A container's life while the clock stands still.
//!
//! A paused tokio clock jumps to the next timer whenever its runtime has nothing else to do, also while it waits for
//! a socket: with a simulator behind TLS, deadlines would fire although nobody was late. It does not jump while a
//! blocking task runs. So this test keeps one blocking task running all the time: the clock never moves, and no timer
//! can elapse at all, neither a sleep nor a poll nor a deadline nor a keep-alive. Both sides, the actors and the
//! simulator, live on this one runtime. Whatever on a container's way needed a timer would wait for ever; a watchdog
//! outside of the runtime, on the machine's own clock, makes a failure of that.

use std::sync::mpsc;
use std::time::Duration;

use actors::container::{RemoveOptions, StopOptions, WaitCondition};
use tokio::time::Instant;

use crate::bench::{Bench, spec};

/// How long the machine may take for all of it: it needs about a second.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Keeps the paused clock where it is.
struct Still {
    _release: mpsc::Sender<()>,
    watchdog: mpsc::Sender<()>,
}

impl Still {
    fn begin() -> Self {
        let (release, released) = mpsc::channel::<()>();
        // Ends when the sender is dropped.
        drop(tokio::task::spawn_blocking(move || released.recv()));
        let (watchdog, alive) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if alive.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("a container's life waits for a timer: the clock stands still");
                std::process::abort();
            }
        });
        Self {
            _release: release,
            watchdog,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_lives_without_one_timer_elapsing() {
    let still = Still::begin();
    let begun = Instant::now();
    // The seed of doubt: a timer of one millisecond, which must not elapse.
    let timer = tokio::spawn(tokio::time::sleep(Duration::from_millis(1)));

    let bench = Bench::played().await;
    let image = bench.load_image("busybox:latest").await;
    let engine = &bench.world.engine;

    // One that ends by itself, and is waited for.
    let created = bench
        .create_spec(spec("short", &image, &["exit", "3"]))
        .await;
    let id = created.expect("created").id;
    let exited = engine.wait(id, WaitCondition::NextExit).await.unwrap();
    engine.start(id).await.expect("started");
    assert_eq!(exited.await.unwrap().status_code, 3);
    let options = RemoveOptions::default;
    engine.remove(id, options()).await.expect("removed");

    // One that serves: its process says something over the link, is told to stop, and obeys.
    let created = bench.create_spec(spec("long", &image, &["serve"])).await;
    let id = created.expect("created").id;
    let exited = engine.wait(id, WaitCondition::NextExit).await.unwrap();
    engine.start(id).await.expect("started");
    assert_eq!(
        bench.exec(id, &["say", "hello"]).await,
        Ok(("hello".into(), 0))
    );
    let stop = StopOptions::default();
    engine.stop(id, stop).await.expect("stopped");
    assert_eq!(exited.await.unwrap().status_code, 143);
    engine.remove(id, options()).await.expect("removed");
    assert!(bench.vms().await.is_empty());

    assert!(!timer.is_finished(), "the clock moved");
    assert_eq!(begun.elapsed(), Duration::ZERO, "the clock moved");
    let _ = still.watchdog.send(());
    bench.leave();
}
