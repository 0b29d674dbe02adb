//! The files of a log as recovery and `fluxar log` see them: a directory, read while nobody writes. Behind a trait, so that
//! the simulation's disk can be recovered by the code that recovers a real one.

use std::io;

/// A directory of segments and a `meta` file.
pub trait Files {
    /// The names in it, in any order.
    ///
    /// # Errors
    /// The system's.
    fn names(&self) -> io::Result<Vec<String>>;

    /// A file's length, bytes.
    ///
    /// # Errors
    /// The system's.
    fn length(&self, name: &str) -> io::Result<u64>;

    /// Fills `out` from this byte on, less only at the file's end; how many bytes it was.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, name: &str, at: u64, out: &mut [u8]) -> io::Result<usize>;

    /// Replaces a small file, whole or not at all, so that it survives a crash.
    ///
    /// # Errors
    /// The system's.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Cuts a file and makes that survive a crash.
    ///
    /// # Errors
    /// The system's.
    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()>;
}
