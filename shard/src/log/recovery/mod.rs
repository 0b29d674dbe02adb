//! From the files of a log to what its cores know of it: run once at a start, blocking, over [`Files`], on a thread of its
//! own while the gateway already answers.
//!
//! ```text
//!   open: meta (this start's epoch) ─> step: segment after segment (footer, or scan) ─> joining by partition ─> Recovered
//!                                        │ unsealed: cut where it is torn, then sealed    one a core, handed out as it is done
//! ```
//!
//! Nothing is held of events or topics: offsets, places, cursors, retained rows and young ids are all that a core needs.

mod closing;
mod joining;
pub mod meta;
pub mod recovered;
mod rows;
mod segment;
mod shares;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    fmt, io,
};

use super::{
    Settings,
    disk::SegmentId,
    files::Files,
    format::{HeadlessSegment, SEGMENT_HEAD_BYTES, SegmentHead},
    owner_of,
    scan::Tail,
};
pub use meta::{META, META_COPY, Meta, PartitionEnd, RESTORED};
pub use recovered::{
    CarriedDamage, Claim, CursorsLost, HeldExtent, Hole, HoleCause, OnceId, Recovered, RecoveredCursor,
    RecoveredPartition, RecoveredRow, RecoveredSegment,
};
use segment::SegmentFacts;
#[cfg(test)]
pub(super) use segment::read_footer;
pub(super) use segment::{Asked, Newest, note_newest, read_segment};
use shares::once_of;
pub(super) use shares::{leave_removed, partitions_of};

/// Why a log cannot be opened.
#[derive(Debug)]
pub enum RecoveryFault {
    /// The system refuses.
    Disk {
        /// What was to be done.
        verb: &'static str,
        /// With which file.
        name: String,
        /// As it says.
        error: io::Error,
    },
    /// There are segments and neither `meta` nor its copy.
    MetaMissing,
    /// `meta` is not what was written, nor is its copy.
    MetaDamaged(String),
    /// It was written by another version.
    Version(u64),
}

impl RecoveryFault {
    pub(super) fn disk(verb: &'static str, name: &str, error: io::Error) -> Self {
        let name = name.to_owned();
        Self::Disk { verb, name, error }
    }
}

impl fmt::Display for RecoveryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { verb, name, error } => write!(f, "cannot {verb} {name} of the log: {error}"),
            Self::MetaMissing => f.write_str(
                "the log's directory has segments but no file `meta` or `meta.copy`, without which they cannot be read: \
                 restore it, or start with an empty directory",
            ),
            Self::MetaDamaged(why) => write!(
                f,
                "the file `meta` of the log's directory is damaged ({why}), and its copy, `meta.copy`, does not help: \
                 restore it, or start with an empty directory"
            ),
            Self::Version(version) => write!(
                f,
                "the log was written in format {version}, and this gateway reads format {}: start one that reads it, \
                 or start with an empty directory",
                super::format::VERSION
            ),
        }
    }
}

impl std::error::Error for RecoveryFault {}

/// What was read; `None`: the disk does not give it, which is no reason to go without the rest.
fn if_readable<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Err(_) => Ok(None),
    }
}

/// How far a recovery is, bytes of all that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Read, or known not to be needed.
    pub done_bytes: u64,
    /// Of all segments.
    pub all_bytes: u64,
}

/// A data directory that was opened, and what of it is still to be read.
#[derive(Debug)]
pub struct Recovery<F: Files> {
    files: F,
    /// Of this start.
    meta: Meta,
    /// Of the one before.
    before: Meta,
    cores: u16,
    unix_ms: u64,
    once_since_ms: u64,
    segments: Vec<SegmentId>,
    newest: Newest,
    /// Each core's stream holds partitions of that core alone: one can be handed out before the next is read.
    is_by_core: bool,
    /// The directory is a restored copy, and became another one.
    is_restored: bool,
    /// Why the copy of `meta` was taken.
    meta_fault: Option<String>,
    /// Why `meta` has no copy since it was last written.
    copy_fault: Option<RecoveryFault>,
    /// Of a core that is handed out next; all, if it is not by core.
    facts: Vec<SegmentFacts>,
    /// Which have not got their share, and in which order they are to.
    cores_left: VecDeque<u16>,
    /// All was read that is not read by core.
    is_read: bool,
    /// The next core's share, when `meta` could not be written for it.
    pending: Option<Recovered>,
    progress: Progress,
}

impl<F: Files> Recovery<F> {
    /// Opens a data directory, or makes it: reads `meta` and counts this start in it. Fast; the rest is for [`Self::step`].
    /// `random` names and salts a directory that is made now.
    ///
    /// # Errors
    /// It cannot be used. Nothing was changed.
    pub fn open(
        mut files: F,
        cores: u16,
        settings: &Settings,
        random: [u8; 16],
        unix_ms: u64,
    ) -> Result<Self, RecoveryFault> {
        let names = files
            .names()
            .map_err(|error| RecoveryFault::disk("list", ".", error))?;
        let mut segments: Vec<SegmentId> = names
            .iter()
            .filter_map(|name| SegmentId::from_name(name))
            .collect();
        segments.sort_unstable();
        let (mut before, meta_fault) = match Meta::read_either(&files)? {
            Some(read) => read,
            None if segments.is_empty() => (Meta::new(random, settings.partitions.max(1)), None),
            None => return Err(RecoveryFault::MetaMissing),
        };
        let mut all_bytes = 0;
        let mut is_by_core = true;
        let mut newest = Newest::new();
        for segment in &segments {
            let name = segment.name();
            let fault = |error| RecoveryFault::disk("read", &name, error);
            all_bytes += files.length(&name).map_err(fault)?;
            let mut head = [0; SEGMENT_HEAD_BYTES];
            // One that cannot be read now is looked at again when all of it is.
            let read = if_readable(files.read(&name, 0, &mut head)).map_err(fault)?;
            let head = read.map(|read| SegmentHead::decode(&head[..read]));
            note_newest(&mut newest, *segment, head.as_ref());
            match head {
                Some(Ok(head)) => {
                    is_by_core &= head.cores == cores;
                    // A copy of long ago, of which nobody knows what happened since.
                    if head.epoch > before.epoch()
                        && let Some(why) = &meta_fault
                    {
                        return Err(RecoveryFault::MetaDamaged(why.clone()));
                    }
                }
                Some(Err(HeadlessSegment::Version(version))) => {
                    return Err(RecoveryFault::Version(version.into()));
                }
                Some(Err(HeadlessSegment::Damaged)) | None => is_by_core = false,
                Some(Err(HeadlessSegment::Empty)) => {}
            }
        }
        before.unsealed.retain(|id, _| segments.binary_search(id).is_ok());
        // What is there says itself what of it is lost.
        before
            .cursors_lost
            .retain(|_, lost| segments.binary_search(&lost.segment).is_err());
        let mut meta = before.clone();
        let is_restored = names.iter().any(|name| name == RESTORED);
        if is_restored && before.starts > 0 {
            meta.become_another(u64::from_le_bytes(random[..8].try_into().unwrap_or_default()));
        }
        meta.begin(cores);
        let copy_fault = meta.write(&mut files)?;
        if is_restored {
            // Were it still there at the next start, positions would be unknown once more, and none would be wrong.
            let _ = files.remove(RESTORED);
        }
        Ok(Self {
            files,
            meta,
            before,
            cores: cores.max(1),
            unix_ms,
            once_since_ms: unix_ms.saturating_sub(u64::from(settings.once_ms)),
            segments,
            newest,
            is_by_core,
            is_restored,
            meta_fault,
            copy_fault,
            facts: Vec::new(),
            cores_left: (0..cores.max(1)).collect(),
            is_read: false,
            pending: None,
            progress: Progress {
                done_bytes: 0,
                all_bytes,
            },
        })
    }

    /// This start's.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.meta.epoch()
    }

    /// Why `meta` could not be used, if its copy was. It is whole again now.
    #[must_use]
    pub fn meta_fault(&self) -> Option<&str> {
        self.meta_fault.as_deref()
    }

    /// Why there is no copy of `meta` now, if it could not be written: `meta` itself was, and the next write tries again.
    #[must_use]
    pub fn copy_fault(&self) -> Option<&RecoveryFault> {
        self.copy_fault.as_ref()
    }

    /// How many partitions the topics are hashed onto: what the directory says, whatever is configured.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        self.meta.partitions
    }

    /// Whether the directory was made just now.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.before.starts == 0
    }

    /// Whether the directory is a copy that was restored: positions of the original mean nothing in it.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.is_restored
    }

    /// Whether the start before this one was stopped in good order.
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.before.is_clean
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Reads on until the next core's share is whole; `None`: all were handed out.
    ///
    /// # Errors
    /// The disk fails. What was handed out is good, and the next call tries again, with another core first if it can.
    pub fn step(&mut self, mut progress: impl FnMut(Progress)) -> Result<Option<Recovered>, RecoveryFault> {
        let Some(&core) = self.cores_left.front() else {
            return Ok(None);
        };
        let share = match self.pending.take() {
            Some(share) => share,
            None => {
                let done_bytes = self.progress.done_bytes;
                let read = match self.is_by_core {
                    true => self.read(Some(core), &mut progress),
                    false if !self.is_read => self.read(None, &mut progress),
                    false => Ok(()),
                };
                if let Err(fault) = read {
                    self.progress.done_bytes = done_bytes;
                    self.cores_left.rotate_left(1);
                    return Err(fault);
                }
                self.is_read = true;
                self.share(core)
            }
        };
        for partition in share.partitions.iter().filter(|partition| partition.next > 1) {
            let end = PartitionEnd {
                last: partition.last,
                next: partition.next,
            };
            self.meta.partition_ends.insert(partition.partition, end);
            let removed: Vec<(u64, u64)> = partition.let_go().collect();
            if !removed.is_empty() {
                self.meta.removed.insert(partition.partition, removed);
            }
        }
        for partition in &share.partitions {
            match partition.cursors_lost {
                Some(lost) => drop(self.meta.cursors_lost.insert(partition.partition, lost)),
                None => drop(self.meta.cursors_lost.remove(&partition.partition)),
            }
        }
        let is_last = self.cores_left.len() == 1;
        if is_last {
            self.meta.recovered = self.meta.starts - 1;
        }
        // Before anything is served of it: what was held now and is not later is damage, not a torn tail.
        match self.meta.write(&mut self.files) {
            Ok(copy_fault) => self.copy_fault = copy_fault,
            Err(fault) => {
                self.pending = Some(share);
                return Err(fault);
            }
        }
        self.cores_left.pop_front();
        if self.is_by_core || is_last {
            // What they say of where partitions were is in `meta` now.
            self.remove_empty();
        }
        Ok(Some(share))
    }

    /// Reads the segments of a stream, or of all.
    fn read(&mut self, core: Option<u16>, tell: &mut dyn FnMut(Progress)) -> Result<(), RecoveryFault> {
        self.facts.clear();
        for &id in self
            .segments
            .iter()
            .filter(|id| core.is_none_or(|core| id.core == core))
        {
            let asked = Asked {
                meta: &self.before,
                newest: &self.newest,
                once_since_ms: self.once_since_ms,
                reads_all: false,
            };
            let progress = &mut self.progress;
            let mut told = |bytes| {
                progress.done_bytes += bytes;
                tell(*progress);
            };
            let mut facts = read_segment(&self.files, id, asked, &mut told)
                .map_err(|error| RecoveryFault::disk("read", &id.name(), error))?
                .map_err(|version| RecoveryFault::Version(version.into()))?;
            facts.drop_index();
            // All but the newest of a stream were safe before the next was begun. That may have been made: it is, when the one
            // before it is half full.
            let is_newest = !facts.is_sealed || self.newest.get(&id.core) == Some(&id.number);
            let may_be_unsynced = matches!(facts.tail, Tail::MayBeTorn { .. }) && is_newest;
            if may_be_unsynced || facts.bytes < facts.file_bytes {
                // Cuts off what does not count, and makes what does survive power loss.
                self.files
                    .truncate(&id.name(), facts.bytes)
                    .map_err(|error| RecoveryFault::disk("cut", &id.name(), error))?;
            }
            self.facts.push(facts);
        }
        self.close_segments()?;
        self.facts.iter_mut().for_each(SegmentFacts::drop_index);
        leave_removed(&mut self.facts, &self.before);
        for facts in &mut self.facts {
            facts.is_gone = facts.is_empty();
        }
        Ok(())
    }
}

impl<F: Files> Recovery<F> {
    /// Puts together what a core is to know.
    fn share(&mut self, core: u16) -> Recovered {
        let cores = self.cores;
        let is_ours = |partition| owner_of(partition, cores) == core;
        let mut partitions = partitions_of(&mut self.facts, &self.before, is_ours);
        for lost in partitions
            .iter_mut()
            .filter_map(|found| found.cursors_lost.as_mut())
        {
            lost.written_ms = lost.written_ms.min(self.unix_ms);
        }
        let carried = partitions.iter_mut().flat_map(|found| &mut found.carried_damage);
        for lost in carried {
            let mut facts = self.facts.iter_mut();
            let held_by = facts.find(|facts| facts.id == lost.segment && !facts.is_gone);
            lost.claim = held_by.map(|facts| claimed(facts, cores).1);
        }
        Recovered {
            core,
            cores,
            epoch: self.meta.epoch(),
            secret: self.meta.secret,
            partition_count: self.meta.partitions,
            next_number: self.next_number(core),
            partitions,
            once: once_of(&mut self.facts, is_ours),
            segments: self.segments_of(core),
        }
    }

    fn next_number(&self, core: u16) -> u64 {
        // Nor that of a segment that is gone and of which `meta` says that cursors were lost with it: that is forgotten where a
        // file of its name is there.
        let lost = self.before.cursors_lost.values().map(|lost| &lost.segment);
        let numbers = self
            .segments
            .iter()
            .chain(lost)
            .filter(|id| id.core == core)
            .map(|id| id.number);
        numbers.max().unwrap_or(0) + 1
    }

    /// The segments that a core looks after from now on, or that hold anything of its partitions.
    fn segments_of(&mut self, core: u16) -> Vec<RecoveredSegment> {
        let cores = self.cores;
        let mut found = Vec::new();
        for facts in self.facts.iter_mut().filter(|facts| !facts.is_gone) {
            let (holders, claim) = claimed(facts, cores);
            if !holders.contains(&core) {
                continue;
            }
            found.push(RecoveredSegment {
                id: facts.id,
                cores: facts.cores,
                bytes: facts.bytes,
                is_sealed: facts.is_sealed,
                footer_at: facts.footer_at,
                is_damaged: !facts.damage.is_empty() || !facts.lost_cursors.is_empty(),
                newest_ms: match facts.newest_ms {
                    0 => self.unix_ms,
                    newest_ms => newest_ms,
                },
                partitions: facts.partitions.clone(),
                claim,
            });
        }
        found
    }
}

/// The cores that may still need a segment, and what they give up.
fn claimed(facts: &mut SegmentFacts, cores: u16) -> (BTreeSet<u16>, Claim) {
    let partitions = facts.partitions.iter();
    let owners = partitions.map(|partition| owner_of(*partition, cores));
    let holders: BTreeSet<u16> = owners.chain([facts.id.core % cores]).collect();
    let claim = facts.claim.get_or_insert_with(|| Claim::of(holders.len() as u16));
    (holders, claim.clone())
}
