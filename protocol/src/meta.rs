//! `meta`: the registry of small facts about a message [P-4]. Unknown keys are ignored and forwarded.

use alloc::vec::Vec;

use crate::error::Fault;

/// A validated meta map, as its bytes: at most 32 distinct text keys, at most 2 KiB, well-formed values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta<'a> {
    raw: &'a [u8],
}

/// How surely an event is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Qos {
    #[default]
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

impl<'a> Meta<'a> {
    /// Wraps an encoded map that this side made, or that a decode has checked.
    #[must_use]
    pub fn from_checked(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// The encoded map.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.raw
    }

    /// The encoded value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a [u8]> {
        let _ = key;
        todo!()
    }

    /// `qos`, default 0.
    ///
    /// # Errors
    /// [`Fault::MetaValue`] if it is there and not 0, 1 or 2. The others below likewise.
    pub fn qos(&self) -> Result<Qos, Fault> {
        todo!()
    }

    /// A boolean key, default false (`serve`, `end`, `retain`).
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn flag(&self, key: &'static str) -> Result<bool, Fault> {
        let _ = key;
        todo!()
    }

    /// An unsigned key (`weight`, `recv`, `credit`, `timeout_ms`, `dropped`, `dup`, `epoch`, `ttl_ms`, `prio`).
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn uint(&self, key: &'static str) -> Result<Option<u64>, Fault> {
        let _ = key;
        todo!()
    }

    /// A text key (`group`, `durable`, `type`, `trace`).
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn text(&self, key: &'static str) -> Result<Option<&'a str>, Fault> {
        let _ = key;
        todo!()
    }

    /// `run`: the header of a run of events. A count stands for unlogged events.
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn run_count(&self) -> Result<Option<u64>, Fault> {
        todo!()
    }
}

/// Writes a meta map, key by key, in the order given; the map's head is put in front at the end.
#[derive(Debug, Default, Clone)]
pub struct MetaWriter {
    entries: Vec<u8>,
    keys: u8,
}

impl MetaWriter {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new(), keys: 0 }
    }
    /// Adds an unsigned value.
    #[must_use]
    pub fn uint(self, key: &str, value: u64) -> Self {
        let _ = (key, value, &self.entries, self.keys);
        todo!()
    }
    /// Adds a text.
    #[must_use]
    pub fn text(self, key: &str, value: &str) -> Self {
        let _ = (key, value);
        todo!()
    }
    /// Adds a boolean.
    #[must_use]
    pub fn flag(self, key: &str, value: bool) -> Self {
        let _ = (key, value);
        todo!()
    }
    /// Adds a value that is encoded already.
    #[must_use]
    pub fn raw(self, key: &str, item: &[u8]) -> Self {
        let _ = (key, item);
        todo!()
    }
    /// The encoded map; `None` if nothing was added.
    #[must_use]
    pub fn finish(self) -> Option<Vec<u8>> {
        todo!()
    }
}
