//! The simulated disk: it belongs to the world, and outlives the cores that write to it.
//!
//! ```text
//!   cores: DiskOp ──> under way ── acts, some time later ──> files: what is read now │ what a power cut leaves
//!                         └── DiskDone, some time after that                             ^
//!   tests: SimDisk::{names, read, replace, …} ──────────────────────────────────────────┘
//! ```
//!
//! It keeps the promises of [`crate::disk`] and no others. What a user may not rely on is drawn from the seed:
//! - Operations act and are told of in any order, late as [`DiskFaults::latency_ns`] says.
//! - A core that ends while operations are under way (its driver is dropped, as by a kill) leaves any part of them done. What
//!   was written stays readable.
//! - [`SimDisk::power_cut`] leaves of each write that no sync covers any set of its sectors of 512 bytes, now and then
//!   a part of one; names that no finished create made may be gone, names that no finished remove took may be back.
//! - A sync covers the writes whose [`DiskDone::Wrote`](crate::disk::DiskDone::Wrote) had been handed over before it was
//!   asked for. A sync that fails forgets what it should have saved: it is read until the power goes, and the next sync
//!   succeeds without it.
//! - Space ends where [`SimDisk::set_space`] says, reads, writes and syncs fail as often as [`DiskFaults`] says.
//!
//! Every directory exists. How many operations a core has under way is not bounded here.

mod content;
mod files;
mod operations;

use std::io;
use std::path::Path;

use super::Shared;

pub(super) use files::Disk;

/// How unkind the simulated disk is: probabilities from 0 to 1, each drawn anew for each operation, and times.
#[derive(Debug, Clone)]
pub struct DiskFaults {
    /// Time until an operation acts, and again until its end is told: at least and at most.
    pub latency_ns: (u64, u64),
    /// A create or open fails (`EIO`).
    pub open_error: f64,
    /// A write fails (`EIO`); any part of it is there.
    pub write_error: f64,
    /// A write finds no space (`ENOSPC`) although there is some; any part of it is there.
    pub write_full: f64,
    /// A sync fails (`EIO`); any part of what it should have saved is saved.
    pub sync_error: f64,
    /// A read fails (`EIO`).
    pub read_error: f64,
}

impl DiskFaults {
    /// None: only time passes.
    #[must_use]
    pub fn none() -> DiskFaults {
        DiskFaults {
            latency_ns: (50_000, 50_000),
            open_error: 0.0,
            write_error: 0.0,
            write_full: 0.0,
            sync_error: 0.0,
            read_error: 0.0,
        }
    }

    /// No errors, but times from a microsecond to long pauses.
    #[must_use]
    pub fn wild() -> DiskFaults {
        DiskFaults {
            latency_ns: (1_000, 20_000_000),
            ..DiskFaults::none()
        }
    }

    /// Everything.
    #[must_use]
    pub fn brutal() -> DiskFaults {
        DiskFaults {
            open_error: 0.02,
            write_error: 0.02,
            write_full: 0.02,
            sync_error: 0.02,
            read_error: 0.02,
            ..DiskFaults::wild()
        }
    }
}

impl Default for DiskFaults {
    fn default() -> DiskFaults {
        DiskFaults::none()
    }
}

/// The world's disk as a test sees it, at once and without faults but for space: what recovery reads, and what breaks things.
#[derive(Debug, Clone)]
pub struct SimDisk {
    network: Shared,
}

impl SimDisk {
    pub(super) fn new(network: Shared) -> SimDisk {
        SimDisk { network }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> T) -> T {
        act(self.network.lock().disk_now())
    }

    /// Changes how unkind the disk is to operations that are asked for from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.with(|disk| disk.faults = faults);
    }

    /// How many bytes all files together may have room for; `None`: any number. At first it is that. Files that have more keep
    /// what they have.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.with(|disk| disk.space_bytes = bytes);
    }

    /// How many bytes all files together have room for.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.with(|disk| disk.used_bytes())
    }

    /// Operations that were asked for and whose end nobody was told of.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.with(|disk| disk.operations())
    }

    /// The power goes: operations under way end here, and what no sync has saved survives by chance. All cores are
    /// expected to be dropped, before or after this, without another step.
    pub fn power_cut(&self) {
        self.with(Disk::power_cut);
    }

    /// Changes the bits of `mask` in one byte of a file, as a failing medium does: for good, and unnoticed.
    ///
    /// # Errors
    /// No such file, or no such byte in it.
    pub fn flip(&self, path: &Path, at: u64, mask: u8) -> io::Result<()> {
        self.with(|disk| disk.flip(path, at, mask))
    }

    /// The names of the files in a directory, in order.
    #[must_use]
    pub fn names(&self, directory: &Path) -> Vec<String> {
        self.with(|disk| disk.names(directory))
    }

    /// A file's length, bytes.
    ///
    /// # Errors
    /// No such file.
    pub fn length(&self, path: &Path) -> io::Result<u64> {
        self.with(|disk| disk.length(path))
    }

    /// Fills `out` from this byte on, less only at the file's end; how many bytes it was.
    ///
    /// # Errors
    /// No such file.
    pub fn read(&self, path: &Path, at: u64, out: &mut [u8]) -> io::Result<usize> {
        self.with(|disk| disk.read(path, at, out))
    }

    /// Replaces a file, or makes it, whole or not at all; it survives a power cut.
    ///
    /// # Errors
    /// No space.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.with(|disk| disk.replace(path, bytes))
    }

    /// Sets a file's length and syncs it: all of it survives a power cut.
    ///
    /// # Errors
    /// No such file, or no space.
    pub fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.with(|disk| disk.truncate(path, bytes))
    }

    /// Writes to a file that is there and syncs it: all of it survives a power cut.
    ///
    /// # Errors
    /// No such file, or no space.
    pub fn write(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|disk| disk.write_to(path, at, bytes))
    }

    /// Removes a file; it survives a power cut.
    ///
    /// # Errors
    /// No such file.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.with(|disk| disk.remove(path))
    }
}
