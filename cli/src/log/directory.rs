//! A data directory, to be read only.

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use fluxar_shard::log::files::Files;

use crate::failure::{Failure, Result};

/// The files of a data directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// The file that was read last: one is read after the other.
    open: RefCell<Option<(String, Rc<File>)>>,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |why: &dyn std::fmt::Display| Failure::here(format!("{}: {why}", path.display()));
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(Self {
                path: path.into(),
                open: RefCell::new(None),
            }),
            Ok(_) => Err(failed(&"this is a file; give the directory that it is in")),
            Err(error) => Err(failed(&error)),
        }
    }

    fn file(&self, name: &str) -> io::Result<Rc<File>> {
        let mut open = self.open.borrow_mut();
        if let Some((known, file)) = &*open
            && known == name
        {
            return Ok(Rc::clone(file));
        }
        let file = Rc::new(File::open(self.path.join(name))?);
        *open = Some((name.to_owned(), Rc::clone(&file)));
        Ok(file)
    }
}

impl Files for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.path)?;
        // The log's own names are plain ASCII.
        let names = names.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        Ok(self.file(name)?.metadata()?.len())
    }

    fn read(&self, name: &str, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let file = self.file(name)?;
        let mut filled = 0;
        while filled < out.len() {
            match file.read_at(&mut out[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn replace(&mut self, _: &str, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn truncate(&mut self, _: &str, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
