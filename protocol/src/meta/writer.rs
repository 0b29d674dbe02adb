//! Writing meta.

use alloc::vec::Vec;

use super::Meta;
use crate::head::{self, Head};
use crate::limits::{META_BYTES_MAX, META_KEYS_MAX};
use crate::position::{self, Position};

/// Writes a meta map, key by key, in the order given; the map's head is put in front at the end.
///
/// Keys have to be distinct, at most 32 and 2 KiB in all: whoever forwards what others chose checks it before.
#[derive(Debug, Default, Clone)]
pub struct MetaWriter {
    entries: Vec<u8>,
    keys: u8,
}

impl MetaWriter {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
            keys: 0,
        }
    }

    /// Adds an unsigned value.
    #[must_use]
    pub fn uint(mut self, key: &str, value: u64) -> Self {
        self.key(key);
        Head::write(head::UINT, value, &mut self.entries);
        self
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        Head::write_text(value, &mut self.entries);
        self
    }

    /// Adds a boolean.
    #[must_use]
    pub fn flag(mut self, key: &str, value: bool) -> Self {
        self.key(key);
        self.entries.push(if value { head::TRUE } else { head::FALSE });
        self
    }

    /// Adds a byte string.
    #[must_use]
    pub fn bytes(mut self, key: &str, value: &[u8]) -> Self {
        self.key(key);
        Head::write(head::BYTES, value.len() as u64, &mut self.entries);
        self.entries.extend_from_slice(value);
        self
    }

    /// Adds `[partition, offset]`.
    #[must_use]
    pub fn position(mut self, key: &str, at: Position) -> Self {
        self.key(key);
        at.write(&mut self.entries);
        self
    }

    /// Adds `[partition, first offset, delta, …]`.
    #[must_use]
    pub fn positions(
        mut self,
        key: &str,
        partition: u16,
        first: u64,
        deltas: impl ExactSizeIterator<Item = u64>,
    ) -> Self {
        self.key(key);
        position::write_positions(partition, first, deltas, &mut self.entries);
        self
    }

    /// Adds `from`: {epoch, at}.
    #[must_use]
    pub fn begin_behind(mut self, epoch: u64, at: impl ExactSizeIterator<Item = Position>) -> Self {
        self.key("from");
        position::write_epoch(epoch, at, &mut self.entries);
        self
    }

    /// Adds `from`: {time_ms}, ms since 1970.
    #[must_use]
    pub fn begin_at_time(mut self, time_ms: u64) -> Self {
        self.key("from");
        Head::write(head::MAP, 1, &mut self.entries);
        Head::write_text("time_ms", &mut self.entries);
        Head::write(head::UINT, time_ms, &mut self.entries);
        self
    }

    /// Adds a value that is encoded already.
    #[must_use]
    pub fn raw(mut self, key: &str, item: &[u8]) -> Self {
        self.key(key);
        self.entries.extend_from_slice(item);
        self
    }

    /// Adds what stands in a map that was checked, but for these keys.
    #[must_use]
    pub fn copy(mut self, meta: &Meta<'_>, except: &[&str]) -> Self {
        for (key, item) in meta.entries() {
            if except.iter().any(|name| name.as_bytes() == key) {
                continue;
            }
            self.keys = self.keys.saturating_add(1);
            Head::write(head::TEXT, key.len() as u64, &mut self.entries);
            self.entries.extend_from_slice(key);
            self.entries.extend_from_slice(item);
        }
        self
    }

    /// Whether a map of all that was added is small enough to be sent.
    #[must_use]
    pub fn fits(&self) -> bool {
        usize::from(self.keys) <= META_KEYS_MAX && self.entries.len() + 2 <= META_BYTES_MAX
    }

    /// The encoded map; `None` if nothing was added.
    #[must_use]
    pub fn finish(mut self) -> Option<Vec<u8>> {
        if self.keys == 0 {
            return None;
        }
        debug_assert!(self.fits());
        let mut map_head = Vec::with_capacity(2);
        Head::write(head::MAP, self.keys.into(), &mut map_head);
        self.entries.splice(0..0, map_head);
        Some(self.entries)
    }

    fn key(&mut self, key: &str) {
        self.keys = self.keys.saturating_add(1);
        Head::write_text(key, &mut self.entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_counts_the_keys() {
        assert_eq!(MetaWriter::new().finish(), None);
        assert_eq!(MetaWriter::new().uint("a", 1).finish().unwrap(), b"\xa1\x61a\x01");
        let mut writer = MetaWriter::new();
        for key in 0..24 {
            writer = writer.flag(&alloc::format!("k{key}"), true);
        }
        let raw = writer.finish().unwrap();
        assert_eq!(raw[..2], [0xb8, 24]);
        assert_eq!(super::super::check(&raw), Ok(raw.len()));
    }

    #[test]
    fn a_map_is_copied_but_for_some_keys() {
        let old = MetaWriter::new()
            .uint("timeout_ms", 70_000)
            .text("trace", "00-ab")
            .raw("x-own", &[0x82, 1, 2])
            .finish()
            .unwrap();
        let writer = MetaWriter::new().copy(&Meta::from_checked(&old), &["timeout_ms", "credit"]);
        assert!(writer.fits());
        let new = writer.uint("timeout_ms", 5).finish().unwrap();
        assert_eq!(super::super::check(&new), Ok(new.len()));
        let new = Meta::from_checked(&new);
        assert_eq!(
            (new.uint("timeout_ms"), new.text("trace")),
            (Ok(Some(5)), Ok(Some("00-ab")))
        );
        assert_eq!(new.get("x-own"), Some(&[0x82, 1, 2][..]));
        let full = (0..META_KEYS_MAX).fold(MetaWriter::new(), |writer, key| {
            writer.flag(&alloc::format!("k{key}"), true)
        });
        assert!(full.fits() && !full.uint("credit", 1).fits());
    }
}
