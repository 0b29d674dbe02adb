//! What a program told its system to sync, by `ledger.c`, which is compiled when it is needed; and the power cut that it
//! allows: files that are only appended to keep what was synced, and of the rest a part.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use fluxar_engine::sim::Random;

/// The program that watches.
pub(crate) const SOURCE: &str = include_str!("ledger.c");

/// Compiles a small program in C; where it is.
pub(crate) fn compile(name: &str, text: &str, folder: &Path) -> io::Result<PathBuf> {
    let (source, program) = (folder.join(format!("{name}.c")), folder.join(name));
    fs::write(&source, text)?;
    let output = Command::new("cc")
        .args(["-O2", "-o"])
        .args([&program, &source])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::other(format!("cc, to compile {name}.c: {error}")))?;
    if output.status.success() {
        return Ok(program);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{name}.c cannot be compiled:\n{said}")))
}

/// A file: its inode, and when that was made, since inodes are used again.
type File = (u64, u128);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// How long each file was when it was synced the last time.
    synced: HashMap<File, u64>,
    /// The program's process.
    pub(crate) process: Option<u32>,
}

impl Ledger {
    /// What the folder holds when a program is started is on the disk: that is what an earlier power cut left, or what the
    /// system had time to write.
    pub(crate) fn begin(folder: &Path) -> io::Result<Self> {
        let mut ledger = Self::default();
        for path in files(folder)? {
            let found = fs::metadata(path)?;
            ledger.synced.insert(file(&found)?, found.len());
        }
        Ok(ledger)
    }

    /// Reads on what was written down since.
    pub(crate) fn read(&mut self, path: &Path) -> io::Result<()> {
        for line in fs::read_to_string(path)?.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words.get(at).and_then(|word: &&str| word.parse::<u64>().ok());
            match (words.first(), number(1), number(2), number(3)) {
                (Some(&"p"), Some(process), ..) => self.process = Some(process as u32),
                (Some(&"a"), Some(inode), Some(born_ns), _) => {
                    self.synced.insert((inode, born_ns.into()), u64::MAX);
                }
                (Some(&"s"), Some(inode), Some(born_ns), Some(length)) => {
                    let synced = self.synced.entry((inode, born_ns.into())).or_default();
                    *synced = length.max(*synced);
                }
                // The last line may be half a line.
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes from each file whose name ends so what was not synced, from some byte on. The number of bytes.
    pub(crate) fn cut(&self, folder: &Path, suffix: &str, random: &mut Random) -> io::Result<u64> {
        let mut cut = 0;
        for path in files(folder)? {
            let found = fs::metadata(&path)?;
            let synced = self.synced.get(&file(&found)?).copied().unwrap_or(0);
            if !path.to_string_lossy().ends_with(suffix) || found.len() <= synced {
                continue;
            }
            let left = random.between(synced, found.len() - 1);
            cut += found.len() - left;
            fs::OpenOptions::new().write(true).open(&path)?.set_len(left)?;
        }
        Ok(cut)
    }
}

fn file(found: &fs::Metadata) -> io::Result<File> {
    let born = found.created()?.duration_since(UNIX_EPOCH);
    Ok((found.ino(), born.map_or(0, |born| born.as_nanos())))
}

/// All files below a folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}
