//! `meta`: the registry of small facts about a message [P-4]. Unknown keys are ignored and forwarded.
//!
//! Decoding an envelope checks the map as a map; what a key's value must be is checked by
//! [`crate::exchange::verb`] for the keys that the message's type uses, and again by the readers here.

mod asked;
mod check;
mod published;
mod registry;
mod writer;

use crate::cbor;
use crate::error::Fault;
use crate::head::{self, Head};
use crate::limits::PAYLOAD_DEPTH_MAX;
use crate::position::{Begin, Position, Positions};

pub use asked::{Asked, PRIO_DEFAULT};
pub(crate) use check::check;
pub use published::Published;
pub use writer::MetaWriter;

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

/// What `run` says of the events behind a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run<'a> {
    /// So many unlogged ones.
    Counted(u64),
    /// Logged ones, at these positions.
    Logged(Positions<'a>),
}

impl Run<'_> {
    /// How many they are.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Counted(count) => *count,
            Self::Logged(positions) => positions.count(),
        }
    }
}

impl Qos {
    fn from_item(item: &[u8]) -> Option<Self> {
        match head::as_uint(item)? {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

impl<'a> Meta<'a> {
    /// Wraps an encoded map that this side made, or that a decode has checked. Of anything else the readers below
    /// see what comes before the first fault.
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
        self.entries()
            .find(|(found, _)| *found == key.as_bytes())
            .map(|(_, value)| value)
    }

    /// `qos`, default 0.
    ///
    /// # Errors
    /// [`Fault::MetaValue`] if it is there and not 0, 1 or 2. The others below likewise.
    pub fn qos(&self) -> Result<Qos, Fault> {
        self.read("qos", Qos::from_item).map(Option::unwrap_or_default)
    }

    /// A boolean key, default false (`serve`, `end`, `retain`, `skip_damaged`).
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn flag(&self, key: &'static str) -> Result<bool, Fault> {
        self.read(key, head::as_bool).map(Option::unwrap_or_default)
    }

    /// An unsigned key (`weight`, `recv`, `credit`, `timeout_ms`, `dropped`, `dup`, `epoch`, `ttl_ms`, `prio`).
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn uint(&self, key: &'static str) -> Result<Option<u64>, Fault> {
        self.read(key, head::as_uint)
    }

    /// A text key (`group`, `durable`, `type`, `trace`). It has to be of definite length, so that it can be borrowed.
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn text(&self, key: &'static str) -> Result<Option<&'a str>, Fault> {
        self.read(key, head::as_text)
    }

    /// Whether a key, whatever its name, has exactly this text as its value.
    #[must_use]
    pub fn has_text(&self, key: &str, text: &str) -> bool {
        self.get(key).and_then(head::as_text) == Some(text)
    }

    /// How many events stand behind the header of a run: `run` is their count, or, for logged ones, their
    /// positions.
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn run_count(&self) -> Result<Option<u64>, Fault> {
        Ok(self.run()?.map(|run| run.count()))
    }

    /// `run`: the header of the events that stand behind it.
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn run(&self) -> Result<Option<Run<'a>>, Fault> {
        self.read("run", |item| match head::as_uint(item) {
            Some(count) => Some(Run::Counted(count)),
            None => Positions::read(item).map(Run::Logged),
        })
    }

    /// `at`: where an event was logged, or how far a cursor moves on.
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn at(&self) -> Result<Option<Position>, Fault> {
        self.read("at", Position::read)
    }

    /// `ack`: what a subscriber has handled.
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn ack(&self) -> Result<Option<Positions<'a>>, Fault> {
        self.read("ack", Positions::read)
    }

    /// `from`: where a subscription begins.
    ///
    /// # Errors
    /// [`Fault::MetaValue`].
    pub fn begin(&self) -> Result<Option<Begin<'a>>, Fault> {
        self.read("from", Begin::read)
    }

    fn read<T>(&self, key: &'static str, reader: impl Fn(&'a [u8]) -> Option<T>) -> Result<Option<T>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(item) => reader(item).map(Some).ok_or(Fault::MetaValue(key)),
        }
    }

    /// The content of each key with its encoded value.
    pub(crate) fn entries(&self) -> Entries<'a> {
        match Head::read(self.raw) {
            Ok(Head {
                major: head::MAP,
                len,
                ..
            }) => Entries {
                rest: &self.raw[len..],
            },
            _ => Entries { rest: &[] },
        }
    }
}

/// See [`Meta::entries`]. The map's bytes end with its last value, so there is nothing to count.
pub(crate) struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (start, len) = match *self.rest {
            [first @ 0x60..0x78, ..] => (1, usize::from(first & 0x1f)),
            [0x78, len, ..] => (2, usize::from(len)),
            [0x79, high, low, ..] => (3, usize::from(u16::from_be_bytes([high, low]))),
            _ => return None,
        };
        let (key, rest) = self.rest[start..].split_at_checked(len)?;
        let (value, rest) = rest.split_at(value_len(rest)?);
        self.rest = rest;
        Some((key, value))
    }
}

/// Length of a checked value.
#[inline]
fn value_len(rest: &[u8]) -> Option<usize> {
    match *rest {
        [0x00..=0x17 | 0x20..=0x37 | 0xe0..=0xf7, ..] => Some(1),
        [first @ (0x40..=0x57 | 0x60..=0x77), ..] => Some(1 + usize::from(first & 0x1f)),
        [0x18 | 0x38, ..] => Some(2),
        [0x19 | 0x39 | 0xf9, ..] => Some(3),
        [0x1a | 0x3a | 0xfa, ..] => Some(5),
        [0x1b | 0x3b | 0xfb, ..] => Some(9),
        [0x58 | 0x78, len, ..] => Some(2 + usize::from(len)),
        _ => cbor::walk(rest, PAYLOAD_DEPTH_MAX).ok(),
    }
    .filter(|len| *len <= rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_by_type() {
        let raw = MetaWriter::new()
            .uint("qos", 1)
            .text("group", "büro")
            .flag("serve", true)
            .flag("end", false)
            .uint("timeout_ms", 1 << 40)
            .raw("run", &[0x84, 3, 7, 1, 2])
            .finish()
            .unwrap();
        let meta = Meta::from_checked(&raw);
        assert_eq!(check(&raw), Ok(raw.len()));
        assert_eq!(meta.qos(), Ok(Qos::AtLeastOnce));
        assert_eq!(meta.text("group"), Ok(Some("büro")));
        assert_eq!(
            (meta.flag("serve"), meta.flag("end"), meta.flag("retain")),
            (Ok(true), Ok(false), Ok(false))
        );
        assert_eq!(meta.uint("timeout_ms"), Ok(Some(1 << 40)));
        assert_eq!(meta.uint("weight"), Ok(None));
        assert_eq!(meta.run_count(), Ok(Some(3)));
        assert_eq!(meta.get("run"), Some(&[0x84, 3, 7, 1, 2][..]));
        assert_eq!(meta.text("qos"), Err(Fault::MetaValue("qos")));
        assert_eq!(meta.uint("group"), Err(Fault::MetaValue("group")));
        assert_eq!(meta.flag("group"), Err(Fault::MetaValue("group")));
    }

    #[test]
    fn runs_are_counts_or_positions() {
        for (item, count) in [
            (&[7][..], Some(7)),
            (&[0x82, 0, 1], Some(1)),
            (&[0x9f, 0, 1, 1, 0xff], Some(2)),
        ] {
            let raw = MetaWriter::new().raw("run", item).finish().unwrap();
            assert_eq!(Meta::from_checked(&raw).run_count(), Ok(count));
        }
        let raw = MetaWriter::new()
            .positions("run", 3, 7, [1, 2].into_iter())
            .finish()
            .unwrap();
        let Ok(Some(Run::Logged(positions))) = Meta::from_checked(&raw).run() else {
            panic!("{raw:x?}");
        };
        assert_eq!(positions.partition(), 3);
        assert!(positions.offsets().eq([7, 8, 10]));
        for item in [&[0x20][..], &[0x81, 0], &[0x80], &[0x83, 0, 1, 0x20], &[0xf6]] {
            let raw = MetaWriter::new().raw("run", item).finish().unwrap();
            assert_eq!(Meta::from_checked(&raw).run_count(), Err(Fault::MetaValue("run")));
        }
    }

    #[test]
    fn positions_are_read_by_their_keys() {
        let at = Position {
            partition: 63,
            offset: 1_000_001,
        };
        let raw = MetaWriter::new()
            .position("at", at)
            .positions("ack", 63, 40, [2].into_iter())
            .begin_behind(9, [at].into_iter())
            .finish()
            .unwrap();
        let meta = Meta::from_checked(&raw);
        assert_eq!(check(&raw), Ok(raw.len()));
        assert_eq!(meta.at(), Ok(Some(at)));
        assert!(meta.ack().unwrap().unwrap().offsets().eq([40, 42]));
        let Ok(Some(Begin::Epoch { epoch: 9, at: list })) = meta.begin() else {
            panic!("{raw:x?}");
        };
        assert!(list.iter().eq([at]));
        assert_eq!(Meta::from_checked(&[0xa0]).at(), Ok(None));
        let raw = MetaWriter::new()
            .uint("at", 1)
            .text("from", "old")
            .finish()
            .unwrap();
        let meta = Meta::from_checked(&raw);
        assert_eq!(meta.at(), Err(Fault::MetaValue("at")));
        assert_eq!(meta.begin(), Err(Fault::MetaValue("from")));
    }

    #[test]
    fn unchecked_bytes_are_harmless() {
        for raw in [
            &b""[..],
            b"\xf6",
            b"\xa1",
            b"\xa1\x65ab",
            b"\xa1\x61a",
            b"\xa1\x61a\x1f",
            b"\xa1\x78",
        ] {
            assert_eq!(Meta::from_checked(raw).get("a"), None);
        }
    }
}
