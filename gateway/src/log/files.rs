//! The files of a data directory as recovery reads them: nobody else writes meanwhile.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fluxar_engine::disk::is_full;
use fluxar_shard::log::files::Files;
use fluxar_shard::log::recovery::META;
use rustix::io::Errno;

/// Between two tries to read what the disk did not give.
const PAUSE: Duration = Duration::from_millis(100);
/// What is kept of the disk's room for `meta` to be replaced, a multiple of this, bytes.
const SPARE_BYTES: usize = 16 * 1024;
/// What is given up for it.
const SPARE: &str = "meta.spare";
/// How often it is tried again, all together: then the disk is believed.
const WAITS_MAX: u32 = 50;

/// A directory of segments.
#[derive(Debug)]
pub struct DirFiles {
    path: PathBuf,
    /// The file that was read last: recovery goes through one after the other.
    open: RefCell<Option<(String, Arc<File>)>>,
    /// How often it still waits for a disk that gives nothing.
    waits_left: Cell<u32>,
}

impl DirFiles {
    /// Of this directory, which is there.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            open: RefCell::new(None),
            waits_left: Cell::new(WAITS_MAX),
        }
    }

    fn opened(&self, name: &str) -> io::Result<Arc<File>> {
        if let Some((open, file)) = &*self.open.borrow()
            && open == name
        {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(File::open(self.path.join(name))?);
        *self.open.borrow_mut() = Some((name.to_owned(), Arc::clone(&file)));
        Ok(file)
    }

    /// A disk may give a moment later what it did not give now, and what a recovery cannot read is lost until the next start.
    fn waits(&self) -> bool {
        let left = self.waits_left.get();
        if left > 0 {
            self.waits_left.set(left - 1);
            std::thread::sleep(PAUSE);
        }
        left > 0
    }

    /// [`Files::replace`], where `write` writes a file anew, or a part of it if it fails.
    fn replace_by(
        &mut self,
        name: &str,
        bytes: &[u8],
        mut write: impl FnMut(&Path, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        *self.open.borrow_mut() = None;
        let beside = self.path.join(format!("{name}.new"));
        let spare = self.path.join(SPARE);
        // Room was kept for this: a gateway can be started on a full disk, and tell its publishers so. Not for the copy: where
        // there is none yet, it would keep that room, and the next `meta` could not be written.
        let has_room_now =
            |error: &io::Error| name == META && is_full(error) && std::fs::remove_file(&spare).is_ok();
        let mut written = write(&beside, bytes);
        if written.as_ref().is_err_and(has_room_now) {
            written = write(&beside, bytes);
        }
        written
            .and_then(|()| std::fs::rename(&beside, self.path.join(name)))
            .inspect_err(|_| {
                // What fitted takes room from what is written next.
                let _ = std::fs::remove_file(&beside);
            })?;
        self.sync_names()?;
        let spare_bytes = (2 * bytes.len()).next_multiple_of(SPARE_BYTES);
        if name == META && std::fs::metadata(&spare).map_or(0, |known| known.len()) < spare_bytes as u64 {
            // On a disk that is full there will be room another time.
            let _ = write(&spare, &vec![0xff; spare_bytes]).inspect_err(|_| {
                let _ = std::fs::remove_file(&spare);
            });
        }
        Ok(())
    }

    /// Has changed names survive a crash.
    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Writes a file anew, so that it survives a crash, but for its name.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

impl Files for DirFiles {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // The log's own are all plain ASCII.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        Ok(std::fs::metadata(self.path.join(name))?.len())
    }

    fn read(&self, name: &str, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let file = self.opened(name)?;
        let mut filled = 0;
        while filled < out.len() {
            match file.read_at(&mut out[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) && self.waits() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.replace_by(name, bytes, write_new)
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        *self.open.borrow_mut() = None;
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        file.set_len(bytes)?;
        file.sync_all()
    }

    fn write(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        *self.open.borrow_mut() = None;
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        file.write_all_at(bytes, at)?;
        file.sync_all()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        *self.open.borrow_mut() = None;
        std::fs::remove_file(self.path.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_replaced_and_cut() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = DirFiles::new(folder.path());
        files.replace("meta", b"first").expect("written");
        let mut out = [0; 8];
        assert_eq!(files.read("meta", 1, &mut out).expect("read"), 4);
        assert_eq!(&out[..4], b"irst");
        files.replace("meta", b"the second").expect("written");
        assert_eq!(files.length("meta").expect("there"), 10);
        assert_eq!(
            files.read("meta", 0, &mut out).expect("read"),
            8,
            "what was open is not what is there"
        );
        assert_eq!(&out, b"the seco");
        files.truncate("meta", 3).expect("cut");
        assert_eq!(files.read("meta", 0, &mut out).expect("read"), 3);
        files.write("meta", 2, b"arch").expect("written");
        assert_eq!(files.read("meta", 0, &mut out).expect("read"), 6);
        assert_eq!(&out[..6], b"tharch");
        assert_eq!(
            files.write("none", 0, b"x").expect_err("none").kind(),
            io::ErrorKind::NotFound,
            "what is gone is not made again"
        );
        let names = || {
            let mut names = files.names().expect("listed");
            names.sort_unstable();
            names
        };
        assert_eq!(names(), ["meta", "meta.spare"], "and room to replace it");
        assert_eq!(
            files.read("none", 0, &mut out).expect_err("none").kind(),
            io::ErrorKind::NotFound
        );
        files.remove("meta").expect("removed");
        assert_eq!(files.names().expect("listed"), ["meta.spare"]);
    }

    #[test]
    fn the_room_that_is_kept_is_for_meta_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = DirFiles::new(folder.path());
        files.replace("meta.copy", b"the copy").expect("written");
        assert_eq!(
            files.names().expect("listed"),
            ["meta.copy"],
            "none is kept by it"
        );
        files.remove("meta.copy").expect("removed");
        files.replace("meta", b"first").expect("written");
        // A disk that is full but for what is kept.
        let spare = folder.path().join(SPARE);
        let write = |path: &Path, bytes: &[u8]| {
            if !spare.exists() {
                return write_new(path, bytes);
            }
            write_new(path, &bytes[..1])?;
            Err(Errno::NOSPC.into())
        };
        let names = |files: &DirFiles| {
            let mut names = files.names().expect("listed");
            names.sort_unstable();
            names
        };
        let refused = files.replace_by("meta.copy", b"second", write);
        assert!(is_full(&refused.expect_err("no room")));
        assert_eq!(names(&files), ["meta", "meta.spare"], "nothing is left of it");
        files
            .replace_by("meta", b"second", write)
            .expect("there was room");
        assert_eq!(files.length("meta").expect("there"), 6);
        assert_eq!(names(&files), ["meta", "meta.spare"], "it is kept again");
    }
}
