//! The clients of a play, each on a thread of its own: publishers at qos 2, and those who hear them.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::publisher;
use crate::stage::Stage;
use crate::subscriber::{self, How};

/// What is to come when nothing is killed or cut any more must come within this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// See the module.
pub(crate) struct Cast {
    publishers: Vec<JoinHandle<()>>,
    hearers: Vec<JoinHandle<()>>,
}

impl Cast {
    /// Who hears, in every play.
    pub(crate) const HEARERS: [(&'static str, How); 4] = [
        ("durable", How::Durable),
        ("returning", How::Returning),
        ("queue", How::Worker),
        ("queue", How::Worker),
    ];

    /// Starts all of them.
    pub(crate) fn start(stage: &Arc<Stage>, publishers: u32, hearers: &[(&'static str, How)]) -> Self {
        let publishers = (1..=publishers).map(|publisher| {
            let stage = Arc::clone(stage);
            thread::spawn(move || publisher::run(&stage, publisher))
        });
        let hearers = hearers.iter().map(|&(who, how)| {
            let stage = Arc::clone(stage);
            thread::spawn(move || subscriber::run(&stage, who, how))
        });
        Self {
            publishers: publishers.collect(),
            hearers: hearers.collect(),
        }
    }

    /// Lets everything come that is to come, and writes down what did not.
    pub(crate) fn finish(self, stage: &Stage) {
        stage.end_publishing();
        let all_acked = wait_until(PATIENCE, || self.publishers.iter().all(JoinHandle::is_finished));
        // Everything that was published is acknowledged by now, so numbers are enough to look at.
        if all_acked {
            wait_until(PATIENCE, || stage.book.open().is_all_handled());
        }
        stage.end();
        for thread in self.publishers.into_iter().chain(self.hearers) {
            let _ = thread.join();
        }
        let mut book = stage.book.open();
        if !all_acked {
            book.fault("not everything was acknowledged in the end".into());
        }
        for (who, lacking, first) in book.missing() {
            if lacking > 0 {
                book.fault(format!(
                    "{who} never got {lacking} acknowledged events, the first {first:?}"
                ));
            }
        }
    }
}

/// Looks at a condition until it holds.
pub(crate) fn wait_until(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if holds() {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    holds()
}
