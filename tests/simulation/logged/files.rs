//! The simulated disk as recovery reads it: a directory on it, and a process that may end between any two changes, or in the
//! middle of a write.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use fluxar_engine::sim::{Random, SimDisk};
use fluxar_shard::log::files::Files;

use super::seam::{Fault, Saboteur};

/// What a planted fault hides of a segment's end.
const TAIL_BYTES: usize = 100;

/// A directory of the world's disk.
#[derive(Clone)]
pub(crate) struct SimFiles {
    disk: SimDisk,
    directory: PathBuf,
    saboteur: Saboteur,
    /// Changes that are still made before the process ends; `None`: all.
    changes_left: Rc<Cell<Option<u64>>>,
    /// How likely it is that something cannot be read.
    read_error: Rc<Cell<f64>>,
    /// Something was refused since this was last asked.
    has_refused: Rc<Cell<bool>>,
    random: Rc<RefCell<Random>>,
}

impl SimFiles {
    pub(crate) fn new(seed: u64, disk: SimDisk, directory: &Path, saboteur: Saboteur) -> Self {
        Self {
            disk,
            directory: directory.into(),
            saboteur,
            changes_left: Rc::default(),
            read_error: Rc::default(),
            has_refused: Rc::default(),
            random: Rc::new(RefCell::new(Random::new(seed ^ 0x6669_6c65))),
        }
    }

    /// Has so large a part of what is read from now on fail, however often it is tried.
    pub(crate) fn fail_reads(&self, chance: f64) {
        self.read_error.set(chance);
    }

    /// Has the process end behind so many more changes: from then on nothing can be changed.
    pub(crate) fn end_behind(&self, changes: Option<u64>) {
        self.changes_left.set(changes);
    }

    /// Whether the disk refused anything since this was last asked: a read that failed, a change for which there was no
    /// space, or one behind the end of the process. A file that is not there is no refusal.
    pub(crate) fn has_refused(&self) -> bool {
        self.has_refused.take()
    }

    fn refuse(&self, why: &str) -> io::Error {
        self.has_refused.set(true);
        io::Error::other(why)
    }

    /// What the disk said, noted if it has refused.
    fn told<T>(&self, said: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &said
            && error.kind() == io::ErrorKind::StorageFull
        {
            self.has_refused.set(true);
        }
        said
    }

    fn change(&self) -> io::Result<()> {
        match self.changes_left.get() {
            None => Ok(()),
            Some(0) => Err(self.refuse("the process has ended")),
            Some(left) => {
                self.changes_left.set(Some(left - 1));
                Ok(())
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Files for SimFiles {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.disk.names(&self.directory))
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        self.disk.length(&self.path(name))
    }

    fn read(&self, name: &str, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let error = self.read_error.get();
        if error > 0.0 && self.random.borrow_mut().chance(error) {
            return Err(self.refuse("the disk does not give it"));
        }
        let read = self.disk.read(&self.path(name), at, out)?;
        let last = out[..read].iter().rposition(|byte| *byte != 0).unwrap_or(0);
        if name.ends_with(".log") && last > TAIL_BYTES && self.saboteur.strikes(Fault::TailTakenForTorn) {
            out[last - TAIL_BYTES..=last].fill(0);
        }
        Ok(read)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.change()?;
        self.told(self.disk.replace(&self.path(name), bytes))
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.change()?;
        self.told(self.disk.truncate(&self.path(name), bytes))
    }

    fn write(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let ended = self.change();
        let bytes = match ended {
            Ok(()) => bytes,
            // Ends in the middle of it.
            Err(_) => &bytes[..bytes.len() / 2],
        };
        self.told(self.disk.write(&self.path(name), at, bytes))?;
        ended
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.change()?;
        self.disk.remove(&self.path(name))
    }
}
