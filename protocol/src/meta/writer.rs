//! Writing meta.

use alloc::vec::Vec;

use crate::head::{self, Head};
use crate::limits::{META_BYTES_MAX, META_KEYS_MAX};

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

    /// Adds a value that is encoded already.
    #[must_use]
    pub fn raw(mut self, key: &str, item: &[u8]) -> Self {
        self.key(key);
        self.entries.extend_from_slice(item);
        self
    }

    /// The encoded map; `None` if nothing was added.
    #[must_use]
    pub fn finish(mut self) -> Option<Vec<u8>> {
        if self.keys == 0 {
            return None;
        }
        debug_assert!(usize::from(self.keys) <= META_KEYS_MAX && self.entries.len() + 2 <= META_BYTES_MAX);
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
}
