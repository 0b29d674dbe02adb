//! The files of a log as recovery and `fluxar log` see them: a directory, read while nobody writes. Behind a trait, so that
//! the simulation's disk can be recovered by the code that recovers a real one.

use std::collections::BTreeMap;
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

/// A directory in memory: for tests, and for whoever simulates a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryFiles(pub BTreeMap<String, Vec<u8>>);

impl MemoryFiles {
    fn file(&self, name: &str) -> io::Result<&Vec<u8>> {
        self.0.get(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files for MemoryFiles {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        Ok(self.file(name)?.len() as u64)
    }

    fn read(&self, name: &str, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let file = self.file(name)?;
        let rest = usize::try_from(at).ok().and_then(|at| file.get(at..));
        let rest = rest.unwrap_or_default();
        let bytes = rest.len().min(out.len());
        out[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.insert(name.to_owned(), bytes.to_owned());
        Ok(())
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        match self.0.get_mut(name) {
            Some(file) => file.truncate(usize::try_from(bytes).unwrap_or(usize::MAX)),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }
}

impl<F: Files + ?Sized> Files for &mut F {
    fn names(&self) -> io::Result<Vec<String>> {
        (**self).names()
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        (**self).length(name)
    }

    fn read(&self, name: &str, at: u64, out: &mut [u8]) -> io::Result<usize> {
        (**self).read(name, at, out)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        (**self).replace(name, bytes)
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        (**self).truncate(name, bytes)
    }
}
