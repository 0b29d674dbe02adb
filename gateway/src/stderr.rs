//! What the gateway says on standard error. Lines come from any thread over a bounded queue, and one thread writes them: a reader
//! that stands still (a log driver under pressure, a pipe that nobody empties) holds up that thread and no core.
//!
//! ```text
//!   tracing, panics ──▶ [queue of lines, 1 MiB] ──▶ thread log-lines ──▶ standard error
//!                        └─ full: dropped, counted, told where they are missing
//! ```

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Lines that wait to be written, with what keeps each.
const QUEUED_BYTES_MAX: usize = 1 << 20;
/// What a line costs beside its text.
const ENTRY_BYTES: usize = 64;
/// So much is gathered to be written, if it is there.
const WRITE_BYTES: usize = 32 * 1024;
/// Most that is handed to one call, bytes. Nobody hears how much of it a slow reader has taken before it has taken all, and that
/// is what [`Lines::flush`] looks at.
const WRITTEN_AT_ONCE_BYTES: usize = 4 * 1024;
/// A standard error that takes nothing for the moment, and does not wait itself, is tried again after so long.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// The way to standard error. What is still queued when the process ends is lost: [`Lines::flush`] before.
#[derive(Debug)]
pub struct Lines {
    queue: Sender<Entry>,
    tally: Arc<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    /// Of lines that are queued or being written, [`ENTRY_BYTES`] for each included.
    queued_bytes: AtomicUsize,
    /// Grows while somebody reads.
    written_bytes: AtomicU64,
    /// Lines that found no room and were not told of yet.
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Entry {
    Lines {
        text: Box<[u8]>,
        /// So many are missing in front of it.
        dropped: u64,
    },
    /// Told when all that came before is written.
    Flush(Sender<()>),
}

impl Lines {
    /// Starts the thread that writes to standard error.
    ///
    /// # Errors
    /// No thread could be had.
    pub fn start() -> io::Result<Arc<Self>> {
        Self::start_on(io::stderr())
    }

    fn start_on(out: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        let (queue, entries) = mpsc::channel();
        let tally = Arc::new(Tally::default());
        let lines = Arc::new(Self {
            queue,
            tally: Arc::clone(&tally),
        });
        thread::Builder::new()
            .name("log-lines".into())
            .spawn(move || write_all(&entries, &tally, out))?;
        Ok(lines)
    }

    /// Says this whatever the bound: for the few lines that must not be missed, a panic or why the process ends.
    pub fn insist(&self, text: &str) {
        let text = format!("{text}\n");
        let bytes = text.len() + ENTRY_BYTES;
        self.tally.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.enqueue(text.as_bytes());
    }

    /// The same as an error of the log.
    pub fn insist_on_error(&self, text: &str) {
        self.insist(&format!("{} ERROR {text}", now()));
    }

    /// Waits until all that was said is written, as long as some of it is within `patience`; false if nobody reads.
    pub fn flush(&self, patience: Duration) -> bool {
        let (done, is_done) = mpsc::channel();
        if self.queue.send(Entry::Flush(done)).is_err() {
            return false;
        }
        loop {
            let written_bytes = self.tally.written_bytes.load(Ordering::Relaxed);
            match is_done.recv_timeout(patience) {
                Ok(()) => return true,
                Err(RecvTimeoutError::Timeout)
                    if self.tally.written_bytes.load(Ordering::Relaxed) != written_bytes => {}
                Err(_) => return false,
            }
        }
    }

    fn enqueue(&self, text: &[u8]) {
        let dropped = self.tally.dropped.swap(0, Ordering::Relaxed);
        let text = text.into();
        // The thread ends behind the last sender.
        let _ = self.queue.send(Entry::Lines { text, dropped });
    }
}

/// One call writes whole lines.
impl Write for &Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let bytes = text.len() + ENTRY_BYTES;
        let queued_bytes = self.tally.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued_bytes + bytes <= QUEUED_BYTES_MAX {
            self.enqueue(text);
        } else {
            self.tally.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.tally.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread: writes what comes until nobody can say anything any more.
fn write_all(entries: &Receiver<Entry>, tally: &Tally, mut out: impl Write) {
    let mut text = Vec::new();
    let mut flushed = Vec::new();
    while let Ok(first) = entries.recv() {
        let mut taken_bytes = 0;
        let mut next = Ok(first);
        while let Ok(entry) = next {
            match entry {
                Entry::Lines { text: line, dropped } => {
                    tell_dropped(&mut text, dropped);
                    text.extend_from_slice(&line);
                    taken_bytes += line.len() + ENTRY_BYTES;
                }
                Entry::Flush(done) => flushed.push(done),
            }
            if text.len() >= WRITE_BYTES {
                break;
            }
            next = entries.try_recv();
            if let Err(TryRecvError::Empty) = next {
                // Nothing comes behind them that would tell.
                tell_dropped(&mut text, tally.dropped.swap(0, Ordering::Relaxed));
            }
        }
        write(&mut out, &text, tally);
        text.clear();
        tally.queued_bytes.fetch_sub(taken_bytes, Ordering::Relaxed);
        for done in flushed.drain(..) {
            // It may have lost its patience.
            let _ = done.send(());
        }
    }
}

/// What cannot be written is of no use to anybody.
fn write(out: &mut impl Write, mut text: &[u8], tally: &Tally) {
    while !text.is_empty() {
        match out.write(&text[..text.len().min(WRITTEN_AT_ONCE_BYTES)]) {
            Ok(0) => return,
            Ok(bytes) => {
                text = &text[bytes..];
                tally.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_PAUSE),
            Err(_) => return,
        }
    }
}

fn tell_dropped(text: &mut Vec<u8>, dropped: u64) {
    let are = match dropped {
        0 => return,
        1 => "line of the log is",
        _ => "lines of the log are",
    };
    let now = now();
    let told = format!("{now}  WARN {dropped} {are} missing here: standard error is not read fast enough\n");
    text.extend_from_slice(told.as_bytes());
}

/// The time as in the other lines.
fn now() -> String {
    let mut now = String::new();
    // The only error is of the text, which takes all.
    let _ = SystemTime.format_time(&mut format::Writer::new(&mut now));
    now
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Each write waits for a permit, and takes so many bytes; without permits for ever, none waits any more.
    struct Gate {
        permits: Receiver<usize>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let bytes = self.permits.recv().unwrap_or(usize::MAX).min(text.len());
            let _ = self.written.send(text[..bytes].to_vec());
            Ok(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (Arc<Lines>, Sender<usize>, Receiver<Vec<u8>>) {
        let (permit, permits) = channel();
        let (written, output) = channel();
        let lines = Lines::start_on(Gate { permits, written }).expect("a thread");
        (lines, permit, output)
    }

    fn say(lines: &Arc<Lines>, text: &str) {
        writeln!(&mut &**lines, "{text}").expect("it never fails");
    }

    /// All that was written, line by line, once nobody says anything any more.
    fn all(lines: Arc<Lines>, output: &Receiver<Vec<u8>>) -> Vec<String> {
        drop(lines);
        let text: Vec<u8> = output.iter().flatten().collect();
        let text = String::from_utf8(text).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn nobody_waits_for_a_reader_that_stands_still_and_what_is_missing_is_told() {
        let (lines, permit, output) = start();
        let line = "x".repeat(1024 - ENTRY_BYTES - 1);
        let room = QUEUED_BYTES_MAX / 1024;
        for _ in 0..room + 7 {
            (&*lines)
                .write_all(format!("{line}\n").as_bytes())
                .expect("it never fails");
        }
        assert!(!lines.flush(Duration::from_millis(1)), "nobody reads");
        lines.insist("the last word");
        drop(permit);
        assert!(lines.flush(PATIENCE));
        say(&lines, "there is room again");
        let all = all(lines, &output);
        assert_eq!(all.len(), room + 3);
        assert!(all[..room].iter().all(|one| *one == line));
        assert!(
            all[room].contains("WARN 7 lines of the log are missing here"),
            "{}",
            all[room]
        );
        assert_eq!(all[room + 1..], ["the last word", "there is room again"]);
    }

    #[test]
    fn what_is_missing_at_the_end_is_told_with_the_flush() {
        let (lines, permit, output) = start();
        let huge = "x".repeat(QUEUED_BYTES_MAX);
        drop(permit);
        say(&lines, "first");
        (&*lines).write_all(huge.as_bytes()).expect("it never fails");
        assert!(lines.flush(PATIENCE));
        assert_eq!(lines.tally.queued_bytes.load(Ordering::Relaxed), 0);
        let all = all(lines, &output);
        assert_eq!(all[0], "first");
        assert!(all[1].contains("1 line of the log is missing here"), "{}", all[1]);
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn a_slow_reader_is_waited_for_and_gets_every_byte() {
        let (lines, permit, output) = start();
        for number in 0..20 {
            say(&lines, &format!("line {number}"));
        }
        for _ in 0..40 {
            permit.send(3).expect("it writes");
        }
        drop(permit);
        assert!(lines.flush(PATIENCE));
        let all = all(lines, &output);
        assert_eq!(all.len(), 20);
        assert_eq!(all[19], "line 19");
    }
}
