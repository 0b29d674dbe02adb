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

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};

use crate::disk::{DiskDone, DiskOp};

/// Slices that one system call takes (`UIO_MAXIOV`); the others go with the next step.
const VECTORS_MAX: usize = 1024;

/// Whose files the log's are: nobody else's.
const MODE: libc::mode_t = 0o600;

/// One operation, with all that the kernel is given the address of. That is on the heap: the work itself may move.
#[derive(Debug)]
pub(super) enum Work {
    Create {
        file: u64,
        name: Name,
        bytes: u64,
        step: CreateStep,
        /// The new file, from the second step on.
        made: Option<OwnedFd>,
        directory: Option<OwnedFd>,
        /// What went wrong, while the file is removed again.
        failure: Option<io::Error>,
    },
    Open {
        file: u64,
        name: Name,
    },
    Write {
        file: u64,
        at: u64,
        descriptor: Rc<OwnedFd>,
        slices: Vec<Bytes>,
        /// The first slice that is not written to its end, and how far it is.
        next: (usize, usize),
        written: u64,
        vectors: Vec<libc::iovec>,
        sync: Durability,
    },
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

/// How a write comes to survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Not by itself.
    None,
    /// It is wanted.
    Wanted,
    /// The step at hand writes all of it, and syncs that.
    WithWrite,
    /// The step at hand syncs the file, of which all is written.
    Behind,
}

/// How far a create is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CreateStep {
    Open,
    Allocate,
    /// Where the file system does not allocate.
    Extend,
    Sync,
    OpenDirectory,
    SyncDirectory,
    Undo,
}

/// A path as the kernel reads it, and that of its directory.
#[derive(Debug)]
pub(super) struct Name {
    path: CString,
    directory: CString,
}

/// What comes behind a step.
#[derive(Debug)]
pub(super) enum Advance {
    Again(Work),
    Over(DiskDone),
    Opened(u64, OwnedFd),
}

impl Name {
    fn new(path: &Path) -> io::Result<Name> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let encode = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
        Ok(Name {
            path: encode(path)?,
            directory: encode(directory)?,
        })
    }

    fn open(&self, flags: i32) -> squeue::Entry {
        opcode::OpenAt::new(Fd(libc::AT_FDCWD), self.path.as_ptr())
            .flags(flags | libc::O_CLOEXEC)
            .mode(MODE)
            .build()
    }

    fn open_directory(&self) -> squeue::Entry {
        opcode::OpenAt::new(Fd(libc::AT_FDCWD), self.directory.as_ptr())
            .flags(libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)
            .build()
    }

    fn unlink(&self) -> squeue::Entry {
        opcode::UnlinkAt::new(Fd(libc::AT_FDCWD), self.path.as_ptr()).build()
    }
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
            DiskOp::Create { file, bytes, .. } => Work::Create {
                file,
                name,
                bytes,
                step: CreateStep::Open,
                made: None,
                directory: None,
                failure: None,
            },
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
            } => Work::Write {
                file,
                at,
                descriptor,
                slices,
                next: (0, 0),
                written: 0,
                vectors: Vec::new(),
                sync: if sync {
                    Durability::Wanted
                } else {
                    Durability::None
                },
            },
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
            Work::Create {
                name,
                bytes,
                step,
                made,
                directory,
                ..
            } => match step {
                CreateStep::Open => name.open(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL),
                CreateStep::Allocate => opcode::Fallocate::new(fd(made.as_ref()), *bytes).build(),
                // Seldom, and no more than a change of one number: without the ring on all kernels.
                CreateStep::Extend => opcode::Nop::new().build(),
                CreateStep::Sync => opcode::Fsync::new(fd(made.as_ref())).build(),
                CreateStep::OpenDirectory => name.open_directory(),
                CreateStep::SyncDirectory => opcode::Fsync::new(fd(directory.as_ref())).build(),
                CreateStep::Undo => name.unlink(),
            },
            Work::Open { name, .. } => name.open(libc::O_RDONLY),
            Work::Write {
                at,
                descriptor,
                slices,
                next,
                written,
                vectors,
                sync,
                ..
            } => {
                if *sync == Durability::Behind {
                    return sync_data(descriptor);
                }
                let whole = *next == (0, 0) && slices.len() <= VECTORS_MAX;
                if *sync != Durability::None {
                    *sync = if whole {
                        Durability::WithWrite
                    } else {
                        Durability::Wanted
                    };
                }
                let flags = if *sync == Durability::WithWrite {
                    libc::RWF_DSYNC
                } else {
                    0
                };
                write(descriptor, *at + *written, slices, *next, vectors, flags)
            }
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
            Work::Create { .. } => unsafe { self.advance_create(result) },
            // SAFETY: a successful open's result is a new descriptor that nobody else owns.
            Work::Open { file, .. } => match checked(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }) {
                Ok(descriptor) => Advance::Opened(file, descriptor),
                Err(error) => Advance::Over(DiskDone::Opened {
                    file,
                    result: Err(error),
                }),
            },
            Work::Write { .. } => self.advance_write(result),
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
                debug_assert!(len <= wanted, "the kernel reads no more than it was asked for");
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

    /// # Safety
    /// As [`Work::advance`].
    unsafe fn advance_create(self, result: i32) -> Advance {
        let Work::Create {
            file,
            name,
            bytes,
            mut step,
            mut made,
            mut directory,
            mut failure,
        } = self
        else {
            unreachable!("asked for creates only")
        };
        let over = |error| {
            Advance::Over(DiskDone::Opened {
                file,
                result: Err(error),
            })
        };
        let mut outcome = checked(result);
        if step == CreateStep::Extend
            && let Some(made) = &made
        {
            outcome = rustix::fs::ftruncate(made, bytes)
                .map(|()| 0)
                .map_err(io::Error::from);
        }
        step = match (step, outcome) {
            // It failed before; that the removal failed too adds nothing that the user could act on.
            (CreateStep::Undo, outcome) => {
                return over(
                    failure
                        .or(outcome.err())
                        .unwrap_or_else(|| io::ErrorKind::Other.into()),
                );
            }
            (CreateStep::Open, Err(error)) => return over(error),
            (CreateStep::Open, Ok(fd)) => {
                // SAFETY: a successful open's result is a new descriptor that nobody else owns.
                made = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                // The kernel refuses to allocate nothing.
                if bytes == 0 {
                    CreateStep::Sync
                } else {
                    CreateStep::Allocate
                }
            }
            (CreateStep::Allocate, Err(error)) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                CreateStep::Extend
            }
            (CreateStep::Allocate | CreateStep::Extend, Ok(_)) => CreateStep::Sync,
            (CreateStep::Sync, Ok(_)) => CreateStep::OpenDirectory,
            (CreateStep::OpenDirectory, Ok(fd)) => {
                // SAFETY: as above.
                directory = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                CreateStep::SyncDirectory
            }
            (CreateStep::SyncDirectory, Err(error)) if !cannot_sync_directories(&error) => {
                failure = Some(error);
                CreateStep::Undo
            }
            (CreateStep::SyncDirectory, _) => {
                return match made {
                    Some(made) => Advance::Opened(file, made),
                    None => over(io::ErrorKind::Other.into()),
                };
            }
            (_, Err(error)) => {
                failure = Some(error);
                CreateStep::Undo
            }
        };
        Advance::Again(Work::Create {
            file,
            name,
            bytes,
            step,
            made,
            directory,
            failure,
        })
    }

    fn advance_write(mut self, result: i32) -> Advance {
        let Work::Write {
            file,
            at,
            slices,
            next,
            written,
            sync,
            ..
        } = &mut self
        else {
            unreachable!("asked for writes only")
        };
        let over = |result| {
            Advance::Over(DiskDone::Wrote {
                file: *file,
                at: *at,
                result,
            })
        };
        let taken = match checked(result) {
            Ok(_) if *sync == Durability::Behind => return over(Ok(())),
            Ok(taken) => taken as usize,
            Err(error) => return over(Err(error)),
        };
        *written += taken as u64;
        let (mut index, mut offset) = (next.0, next.1 + taken);
        while let Some(slice) = slices.get(index)
            && offset >= slice.len()
        {
            offset -= slice.len();
            index += 1;
        }
        if index < slices.len() {
            if taken == 0 {
                return over(Err(io::ErrorKind::WriteZero.into()));
            }
            *next = (index, offset);
            return Advance::Again(self);
        }
        if *sync == Durability::Wanted {
            *sync = Durability::Behind;
            return Advance::Again(self);
        }
        over(Ok(()))
    }
}

/// A write from the `next.1`th byte of the `next.0`th slice on.
fn write(
    descriptor: &OwnedFd,
    at: u64,
    slices: &[Bytes],
    next: (usize, usize),
    vectors: &mut Vec<libc::iovec>,
    flags: i32,
) -> squeue::Entry {
    let fd = Fd(descriptor.as_raw_fd());
    let (first, skipped) = next;
    vectors.clear();
    for (index, slice) in slices.iter().enumerate().skip(first).take(VECTORS_MAX) {
        let slice = if index == first {
            &slice[skipped..]
        } else {
            &slice[..]
        };
        vectors.push(libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        });
    }
    match vectors.as_slice() {
        [] => opcode::Nop::new().build(),
        [one] => {
            // Of 4 GiB and more a part is written, like any short write.
            let len = u32::try_from(one.iov_len).unwrap_or(u32::MAX);
            opcode::Write::new(fd, one.iov_base.cast_const().cast(), len)
                .offset(at)
                .rw_flags(flags)
                .build()
        }
        many => opcode::Writev::new(fd, many.as_ptr(), many.len() as u32)
            .offset(at)
            .rw_flags(flags)
            .build(),
    }
}

fn sync_data(descriptor: &OwnedFd) -> squeue::Entry {
    opcode::Fsync::new(Fd(descriptor.as_raw_fd()))
        .flags(FsyncFlags::DATASYNC)
        .build()
}

/// The descriptor of a step that has one.
fn fd(descriptor: Option<&OwnedFd>) -> Fd {
    const NONE: RawFd = -1;
    Fd(descriptor.map_or(NONE, AsRawFd::as_raw_fd))
}

fn checked(result: i32) -> io::Result<i32> {
    if result >= 0 {
        Ok(result)
    } else {
        Err(io::Error::from_raw_os_error(-result))
    }
}

/// Whether a file system has no syncing of directories; it keeps names by other means, or not at all.
fn cannot_sync_directories(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_directory() {
        for (path, directory) in [
            ("/data/log/a", "/data/log"),
            ("/a", "/"),
            ("log/a", "log"),
            ("a", "."),
        ] {
            let name = Name::new(Path::new(path)).expect("no zero in it");
            assert_eq!(name.directory.to_str(), Ok(directory), "{path}");
        }
        assert!(Name::new(Path::new("a\0b")).is_err());
    }

    fn write_of(slices: &[&'static [u8]], sync: bool) -> Work {
        let op = DiskOp::Write {
            file: 1,
            at: 100,
            slices: slices.iter().map(|slice| Bytes::from_static(slice)).collect(),
            sync,
        };
        let descriptor = OwnedFd::from(std::fs::File::open("/dev/null").expect("open"));
        Work::on_file(op, Rc::new(descriptor)).expect("a write")
    }

    /// What is left to write, as the kernel would see it.
    fn left(work: &mut Work) -> Vec<u8> {
        let _ = work.entry(true);
        let Work::Write { vectors, .. } = work else {
            panic!("{work:?}")
        };
        let slices = vectors.iter().map(|vector| {
            // SAFETY: they point into the work's slices, which are there.
            unsafe { std::slice::from_raw_parts(vector.iov_base.cast::<u8>(), vector.iov_len) }
        });
        slices.flatten().copied().collect()
    }

    fn advance(work: Work, result: i32) -> Advance {
        // SAFETY: a write's result carries nothing, and no kernel has the operation.
        unsafe { work.advance(result) }
    }

    #[test]
    fn a_short_write_goes_on_where_it_ended_and_is_synced_as_a_whole() {
        for first in 0..=9 {
            let mut work = write_of(&[b"abc", b"", b"defg", b"hi"], true);
            assert_eq!(left(&mut work), b"abcdefghi");
            if first == 0 {
                let Advance::Over(DiskDone::Wrote { result, .. }) = advance(work, 0) else {
                    panic!("nothing was taken")
                };
                assert_eq!(result.expect_err("no progress").kind(), io::ErrorKind::WriteZero);
                continue;
            }
            let mut advanced = advance(work, first);
            if first < 9 {
                let Advance::Again(mut work) = advanced else {
                    panic!("{advanced:?}")
                };
                assert_eq!(left(&mut work), b"abcdefghi"[first as usize..]);
                let Advance::Again(interrupted) = advance(work, -libc::EINTR) else {
                    panic!("again")
                };
                advanced = advance(interrupted, 9 - first);
                let Advance::Again(mut work) = advanced else {
                    panic!("a sync behind it: {advanced:?}")
                };
                let sync = work.entry(true);
                assert_eq!(sync.get_opcode(), u32::from(opcode::Fsync::CODE));
                advanced = advance(work, 0);
            }
            assert!(
                matches!(
                    advanced,
                    Advance::Over(DiskDone::Wrote {
                        file: 1,
                        at: 100,
                        result: Ok(())
                    })
                ),
                "{first}: {advanced:?}"
            );
        }
    }
}
