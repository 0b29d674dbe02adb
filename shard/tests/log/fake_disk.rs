//! A disk in memory, which keeps what is synced and may lose the rest.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use fluxar_shard::log::disk::{DiskDone, DiskFault, DiskOp, SegmentId};
use fluxar_shard::log::files::Files;

use crate::chance::Chance;

const SECTOR_BYTES: usize = 512;

/// A file: what survives power loss, and what was written since.
#[derive(Debug, Clone, Default)]
struct File {
    safe: Vec<u8>,
    writes: Vec<(u64, Vec<u8>)>,
}

impl File {
    /// As a process sees it that reads it now.
    fn view(&self) -> Vec<u8> {
        let mut view = self.safe.clone();
        for (at, bytes) in &self.writes {
            put(&mut view, *at, bytes);
        }
        view
    }
}

fn put(file: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let at = at as usize;
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

#[derive(Debug)]
enum Pending {
    Op(DiskOp),
    /// A sync of a file's first writes.
    Sync(SegmentId, usize),
}

/// How often what goes wrong, of a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) write: u64,
    pub(crate) sync: u64,
    pub(crate) open: u64,
    pub(crate) read: u64,
}

#[derive(Debug, Default)]
pub(crate) struct FakeDisk {
    files: BTreeMap<String, File>,
    pending: Vec<Pending>,
    pub(crate) faults: Faults,
    /// No space: nothing is made or written.
    pub(crate) is_full: bool,
    /// No space for another file: what was made before can be written.
    pub(crate) is_out_of_room: bool,
    /// A sync failed: what was written and not synced may be lost although the power is on.
    pub(crate) has_failed: bool,
    /// What cannot be read.
    pub(crate) bad: Option<(SegmentId, Range<u64>)>,
    /// No file is removed.
    pub(crate) keeps_files: bool,
    /// A recovery changes so many things yet, and is killed in the middle of the next.
    pub(crate) changes_left: Option<usize>,
}

impl FakeDisk {
    /// Takes an operation; it is done later.
    pub(crate) fn take(&mut self, op: DiskOp) {
        let pending = match op {
            DiskOp::Sync { segment } => Pending::Sync(segment, self.file(segment).writes.len()),
            op => Pending::Op(op),
        };
        self.pending.push(pending);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    fn file(&mut self, segment: SegmentId) -> &mut File {
        self.files.get_mut(&segment.name()).expect("an open file")
    }

    /// Does some operation that was taken; what is the result, if it has one.
    pub(crate) fn step(&mut self, chance: &mut Chance) -> Option<DiskDone> {
        let at = chance.below(self.pending.len());
        // What closes, cuts or removes a file waits for what was asked before.
        let segment = |pending: &Pending| match pending {
            Pending::Sync(segment, _) => *segment,
            Pending::Op(
                DiskOp::Create { segment, .. }
                | DiskOp::Open { segment }
                | DiskOp::Write { segment, .. }
                | DiskOp::Sync { segment }
                | DiskOp::Read { segment, .. }
                | DiskOp::Truncate { segment, .. }
                | DiskOp::Close { segment }
                | DiskOp::Remove { segment },
            ) => *segment,
        };
        let wanted = segment(&self.pending[at]);
        let is_last = matches!(
            self.pending[at],
            Pending::Op(
                DiskOp::Truncate { .. } | DiskOp::Close { .. } | DiskOp::Remove { .. } | DiskOp::Open { .. }
            )
        );
        let at = match is_last {
            true => self
                .pending
                .iter()
                .position(|pending| segment(pending) == wanted)?,
            false => at,
        };
        let failed = |why: &str| Err(DiskFault::Failed(why.to_owned()));
        Some(match self.pending.remove(at) {
            Pending::Sync(segment, writes) => {
                let fails = chance.of_thousand(self.faults.sync);
                self.has_failed |= fails;
                let file = self.file(segment);
                for (at, bytes) in file.writes.drain(..writes) {
                    // After a failed sync nobody knows what is there.
                    if !fails || chance.of_thousand(500) {
                        put(&mut file.safe, at, &bytes);
                    }
                }
                let result = if fails { failed("sync") } else { Ok(()) };
                DiskDone::Synced { segment, result }
            }
            Pending::Op(DiskOp::Create { segment, bytes }) => {
                let result = if self.is_full || self.is_out_of_room {
                    Err(DiskFault::Full)
                } else {
                    let file = File {
                        safe: vec![0; bytes as usize],
                        writes: Vec::new(),
                    };
                    let before = self.files.insert(segment.name(), file);
                    assert!(before.is_none(), "{segment:?} was there");
                    Ok(())
                };
                DiskDone::Opened { segment, result }
            }
            Pending::Op(DiskOp::Open { segment }) => DiskDone::Opened {
                segment,
                result: match self.files.contains_key(&segment.name()) {
                    true if chance.of_thousand(self.faults.open) => failed("open"),
                    true => Ok(()),
                    false => failed("no such file"),
                },
            },
            Pending::Op(DiskOp::Write { segment, at, slices }) => {
                let room = self.file(segment).safe.len() as u64;
                let end = at + slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
                let is_full = self.is_full || (self.is_out_of_room && end > room);
                let fails = is_full || chance.of_thousand(self.faults.write);
                let mut bytes: Vec<u8> = slices.concat();
                if fails {
                    bytes.truncate(chance.below(bytes.len()));
                }
                self.file(segment).writes.push((at, bytes));
                let result = match (fails, is_full) {
                    (false, _) => Ok(()),
                    (true, true) => Err(DiskFault::Full),
                    (true, false) => failed("write"),
                };
                DiskDone::Wrote { segment, result }
            }
            Pending::Op(DiskOp::Read {
                ticket,
                segment,
                at,
                bytes,
            }) => {
                let is_bad = self.bad.as_ref().is_some_and(|(bad, range)| {
                    *bad == segment && at < range.end && at + u64::from(bytes) > range.start
                });
                if is_bad || chance.of_thousand(self.faults.read) {
                    return Some(DiskDone::Read {
                        ticket,
                        result: Err(DiskFault::Failed("read".to_owned())),
                    });
                }
                let view = self.file(segment).view();
                let at = (at as usize).min(view.len());
                let end = (at + bytes as usize).min(view.len());
                DiskDone::Read {
                    ticket,
                    result: Ok(Bytes::copy_from_slice(&view[at..end])),
                }
            }
            Pending::Op(DiskOp::Truncate { segment, bytes }) => {
                let file = self.file(segment);
                for (at, write) in &mut file.writes {
                    write.truncate(bytes.saturating_sub(*at) as usize);
                }
                file.safe.truncate(bytes as usize);
                return None;
            }
            Pending::Op(DiskOp::Remove { segment }) if self.keeps_files => {
                let result = failed("remove");
                DiskDone::Removed { segment, result }
            }
            Pending::Op(DiskOp::Remove { segment }) => {
                self.files.remove(&segment.name());
                return None;
            }
            Pending::Op(DiskOp::Close { .. } | DiskOp::Sync { .. }) => return None,
        })
    }

    /// The process ends; what the system has taken stays.
    pub(crate) fn kill(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            if let Pending::Op(DiskOp::Create { segment, bytes }) = pending
                && !self.is_full
            {
                let file = File {
                    safe: vec![0; bytes as usize],
                    writes: Vec::new(),
                };
                self.files.entry(segment.name()).or_insert(file);
            }
        }
    }

    /// The power fails: of what is not synced any sector may be there or not.
    pub(crate) fn lose_power(&mut self, chance: &mut Chance) {
        for pending in std::mem::take(&mut self.pending) {
            if let Pending::Op(DiskOp::Write { segment, at, slices }) = pending
                && let Some(file) = self.files.get_mut(&segment.name())
            {
                file.writes.push((at, slices.concat()));
            }
        }
        let kept_of_thousand = [0, 200, 800, 1000][chance.below(4)];
        for file in self.files.values_mut() {
            for (at, bytes) in std::mem::take(&mut file.writes) {
                for (sector, bytes) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    if chance.of_thousand(kept_of_thousand) {
                        put(&mut file.safe, at + (sector * SECTOR_BYTES) as u64, bytes);
                    }
                }
            }
        }
    }

    /// Removes all segments.
    pub(crate) fn lose_segments(&mut self) {
        self.files.retain(|name, _| SegmentId::from_name(name).is_none());
    }

    /// Removes one.
    pub(crate) fn lose_segment(&mut self, segment: SegmentId) {
        self.files.remove(&segment.name()).expect("it is there");
    }

    /// Turns a byte of a file.
    pub(crate) fn flip(&mut self, segment: SegmentId, at: u64) {
        let file = self.file(segment);
        let mut view = file.view();
        view[at as usize] ^= 0x40;
        (file.safe, file.writes) = (view, Vec::new());
    }

    /// Whether a recovery may change a thing; `false`: it ends in the middle of that.
    fn may_change(&mut self) -> io::Result<bool> {
        let left = match &mut self.changes_left {
            None => return Ok(true),
            Some(0) => return Err(io::Error::other("killed")),
            Some(left) => left,
        };
        *left -= 1;
        Ok(*left > 0)
    }

    /// The names and the lengths of all files.
    pub(crate) fn lengths(&self) -> Vec<(String, usize)> {
        let files = self.files.iter();
        files
            .map(|(name, file)| (name.clone(), file.view().len()))
            .collect()
    }
}

/// What a recovery sees.
impl Files for &mut FakeDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        let file = self.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.view().len() as u64)
    }

    fn read(&self, name: &str, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let view = self.files.get(name).ok_or(io::ErrorKind::NotFound)?.view();
        let from = (at as usize).min(view.len());
        let bytes = out.len().min(view.len() - from);
        out[..bytes].copy_from_slice(&view[from..from + bytes]);
        Ok(bytes)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if !self.may_change()? {
            return Err(io::Error::other("killed"));
        }
        let file = File {
            safe: bytes.to_vec(),
            writes: Vec::new(),
        };
        self.files.insert(name.to_owned(), file);
        Ok(())
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        if !self.may_change()? {
            return Err(io::Error::other("killed"));
        }
        let file = self.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        let mut view = file.view();
        view.truncate(bytes as usize);
        *file = File {
            safe: view,
            writes: Vec::new(),
        };
        Ok(())
    }

    fn write(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let is_whole = self.may_change()?;
        let file = self.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        let mut view = file.view();
        // Cut off anywhere, and not always from the front.
        let kept = match (is_whole, at % 3) {
            (true, _) => 0..bytes.len(),
            (false, 0) => 0..bytes.len() / 2,
            (false, 1) => bytes.len() / 2..bytes.len(),
            (false, _) => bytes.len() / 3..bytes.len() / 3 * 2,
        };
        put(&mut view, at + kept.start as u64, &bytes[kept]);
        (file.safe, file.writes) = (view, Vec::new());
        is_whole.then_some(()).ok_or_else(|| io::Error::other("killed"))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        if !self.may_change()? {
            return Err(io::Error::other("killed"));
        }
        let removed = self.files.remove(name);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
