//! What happens on Ctrl-C, SIGTERM and a closed terminal: the servers that were started are ended, and so are we. Records
//! are on disk as soon as their run is over, so nothing that was measured is lost.

use std::io::{self, Write};
use std::process;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::server;

/// How long servers may take to end then.
const PATIENCE: Duration = Duration::from_secs(2);
/// By convention, 128 and the number of the signal.
const EXIT_SIGNALLED: i32 = 128;

/// From now on a signal ends the servers, says `farewell`, and ends the process.
///
/// # Errors
/// Signals cannot be handled, or no thread can be started.
pub fn on_signal(farewell: String) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            server::end_all(PATIENCE);
            // Whoever closed the terminal does not read this.
            let _ = writeln!(io::stderr(), "\n{farewell}");
            process::exit(EXIT_SIGNALLED + signal);
        }
    })?;
    Ok(())
}
