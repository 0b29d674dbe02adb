//! Creating a file: open (it must be new), allocate, sync it, open its directory, sync that. Any failure from the second
//! step on removes it again.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::name::{Name, cannot_sync_directories};
use super::steps::{Advance, Work, checked};
use crate::disk::DiskDone;

#[derive(Debug)]
pub(super) struct Create {
    file: u64,
    name: Name,
    bytes: u64,
    step: Step,
    /// The new file, from the second step on.
    made: Option<OwnedFd>,
    directory: Option<OwnedFd>,
    /// What went wrong, while the file is removed again.
    failure: Option<io::Error>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    Allocate,
    /// Where the file system does not allocate.
    Extend,
    Sync,
    OpenDirectory,
    SyncDirectory,
    Undo,
}

impl Create {
    pub(super) fn new(file: u64, name: Name, bytes: u64) -> Create {
        Create {
            file,
            name,
            bytes,
            step: Step::Open,
            made: None,
            directory: None,
            failure: None,
        }
    }

    pub(super) fn entry(&self) -> squeue::Entry {
        let fd = |descriptor: &Option<OwnedFd>| Fd(descriptor.as_ref().map_or(-1, AsRawFd::as_raw_fd));
        match self.step {
            Step::Open => self.name.open(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL),
            Step::Allocate => opcode::Fallocate::new(fd(&self.made), self.bytes).build(),
            // Seldom, and no more than a change of one number: without the ring on all kernels.
            Step::Extend => opcode::Nop::new().build(),
            Step::Sync => opcode::Fsync::new(fd(&self.made)).build(),
            Step::OpenDirectory => self.name.open_directory(),
            Step::SyncDirectory => opcode::Fsync::new(fd(&self.directory)).build(),
            Step::Undo => self.name.unlink(),
        }
    }

    fn failed(&self, error: io::Error) -> Advance {
        Advance::Over(DiskDone::Opened {
            file: self.file,
            result: Err(error),
        })
    }

    /// # Safety
    /// As [`Work::advance`].
    pub(super) unsafe fn advance(mut self, result: i32) -> Advance {
        let mut outcome = checked(result);
        if self.step == Step::Extend
            && let Some(made) = &self.made
        {
            outcome = rustix::fs::ftruncate(made, self.bytes)
                .map(|()| 0)
                .map_err(io::Error::from);
        }
        self.step = match (self.step, outcome) {
            (Step::Undo, outcome) => {
                // It failed before; that the removal failed too adds nothing that the user could act on.
                let error = self.failure.take().or(outcome.err());
                return self.failed(error.unwrap_or_else(|| io::ErrorKind::Other.into()));
            }
            (Step::Open, Err(error)) => return self.failed(error),
            (Step::Open, Ok(fd)) => {
                // SAFETY: a successful open's result is a new descriptor that nobody else owns.
                self.made = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                // The kernel refuses to allocate nothing.
                if self.bytes == 0 {
                    Step::Sync
                } else {
                    Step::Allocate
                }
            }
            (Step::Allocate, Err(error)) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Step::Extend,
            (Step::Allocate | Step::Extend, Ok(_)) => Step::Sync,
            (Step::Sync, Ok(_)) => Step::OpenDirectory,
            (Step::OpenDirectory, Ok(fd)) => {
                // SAFETY: as above.
                self.directory = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                Step::SyncDirectory
            }
            (Step::SyncDirectory, Err(error)) if !cannot_sync_directories(&error) => {
                self.failure = Some(error);
                Step::Undo
            }
            (Step::SyncDirectory, _) => {
                return match self.made.take() {
                    Some(made) => Advance::Opened(self.file, made),
                    None => self.failed(io::ErrorKind::Other.into()),
                };
            }
            (_, Err(error)) => {
                self.failure = Some(error);
                Step::Undo
            }
        };
        Advance::Again(Work::Create(self))
    }
}
