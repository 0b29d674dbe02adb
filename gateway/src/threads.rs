//! Threads that the gateway cannot do without: its cores, and those that read the log. What ends one of them, an error or a
//! panic, is told to whoever waits for it, and the gateway stops ([`Gateway::wait`](crate::gateway::Gateway::wait)).
//!
//! ```text
//!   work on its thread ── error ───────────────────────────────┐
//!                     └── panic ─▶ hook: the place ─▶ caught ──┴─▶ Failure, over a channel ─▶ who waits ─▶ stop
//! ```

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

/// A thread has ended that the gateway cannot do without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What it is: `core 1`.
    pub what: String,
    /// What ended it.
    pub why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.what, self.why)
    }
}

/// Starts a thread of this name for `work`. If that fails or panics, `failures` hears that `what` did; the thread gives the
/// error, a panic as one, too.
///
/// # Errors
/// A thread cannot be had.
pub(crate) fn spawn<T: Send + 'static>(
    name: String,
    what: String,
    failures: mpsc::Sender<Failure>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<JoinHandle<io::Result<T>>> {
    thread::Builder::new().name(name).spawn(move || {
        // What the work had is dropped when it unwinds, and the other threads reach nothing of it but mailboxes, counters and
        // locks that hold whole values only.
        let result = panic::catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(io::Error::other(message_of(&*panic))));
        if let Err(error) = &result {
            let why = error.to_string();
            // Nobody waits once the gateway has ended.
            let _ = failures.send(Failure { what, why });
        }
        result
    })
}

thread_local! {
    /// Where this thread panicked: what is caught does not say it.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// From now on panics are said by `say`, with a backtrace below it if `RUST_BACKTRACE` asks for one, and the errors
/// that they become tell their place.
pub fn say_panics(say: impl Fn(&str) + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |panic| {
        let place = panic
            .location()
            .map_or_else(String::new, |at| format!(" at {at}"));
        let message = text_of(panic.payload());
        let thread = thread::current();
        let name = thread.name().unwrap_or("without a name");
        let mut text = format!("thread {name} panicked{place}: {message}");
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("\n{backtrace}"));
        }
        // A thread that ends has none any more.
        let _ = PLACE.try_with(|kept| kept.set(Some(place)));
        say(&text);
    }));
}

const NO_MESSAGE: &str = "(no message)";

fn text_of(panic: &(dyn Any + Send)) -> &str {
    match panic.downcast_ref::<&str>() {
        Some(text) => text,
        None => panic.downcast_ref::<String>().map_or(NO_MESSAGE, String::as_str),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let place = PLACE.take().unwrap_or_default();
    format!("it panicked{place}: {}", text_of(panic))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn failure_of(
        work: impl FnOnce() -> io::Result<u8> + Send + 'static,
    ) -> (Option<Failure>, io::Result<u8>) {
        let (failures, heard) = mpsc::channel();
        let thread = spawn("core-7".into(), "core 7".into(), failures, work).expect("a thread");
        // The sender is gone with the thread.
        let failure = heard.recv_timeout(PATIENCE).ok();
        (failure, thread.join().expect("no panic gets through"))
    }

    #[test]
    fn errors_and_panics_are_told_and_a_good_end_is_not() {
        let (failure, result) = failure_of(|| Ok(3));
        assert_eq!((failure, result.expect("no error")), (None, 3));
        let (failure, result) = failure_of(|| Err(io::Error::other("no ring")));
        assert_eq!(failure.expect("told").to_string(), "core 7 failed: no ring");
        assert_eq!(result.expect_err("an error").to_string(), "no ring");
        for (work, message) in [
            ((|| panic!("a literal")) as fn() -> io::Result<u8>, "a literal"),
            (|| panic!("number {}", std::hint::black_box(9)), "number 9"),
            (|| panic::panic_any(4_u8), NO_MESSAGE),
        ] {
            let (failure, result) = failure_of(work);
            let Failure { what, why } = failure.expect("told");
            assert_eq!(what, "core 7");
            assert!(why.starts_with("it panicked") && why.ends_with(message), "{why}");
            assert_eq!(result.expect_err("an error").to_string(), why);
        }
    }
}
