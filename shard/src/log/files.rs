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

    /// Writes to a file that is there, from this byte on, and makes that survive a crash. One that breaks off may leave any
    /// part of it.
    ///
    /// # Errors
    /// The system's; a directory that is only read is [`io::ErrorKind::ReadOnlyFilesystem`].
    fn write(&mut self, _name: &str, _at: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    /// Removes a file. That it is gone need not survive a crash.
    ///
    /// # Errors
    /// As of [`Self::write`].
    fn remove(&mut self, _name: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
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

    fn write(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.0.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        let at = usize::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = at + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[at..end].copy_from_slice(bytes);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let removed = self.0.remove(name);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
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

    fn write(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write(name, at, bytes)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        (**self).remove(name)
    }
}
