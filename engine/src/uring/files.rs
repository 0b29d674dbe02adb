//! Operations on files in flight, and the open files: what the kernel reads from, writes to and is told by name stays here
//! until it is through.
//!
//! ```text
//!   begin ──> waiting (writes before reads) ──> slot ──> ring ──> finish ─┬─> the next step, same slot ──> ring
//!                                                                         └─> DiskDone; a waiting one takes the slot
//! ```
//!
//! One operation of a user is one [`Work`] in one slot; `steps`, `create` and `write` know which steps it takes, `name` how
//! the kernel reads a path. A file is shared by the
//! operations that were asked of it, so that a key that is closed and given out anew means the old file to them.

#![allow(unsafe_code)]

mod create;
mod name;
mod steps;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use io_uring::squeue;

use super::user_data::{Kind, pack};
use crate::disk::{DiskDone, DiskOp, OPERATIONS_MAX, READS_MAX, already_open, not_open};
use crate::driver::Token;

use steps::{Advance, Work};

/// The open files of one core and what is under way with them.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// By the user's key. `None`: it is being created or opened.
    open: BTreeMap<u64, Option<Rc<OwnedFd>>>,
    /// Invariant: a slot with work has exactly one operation with the kernel, or on its way there, that names it.
    slots: Vec<Option<Work>>,
    free: Vec<u32>,
    /// Slots whose work is a read.
    reads: usize,
    waiting: VecDeque<Work>,
    waiting_reads: VecDeque<Work>,
    /// Closed by the user, but not by everything that was asked before.
    closing: Vec<(u64, Rc<OwnedFd>)>,
    done: VecDeque<DiskDone>,
    /// Whether the ring cuts files (Linux 6.9); else it is done by a system call of its own.
    ring_truncates: bool,
}

impl Files {
    pub(super) fn new(ring_truncates: bool) -> Files {
        Files {
            ring_truncates,
            ..Files::default()
        }
    }

    /// Takes an operation in. [`Files::start`] says what to submit.
    pub(super) fn begin(&mut self, op: DiskOp) {
        match self.resolve(op) {
            Ok(Some(work)) if work.is_read() => self.waiting_reads.push_back(work),
            Ok(Some(work)) => self.waiting.push_back(work),
            Ok(None) => {}
            Err(done) => self.done.push_back(done),
        }
    }

    /// Finds the file that an operation is for. `None`: it was a close, which waits for the others.
    fn resolve(&mut self, op: DiskOp) -> Result<Option<Work>, DiskDone> {
        match op {
            DiskOp::Create { file, .. } | DiskOp::Open { file, .. } => {
                if self.open.contains_key(&file) {
                    return Err(op.failed(already_open(file)));
                }
                let work = Work::by_name(op)?;
                self.open.insert(file, None);
                Ok(Some(work))
            }
            DiskOp::Remove { .. } => Work::by_name(op).map(Some),
            DiskOp::Close { file } => match self.open.get(&file) {
                Some(Some(_)) => {
                    if let Some(Some(descriptor)) = self.open.remove(&file) {
                        self.closing.push((file, descriptor));
                    }
                    self.close_unused();
                    Ok(None)
                }
                _ => Err(op.failed(not_open(file))),
            },
            DiskOp::Write { file, .. }
            | DiskOp::Sync { file }
            | DiskOp::Read { file, .. }
            | DiskOp::Truncate { file, .. } => match self.open.get(&file) {
                Some(Some(descriptor)) => Work::on_file(op, Rc::clone(descriptor)).map(Some),
                _ => Err(op.failed(not_open(file))),
            },
        }
    }

    /// The next operation to submit, as long as there is room for one; call until `None`.
    ///
    /// It points into this table. It is sound to submit as long as the table lives, unless [`Files::finish`] was called
    /// for its slot.
    #[must_use]
    pub(super) fn start(&mut self) -> Option<squeue::Entry> {
        if self.in_flight() >= OPERATIONS_MAX {
            return None;
        }
        let work = match self.waiting.pop_front() {
            Some(work) => work,
            None if self.reads < READS_MAX => self.waiting_reads.pop_front()?,
            None => return None,
        };
        self.reads += usize::from(work.is_read());
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        Some(self.submit(index, work))
    }

    /// A step is over, with the kernel's result. The operation for the next one, if it was not the last.
    ///
    /// # Safety
    /// `result` is that of the completion of the operation that was last made for this slot; it is passed once.
    pub(super) unsafe fn finish(&mut self, index: u32, result: i32) -> Option<squeue::Entry> {
        let work = self.slots.get_mut(index as usize)?.take()?;
        let was_read = work.is_read();
        // SAFETY: passed on to the caller; the work was in its slot, unchanged, since its operation was made.
        match unsafe { work.advance(result) } {
            Advance::Again(work) => return Some(self.submit(index, work)),
            Advance::Over(done) => {
                if let DiskDone::Opened { file, result: Err(_) } = &done {
                    self.open.remove(file);
                }
                self.done.push_back(done);
            }
            Advance::Opened(file, descriptor) => {
                self.open.insert(file, Some(Rc::new(descriptor)));
                self.done.push_back(DiskDone::Opened { file, result: Ok(()) });
            }
        }
        self.reads -= usize::from(was_read);
        self.free.push(index);
        self.close_unused();
        None
    }

    /// What is done and not yet taken.
    pub(super) fn poll(&mut self) -> Option<DiskDone> {
        self.done.pop_front()
    }

    /// Whether [`Files::poll`] has something.
    #[inline]
    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Whether nothing is under way, and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight() == 0 && self.waiting.is_empty() && self.waiting_reads.is_empty()
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn submit(&mut self, index: u32, mut work: Work) -> squeue::Entry {
        let entry = work.entry(self.ring_truncates);
        self.slots[index as usize] = Some(work);
        entry.user_data(pack(
            Kind::File,
            Token {
                slot: index,
                generation: 0,
            },
        ))
    }

    /// Closes what only a close still has.
    fn close_unused(&mut self) {
        let mut index = 0;
        while index < self.closing.len() {
            if Rc::strong_count(&self.closing[index].1) > 1 {
                index += 1;
                continue;
            }
            let (file, descriptor) = self.closing.swap_remove(index);
            if let Some(descriptor) = Rc::into_inner(descriptor) {
                self.waiting.push_back(Work::close(file, descriptor));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bytes::Bytes;

    use super::*;

    /// Files with one open, as the kernel would have answered.
    fn with_open_file() -> Files {
        let mut files = Files::new(true);
        files.begin(DiskOp::Open {
            file: 7,
            path: PathBuf::from("/dev/null"),
        });
        assert!(files.start().is_some() && files.start().is_none());
        let descriptor = OwnedFd::from(std::fs::File::open("/dev/null").expect("open"));
        // SAFETY: an open's result is a descriptor that nobody else has.
        let next = unsafe { files.finish(0, std::os::fd::IntoRawFd::into_raw_fd(descriptor)) };
        assert!(next.is_none());
        assert!(matches!(
            files.poll(),
            Some(DiskDone::Opened {
                file: 7,
                result: Ok(())
            })
        ));
        files
    }

    fn read(ticket: u64) -> DiskOp {
        DiskOp::Read {
            ticket,
            file: 7,
            at: 0,
            bytes: 1,
        }
    }

    fn write() -> DiskOp {
        DiskOp::Write {
            file: 7,
            at: 0,
            slices: vec![Bytes::from_static(b"x")],
            sync: false,
        }
    }

    #[test]
    fn readers_leave_room_for_writes_and_nobody_exceeds_the_bound() {
        let mut files = with_open_file();
        for ticket in 0..200 {
            files.begin(read(ticket));
        }
        let started = std::iter::from_fn(|| files.start()).count();
        assert_eq!(started, READS_MAX);
        for _ in 0..200 {
            files.begin(write());
        }
        let started = std::iter::from_fn(|| files.start()).count();
        assert_eq!(
            (started, files.in_flight()),
            (OPERATIONS_MAX - READS_MAX, OPERATIONS_MAX)
        );
        // A read that ends makes room for a write, which goes first.
        // SAFETY: no kernel has the operations; a failure carries nothing.
        assert!(unsafe { files.finish(0, -libc::EIO) }.is_none());
        assert_eq!(files.reads, READS_MAX - 1);
        assert!(files.start().is_some() && files.start().is_none());
        assert_eq!(files.reads, READS_MAX - 1);
    }

    #[test]
    fn a_file_is_closed_behind_what_was_asked_of_it_and_its_key_is_free_at_once() {
        let mut files = with_open_file();
        files.begin(write());
        assert!(files.start().is_some());
        files.begin(write());
        files.begin(DiskOp::Close { file: 7 });
        files.begin(DiskOp::Open {
            file: 7,
            path: PathBuf::from("/dev/zero"),
        });
        files.begin(write());
        assert!(
            matches!(files.poll(), Some(DiskDone::Wrote { result: Err(_), .. })),
            "not open yet"
        );
        let codes: Vec<u32> = std::iter::from_fn(|| files.start())
            .map(|entry| entry.get_opcode())
            .collect();
        let (write, open, close) = (
            u32::from(io_uring::opcode::Write::CODE),
            u32::from(io_uring::opcode::OpenAt::CODE),
            u32::from(io_uring::opcode::Close::CODE),
        );
        assert_eq!(codes, [write, open]);
        // SAFETY: no kernel has the operations; these results carry nothing.
        unsafe {
            assert!(files.finish(0, 1).is_none());
            assert!(files.start().is_none(), "another write is under way");
            assert!(files.finish(1, 1).is_none());
        }
        assert_eq!(files.start().map(|entry| entry.get_opcode()), Some(close));
    }
}
