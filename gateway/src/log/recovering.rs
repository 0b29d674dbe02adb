//! From a data directory to a log that the cores have: opened before they start, read while they already answer, closed when
//! they have ended.
//!
//! ```text
//!   thread log-recovery: reads a core's share ─▶ one at a time ─▶ thread log-building: its tables ─▶ hand_out, to the core
//! ```
//!
//! With millions of ids and rows a core's tables take as long to put together as its segments to read, so that is not waited for.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fluxar_shard::log::disk::SegmentId;
use fluxar_shard::log::recovery::{HoleCause, Meta, Progress, Recovered, Recovery, RecoveryFault};
use fluxar_shard::log::{RecoveredLog, Settings};

use super::{DataDir, DirFault, DirFiles};
use crate::config::{LogConfig, LogDir};
use crate::threads::{self, Failure};

/// How often a long recovery says how far it is.
const PROGRESS_PAUSE: Duration = Duration::from_secs(2);
/// What the disk refuses is tried again after so long: it may have space by then, or be well.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How often it is said that it still refuses.
const FAULT_PAUSE: Duration = Duration::from_secs(30);
/// Damaged ranges that are named one by one.
const DAMAGE_NAMED_MAX: usize = 20;

/// Why a gateway does not start on its log.
#[derive(Debug)]
pub enum LogFault {
    /// Its directory cannot be had.
    Directory(DirFault),
    /// What is in it cannot be used.
    Content {
        /// Where.
        path: Box<Path>,
        /// What is wrong.
        fault: RecoveryFault,
    },
}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(fault) => fault.fmt(f),
            Self::Content { path, fault } => write!(f, "{}: {fault}{}", path.display(), whose(fault)),
        }
    }
}

impl std::error::Error for LogFault {}

/// The log of a gateway that runs.
#[derive(Debug)]
pub struct OpenLog {
    dir: Arc<DataDir>,
    settings: Arc<Settings>,
    epoch: u64,
    is_new: bool,
    held_bytes: u64,
    /// Everything was read and handed to the cores.
    recovered: Arc<AtomicBool>,
}

/// What is still to be read of it.
pub struct ToRecover {
    recovery: Recovery<DirFiles>,
    dir: Arc<DataDir>,
    recovered: Arc<AtomicBool>,
}

impl OpenLog {
    /// Opens what the configuration says; `None`: no log is kept.
    ///
    /// # Errors
    /// See [`LogFault`].
    pub fn open(
        config: &LogConfig,
        cores: u16,
        until: Instant,
    ) -> Result<Option<(Self, ToRecover)>, LogFault> {
        let Some((path, is_usual)) = config.dir.find(|name| std::env::var_os(name)) else {
            if config.dir == LogDir::Usual {
                tracing::warn!(
                    "no log is kept: none of STATE_DIRECTORY, XDG_STATE_HOME and HOME says where; choose a directory \
                     (log.dir, --log-dir DIR), or say that there is to be none (--no-log)"
                );
            }
            return Ok(None);
        };
        let dir = match DataDir::open(&path, until) {
            Ok(dir) => Arc::new(dir),
            // Nobody asked for that place, and there may be no home to write to. What is there may hold events: not to go on
            // without them unasked.
            Err(fault @ DirFault::System { .. }) if is_usual && !path.exists() => {
                tracing::warn!("{fault}; events at qos 1 and 2 are refused until then");
                return Ok(None);
            }
            Err(fault) => return Err(LogFault::Directory(fault)),
        };
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the kernel has randomness once it is up");
        let files = DirFiles::new(dir.path());
        let recovery =
            Recovery::open(files, cores, &config.settings, random, unix_ms()).map_err(|fault| {
                LogFault::Content {
                    path: dir.path().into(),
                    fault,
                }
            })?;
        let mut settings = config.settings.clone();
        if recovery.partitions() != settings.partitions {
            tracing::warn!(
                "log.partitions is {}, the log in {} was made with {}, which stays: topics keep their places",
                settings.partitions,
                dir.path().display(),
                recovery.partitions()
            );
            settings.partitions = recovery.partitions();
        }
        if let Some(why) = recovery.meta_fault() {
            tracing::warn!(
                "{}: the file `meta` could not be used ({why}); its copy was, and both are written anew",
                dir.path().display()
            );
        }
        if recovery.is_restored() {
            tracing::warn!(
                "the log in {} is a restored copy: positions that were given out before are out of range in it, durable names \
                 go on where the copy has them",
                dir.path().display()
            );
        }
        let recovered = Arc::new(AtomicBool::new(false));
        let log = Self {
            dir: Arc::clone(&dir),
            settings: Arc::new(settings),
            epoch: recovery.epoch(),
            is_new: recovery.is_new(),
            held_bytes: recovery.progress().all_bytes,
            recovered: Arc::clone(&recovered),
        };
        let to_recover = ToRecover {
            recovery,
            dir,
            recovered,
        };
        Ok(Some((log, to_recover)))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// How it is kept.
    #[must_use]
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Names this start of the gateway on this directory.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether it was made just now.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// What the directory held when it was opened, bytes.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// All cores have ended, and sealed what they had.
    pub fn close(self) {
        if !self.recovered.load(Ordering::Acquire) {
            return; // what was not read was not changed either
        }
        match Meta::mark_clean(&mut DirFiles::new(self.dir.path())) {
            Ok(copy_fault) => say_uncopied(self.dir.path(), copy_fault.as_ref()),
            Err(fault) => tracing::warn!("{fault}; offsets will skip some numbers, and nothing is lost"),
        }
    }
}

impl ToRecover {
    /// Reads on a thread of its own, and puts together on another; there `hand_out` gives a core its share, and says whether it is
    /// worth going on.
    ///
    /// If one of the threads panics, `failures` hears of it: what is not handed out would be awaited for ever.
    ///
    /// # Errors
    /// A thread cannot be had.
    pub fn start(
        self,
        hand_out: impl FnMut(RecoveredLog) -> bool + Send + 'static,
        failures: &mpsc::Sender<Failure>,
    ) -> io::Result<()> {
        // None waits in between: no more than two are in memory, the one that is read and the one that is put together.
        let (to_builder, shares) = sync_channel(0);
        let builder = threads::spawn(
            "log-building".into(),
            "putting the log together".into(),
            failures.clone(),
            move || Ok(build(&shares, hand_out)),
        )?;
        // Not waited for: the directory's lock is its, too, and what it does not finish the next start does.
        threads::spawn(
            "log-recovery".into(),
            "reading the log".into(),
            failures.clone(),
            move || {
                self.run(to_builder, builder);
                Ok(())
            },
        )?;
        Ok(())
    }

    fn run(mut self, to_builder: SyncSender<Recovered>, builder: JoinHandle<io::Result<bool>>) {
        let begun = Instant::now();
        let mut said = begun;
        let mut fault_said: Option<Instant> = None;
        let was_clean = self.recovery.was_clean();
        let mut found = Found::default();
        loop {
            let tell = |Progress {
                            done_bytes,
                            all_bytes,
                        }| {
                if said.elapsed() >= PROGRESS_PAUSE {
                    said = Instant::now();
                    tracing::info!("reading the log: {} of {} MiB", done_bytes >> 20, all_bytes >> 20);
                }
            };
            match self.recovery.step(tell) {
                Ok(Some(share)) => {
                    found.add(&share);
                    if to_builder.send(share).is_err() {
                        return; // it was not worth going on
                    }
                }
                Ok(None) => break,
                Err(ref fault @ RecoveryFault::Disk { ref name, .. }) => {
                    if fault_said.is_none_or(|said| said.elapsed() >= FAULT_PAUSE) {
                        fault_said = Some(Instant::now());
                        tracing::error!(
                            "{}: {fault}{}: it is tried again until it works, and what was not read is unavailable meanwhile; {}",
                            self.dir.path().display(),
                            whose(fault),
                            without(name)
                        );
                    }
                    if Arc::strong_count(&self.recovered) == 1 {
                        return; // the gateway has ended
                    }
                    thread::sleep(RETRY_PAUSE);
                }
                Err(fault) => {
                    tracing::error!(
                        "{}: {fault}: what was not read stays unavailable until the next start",
                        self.dir.path().display()
                    );
                    return;
                }
            }
        }
        if fault_said.is_some() {
            tracing::info!("{}: the log could be read after all", self.dir.path().display());
        }
        drop(to_builder);
        // One that panicked was told.
        if !matches!(builder.join(), Ok(Ok(true))) {
            return;
        }
        self.recovered.store(true, Ordering::Release);
        say_uncopied(self.dir.path(), self.recovery.copy_fault());
        found.say(was_clean, begun.elapsed());
    }
}

/// Puts together what comes, and hands it out, until nothing comes any more; whether all that came was handed out.
fn build(shares: &Receiver<Recovered>, mut hand_out: impl FnMut(RecoveredLog) -> bool) -> bool {
    shares.iter().all(|share| {
        let hash_seed = getrandom::u64().expect("the kernel has randomness once it is up");
        hand_out(RecoveredLog::new(share, hash_seed))
    })
}

/// That `meta` has no copy now, if it has none.
fn say_uncopied(dir: &Path, copy_fault: Option<&RecoveryFault>) {
    if let Some(fault) = copy_fault {
        tracing::warn!(
            "{}: {fault}; `meta` itself was written, and its copy is with the next stop or start",
            dir.display()
        );
    }
}

/// What was found, to be said.
#[derive(Debug, Default)]
struct Found {
    partitions: usize,
    segments: usize,
    bytes: u64,
    cursors: usize,
    rows: usize,
    /// Partition, first and last.
    damaged: Vec<(u16, u64, u64)>,
    /// Partitions of which cursors may be lost.
    cursors_lost: Vec<u16>,
}

impl Found {
    fn add(&mut self, share: &Recovered) {
        let segments = share.segments.iter();
        // Of those that several cores need, once.
        for segment in segments.filter(|segment| segment.keeper(share.cores) == share.core) {
            self.segments += 1;
            self.bytes += segment.bytes;
        }
        for partition in &share.partitions {
            self.partitions += usize::from(partition.last > 0);
            self.cursors += partition.cursors.len();
            self.rows += partition.rows.len();
            if partition.cursors_lost.is_some() {
                self.cursors_lost.push(partition.partition);
            }
            let damaged = partition
                .holes
                .iter()
                .filter(|hole| hole.cause == HoleCause::Damaged);
            self.damaged
                .extend(damaged.map(|hole| (partition.partition, hole.first, hole.last)));
        }
    }

    fn say(&self, was_clean: bool, took: Duration) {
        if self.segments == 0 {
            return;
        }
        tracing::info!(
            partitions = self.partitions,
            segments = self.segments,
            mib = self.bytes >> 20,
            cursors = self.cursors,
            retained = self.rows,
            ms = took.as_millis() as u64,
            "the log is recovered{}",
            if was_clean {
                ""
            } else {
                "; the gateway before had not stopped in good order"
            }
        );
        for (partition, first, last) in self.damaged.iter().take(DAMAGE_NAMED_MAX) {
            tracing::error!(
                "the log is damaged in partition {partition}, offsets {first} to {last}: they are not served, all else is"
            );
        }
        if !self.cursors_lost.is_empty() {
            tracing::error!(
                partitions = ?self.cursors_lost,
                "durable cursors may be lost: who comes back by a name that is not known there has to say `from` where"
            );
        }
        if self.damaged.len() > DAMAGE_NAMED_MAX {
            tracing::error!(
                "and in {} more ranges; `fluxar log verify` names all",
                self.damaged.len() - DAMAGE_NAMED_MAX
            );
        }
    }
}

/// The system's clock, ms since 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// What it would be to go without a file of the log that the disk refuses to read, or to write. The copy of `meta` is none of
/// these: nothing stops for it.
fn without(name: &str) -> &'static str {
    match SegmentId::from_name(name) {
        Some(_) => "without that file its events are told as damaged",
        None => "leave that file where it is: without it nothing of the log can be read",
    }
}

/// What to do where a file is another user's: somebody else has run a gateway here, root perhaps.
fn whose(fault: &RecoveryFault) -> &'static str {
    match fault {
        RecoveryFault::Disk { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
            " (the directory and all its files must belong to the user that the gateway runs as)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use fluxar_shard::log::recovery::META;

    use super::*;
    use crate::config::LogDir;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// The log in a directory, of two cores.
    fn open(dir: &Path) -> (OpenLog, ToRecover) {
        let config = LogConfig {
            dir: LogDir::At(dir.to_owned()),
            ..LogConfig::default()
        };
        let opened = OpenLog::open(&config, 2, Instant::now() + PATIENCE);
        opened.expect("it can be opened").expect("there is a log")
    }

    fn meta(dir: &Path) -> Meta {
        let meta = Meta::read(&DirFiles::new(dir)).expect("it can be read");
        meta.expect("it is there")
    }

    fn wait_until(is_so: impl Fn() -> bool) -> bool {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            if Instant::now() > until {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Both threads have ended: nothing of theirs is held any more.
    fn have_ended(log: &OpenLog, held: &Arc<()>) -> bool {
        wait_until(|| Arc::strong_count(&log.recovered) == 1 && Arc::strong_count(held) == 1)
    }

    /// Tells each that is handed out, and answers so.
    fn hand_to(
        told: Sender<u16>,
        held: &Arc<()>,
        is_worth_it: impl Fn(u16) -> bool + Send + 'static,
    ) -> impl FnMut(RecoveredLog) -> bool + Send + 'static {
        let held = Arc::clone(held);
        move |log| {
            let _held = &held;
            told.send(log.core()).expect("it is heard");
            is_worth_it(log.core())
        }
    }

    #[test]
    fn reading_goes_on_while_what_was_read_is_put_together_and_handed_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().to_owned();
        drop(open(&dir)); // a start to recover
        let (log, to_recover) = open(&dir);
        assert_eq!(meta(&dir).recovered, 0);
        let (told, heard) = channel();
        let held = Arc::new(());
        let at = dir.clone();
        // The first is not handed out before the last one was read, which `meta` says.
        let is_read = move |core| core != 0 || wait_until(|| meta(&at).recovered == 1);
        let (failures, failed) = channel();
        to_recover
            .start(hand_to(told, &held, is_read), &failures)
            .expect("threads");
        assert!(have_ended(&log, &held));
        drop(failures);
        assert_eq!(failed.iter().count(), 0);
        assert_eq!(heard.iter().collect::<Vec<_>>(), [0, 1]);
        log.close();
        assert!(meta(&dir).is_clean);
    }

    #[test]
    fn what_was_not_handed_out_is_not_recovered() {
        for refused in [0, 1] {
            let folder = tempfile::tempdir().expect("a folder");
            let (log, to_recover) = open(folder.path());
            let (told, heard) = channel();
            let held = Arc::new(());
            let (failures, failed) = channel();
            to_recover
                .start(hand_to(told, &held, move |core| core != refused), &failures)
                .expect("threads");
            assert!(have_ended(&log, &held));
            drop(failures);
            assert_eq!(
                failed.iter().count(),
                0,
                "it was told that it is not worth going on"
            );
            assert_eq!(
                heard.iter().collect::<Vec<_>>(),
                (0..=refused).collect::<Vec<_>>()
            );
            log.close();
            assert!(!meta(folder.path()).is_clean);
        }
    }

    #[test]
    fn a_panic_while_the_log_is_handed_out_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, to_recover) = open(folder.path());
        let (told, heard) = channel();
        let held = Arc::new(());
        let (failures, failed) = channel();
        to_recover
            .start(
                hand_to(told, &held, |core| core == 0 || panic!("planted")),
                &failures,
            )
            .expect("threads");
        let failure = failed.recv_timeout(PATIENCE).expect("told");
        assert_eq!(failure.what, "putting the log together");
        assert!(failure.why.ends_with("planted"), "{failure}");
        assert!(have_ended(&log, &held));
        assert_eq!(heard.iter().collect::<Vec<_>>(), [0, 1]);
        log.close();
        assert!(!meta(folder.path()).is_clean, "not all of it was handed out");
    }

    #[test]
    fn nobody_is_told_to_do_without_what_all_of_the_log_needs() {
        let segment = SegmentId { core: 0, number: 7 };
        assert!(without(&segment.name()).contains("told as damaged"));
        assert!(without(META).contains("leave that file"));
    }
}
