//! The data directory: made when it is not there, readable by nobody else, and held by one gateway at a time.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// The file whose lock says that a gateway runs on the directory. What stands in it is for people.
const LOCK_NAME: &str = "LOCK";
const PAUSE: Duration = Duration::from_millis(20);

/// A data directory that is this gateway's own until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock is the open file's, so it ends with the process, however that ends.
    _lock: File,
}

/// Why a directory cannot be had.
#[derive(Debug)]
pub enum DirFault {
    /// Another gateway runs on it.
    InUse {
        /// The directory.
        path: PathBuf,
        /// Its process, as it says itself.
        by: Option<u32>,
    },
    /// It cannot be made, opened or locked.
    System {
        /// What of it.
        path: PathBuf,
        /// What was tried: `be made`.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
}

impl fmt::Display for DirFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { path, by } => {
                write!(f, "the log in {} is in use by another gateway", path.display())?;
                if let Some(process) = by {
                    write!(f, " (process {process})")?;
                }
                f.write_str(
                    ": stop that one, or give this one a directory of its own (log.dir, --log-dir DIR) or none (--no-log)",
                )
            }
            Self::System { path, what, error } => {
                let whose = match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "; give it to the user that the gateway runs as, or choose"
                    }
                    _ => "; choose",
                };
                write!(
                    f,
                    "the log's directory {} cannot {what}: {error}{whose} another (log.dir, --log-dir DIR) or none (--no-log)",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for DirFault {}

impl DataDir {
    /// Makes the directory if need be, and takes its lock; one that is held is waited for until then, since the gateway
    /// that has it may be about to end.
    ///
    /// # Errors
    /// See [`DirFault`].
    pub fn open(path: &Path, until: Instant) -> Result<Self, DirFault> {
        let fault = |path: &Path, what, error| DirFault::System {
            path: path.into(),
            what,
            error,
        };
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
        // Events may be anything: nobody else's to read.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| fault(path, "be made", error))?;
        for made in missing {
            // Its name has to survive power loss as what is in it does. Some file systems sync no directories.
            let holder = made.parent().filter(|holder| !holder.as_os_str().is_empty());
            let _ = File::open(holder.unwrap_or(Path::new("."))).and_then(|holder| holder.sync_all());
        }
        // What the cores open later must not depend on where the process is by then.
        let path = path
            .canonicalize()
            .map_err(|error| fault(path, "be found", error))?;
        let lock_path = path.join(LOCK_NAME);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| fault(&lock_path, "be opened", error))?;
        while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            match error {
                rustix::io::Errno::INTR => {}
                rustix::io::Errno::WOULDBLOCK if Instant::now() < until => std::thread::sleep(PAUSE),
                rustix::io::Errno::WOULDBLOCK => {
                    let mut text = String::new();
                    let _ = lock.read_to_string(&mut text);
                    let by = text.trim().parse().ok();
                    return Err(DirFault::InUse { path, by });
                }
                other => return Err(fault(&lock_path, "be locked", other.into())),
            }
        }
        let noted = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        if let Err(error) = noted
            && error.kind() != io::ErrorKind::StorageFull
        {
            return Err(fault(&lock_path, "be written", error));
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where it is: absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_gateway_has_it_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/b");
        let held = DataDir::open(&path, Instant::now()).expect("free");
        let mode = std::fs::metadata(held.path()).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let fault = DataDir::open(&path, Instant::now()).expect_err("held");
        let said = fault.to_string();
        let process = format!("(process {})", std::process::id());
        assert!(said.contains("in use") && said.contains(&process), "{said}");
        drop(held);
        DataDir::open(&path, Instant::now()).expect("free again");
    }

    #[test]
    fn one_that_is_about_to_be_let_go_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = DataDir::open(folder.path(), Instant::now()).expect("free");
        let path = folder.path().to_path_buf();
        let waiting =
            std::thread::spawn(move || DataDir::open(&path, Instant::now() + Duration::from_secs(60)));
        drop(held);
        waiting.join().expect("no panic").expect("free in the end");
    }

    #[test]
    fn what_is_no_directory_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("written");
        let said = DataDir::open(&file.join("log"), Instant::now())
            .expect_err("no directory")
            .to_string();
        assert!(
            said.contains("file/log cannot be made") && said.contains("--no-log"),
            "{said}"
        );
    }
}
