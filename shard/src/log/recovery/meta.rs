//! The `meta` file of a data directory: what the directory is, how often it was started, and how far each partition was at
//! the last start. Plain text, replaced as a whole, and kept twice: without it nothing of the log can be read, and one bad sector
//! is enough to lose a file.
//!
//! The copy is written behind the file itself. Between the two the gateway may be killed, so the copy may be one write behind; what
//! that was about has not happened yet. A copy that cannot be written is no reason to stop: it is removed, so that it does not fall
//! further behind, and written again with the next write.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;

use super::{CursorsLost, RecoveryFault};
use crate::log::{disk::SegmentId, files::Files, format::VERSION};

/// The file's name.
pub const META: &str = "meta";
/// The name of its copy.
pub const META_COPY: &str = "meta.copy";
/// A file of this name says that the directory is a copy that was restored: the original may have given positions out since
/// it was made. It is there until a start has seen it.
pub const RESTORED: &str = "RESTORED";
/// Bits of an epoch that count starts.
const STARTS_BITS: u32 = 20;
/// How far the name of a directory that becomes another one is from its own at most.
const ANOTHER_MAX: u64 = 1 << 24;
/// Bits of an epoch that name the directory.
const DIR_ID_BITS: u32 = 40;

/// What a data directory says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Names the directory: 40 random bits.
    pub dir_id: u64,
    /// From which the salts of its segments are made.
    pub secret: u64,
    /// How many partitions the topics are hashed onto: never changes.
    pub partitions: u16,
    /// How often it was started.
    pub starts: u64,
    /// With how many cores it was started last.
    pub cores: u16,
    /// Whether that start was stopped in good order.
    pub is_clean: bool,
    /// The ends of all streams were looked at after this start, and cut where they were torn.
    pub recovered: u64,
    /// How far each partition was; those that never had an event are left out.
    pub partition_ends: BTreeMap<u16, PartitionEnd>,
    /// What retention had removed of each, as [`crate::log::format::Removed`] has it: ranges of offsets.
    pub removed: BTreeMap<u16, Vec<(u64, u64)>>,
    /// Segments that were recovered and had no footer then, and how many of their bytes count. Unless a footer stands at
    /// the file's end by now, what is behind them is what was left of an attempt to write one.
    pub unsealed: BTreeMap<SegmentId, u64>,
    /// The partitions of which records of cursors were lost: known here when their segment has gone.
    pub cursors_lost: BTreeMap<u16, CursorsLost>,
}

/// How far a partition was when it was recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionEnd {
    /// The last offset that an event had.
    pub last: u64,
    /// The first offset that was to be given away.
    pub next: u64,
}

impl Meta {
    /// Of a directory that is made now.
    #[must_use]
    pub fn new(random: [u8; 16], partitions: u16) -> Self {
        let random = u128::from_le_bytes(random);
        Self {
            dir_id: random as u64 & ((1 << DIR_ID_BITS) - 1),
            secret: (random >> 64) as u64,
            partitions,
            starts: 0,
            cores: 0,
            is_clean: true,
            recovered: 0,
            partition_ends: BTreeMap::new(),
            removed: BTreeMap::new(),
            unsealed: BTreeMap::new(),
            cursors_lost: BTreeMap::new(),
        }
    }

    /// Names the newest start, and with it the positions of the log. Later starts have larger ones.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.dir_id << STARTS_BITS | self.starts
    }

    /// Which start of its directory an epoch names.
    #[must_use]
    pub fn start_of(epoch: u64) -> u64 {
        epoch & ((1 << STARTS_BITS) - 1)
    }

    /// Counts one more start.
    pub(super) fn begin(&mut self, cores: u16) {
        self.starts += 1;
        if self.starts >> STARTS_BITS != 0 {
            // A million starts.
            self.become_another(0);
            self.starts += 1;
        }
        self.cores = cores;
        self.is_clean = false;
    }

    /// Is another directory from now on, as far as positions go, with larger epochs than before.
    pub(super) fn become_another(&mut self, random: u64) {
        let ids = 1 << DIR_ID_BITS;
        // Two copies of one directory become two others.
        let further = random % ANOTHER_MAX.min((ids - self.dir_id).max(2) - 1);
        self.dir_id = (self.dir_id + 1 + further) % ids;
        // One has been: what it left is known to be recovered only when the next one says so.
        self.starts = 1;
        self.recovered = 0;
    }

    /// Whether what was written in this epoch was looked at by a later start, and cut where it was torn.
    pub(super) fn has_recovered(&self, epoch: u64) -> bool {
        if epoch >> STARTS_BITS == self.dir_id {
            Self::start_of(epoch) <= self.recovered
        } else {
            // Of the directory that this one was before.
            self.recovered > 0
        }
    }

    /// Reads the directory's; `None`: it has none.
    ///
    /// # Errors
    /// Neither it nor its copy can be read and is what was written, or it is of another version.
    pub fn read<F: Files + ?Sized>(files: &F) -> Result<Option<Self>, RecoveryFault> {
        Ok(Self::read_either(files)?.map(|(meta, _)| meta))
    }

    /// As [`Self::read`], and why the copy had to be read.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub(crate) fn read_either<F: Files + ?Sized>(
        files: &F,
    ) -> Result<Option<(Self, Option<String>)>, RecoveryFault> {
        let (read, why) = match Self::read_file(files, META) {
            Ok(Some(meta)) => return Ok(Some((meta, None))),
            Err(fault @ RecoveryFault::Version(_)) => return Err(fault),
            Ok(None) => (Ok(None), "it is missing".to_owned()),
            Err(RecoveryFault::MetaDamaged(why)) => (Err(RecoveryFault::MetaDamaged(why.clone())), why),
            Err(fault) => {
                let why = fault.to_string();
                (Err(fault), why)
            }
        };
        match Self::read_file(files, META_COPY) {
            Ok(Some(copy)) => Ok(Some((copy, Some(why)))),
            _ => read,
        }
    }

    fn read_file<F: Files + ?Sized>(files: &F, name: &str) -> Result<Option<Self>, RecoveryFault> {
        let bytes = match files.length(name) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RecoveryFault::disk("read", name, error)),
        };
        // 65,536 partitions of 60 bytes and what was removed of them in as many, and as many unsealed segments.
        if bytes > 16 << 20 {
            return Err(RecoveryFault::MetaDamaged("it is too large".to_owned()));
        }
        let mut text = vec![0; bytes as usize];
        let read = files
            .read(name, 0, &mut text)
            .map_err(|error| RecoveryFault::disk("read", name, error))?;
        Self::decode(&text[..read]).map(Some)
    }

    /// Replaces the directory's, and then its copy. Why there is no copy of it now, if that could not be written.
    ///
    /// # Errors
    /// It cannot be written; then the copy is as it was.
    pub fn write<F: Files + ?Sized>(&self, files: &mut F) -> Result<Option<RecoveryFault>, RecoveryFault> {
        let text = self.encode();
        files
            .replace(META, text.as_bytes())
            .map_err(|error| RecoveryFault::disk("write", META, error))?;
        let copied = files.replace(META_COPY, text.as_bytes());
        Ok(copied.err().map(|error| {
            // None is better than one that is behind. If it cannot be removed either, the epochs of the segments tell most of those.
            let _ = files.remove(META_COPY);
            RecoveryFault::disk("write", META_COPY, error)
        }))
    }

    /// Notes that all cores have stopped their logs in good order, so that offsets go on without a jump although nothing was
    /// written. Without it they jump, which loses nothing. Why there is no copy now, as of [`Self::write`].
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn mark_clean<F: Files + ?Sized>(files: &mut F) -> Result<Option<RecoveryFault>, RecoveryFault> {
        let mut meta = Self::read(files)?.ok_or(RecoveryFault::MetaMissing)?;
        meta.is_clean = true;
        meta.write(files)
    }

    fn encode(&self) -> String {
        let mut text = String::from(
            "# The log of a Fluxar Gateway. Replaced at each start, and kept twice: without it the segments cannot be read.\n",
        );
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "format = {VERSION}\ndir_id = {:010x}\nsecret = {:016x}\npartitions = {}\nstarts = {}\ncores = {}\n\
             clean = {}\nrecovered = {}\n",
            self.dir_id, self.secret, self.partitions, self.starts, self.cores, self.is_clean, self.recovered,
        );
        for (partition, end) in &self.partition_ends {
            let _ = writeln!(text, "partition.{partition} = {} {}", end.last, end.next);
        }
        for (partition, ranges) in &self.removed {
            for (first, last) in ranges {
                let _ = writeln!(text, "removed.{partition} = {first} {last}");
            }
        }
        for (segment, bytes) in &self.unsealed {
            let _ = writeln!(text, "unsealed.{} = {bytes}", segment.name());
        }
        for (partition, lost) in &self.cursors_lost {
            let (written_ms, name) = (lost.written_ms, lost.segment.name());
            let _ = writeln!(text, "cursors_lost.{partition} = {written_ms} {name}");
        }
        let crc = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "crc = {crc:08x}");
        text
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecoveryFault> {
        let damaged = |why: &str| RecoveryFault::MetaDamaged(why.to_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        let crc_at = text
            .rfind("crc = ")
            .ok_or_else(|| damaged("its last line, the checksum, is missing"))?;
        let (body, crc) = text.split_at(crc_at);
        let crc = crc.trim_end().strip_prefix("crc = ").unwrap_or_default();
        if u32::from_str_radix(crc, 16) != Ok(crc32c::crc32c(body.as_bytes())) {
            return Err(damaged("its checksum is wrong"));
        }
        let mut values = BTreeMap::new();
        let mut partition_ends = BTreeMap::new();
        let mut removed: BTreeMap<u16, Vec<(u64, u64)>> = BTreeMap::new();
        let mut unsealed = BTreeMap::new();
        let mut cursors_lost = BTreeMap::new();
        for line in body
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let (key, value) = line
                .split_once(" = ")
                .ok_or_else(|| damaged("a line is no `key = value`"))?;
            if let Some(partition) = key.strip_prefix("partition.") {
                let (partition, (last, next)) =
                    read_pair(partition, value).ok_or_else(|| damaged("a partition's end is unreadable"))?;
                partition_ends.insert(partition, PartitionEnd { last, next });
            } else if let Some(partition) = key.strip_prefix("removed.") {
                let range =
                    read_pair(partition, value).filter(|(_, (first, last))| (1..=*last).contains(first));
                let (partition, range) =
                    range.ok_or_else(|| damaged("what was removed of a partition is unreadable"))?;
                removed.entry(partition).or_default().push(range);
            } else if let Some(name) = key.strip_prefix("unsealed.") {
                let segment = SegmentId::from_name(name).zip(value.parse().ok());
                let (segment, bytes) =
                    segment.ok_or_else(|| damaged("an unsealed segment's length is unreadable"))?;
                unsealed.insert(segment, bytes);
            } else if let Some(partition) = key.strip_prefix("cursors_lost.") {
                let lost = read_lost(partition, value)
                    .ok_or_else(|| damaged("a note of lost cursors is unreadable"))?;
                cursors_lost.insert(lost.0, lost.1);
            } else {
                values.insert(key, value);
            }
        }
        let value = |key: &str, radix: u32| {
            let value = values.get(key)?;
            u64::from_str_radix(value, radix).ok()
        };
        let version = value("format", 10).ok_or_else(|| damaged("it does not say its format"))?;
        if version != u64::from(VERSION) {
            return Err(RecoveryFault::Version(version));
        }
        let read = || {
            Some(Self {
                dir_id: value("dir_id", 16).filter(|id| id >> DIR_ID_BITS == 0)?,
                secret: value("secret", 16)?,
                partitions: u16::try_from(value("partitions", 10)?)
                    .ok()
                    .filter(|count| *count > 0)?,
                starts: value("starts", 10).filter(|starts| starts >> STARTS_BITS == 0)?,
                cores: u16::try_from(value("cores", 10)?).ok()?,
                is_clean: values.get("clean")?.parse().ok()?,
                recovered: value("recovered", 10)?,
                partition_ends,
                removed,
                unsealed,
                cursors_lost,
            })
        };
        read().ok_or_else(|| damaged("a value is missing or unreadable"))
    }
}

fn read_lost(partition: &str, value: &str) -> Option<(u16, CursorsLost)> {
    let (written_ms, name) = value.split_once(' ')?;
    let lost = CursorsLost {
        written_ms: written_ms.parse().ok()?,
        segment: SegmentId::from_name(name)?,
    };
    Some((partition.parse().ok()?, lost))
}

/// A partition and two offsets.
fn read_pair(partition: &str, value: &str) -> Option<(u16, (u64, u64))> {
    let (one, other) = value.split_once(' ')?;
    Some((partition.parse().ok()?, (one.parse().ok()?, other.parse().ok()?)))
}
