//! Operations under way on a simulated disk: asked for, acted, told. This is where its faults strike.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use crate::disk::{DiskDone, DiskOp, already_open, not_open};

use super::content::{sectors, share};
use super::files::{Disk, FileId, full};

#[derive(Debug)]
pub(super) struct UnderWay {
    number: u64,
    work: Work,
    acts_at_ns: u64,
    told_at_ns: u64,
    /// How it ended, since it acted.
    done: Option<DiskDone>,
}

#[derive(Debug)]
enum Work {
    Create {
        key: u64,
        path: PathBuf,
        bytes: u64,
        file: Option<FileId>,
    },
    Open {
        key: u64,
        path: PathBuf,
        file: Option<FileId>,
    },
    Write {
        key: u64,
        file: FileId,
        at: u64,
        slices: Vec<Bytes>,
        sync: bool,
    },
    Sync {
        key: u64,
        file: FileId,
        covered: Vec<u64>,
    },
    Read {
        ticket: u64,
        file: FileId,
        at: u64,
        bytes: u32,
    },
    Truncate {
        key: u64,
        file: FileId,
        bytes: u64,
    },
    Close {
        key: u64,
        file: FileId,
    },
    Remove {
        path: PathBuf,
        file: Option<FileId>,
    },
    /// Refused when it was asked for.
    Refused,
}

impl Work {
    /// The open file that it is for.
    fn file(&self) -> Option<FileId> {
        match self {
            Work::Write { file, .. }
            | Work::Sync { file, .. }
            | Work::Read { file, .. }
            | Work::Truncate { file, .. } => Some(*file),
            _ => None,
        }
    }
}

impl Disk {
    /// Takes an operation in; when its end is told.
    pub(in crate::sim) fn begin(&mut self, core: usize, op: DiskOp, now_ns: u64) -> u64 {
        let (work, done) = match self.resolve(core, op) {
            Ok(work) => (work, None),
            Err(done) => (Work::Refused, Some(done)),
        };
        let (low, high) = self.faults.latency_ns;
        let mut acts_at_ns = now_ns + self.random.between(low, high).max(1);
        if let Work::Close { file, .. } = work {
            let before = self.cores[core].under_way.iter();
            let before = before.filter(|under_way| under_way.work.file() == Some(file));
            acts_at_ns = before
                .map(|under_way| under_way.told_at_ns)
                .fold(acts_at_ns, u64::max);
        }
        let told_at_ns = acts_at_ns + self.random.between(low, high).max(1);
        let number = self.next_operation;
        self.next_operation += 1;
        self.cores[core].under_way.push(UnderWay {
            number,
            work,
            acts_at_ns,
            told_at_ns,
            done,
        });
        told_at_ns
    }

    fn resolve(&mut self, core: usize, op: DiskOp) -> Result<Work, DiskDone> {
        let open = &mut self.cores[core].open;
        match op {
            DiskOp::Create { file: key, .. } | DiskOp::Open { file: key, .. } if open.contains_key(&key) => {
                Err(op.failed(already_open(key)))
            }
            DiskOp::Create {
                file: key,
                path,
                bytes,
            } => {
                open.insert(key, None);
                Ok(Work::Create {
                    key,
                    path,
                    bytes,
                    file: None,
                })
            }
            DiskOp::Open { file: key, path } => {
                open.insert(key, None);
                Ok(Work::Open {
                    key,
                    path,
                    file: None,
                })
            }
            DiskOp::Remove { path } => Ok(Work::Remove { path, file: None }),
            DiskOp::Write { file: key, .. }
            | DiskOp::Sync { file: key }
            | DiskOp::Read { file: key, .. }
            | DiskOp::Truncate { file: key, .. }
            | DiskOp::Close { file: key } => {
                let Some(Some(file)) = open.get(&key).copied() else {
                    return Err(op.failed(not_open(key)));
                };
                Ok(match op {
                    DiskOp::Write { at, slices, sync, .. } => Work::Write {
                        key,
                        file,
                        at,
                        slices,
                        sync,
                    },
                    DiskOp::Sync { .. } => Work::Sync {
                        key,
                        file,
                        covered: self.content(file).to_be_synced(),
                    },
                    DiskOp::Read {
                        ticket, at, bytes, ..
                    } => Work::Read {
                        ticket,
                        file,
                        at,
                        bytes,
                    },
                    DiskOp::Truncate { bytes, .. } => Work::Truncate { key, file, bytes },
                    _ => {
                        open.remove(&key);
                        Work::Close { key, file }
                    }
                })
            }
        }
    }

    /// Has everything act whose time has come, in the order of those times.
    pub(in crate::sim) fn advance(&mut self, now_ns: u64) {
        loop {
            let waiting = self.cores.iter().enumerate().flat_map(|(core, of_core)| {
                let under_way = of_core.under_way.iter().enumerate();
                under_way.map(move |(index, under_way)| (core, index, under_way))
            });
            let due = waiting
                .filter(|(_, _, under_way)| under_way.done.is_none() && under_way.acts_at_ns <= now_ns)
                .min_by_key(|(_, _, under_way)| (under_way.acts_at_ns, under_way.number));
            let Some((core, index, _)) = due else {
                return;
            };
            let mut under_way = self.cores[core].under_way.swap_remove(index);
            under_way.done = Some(self.act(&mut under_way.work, under_way.number));
            self.cores[core].under_way.push(under_way);
        }
    }

    /// Whether the end of something can be told to a core.
    pub(in crate::sim) fn is_ready(&self, core: usize, now_ns: u64) -> bool {
        let mut under_way = self.cores[core].under_way.iter();
        under_way.any(|under_way| under_way.told_at_ns <= now_ns)
    }

    /// What is told to a core now. All that is due has acted.
    pub(in crate::sim) fn tell(&mut self, core: usize, now_ns: u64) -> Vec<DiskDone> {
        let mut told = Vec::new();
        for under_way in std::mem::take(&mut self.cores[core].under_way) {
            match under_way.done {
                Some(done) if under_way.told_at_ns <= now_ns => {
                    self.conclude(core, under_way.work, under_way.number, &done);
                    told.push(done);
                }
                done => self.cores[core].under_way.push(UnderWay { done, ..under_way }),
            }
        }
        told
    }

    pub(super) fn operations(&self) -> usize {
        self.cores.iter().map(|core| core.under_way.len()).sum()
    }

    /// A core is gone: what it had under way has happened, in part or not at all. Its files are closed.
    pub(in crate::sim) fn abandon(&mut self, core: usize) {
        let mut under_way = std::mem::take(&mut self.cores[core].under_way);
        under_way.sort_by_key(|under_way| (under_way.acts_at_ns, under_way.number));
        let mut used: Vec<FileId> = Vec::new();
        for UnderWay {
            number,
            mut work,
            done,
            ..
        } in under_way
        {
            if done.is_none() {
                match work {
                    Work::Write { file, at, slices, .. } => {
                        self.write_in_part(number, file, at, &slices);
                        continue;
                    }
                    Work::Close { file, .. } => {
                        used.push(file);
                        continue;
                    }
                    _ if self.random.chance(0.5) => drop(self.act(&mut work, number)),
                    _ => continue,
                }
            }
            if let Work::Create { file: Some(file), .. } | Work::Open { file: Some(file), .. } = work {
                used.push(file);
            }
        }
        used.extend(std::mem::take(&mut self.cores[core].open).into_values().flatten());
        for file in used {
            self.unuse(file);
        }
    }

    fn act(&mut self, work: &mut Work, number: u64) -> DiskDone {
        match work {
            Work::Create {
                key,
                path,
                bytes,
                file,
            } => {
                let made = match self.strikes(self.faults.open_error) {
                    true => Err(broken()),
                    false => self.make(path, *bytes),
                };
                *file = made.as_ref().ok().copied();
                DiskDone::Opened {
                    file: *key,
                    result: made.map(drop),
                }
            }
            Work::Open { key, path, file } => {
                let found = match self.strikes(self.faults.open_error) {
                    true => Err(broken()),
                    false => self.use_file(path),
                };
                *file = found.as_ref().ok().copied();
                DiskDone::Opened {
                    file: *key,
                    result: found.map(drop),
                }
            }
            Work::Write {
                key,
                file,
                at,
                slices,
                sync,
            } => {
                let mut result = self.write(number, *file, *at, slices);
                if *sync && result.is_ok() {
                    result = self.sync(*file, &[number]);
                }
                DiskDone::Wrote {
                    file: *key,
                    at: *at,
                    result,
                }
            }
            Work::Sync { key, file, covered } => DiskDone::Synced {
                file: *key,
                result: self.sync(*file, covered),
            },
            Work::Read {
                ticket,
                file,
                at,
                bytes,
            } => {
                let result = if self.strikes(self.faults.read_error) {
                    Err(broken())
                } else {
                    let mut out = vec![0; *bytes as usize];
                    let read = self.content(*file).read(*at, &mut out);
                    out.truncate(read);
                    Ok(Bytes::from(out))
                };
                DiskDone::Read {
                    ticket: *ticket,
                    result,
                }
            }
            Work::Truncate { key, file, bytes } => {
                let grows_by = bytes.saturating_sub(self.content(*file).room_bytes);
                let result = if grows_by > self.free_bytes() {
                    Err(full())
                } else {
                    self.content(*file).set_len(number, *bytes);
                    Ok(())
                };
                DiskDone::Truncated { file: *key, result }
            }
            Work::Close { key, file } => {
                self.unuse(*file);
                DiskDone::Closed {
                    file: *key,
                    result: Ok(()),
                }
            }
            Work::Remove { path, file } => {
                let unlinked = self.unlink(path);
                *file = unlinked.as_ref().ok().copied();
                DiskDone::Removed {
                    path: path.clone(),
                    result: unlinked.map(drop),
                }
            }
            Work::Refused => unreachable!("it was done when it was asked for"),
        }
    }

    /// What follows from its user being told.
    fn conclude(&mut self, core: usize, work: Work, number: u64, done: &DiskDone) {
        match (work, done) {
            (Work::Create { key, path, file, .. }, _) => {
                if let Some(file) = file {
                    self.keep_name(&path, file);
                }
                self.opened(core, key, file);
            }
            (Work::Open { key, file, .. }, _) => self.opened(core, key, file),
            (Work::Write { file, .. }, _) => {
                if let Some((content, _)) = self.content_and_random(file) {
                    content.told(number);
                }
            }
            (Work::Truncate { file, .. }, DiskDone::Truncated { result: Ok(()), .. }) => {
                if let Some((content, random)) = self.content_and_random(file) {
                    content.sync(&[number], random);
                }
            }
            (
                Work::Remove {
                    path,
                    file: Some(file),
                },
                _,
            ) => self.keep_removed(&path, file),
            _ => {}
        }
    }

    fn opened(&mut self, core: usize, key: u64, file: Option<FileId>) {
        let open = &mut self.cores[core].open;
        match file {
            Some(file) => drop(open.insert(key, Some(file))),
            None => drop(open.remove(&key)),
        }
    }

    fn write(&mut self, number: u64, file: FileId, at: u64, slices: &[Bytes]) -> io::Result<()> {
        for (chance, error) in [
            (self.faults.write_error, broken as fn() -> io::Error),
            (self.faults.write_full, full),
        ] {
            if self.strikes(chance) {
                self.write_in_part(number, file, at, slices);
                return Err(error());
            }
        }
        let mut at = at;
        for slice in slices {
            let grows_by = (at + slice.len() as u64).saturating_sub(self.content(file).room_bytes);
            let lacks = grows_by.saturating_sub(self.free_bytes());
            let fits = slice.len() as u64 - lacks.min(slice.len() as u64);
            self.content(file).write(number, at, slice.slice(..fits as usize));
            at += fits;
            if lacks > 0 {
                return Err(full());
            }
        }
        Ok(())
    }

    fn sync(&mut self, file: FileId, covered: &[u64]) -> io::Result<()> {
        let fails = self.strikes(self.faults.sync_error);
        match self.content_and_random(file) {
            Some((content, random)) if fails => content.forget(random),
            Some((content, random)) => content.sync(covered, random),
            None => {}
        }
        if fails { Err(broken()) } else { Ok(()) }
    }

    /// Some of a write's sectors, as far as there is space.
    fn write_in_part(&mut self, number: u64, file: FileId, at: u64, slices: &[Bytes]) {
        let kept = share(&mut self.random);
        let mut at = at;
        for slice in slices {
            for (at, sector) in sectors(at, slice) {
                let grows_by = (at + sector.len() as u64).saturating_sub(self.content(file).room_bytes);
                if self.random.chance(kept) && grows_by <= self.free_bytes() {
                    self.content(file).write(number, at, sector);
                }
            }
            at += slice.len() as u64;
        }
    }

    fn strikes(&mut self, chance: f64) -> bool {
        self.random.chance(chance)
    }
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}
