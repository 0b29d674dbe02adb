//! `fluxar log`: looks inside a gateway's data directory, and changes nothing there. No gateway is asked: it may run on the
//! directory meanwhile, or be gone for good.

mod cat;
mod directory;
mod ls;
mod report;
mod verify;

use std::{
    io::{IsTerminal, Write, stderr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::{Args as ClapArgs, Subcommand};
use fluxar_shard::log::{
    recovery::{Progress, RecoveryFault},
    verify::{Survey, survey},
};

use crate::failure::{Failure, Result};
use directory::Directory;

/// A person waits so long without being told how far it is.
const QUIET: Duration = Duration::from_millis(500);
/// And then is told so often.
const TELL_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, ClapArgs)]
pub(crate) struct Log {
    #[command(subcommand)]
    action: LogAction,
}

#[derive(Debug, Subcommand)]
enum LogAction {
    /// List what a data directory holds: its segments and partitions
    Ls(Ls),
    /// Print events, one JSON object a line: position, time, topic, payload
    Cat(Cat),
    /// Check every byte, and name what is damaged; exit code 1 if something is
    Verify(Verify),
}

#[derive(Debug, ClapArgs)]
struct Ls {
    /// The data directory (`log.dir` of the gateway)
    dir: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
struct Cat {
    /// The data directory (`log.dir` of the gateway)
    dir: PathBuf,

    /// Only this partition, in the order of its offsets
    #[arg(long, value_name = "P")]
    partition: Option<u16>,

    /// Only topics that match
    #[arg(long, value_name = "PATTERN")]
    topic: Option<String>,

    /// Only from this offset on, in each partition
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,

    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// Print payloads in CBOR diagnostic notation
    #[arg(long, conflicts_with = "json")]
    diag: bool,

    /// Print JSON, which is what it does in any case
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
struct Verify {
    /// The data directory (`log.dir` of the gateway)
    dir: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Blocking: it reads files and talks to nobody.
pub(crate) fn run(command: &Log) -> Result<()> {
    match &command.action {
        LogAction::Ls(command) => ls::run(command),
        LogAction::Cat(command) => cat::run(command),
        LogAction::Verify(command) => verify::run(command),
    }
}

/// Opens a directory and looks at it.
fn look(dir: &Path, reads_all: bool) -> Result<(Directory, Survey)> {
    let directory = Directory::open(dir)?;
    let mut said = Said::new();
    let found = survey(&directory, reads_all, |progress| said.tell(progress));
    said.clear();
    let found = found.map_err(|fault| match fault {
        RecoveryFault::MetaMissing => Failure::here(format!(
            "{}: no file `meta`: this is no data directory of a gateway, or it was never started on it",
            dir.display()
        )),
        fault => Failure::here(format!("{}: {fault}", dir.display())),
    })?;
    Ok((directory, found))
}

/// What a person at a terminal was told of the progress.
struct Said {
    begun: Instant,
    last: Option<Instant>,
    is_terminal: bool,
}

impl Said {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            last: None,
            is_terminal: stderr().is_terminal(),
        }
    }

    fn tell(&mut self, progress: Progress) {
        let now = Instant::now();
        let is_due = match self.last {
            Some(last) => now - last >= TELL_EVERY,
            None => now - self.begun >= QUIET,
        };
        if !self.is_terminal || !is_due {
            return;
        }
        self.last = Some(now);
        let percent = progress.done_bytes * 100 / progress.all_bytes.max(1);
        let all = report::size(progress.all_bytes);
        // Whether anybody reads it does not matter.
        drop(write!(stderr(), "\r\x1b[Kreading {all}: {percent} %"));
    }

    fn clear(&self) {
        if self.last.is_some() {
            drop(write!(stderr(), "\r\x1b[K"));
        }
    }
}
