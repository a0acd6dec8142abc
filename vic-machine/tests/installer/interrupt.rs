//! Ctrl-C while something is made.

use std::io::{BufRead, BufReader};
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use simulator::Config;

use crate::stage::Stage;

/// A command whose output is read line by line.
struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    text: String,
}

impl Running {
    fn new(mut child: Child) -> Self {
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            output,
            text: String::new(),
        }
    }

    /// Reads on until a line has `wanted` in it.
    fn says(&mut self, wanted: &str) {
        loop {
            let start = self.text.len();
            let read = self.output.read_line(&mut self.text).unwrap();
            assert_ne!(read, 0, "never said {wanted:?}: {}", self.text);
            if self.text[start..].contains(wanted) {
                return;
            }
        }
    }

    fn interrupt(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn ends(mut self) -> (Option<i32>, String) {
        std::io::Read::read_to_string(&mut self.output, &mut self.text).unwrap();
        (self.child.wait().unwrap().code(), self.text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_during_create_takes_away_what_was_made() {
    let stage = Stage::new(Config::esx("")).await;
    let before = stage.inventory().await;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // Nobody plays the VCH: it never answers.
        let mut create = Running::new(stage.start(&["create", "--name", "cut", "--no-tls"]));
        create.says("Waiting for IP information");
        create.interrupt(signal);
        let (code, text) = create.ends();
        assert_eq!(code, Some(1), "{text}");
        for wanted in [
            "Removing what was made so far",
            "vic-machine create failed: interrupted",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert_eq!(stage.inventory().await, before, "{text}");
        assert_eq!(stage.datastore_files(), Vec::<String>::new());
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_before_anything_was_made_makes_nothing() {
    let stage = Stage::new(Config::esx("")).await;
    let before = stage.inventory().await;
    // Validation reads this; the answer does not come.
    stage
        .simulator()
        .add_faults(&["RetrievePropertiesEx:*:stall"])
        .unwrap();
    let mut create = Running::new(stage.start(&["create", "--name", "cut", "--no-tls"]));
    create.says("Validating supplied configuration");
    create.interrupt(Signal::SIGINT);
    let (code, text) = create.ends();
    stage.simulator().clear_faults();
    assert_eq!(code, Some(1), "{text}");
    assert!(!text.contains("Removing what was made"), "{text}");
    assert_eq!(stage.inventory().await, before);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_says_how_the_rest_is_removed() {
    let stage = Stage::new(Config::esx("")).await;
    let before = stage.inventory().await;
    let mut create = Running::new(stage.start(&["create", "--name", "cut", "--no-tls"]));
    create.says("Waiting for IP information");
    stage
        .simulator()
        .add_faults(&["PowerOffVM_Task:*:stall"])
        .unwrap();
    create.interrupt(Signal::SIGINT);
    create.says("Removing what was made so far");
    create.interrupt(Signal::SIGINT);
    let (code, text) = create.ends();
    stage.simulator().clear_faults();
    assert_eq!(code, Some(1), "{text}");
    let hint = "'vic-machine delete --name=cut' removes the rest";
    assert!(text.contains(hint), "{text}");
    let run = stage.run(&["delete", "--name=cut", "--force"]).await;
    assert!(run.success, "{}", run.text);
    assert_eq!(stage.inventory().await, before);
    stage.stop().await;
}
