//! Names of files, as the kernel reads them.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

/// Whose files the log's are: nobody else's.
const MODE: libc::mode_t = 0o600;

/// A path as the kernel reads it, and that of its directory.
#[derive(Debug)]
pub(super) struct Name {
    path: CString,
    directory: CString,
}

impl Name {
    pub(super) fn new(path: &Path) -> io::Result<Name> {
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

    pub(super) fn open(&self, flags: i32) -> squeue::Entry {
        opcode::OpenAt::new(Fd(libc::AT_FDCWD), self.path.as_ptr())
            .flags(flags | libc::O_CLOEXEC)
            .mode(MODE)
            .build()
    }

    pub(super) fn open_directory(&self) -> squeue::Entry {
        opcode::OpenAt::new(Fd(libc::AT_FDCWD), self.directory.as_ptr())
            .flags(libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)
            .build()
    }

    pub(super) fn unlink(&self) -> squeue::Entry {
        opcode::UnlinkAt::new(Fd(libc::AT_FDCWD), self.path.as_ptr()).build()
    }
}

/// Whether a file system has no syncing of directories; it keeps names by other means, or not at all.
pub(super) fn cannot_sync_directories(error: &io::Error) -> bool {
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
}
