//! What a campaign says while it runs: on a terminal one line that is redrawn, elsewhere one line a run. It goes to
//! standard error, so that results can be piped.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::order::Step;
use crate::record::Record;
use crate::run::{RunStage, Snapshot};
use crate::units;

/// See the module.
pub struct Progress {
    out: Box<dyn Write>,
    /// Columns, if lines can be redrawn.
    columns: Option<fn() -> usize>,
    /// Whether there is a line that is not finished.
    is_drawn: bool,
    quiet: bool,
    begun: Instant,
    runs: usize,
    /// Which one is running, from 1.
    at: usize,
    /// How long the runs were thought to take, and those that are done.
    expected: Duration,
    expected_done: Duration,
    expected_now: Duration,
    heading: String,
}

impl Progress {
    /// To standard error.
    #[must_use]
    pub fn to_stderr(quiet: bool) -> Progress {
        let columns: Option<fn() -> usize> = io::stderr()
            .is_terminal()
            .then_some(terminal_columns as fn() -> usize);
        Progress::new(Box::new(io::stderr()), columns, quiet)
    }

    /// To anything; `columns` if lines can be redrawn there. Quiet: failures only.
    #[must_use]
    pub fn new(out: Box<dyn Write>, columns: Option<fn() -> usize>, quiet: bool) -> Progress {
        Progress {
            out,
            columns,
            is_drawn: false,
            quiet,
            begun: Instant::now(),
            runs: 0,
            at: 0,
            expected: Duration::ZERO,
            expected_done: Duration::ZERO,
            expected_now: Duration::ZERO,
            heading: String::new(),
        }
    }

    /// So many runs are to come, which should take so long altogether.
    pub fn begin(&mut self, runs: usize, expected: Duration) {
        self.begun = Instant::now();
        self.runs = runs;
        self.at = 0;
        self.expected = expected;
        self.expected_done = Duration::ZERO;
    }

    /// The next run begins, and should take so long.
    pub fn step(&mut self, step: &Step<'_>, expected: Duration) {
        self.at += 1;
        self.expected_done += self.expected_now;
        self.expected_now = expected;
        let repeat = match step.repeats {
            1 => String::new(),
            repeats => format!(" · {} of {repeats}", step.repeat),
        };
        self.heading = format!(
            "{}{} · {}{repeat}",
            step.scenario.name, step.point, step.plan.target.name
        );
        self.draw("starting");
    }

    /// Draws how the run stands.
    pub fn live(&mut self, snapshot: &Snapshot) {
        let mut text = match snapshot.stage {
            RunStage::Connecting { done, of } => {
                format!(
                    "connecting {} of {}",
                    units::count(done as f64),
                    units::count(of as f64)
                )
            }
            RunStage::Storing { done, of } => {
                format!(
                    "storing {} of {}",
                    units::count(done as f64),
                    units::count(of as f64)
                )
            }
            RunStage::WarmingUp => "warming up".to_owned(),
            RunStage::Measuring => "measuring".to_owned(),
            RunStage::Draining => "waiting for the rest".to_owned(),
        };
        text.push_str(&format!(" {:.1} s", snapshot.seconds));
        if snapshot.sent_per_s > 0.0 || snapshot.delivered_per_s > 0.0 {
            text.push_str(&format!(
                " │ {} sent, {} delivered",
                units::per_second(snapshot.sent_per_s),
                units::per_second(snapshot.delivered_per_s)
            ));
        }
        if let Some(p99_ns) = snapshot.p99_ns {
            text.push_str(&format!(", p99 {}", units::time(p99_ns as f64)));
        }
        if let Some(share) = snapshot.server_cpu {
            text.push_str(&format!(", server CPU {}", units::share(share)));
        }
        self.draw(&text);
    }

    /// The run is over.
    pub fn done(&mut self, record: &Record) {
        if self.columns.is_some() || self.quiet {
            return;
        }
        let overall = &record.overall;
        let mut text = if overall.is_silent {
            format!(
                "{} delivered when it was over",
                units::count(overall.delivered as f64)
            )
        } else {
            format!("{} delivered", units::per_second(overall.delivered_per_s))
        };
        if let Some(ns) = record.server_ns_per_message() {
            text.push_str(&format!(", {} of server CPU a message", units::time(ns)));
        }
        if let Some(latency) = &overall.latency {
            text.push_str(&format!(
                ", p50 {}, p99 {}",
                units::time(latency.p50_us * 1e3),
                units::time(latency.p99_us * 1e3)
            ));
        }
        if overall.lost > 0 {
            text.push_str(&format!(", {} LOST", units::count(overall.lost as f64)));
        }
        let line = format!("[{}/{}] {}: {text}", self.at, self.runs, self.heading);
        self.line(&line);
    }

    /// Something that a reader has to know now, on a line that stays.
    pub fn note(&mut self, text: &str) {
        if !self.quiet {
            self.line(text);
        }
    }

    /// Something went wrong, on a line that stays, quiet or not.
    pub fn failure(&mut self, text: &str) {
        self.line(text);
    }

    /// Nothing follows: the redrawn line goes.
    pub fn end(&mut self) {
        self.wipe();
    }

    fn line(&mut self, text: &str) {
        self.wipe();
        // Progress that nobody can read stops no campaign.
        let _ = writeln!(self.out, "{text}");
        let _ = self.out.flush();
    }

    fn wipe(&mut self) {
        if self.is_drawn {
            let _ = self.out.write_all(b"\r\x1b[2K");
            let _ = self.out.flush();
            self.is_drawn = false;
        }
    }

    fn draw(&mut self, text: &str) {
        let Some(columns) = self.columns.filter(|_| !self.quiet) else {
            return;
        };
        let left = clock(self.left());
        let line = format!(
            "[{}/{} · {left} left] {} · {text}",
            self.at, self.runs, self.heading
        );
        // The last column stays free: writing it moves some terminals on.
        let line: String = line.chars().take(columns().saturating_sub(1)).collect();
        let _ = write!(self.out, "\r\x1b[2K{line}");
        let _ = self.out.flush();
        self.is_drawn = true;
    }

    /// What is left, by how long the runs took so far compared with how long they should have.
    fn left(&self) -> Duration {
        let spent = self.begun.elapsed().as_secs_f64();
        let done = self.expected_done.as_secs_f64();
        let slower = if self.at > 1 && done > 0.0 {
            (spent / done).clamp(1.0, 100.0)
        } else {
            1.0
        };
        let left = self.expected.as_secs_f64() * slower - spent;
        Duration::from_secs_f64(left.max(0.0))
    }
}

/// `4:05`, `1:02:03`
fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().ceil() as u64;
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

fn terminal_columns() -> usize {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => 80,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("kept").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("kept").clone()).expect("text")
        }
    }

    fn live() -> Snapshot {
        Snapshot {
            stage: RunStage::Measuring,
            seconds: 1.25,
            sent_per_s: 1e6,
            delivered_per_s: 1e7,
            p50_ns: Some(700_000),
            p99_ns: Some(1_500_000),
            server_cpu: Some(0.98),
        }
    }

    #[test]
    fn a_terminal_has_one_line_that_is_redrawn_and_never_wraps() {
        let kept = Kept::default();
        let mut progress = Progress::new(Box::new(kept.clone()), Some(|| 40), false);
        progress.begin(2, Duration::from_secs(10));
        progress.live(&live());
        progress.live(&live());
        assert!(!kept.text().contains('\n'));
        for line in kept.text().split("\r\x1b[2K") {
            assert!(line.chars().count() < 40, "{line:?}");
        }
        progress.note("a note");
        assert!(kept.text().ends_with("\r\x1b[2Ka note\n"), "{:?}", kept.text());
        progress.end();
        assert!(kept.text().ends_with("a note\n"), "nothing is left to wipe");
    }

    #[test]
    fn elsewhere_nothing_is_redrawn() {
        let kept = Kept::default();
        let mut progress = Progress::new(Box::new(kept.clone()), None, false);
        progress.begin(1, Duration::from_secs(1));
        progress.live(&live());
        progress.note("a note");
        progress.end();
        assert_eq!(kept.text(), "a note\n");
    }

    #[test]
    fn quiet_says_what_failed() {
        let kept = Kept::default();
        let mut progress = Progress::new(Box::new(kept.clone()), Some(|| 40), true);
        progress.live(&live());
        progress.note("a note");
        progress.failure("a failure");
        assert_eq!(kept.text(), "a failure\n");
    }

    #[test]
    fn time_is_told_as_clocks_tell_it() {
        assert_eq!(clock(Duration::from_millis(500)), "0:01");
        assert_eq!(clock(Duration::from_secs(245)), "4:05");
        assert_eq!(clock(Duration::from_secs(3_723)), "1:02:03");
    }
}
