//! Positions in logs: where an event stands, which events a run brings, which are acknowledged, and where a
//! subscription begins [P-5.8 – P-5.11].
//!
//! All of them are small CBOR items inside `meta` (`at`, `ack`, `run`, `from`) or the payload that accepts a
//! subscription. Readers check the whole item once, then iterate over its bytes without looking for faults again;
//! nothing is allocated.

use alloc::vec::Vec;

use crate::head::{self, Head, Items};

/// One place in one partition's log. Offsets begin at 1; offset 0 is the place before the first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The partition.
    pub partition: u16,
    /// The offset in it.
    pub offset: u64,
}

impl Position {
    /// Reads `[partition, offset]`; `None` if the item is something else.
    #[must_use]
    pub fn read(item: &[u8]) -> Option<Self> {
        let positions = Positions::read(item)?;
        (positions.count == 1).then_some(Self {
            partition: positions.partition,
            offset: positions.first,
        })
    }

    /// Appends `[partition, offset]`.
    pub fn write(self, out: &mut Vec<u8>) {
        write_positions(self.partition, self.offset, core::iter::empty(), out);
    }
}

/// Ascending places in one partition: `[partition, first offset, delta, …]`, each delta from the offset before it and
/// at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions<'a> {
    partition: u16,
    first: u64,
    count: u64,
    /// `count - 1` unsigned integers, each checked; a break may stand behind them.
    deltas: &'a [u8],
}

impl<'a> Positions<'a> {
    /// Reads them; `None` if the item is something else, if they do not ascend, or if an offset is beyond 2⁶⁴ − 1.
    #[must_use]
    pub fn read(item: &'a [u8]) -> Option<Self> {
        let array = Head::read(item).ok().filter(|head| head.major == head::ARRAY)?;
        let mut rest = &item[array.len..];
        let partition = take_uint(&mut rest)?.try_into().ok()?;
        let first = take_uint(&mut rest)?;
        let deltas = rest;
        let (mut offset, mut count) = (first, 1);
        while array
            .argument
            .map_or(rest != [head::BREAK], |elements| count + 1 < elements)
        {
            let delta = take_uint(&mut rest).filter(|delta| *delta > 0)?;
            offset = u64::checked_add(offset, delta)?;
            count += 1;
        }
        let is_whole = match array.argument {
            Some(elements) => elements == count + 1 && rest.is_empty(),
            None => rest == [head::BREAK],
        };
        is_whole.then_some(Self {
            partition,
            first,
            count,
            deltas,
        })
    }

    /// The partition that they are in.
    #[must_use]
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// The first offset.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// How many they are, at least one.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The deltas: one less than there are offsets.
    #[must_use]
    pub fn deltas(&self) -> Deltas<'a> {
        Deltas {
            rest: self.deltas,
            left: self.count - 1,
        }
    }

    /// All offsets, ascending.
    pub fn offsets(&self) -> impl Iterator<Item = u64> + use<'a> {
        let deltas = self.deltas();
        core::iter::once(0)
            .chain(deltas)
            .scan(self.first, |offset, delta| {
                *offset = offset.wrapping_add(delta); // checked when it was read
                Some(*offset)
            })
    }
}

/// See [`Positions::deltas`].
#[derive(Debug, Clone)]
pub struct Deltas<'a> {
    rest: &'a [u8],
    left: u64,
}

impl Iterator for Deltas<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        take_uint(&mut self.rest)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

/// Each element takes a byte, so there are no more of them than fit in memory.
impl ExactSizeIterator for Deltas<'_> {}

/// Appends `[partition, first offset, delta, …]`.
pub fn write_positions(
    partition: u16,
    first: u64,
    deltas: impl ExactSizeIterator<Item = u64>,
    out: &mut Vec<u8>,
) {
    Head::write(head::ARRAY, 2 + deltas.len() as u64, out);
    Head::write(head::UINT, partition.into(), out);
    Head::write(head::UINT, first, out);
    for delta in deltas {
        Head::write(head::UINT, delta, out);
    }
}

/// Places in several partitions: `[[partition, offset], …]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionList<'a> {
    /// The array; each element was checked.
    item: &'a [u8],
}

impl<'a> PositionList<'a> {
    /// Reads it; `None` if the item is something else.
    #[must_use]
    pub fn read(item: &'a [u8]) -> Option<Self> {
        Items::of_array(item)?
            .all(|element| Position::read(element).is_some())
            .then_some(Self { item })
    }

    /// The places, in the order in which they stand there. A partition may stand twice; the last counts.
    pub fn iter(&self) -> impl Iterator<Item = Position> + use<'a> {
        Items::of_array(self.item)
            .into_iter()
            .flatten()
            .filter_map(Position::read)
    }
}

/// Appends `[[partition, offset], …]`.
pub fn write_position_list(positions: impl ExactSizeIterator<Item = Position>, out: &mut Vec<u8>) {
    Head::write(head::ARRAY, positions.len() as u64, out);
    for position in positions {
        position.write(out);
    }
}

/// Where a subscription begins: the value of `meta.from` [P-5.11].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin<'a> {
    /// Behind what the log holds when the subscription is accepted.
    New,
    /// At the first event that is still held.
    All,
    /// Behind these places of this incarnation of the logs.
    Epoch {
        /// The incarnation.
        epoch: u64,
        /// The last place of each partition that is not wanted again.
        at: PositionList<'a>,
    },
    /// At the first event that was logged at this time or later, ms since 1970.
    TimeMs(u64),
}

impl<'a> Begin<'a> {
    /// Reads it; `None` if the item is something else.
    #[must_use]
    pub fn read(item: &'a [u8]) -> Option<Self> {
        if let Some(text) = head::as_text(item) {
            return match text {
                "new" => Some(Self::New),
                "all" => Some(Self::All),
                _ => None,
            };
        }
        let (mut epoch, mut at, mut time_ms) = (None, None, None);
        let mut pairs = Items::of_map(item)?;
        while let Some((key, value)) = pairs.pair() {
            let is_first = match head::as_text(key)? {
                "epoch" => epoch.replace(head::as_uint(value)?).is_none(),
                "at" => at.replace(PositionList::read(value)?).is_none(),
                "time_ms" => time_ms.replace(head::as_uint(value)?).is_none(),
                _ => false,
            };
            if !is_first {
                return None;
            }
        }
        match (epoch, at, time_ms) {
            (Some(epoch), Some(at), None) => Some(Self::Epoch { epoch, at }),
            (None, None, Some(time_ms)) => Some(Self::TimeMs(time_ms)),
            _ => None,
        }
    }
}

/// Appends `{epoch, at: [[partition, offset], …]}`: the payload that accepts a subscription, and, as `meta.from`, what
/// its subscriber returns with.
pub fn write_epoch(epoch: u64, at: impl ExactSizeIterator<Item = Position>, out: &mut Vec<u8>) {
    Head::write(head::MAP, 2, out);
    Head::write_text("epoch", out);
    Head::write(head::UINT, epoch, out);
    Head::write_text("at", out);
    write_position_list(at, out);
}

/// The payload that accepts a subscription [P-5.2]; [`write_epoch`] writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acceptance<'a> {
    /// The incarnation of the logs.
    pub epoch: u64,
    /// The last place before the subscription begins, of each partition that it covers.
    pub at: PositionList<'a>,
}

impl<'a> Acceptance<'a> {
    /// Reads it from a payload that was walked; keys that are not known are passed over. `None` if the payload is
    /// something else.
    #[must_use]
    pub fn read(payload: &'a [u8]) -> Option<Self> {
        let (mut epoch, mut at) = (None, None);
        let mut pairs = Items::of_map(payload)?;
        while let Some((key, value)) = pairs.pair() {
            match head::as_text(key) {
                Some("epoch") => epoch = Some(head::as_uint(value)?),
                Some("at") => at = Some(PositionList::read(value)?),
                _ => {}
            }
        }
        Some(Self {
            epoch: epoch?,
            at: at?,
        })
    }
}

/// Takes an unsigned integer off the front.
#[inline]
fn take_uint(rest: &mut &[u8]) -> Option<u64> {
    if let [small @ 0..=23, behind @ ..] = *rest {
        *rest = behind;
        return Some((*small).into());
    }
    let head = Head::read(rest).ok().filter(|head| head.major == head::UINT)?;
    *rest = &rest[head.len..];
    head.argument
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn positions(partition: u16, offsets: &[u64]) -> Vec<u8> {
        let mut item = Vec::new();
        let deltas = offsets.windows(2).map(|pair| pair[1] - pair[0]);
        write_positions(
            partition,
            offsets[0],
            deltas.collect::<Vec<_>>().into_iter(),
            &mut item,
        );
        item
    }

    #[test]
    fn positions_are_read_as_they_were_written() {
        for offsets in [
            &[0][..],
            &[1, 2, 3],
            &[7, 8, 1_000_001, 1_000_025],
            &[u64::MAX - 300, u64::MAX - 1, u64::MAX],
        ] {
            let item = positions(65_535, offsets);
            let read = Positions::read(&item).unwrap();
            assert_eq!((read.partition(), read.first()), (65_535, offsets[0]));
            assert_eq!(
                (read.count(), read.deltas().len()),
                (offsets.len() as u64, offsets.len() - 1)
            );
            assert_eq!(read.offsets().collect::<Vec<_>>(), offsets);
            let single = (offsets.len() == 1).then(|| Position {
                partition: 65_535,
                offset: offsets[0],
            });
            assert_eq!(Position::read(&item), single);
            for cut in 0..item.len() {
                assert_eq!(Positions::read(&item[..cut]), None);
            }
            assert_eq!(Positions::read(&[&item[..], &[0]].concat()), None);
        }
        let dense: Vec<u64> = (5..1_500).collect();
        let item = positions(3, &dense);
        assert!(
            item.len() < 1_500 + 8,
            "a dense run takes a byte a position: {}",
            item.len()
        );
        assert_eq!(
            Positions::read(&item).unwrap().offsets().collect::<Vec<_>>(),
            dense
        );
    }

    #[test]
    fn an_array_of_indefinite_length_is_one_too() {
        let read = Positions::read(&[0x9f, 2, 9, 1, 0x18, 30, 0xff]).unwrap();
        assert_eq!(read.offsets().collect::<Vec<_>>(), [9, 10, 40]);
        assert_eq!(
            Position::read(&[0x9f, 2, 9, 0xff]),
            Some(Position {
                partition: 2,
                offset: 9
            })
        );
        assert_eq!(Positions::read(&[0x9f, 2, 9, 1]), None);
        assert_eq!(Positions::read(&[0x9f, 2, 0xff]), None);
    }

    #[test]
    fn what_are_no_positions() {
        for item in [
            &[0x80][..],
            &[0x81, 0],
            &[7],
            &[0xf6],
            &[0x82, 0, 0x20],
            &[0x83, 0, 5, 0],
            &[0x82, 0x1a, 0, 1, 0, 0, 1],
            &[0x83, 0, 0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 1],
            &[0xa1, 0, 1],
        ] {
            assert_eq!(Positions::read(item), None, "{item:x?}");
        }
    }

    #[test]
    fn beginnings_are_read_as_they_were_written() {
        let at = [(0, 7), (63, 1_000_001)].map(|(partition, offset)| Position { partition, offset });
        let mut item = Vec::new();
        write_epoch(1 << 60, at.into_iter(), &mut item);
        let Some(Begin::Epoch { epoch, at: list }) = Begin::read(&item) else {
            panic!("{item:x?}");
        };
        assert_eq!((epoch, list.iter().collect::<Vec<_>>()), (1 << 60, at.to_vec()));
        let accepted = Acceptance::read(&item).unwrap();
        assert_eq!((accepted.epoch, accepted.at), (epoch, list));

        assert_eq!(Begin::read(b"\x63new"), Some(Begin::New));
        assert_eq!(Begin::read(b"\x63all"), Some(Begin::All));
        assert_eq!(
            Begin::read(b"\xa1\x67time_ms\x19\x10\x00"),
            Some(Begin::TimeMs(4096))
        );
        for item in [
            &b"\x63old"[..],
            b"\x07",
            b"\xa0",
            b"\xa1\x65epoch\x01",
            b"\xa1\x62at\x80",
            b"\xa2\x65epoch\x01\x62at\x81\x00",
            b"\xa2\x65epoch\x01\x67time_ms\x01",
            b"\xa2\x67time_ms\x01\x67time_ms\x01",
            b"\xa1\x61x\x01",
        ] {
            assert_eq!(Begin::read(item), None, "{item:x?}");
        }
    }

    #[test]
    fn an_acceptance_may_say_more_than_is_known() {
        let payload = b"\xa3\x61x\xf6\x62at\x81\x82\x01\x02\x65epoch\x05";
        let accepted = Acceptance::read(payload).unwrap();
        assert_eq!(accepted.epoch, 5);
        assert_eq!(
            accepted.at.iter().collect::<Vec<_>>(),
            vec![Position {
                partition: 1,
                offset: 2
            }]
        );
        assert_eq!(Acceptance::read(b"\xa1\x65epoch\x05"), None);
        assert_eq!(Acceptance::read(b"\xf6"), None);
    }
}
