//! A part of a segment's file in memory: as large as one batch needs, and no less than a read is worth.

use std::io;

use bytes::{Bytes, BytesMut};

use crate::log::files::Files;

/// What is read at once, unless a batch needs more.
const READ_BYTES: usize = 1024 * 1024;
/// When a read fails, it is tried in pieces of so many bytes: what a disk cannot read is a few sectors.
const PIECE_BYTES: usize = 4096;
/// So many pieces that cannot be read: the file, or the disk, is lost.
const UNREADABLE_PIECES_MAX: u32 = 64;
/// What stands for bytes that cannot be read: never zeros, which would mean that nothing was written.
const UNREADABLE: u8 = 0xee;

/// Reads a file at any place, mostly forward.
pub(super) struct Window<'a, F: Files + ?Sized> {
    files: &'a F,
    name: String,
    /// The file's length; less, if it turned out to be shorter.
    file_bytes: u64,
    begin: u64,
    held: Bytes,
    unreadable_pieces: u32,
    /// The end of the last piece that could not be read.
    unreadable_until: u64,
}

impl<'a, F: Files + ?Sized> Window<'a, F> {
    /// Of a file's first bytes, so many at most.
    pub(super) fn open(files: &'a F, name: String, bytes_max: u64) -> io::Result<Self> {
        Ok(Self {
            files,
            file_bytes: files.length(&name)?.min(bytes_max),
            name,
            begin: 0,
            held: Bytes::new(),
            unreadable_pieces: 0,
            unreadable_until: 0,
        })
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Whether some of what was read from here on could not be read.
    pub(super) fn is_unreadable_behind(&self, at: u64) -> bool {
        self.unreadable_until > at
    }

    /// The bytes from `at` on: at least `wanted`, or up to the file's end.
    pub(super) fn get(&mut self, at: u64, wanted: usize) -> io::Result<Bytes> {
        let left = self.file_bytes.saturating_sub(at);
        let wanted = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        let is_held = at >= self.begin && at + wanted as u64 <= self.begin + self.held.len() as u64;
        if !is_held {
            self.load(at, wanted.max(READ_BYTES.min(left as usize)))?;
        }
        // Less than wanted only if the file has become shorter.
        let skipped = ((at - self.begin) as usize).min(self.held.len());
        Ok(self.held.slice(skipped..))
    }

    fn load(&mut self, at: u64, bytes: usize) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.held)
            .try_into_mut()
            .unwrap_or_else(|_| BytesMut::new());
        buffer.resize(bytes, 0);
        let read = match self.files.read(&self.name, at, &mut buffer) {
            Ok(read) => read,
            Err(_) => self.load_pieces(at, &mut buffer)?,
        };
        buffer.truncate(read);
        if read < bytes {
            self.file_bytes = at + read as u64;
        }
        self.begin = at;
        self.held = buffer.freeze();
        Ok(())
    }

    fn load_pieces(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        for piece in buffer.chunks_mut(PIECE_BYTES) {
            match self.files.read(&self.name, at + read as u64, piece) {
                Ok(bytes) => {
                    read += bytes;
                    if bytes < piece.len() {
                        break;
                    }
                }
                Err(error) => {
                    self.unreadable_pieces += 1;
                    if self.unreadable_pieces > UNREADABLE_PIECES_MAX {
                        return Err(error);
                    }
                    piece.fill(UNREADABLE);
                    read += piece.len();
                    self.unreadable_until = self.unreadable_until.max(at + read as u64);
                }
            }
        }
        Ok(read)
    }
}
