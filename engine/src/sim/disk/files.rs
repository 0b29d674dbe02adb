//! The names on a simulated disk, what they stand for, and how much space there is.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::super::Random;
use super::DiskFaults;
use super::content::Content;
use super::operations::UnderWay;

/// A file's own name, never used twice.
pub(super) type FileId = u64;

/// Keeps what is drawn for the disk apart from what is drawn for the network, so that neither shifts the other.
const SEED: u64 = 0x6469_736b;

#[derive(Debug)]
pub(in crate::sim) struct Disk {
    pub(super) faults: DiskFaults,
    pub(super) random: Random,
    pub(super) space_bytes: Option<u64>,
    names: BTreeMap<PathBuf, Entry>,
    /// Names that were removed, and may come back until that is durable.
    removed: Vec<(PathBuf, FileId)>,
    contents: BTreeMap<FileId, Content>,
    next_file: FileId,
    /// By core.
    pub(super) cores: Vec<Core>,
    pub(super) next_operation: u64,
}

/// What a core has to do with the disk.
#[derive(Debug, Default)]
pub(super) struct Core {
    /// By its key. `None`: it is being opened.
    pub(super) open: BTreeMap<u64, Option<FileId>>,
    pub(super) under_way: Vec<UnderWay>,
}

#[derive(Debug)]
struct Entry {
    file: FileId,
    durable: bool,
}

impl Disk {
    pub(in crate::sim) fn new(seed: u64, cores: usize) -> Disk {
        Disk {
            faults: DiskFaults::none(),
            random: Random::new(seed ^ SEED),
            space_bytes: None,
            names: BTreeMap::new(),
            removed: Vec::new(),
            contents: BTreeMap::new(),
            next_file: 0,
            cores: (0..cores).map(|_| Core::default()).collect(),
            next_operation: 0,
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let used = self.contents.values().filter(|content| content.is_used());
        used.map(|content| content.room_bytes).sum()
    }

    /// How many more bytes there is room for.
    pub(super) fn free_bytes(&self) -> u64 {
        self.space_bytes
            .map_or(u64::MAX, |space| space.saturating_sub(self.used_bytes()))
    }

    fn find(&self, path: &Path) -> io::Result<FileId> {
        let entry = self.names.get(path);
        entry
            .map(|entry| entry.file)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    /// What an open file, or one with a name, holds.
    pub(super) fn content(&mut self, file: FileId) -> &mut Content {
        self.contents.get_mut(&file).expect("kept while it is in use")
    }

    /// Its content, unless nobody uses it any more, and the disk's randomness.
    pub(super) fn content_and_random(&mut self, file: FileId) -> Option<(&mut Content, &mut Random)> {
        Some((self.contents.get_mut(&file)?, &mut self.random))
    }

    /// Opens a file by its name for one more user.
    pub(super) fn use_file(&mut self, path: &Path) -> io::Result<FileId> {
        let file = self.find(path)?;
        self.content(file).users += 1;
        Ok(file)
    }

    /// A user lets go of a file.
    pub(super) fn unuse(&mut self, file: FileId) {
        let content = self.content(file);
        content.users = content.users.saturating_sub(1);
        self.forget_if_over(file);
    }

    /// Makes a file whose name is not durable yet, with one user.
    pub(super) fn make(&mut self, path: &Path, bytes: u64) -> io::Result<FileId> {
        if self.names.contains_key(path) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        if bytes > self.free_bytes() {
            return Err(full());
        }
        let file = self.add(path, Content::new(bytes), false);
        self.content(file).users = 1;
        Ok(file)
    }

    /// The name that was made for this file is durable from now on, unless it was removed since.
    pub(super) fn keep_name(&mut self, path: &Path, file: FileId) {
        if let Some(entry) = self.names.get_mut(path)
            && entry.file == file
        {
            entry.durable = true;
        }
    }

    /// Takes a name away; it may come back until [`Disk::keep_removed`].
    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<FileId> {
        let file = self.find(path)?;
        let durable = self.names.remove(path).is_some_and(|entry| entry.durable);
        self.content(file).names -= 1;
        if durable {
            self.content(file).ghosts += 1;
            self.removed.push((path.to_owned(), file));
        }
        self.forget_if_over(file);
        Ok(file)
    }

    /// A name is gone for good.
    pub(super) fn keep_removed(&mut self, path: &Path, file: FileId) {
        let gone = |removed: &(PathBuf, FileId)| removed.0 == path && removed.1 == file;
        if let Some(index) = self.removed.iter().position(gone) {
            self.removed.swap_remove(index);
            self.content(file).ghosts -= 1;
            self.forget_if_over(file);
        }
    }

    fn add(&mut self, path: &Path, mut content: Content, durable: bool) -> FileId {
        let file = self.next_file;
        self.next_file += 1;
        content.names = 1;
        self.contents.insert(file, content);
        self.names.insert(path.to_owned(), Entry { file, durable });
        file
    }

    fn forget_if_over(&mut self, file: FileId) {
        let over = |content: &Content| content.ghosts == 0 && !content.is_used();
        if self.contents.get(&file).is_some_and(over) {
            self.contents.remove(&file);
        }
    }

    pub(super) fn power_cut(&mut self) {
        for core in 0..self.cores.len() {
            self.abandon(core);
        }
        let Disk {
            names,
            removed,
            contents,
            random,
            ..
        } = self;
        for (path, file) in std::mem::take(removed) {
            let Some(content) = contents.get_mut(&file) else {
                continue;
            };
            content.ghosts -= 1;
            if !names.contains_key(&path) && random.chance(0.5) {
                content.names += 1;
                names.insert(path, Entry { file, durable: true });
            }
        }
        names.retain(|_, entry| {
            if std::mem::replace(&mut entry.durable, true) {
                return true;
            }
            let Some(content) = contents.get_mut(&entry.file) else {
                return false;
            };
            match random.below(3) {
                0 => {
                    content.names -= 1;
                    return false;
                }
                1 => content.empty(),
                _ => {}
            }
            true
        });
        for content in contents.values_mut() {
            content.lose_power(random);
        }
        contents.retain(|_, content| content.names > 0);
    }

    pub(super) fn names(&self, directory: &Path) -> Vec<String> {
        let inside = self.names.keys().filter(|path| path.parent() == Some(directory));
        inside
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect()
    }

    pub(super) fn length(&mut self, path: &Path) -> io::Result<u64> {
        let file = self.find(path)?;
        Ok(self.content(file).len())
    }

    pub(super) fn read(&mut self, path: &Path, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let file = self.find(path)?;
        Ok(self.content(file).read(at, out))
    }

    pub(super) fn replace(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // Both are there for a moment.
        if bytes.len() as u64 > self.free_bytes() {
            return Err(full());
        }
        let _ = self.remove(path);
        self.add(path, Content::durable(bytes), true);
        Ok(())
    }

    pub(super) fn truncate(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = self.find(path)?;
        if bytes.saturating_sub(self.content(file).room_bytes) > self.free_bytes() {
            return Err(full());
        }
        self.content(file).set_len_for_good(bytes);
        Ok(())
    }

    pub(super) fn write_to(&mut self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.find(path)?;
        let end = at + bytes.len() as u64;
        if end.saturating_sub(self.content(file).room_bytes) > self.free_bytes() {
            return Err(full());
        }
        self.content(file).write_for_good(at, bytes);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let file = self.unlink(path)?;
        self.keep_removed(path, file);
        Ok(())
    }

    pub(super) fn flip(&mut self, path: &Path, at: u64, mask: u8) -> io::Result<()> {
        let file = self.find(path)?;
        if at >= self.content(file).len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content(file).flip(at, mask);
        Ok(())
    }
}

pub(super) fn full() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}
