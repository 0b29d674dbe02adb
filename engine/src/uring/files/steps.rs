//! The steps that an operation on a file takes through the ring.
//!
//! ```text
//!   Create    open (it must be new) ─> allocate ─> sync it ─> open its directory ─> sync that
//!                                          └─ any failure from here on: remove it again
//!   Write     write, and again from where a short one ended; if it is to be synced and took several steps: sync it
//!   Read      read, and again until all is there or the file ends
//!   Truncate  truncate ─> sync it
//!   Remove    unlink ─> open its directory ─> sync that
//! ```
//!
//! Opening, allocating, syncing and unlinking run on threads that the kernel keeps for the ring. So does closing, which is
//! asked of them: it may be what frees the blocks of a file that was removed.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};

use super::create::Create;
use super::name::{Name, cannot_sync_directories};
use super::write::Write;
use crate::disk::{DiskDone, DiskOp};

/// One operation, with all that the kernel is given the address of. That is on the heap: the work itself may move.
#[derive(Debug)]
pub(super) enum Work {
    Create(Create),
    Open {
        file: u64,
        name: Name,
    },
    Write(Write),
    Sync {
        file: u64,
        descriptor: Rc<OwnedFd>,
    },
    Read {
        ticket: u64,
        at: u64,
        descriptor: Rc<OwnedFd>,
        wanted: usize,
        /// Its capacity is at least what is wanted.
        bytes: Vec<u8>,
    },
    Truncate {
        file: u64,
        bytes: u64,
        descriptor: Rc<OwnedFd>,
        /// What the system call said, where the ring has no such operation.
        outcome: Option<io::Result<()>>,
        cut: bool,
    },
    Close {
        file: u64,
        /// Owned until the operation is made.
        descriptor: Option<OwnedFd>,
    },
    Remove {
        path: PathBuf,
        name: Name,
        unlinked: bool,
        directory: Option<OwnedFd>,
    },
}

/// What comes behind a step.
#[derive(Debug)]
pub(super) enum Advance {
    Again(Work),
    Over(DiskDone),
    Opened(u64, OwnedFd),
}

impl Work {
    /// An operation that begins with a name.
    pub(super) fn by_name(op: DiskOp) -> Result<Work, DiskDone> {
        let (DiskOp::Create { path, .. } | DiskOp::Open { path, .. } | DiskOp::Remove { path }) = &op else {
            unreachable!("the others are asked of an open file")
        };
        let name = match Name::new(path) {
            Ok(name) => name,
            Err(error) => return Err(op.failed(error)),
        };
        Ok(match op {
            DiskOp::Create { file, bytes, .. } => Work::Create(Create::new(file, name, bytes)),
            DiskOp::Open { file, .. } => Work::Open { file, name },
            DiskOp::Remove { path } => Work::Remove {
                path,
                name,
                unlinked: false,
                directory: None,
            },
            _ => unreachable!("checked above"),
        })
    }

    /// An operation on an open file.
    pub(super) fn on_file(op: DiskOp, descriptor: Rc<OwnedFd>) -> Result<Work, DiskDone> {
        // To the ring, an offset of all ones means the descriptor's own position; nothing beyond i64 is one.
        if let DiskOp::Write { at, .. } | DiskOp::Read { at, .. } | DiskOp::Truncate { bytes: at, .. } = &op
            && i64::try_from(*at).is_err()
        {
            return Err(op.failed(io::Error::from_raw_os_error(libc::EINVAL)));
        }
        Ok(match op {
            DiskOp::Write {
                file,
                at,
                slices,
                sync,
            } => Work::Write(Write::new(file, at, descriptor, slices, sync)),
            DiskOp::Sync { file } => Work::Sync { file, descriptor },
            DiskOp::Read {
                ticket,
                at,
                bytes: wanted,
                ..
            } => {
                let mut bytes = Vec::new();
                if bytes.try_reserve_exact(wanted as usize).is_err() {
                    return Err(op.failed(io::ErrorKind::OutOfMemory.into()));
                }
                Work::Read {
                    ticket,
                    at,
                    descriptor,
                    wanted: wanted as usize,
                    bytes,
                }
            }
            DiskOp::Truncate { file, bytes } => Work::Truncate {
                file,
                bytes,
                descriptor,
                outcome: None,
                cut: false,
            },
            _ => unreachable!("the others begin with a name, or are a close"),
        })
    }

    /// The close of a file that nothing else uses.
    pub(super) fn close(file: u64, descriptor: OwnedFd) -> Work {
        Work::Close {
            file,
            descriptor: Some(descriptor),
        }
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self, Work::Read { .. })
    }

    /// The operation for the step at hand. It names memory and descriptors of this work, which has to be kept, unchanged,
    /// until [`Work::advance`].
    pub(super) fn entry(&mut self, ring_truncates: bool) -> squeue::Entry {
        match self {
            Work::Create(create) => create.entry(),
            Work::Open { name, .. } => name.open(libc::O_RDONLY),
            Work::Write(write) => write.entry(),
            Work::Sync { descriptor, .. } => sync_data(descriptor),
            Work::Read {
                at,
                descriptor,
                wanted,
                bytes,
                ..
            } => {
                let read = bytes.len();
                let room = &mut bytes.spare_capacity_mut()[..*wanted - read];
                // Within a u32: so is what was wanted.
                opcode::Read::new(
                    Fd(descriptor.as_raw_fd()),
                    room.as_mut_ptr().cast(),
                    room.len() as u32,
                )
                .offset(*at + read as u64)
                .build()
            }
            Work::Truncate {
                bytes,
                descriptor,
                outcome,
                cut,
                ..
            } => {
                if *cut {
                    sync_data(descriptor)
                } else if ring_truncates {
                    opcode::Ftruncate::new(Fd(descriptor.as_raw_fd()), *bytes).build()
                } else {
                    *outcome = Some(rustix::fs::ftruncate(&**descriptor, *bytes).map_err(io::Error::from));
                    opcode::Nop::new().build()
                }
            }
            Work::Close { descriptor, .. } => {
                // From here on it is the operation's; it is closed once. (A driver that goes without submitting it leaks it.)
                let fd = descriptor.take().map_or(-1, OwnedFd::into_raw_fd);
                opcode::Close::new(Fd(fd)).build().flags(squeue::Flags::ASYNC)
            }
            Work::Remove {
                name,
                unlinked,
                directory,
                ..
            } => match (unlinked, directory) {
                (false, _) => name.unlink(),
                (true, None) => name.open_directory(),
                (true, Some(directory)) => opcode::Fsync::new(Fd(directory.as_raw_fd())).build(),
            },
        }
    }

    /// The step at hand is over.
    ///
    /// # Safety
    /// `result` is that of the completion of the operation that [`Work::entry`] made last, and the work was not changed
    /// since.
    pub(super) unsafe fn advance(self, result: i32) -> Advance {
        if matches!(-result, libc::EINTR | libc::EAGAIN) && !matches!(self, Work::Close { .. }) {
            return Advance::Again(self);
        }
        match self {
            // SAFETY: passed on.
            Work::Create(create) => unsafe { create.advance(result) },
            // SAFETY: a successful open's result is a new descriptor that nobody else owns.
            Work::Open { file, .. } => match checked(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }) {
                Ok(descriptor) => Advance::Opened(file, descriptor),
                Err(error) => Advance::Over(DiskDone::Opened {
                    file,
                    result: Err(error),
                }),
            },
            Work::Write(write) => write.advance(result),
            Work::Sync { file, .. } => Advance::Over(DiskDone::Synced {
                file,
                result: checked(result).map(drop),
            }),
            Work::Read {
                ticket,
                at,
                descriptor,
                wanted,
                mut bytes,
            } => {
                let read = match checked(result) {
                    Ok(read) => read as usize,
                    Err(error) => {
                        return Advance::Over(DiskDone::Read {
                            ticket,
                            result: Err(error),
                        });
                    }
                };
                let len = bytes.len() + read;
                assert!(len <= wanted, "the kernel reads no more than it was asked for");
                // SAFETY: the kernel has written so many bytes behind the vector's, within its capacity.
                unsafe { bytes.set_len(len) };
                if read == 0 || len >= wanted {
                    let result = Ok(Bytes::from(bytes));
                    return Advance::Over(DiskDone::Read { ticket, result });
                }
                Advance::Again(Work::Read {
                    ticket,
                    at,
                    descriptor,
                    wanted,
                    bytes,
                })
            }
            Work::Truncate {
                file,
                bytes,
                descriptor,
                outcome,
                cut,
            } => {
                let result = outcome.unwrap_or_else(|| checked(result).map(drop));
                if cut || result.is_err() {
                    return Advance::Over(DiskDone::Truncated { file, result });
                }
                Advance::Again(Work::Truncate {
                    file,
                    bytes,
                    descriptor,
                    outcome: None,
                    cut: true,
                })
            }
            // Whatever it says, the descriptor is gone; what was written is no matter of closing.
            Work::Close { file, .. } => Advance::Over(DiskDone::Closed { file, result: Ok(()) }),
            Work::Remove {
                path,
                name,
                unlinked,
                directory,
            } => {
                let result = match (checked(result), &directory) {
                    (Err(error), Some(_)) if cannot_sync_directories(&error) => Ok(0),
                    (result, _) => result,
                };
                match result {
                    Ok(fd) if directory.is_none() => Advance::Again(Work::Remove {
                        path,
                        name,
                        unlinked: true,
                        // SAFETY: behind the unlink this is the directory's open, whose result nobody else owns.
                        directory: unlinked.then(|| unsafe { OwnedFd::from_raw_fd(fd) }),
                    }),
                    result => Advance::Over(DiskDone::Removed {
                        path,
                        result: result.map(drop),
                    }),
                }
            }
        }
    }
}

pub(super) fn sync_data(descriptor: &OwnedFd) -> squeue::Entry {
    opcode::Fsync::new(Fd(descriptor.as_raw_fd()))
        .flags(FsyncFlags::DATASYNC)
        .build()
}

pub(super) fn checked(result: i32) -> io::Result<i32> {
    if result >= 0 {
        Ok(result)
    } else {
        Err(io::Error::from_raw_os_error(-result))
    }
}
