//! A disk in memory: what it is asked is done in order, but not at once.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use fluxar_shard::log::disk::{DiskDone, DiskFault, DiskOp, SegmentId};

#[derive(Default)]
pub(crate) struct Disk {
    files: BTreeMap<SegmentId, Vec<u8>>,
    asked: VecDeque<DiskOp>,
    /// Writes fail as on a full disk.
    pub(crate) is_full: bool,
    /// Reads fail.
    pub(crate) reads_fail: bool,
    /// How many reads it was asked for.
    pub(crate) reads: usize,
    /// How many writes, and how many syncs.
    writes: usize,
    syncs: usize,
}

impl Disk {
    pub(crate) fn ask(&mut self, op: DiskOp) {
        self.reads += usize::from(matches!(op, DiskOp::Read { .. }));
        self.writes += usize::from(matches!(op, DiskOp::Write { .. }));
        self.syncs += usize::from(matches!(op, DiskOp::Sync { .. }));
        self.asked.push_back(op);
    }

    /// How many writes it was asked for, and how many syncs.
    pub(crate) fn done(&self) -> (usize, usize) {
        (self.writes, self.syncs)
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Changes a byte of every file.
    pub(crate) fn flip(&mut self, at: usize) {
        for byte in self.files.values_mut().filter_map(|file| file.get_mut(at)) {
            *byte ^= 0x40;
        }
    }

    /// Does what was asked first.
    pub(crate) fn step(&mut self) -> Option<DiskDone> {
        let write_fault = || Err(DiskFault::Full);
        match self.asked.pop_front()? {
            DiskOp::Create { segment, bytes } => {
                if self.is_full {
                    return Some(DiskDone::Opened {
                        segment,
                        result: write_fault(),
                    });
                }
                self.files.insert(segment, vec![0; bytes as usize]);
                Some(DiskDone::Opened {
                    segment,
                    result: Ok(()),
                })
            }
            DiskOp::Open { segment } => {
                let result = match self.files.contains_key(&segment) {
                    true => Ok(()),
                    false => Err(DiskFault::Failed("no such file".to_owned())),
                };
                Some(DiskDone::Opened { segment, result })
            }
            DiskOp::Write { segment, at, slices } => {
                if self.is_full {
                    return Some(DiskDone::Wrote {
                        segment,
                        result: write_fault(),
                    });
                }
                let file = self.files.get_mut(&segment).expect("a file that was made");
                let mut at = at as usize;
                for slice in slices {
                    if file.len() < at + slice.len() {
                        file.resize(at + slice.len(), 0);
                    }
                    file[at..at + slice.len()].copy_from_slice(&slice);
                    at += slice.len();
                }
                Some(DiskDone::Wrote {
                    segment,
                    result: Ok(()),
                })
            }
            DiskOp::Sync { segment } => Some(DiskDone::Synced {
                segment,
                result: Ok(()),
            }),
            DiskOp::Read {
                ticket,
                segment,
                at,
                bytes,
            } => {
                let result = match self.files.get(&segment) {
                    Some(_) if self.reads_fail => Err(DiskFault::Failed("a cable".to_owned())),
                    Some(file) => {
                        let start = (at as usize).min(file.len());
                        let end = (start + bytes as usize).min(file.len());
                        Ok(Bytes::copy_from_slice(&file[start..end]))
                    }
                    None => Err(DiskFault::Failed("no such file".to_owned())),
                };
                Some(DiskDone::Read { ticket, result })
            }
            DiskOp::Truncate { segment, bytes } => {
                if let Some(file) = self.files.get_mut(&segment) {
                    file.truncate(bytes as usize);
                }
                None
            }
            DiskOp::Close { .. } => None,
            DiskOp::Remove { segment } => {
                self.files.remove(&segment);
                None
            }
        }
    }
}
