//! Files, as values: what a core asks of a disk, and what came of it.
//!
//! A user hands a [`DiskOp`] to [`crate::reactor::Reactor::disk`]; the driver takes it through as many steps as it needs
//! (a short write is continued, a created file is made to survive), and exactly one [`DiskDone`] comes back for it, as
//! [`crate::reactor::Event::Disk`]. Nothing waits on the core's thread.
//!
//! What may be relied on:
//! - Operations are under way at the same time and end in any order. Two writes to the same bytes, or a read of bytes that
//!   are being written, are the user's to keep apart.
//! - [`DiskOp::Create`], [`DiskOp::Truncate`] and [`DiskOp::Remove`] survive a power cut once they are done. A write does if it
//!   says so, or once a [`DiskOp::Sync`] is done that was asked for behind the write's [`DiskDone::Wrote`].
//! - After a write or a sync has failed nobody knows what of the file is on the disk, and a later sync that succeeds does not
//!   say so: the kernel reports a lost page once. Whoever needs those bytes writes them to another file.
//! - A file is closed behind everything that was asked of it before.
//!
//! A core has at most [`OPERATIONS_MAX`] operations under way, of which at most [`READS_MAX`] are reads, so that writes do
//! not wait behind readers. What is beyond waits in the driver, first come first served; how many those can be is bounded by
//! the user, who gets one [`DiskDone`] for each.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

/// Operations that one core has under way.
pub const OPERATIONS_MAX: usize = 64;

/// How many of them may be reads.
pub const READS_MAX: usize = 48;

/// What is asked. `file` is a key that the user chooses; a driver knows it from the create or open on until it is closed.
#[derive(Debug)]
pub enum DiskOp {
    /// Makes a new file, with room for so many bytes, and keeps it open to be written and read. A file of that name is an
    /// error ([`io::ErrorKind::AlreadyExists`]) and stays as it is. If it fails otherwise, nothing is left of it.
    Create {
        /// Its key from now on.
        file: u64,
        /// Its name. The directory exists.
        path: PathBuf,
        /// Its length and its room, bytes; they read as zeros. Writes within it do not run out of space on file systems that
        /// write in place.
        bytes: u64,
    },
    /// Opens a file to be read.
    Open {
        /// Its key from now on.
        file: u64,
        /// Its name.
        path: PathBuf,
    },
    /// Writes everything, or it is an error.
    Write {
        /// Where.
        file: u64,
        /// From this byte on.
        at: u64,
        /// What, back to back.
        slices: Vec<Bytes>,
        /// Whether it is done only when it survives a power cut: this write alone, not those before. It costs less than a
        /// write and a [`DiskOp::Sync`] behind it: up to 1,024 slices are one operation for the kernel.
        sync: bool,
    },
    /// Has what was written survive a power cut. The file's times are left out.
    Sync {
        /// Which.
        file: u64,
    },
    /// Reads; fewer bytes come back only at the file's end.
    Read {
        /// Chosen by the asker.
        ticket: u64,
        /// Where.
        file: u64,
        /// From this byte on.
        at: u64,
        /// How many.
        bytes: u32,
    },
    /// Sets a file's length.
    Truncate {
        /// Which; it was created here.
        file: u64,
        /// Its length, bytes.
        bytes: u64,
    },
    /// Lets go of an open file, when everything is done that was asked of it. The key is free for another at once.
    Close {
        /// Which.
        file: u64,
    },
    /// Removes a name. Who has the file open still reads it; its room is given back when it is closed everywhere.
    Remove {
        /// The name.
        path: PathBuf,
    },
}

/// What came of it.
#[derive(Debug)]
pub enum DiskDone {
    /// Of [`DiskOp::Create`] and [`DiskOp::Open`]. After an error the key is free.
    Opened {
        /// Which.
        file: u64,
        /// Whether.
        result: io::Result<()>,
    },
    /// Of [`DiskOp::Write`].
    Wrote {
        /// Where.
        file: u64,
        /// From this byte on.
        at: u64,
        /// Whether. After an error any part of it may be there.
        result: io::Result<()>,
    },
    /// Of [`DiskOp::Sync`].
    Synced {
        /// Which.
        file: u64,
        /// Whether.
        result: io::Result<()>,
    },
    /// Of [`DiskOp::Read`].
    Read {
        /// Whose.
        ticket: u64,
        /// The bytes.
        result: io::Result<Bytes>,
    },
    /// Of [`DiskOp::Truncate`].
    Truncated {
        /// Which.
        file: u64,
        /// Whether.
        result: io::Result<()>,
    },
    /// Of [`DiskOp::Close`].
    Closed {
        /// Which.
        file: u64,
        /// Whether: an error says that the key was not known.
        result: io::Result<()>,
    },
    /// Of [`DiskOp::Remove`].
    Removed {
        /// The name.
        path: PathBuf,
        /// Whether. After an error the name may be gone, but not for good.
        result: io::Result<()>,
    },
}

impl DiskOp {
    /// What the operation yields if it ends with an error.
    #[must_use]
    pub fn failed(self, error: io::Error) -> DiskDone {
        let result = Err(error);
        match self {
            DiskOp::Create { file, .. } | DiskOp::Open { file, .. } => DiskDone::Opened { file, result },
            DiskOp::Write { file, at, .. } => DiskDone::Wrote { file, at, result },
            DiskOp::Sync { file } => DiskDone::Synced { file, result },
            DiskOp::Read { ticket, .. } => DiskDone::Read {
                ticket,
                result: result.map(|()| Bytes::new()),
            },
            DiskOp::Truncate { file, .. } => DiskDone::Truncated { file, result },
            DiskOp::Close { file } => DiskDone::Closed { file, result },
            DiskOp::Remove { path } => DiskDone::Removed { path, result },
        }
    }
}

/// Whether an error says that there is no space: none left on the device, a quota that is used up, or a file that may not
/// grow any more. Trying again later may succeed.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)
    )
}

/// The error of an operation whose key names no open file.
pub(crate) fn not_open(file: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("no open file has the key {file}: create or open it first"),
    )
}

/// The error of a create or open whose key is taken.
pub(crate) fn already_open(file: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("the key {file} names a file that is open: close it first"),
    )
}
