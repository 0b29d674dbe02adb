//! Pieces of work: consecutive events for one member, put together out of what was read from the log.

use bytes::Bytes;
use fluxar_protocol::limits::POSITIONS_BYTES_MAX;
use fluxar_protocol::position;

use super::ledger::MemberKey;
use crate::log::Stored;

/// Most bytes of events in a piece; a single larger one goes alone.
pub(crate) const PIECE_BYTES_MAX: usize = 60 * 1024;
/// What the heads of an array of positions take at most: its own, the partition's, the first offset's.
const POSITIONS_HEAD_BYTES: usize = 3 + 3 + 9;

/// Ready to be sent to a member.
#[derive(Debug, Clone)]
pub struct Piece {
    /// `[partition, first offset, delta, …]`, encoded.
    pub positions: Bytes,
    /// How many events.
    pub count: u32,
    /// How often each of them may have been given before.
    pub dup: u32,
    /// The events, back to back.
    pub events: Bytes,
}

/// Where an event stands in what was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Which of the runs.
    pub(crate) run: usize,
    /// Which event of it.
    pub(crate) nth: usize,
}

/// A piece in the making.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) member: MemberKey,
    pub(crate) dup: u32,
    offsets: Vec<u64>,
    places: Vec<Place>,
    bytes: usize,
    positions_bytes: usize,
}

impl Draft {
    pub(crate) fn begin(member: MemberKey, dup: u32) -> Self {
        Self {
            member,
            dup,
            offsets: Vec::new(),
            places: Vec::new(),
            bytes: 0,
            positions_bytes: POSITIONS_HEAD_BYTES,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.offsets.len()
    }

    /// Adds an event, with an offset beyond those before. `false`: it does not fit any more, begin another piece.
    pub(crate) fn add(&mut self, offset: u64, place: Place, bytes: usize) -> bool {
        if let Some(&last) = self.offsets.last() {
            let delta_bytes = uint_bytes(offset - last);
            if self.bytes + bytes > PIECE_BYTES_MAX
                || self.positions_bytes + delta_bytes > POSITIONS_BYTES_MAX
            {
                return false;
            }
            self.positions_bytes += delta_bytes;
        }
        self.offsets.push(offset);
        self.places.push(place);
        self.bytes += bytes;
        true
    }

    /// Puts it together: a slice of what was read if the events stand there one behind the other, else a copy.
    pub(crate) fn finish<'a>(self, partition: u16, run: impl Fn(usize) -> &'a Stored) -> Option<Piece> {
        let (&first, last) = (self.offsets.first()?, self.places.last()?);
        let from = self.places.first()?;
        let is_row = self
            .places
            .windows(2)
            .all(|pair| pair[0].run == pair[1].run && pair[0].nth + 1 == pair[1].nth);
        let events = if is_row {
            run(from.run).events.slice(from.nth..last.nth + 1).bytes
        } else {
            let mut copy = Vec::with_capacity(self.bytes);
            for place in &self.places {
                copy.extend_from_slice(run(place.run).events.get(place.nth));
            }
            copy.into()
        };
        let mut positions = Vec::with_capacity(self.positions_bytes);
        let deltas = self.offsets.windows(2).map(|pair| pair[1] - pair[0]);
        position::write_positions(partition, first, deltas, &mut positions);
        Some(Piece {
            positions: positions.into(),
            count: self.offsets.len() as u32,
            dup: self.dup,
            events,
        })
    }
}

/// How many bytes a CBOR unsigned integer takes.
fn uint_bytes(value: u64) -> usize {
    match value {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// The topic of a compact event as it stands in a log: behind the heads of array and type, the id and a null ref.
/// `None` for what is no event.
pub(crate) fn topic_of(event: &[u8]) -> Option<&str> {
    const TARGET_AT: usize = 1 + 1 + 17 + 1;
    let (start, bytes) = match *event.get(TARGET_AT)? {
        head @ 0x60..=0x77 => (TARGET_AT + 1, usize::from(head & 0x1f)),
        0x78 => (TARGET_AT + 2, usize::from(*event.get(TARGET_AT + 1)?)),
        _ => return None,
    };
    std::str::from_utf8(event.get(start..start + bytes)?).ok()
}
