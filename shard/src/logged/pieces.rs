//! Pieces: stored events as they go behind one header, with their positions, made once for all that get the same.
//!
//! A piece shares the bytes that the events were stored in where those that are wanted stand one behind the other there.
//! Where others lie between them, or where small batches meet, the wanted ones are copied together, so that a reader
//! that catches up gets few large pieces. What is small and was cut out of something large is copied, too: whoever has it would
//! hold all of that in memory, for as long as its connection takes.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use fluxar_protocol::envelope::compact::topic_bytes_of;
use fluxar_protocol::limits::{POSITIONS_BYTES_MAX, RUN_BYTES_MAX};
use fluxar_protocol::position::write_positions;

use crate::log::Stored;

/// Most bytes of events behind one header; one larger event has a header of its own. The header fits into the rest of what
/// every receiver takes.
pub(crate) const PIECE_BYTES_MAX: usize = RUN_BYTES_MAX - 4 * 1024;
/// Most events behind one header when each offset is one more than the one before.
pub(crate) const PIECE_EVENTS_MAX: usize = POSITIONS_BYTES_MAX - POSITIONS_HEAD_BYTES_MAX;
/// Array head, partition, first offset.
const POSITIONS_HEAD_BYTES_MAX: usize = 3 + 3 + 9;

/// Fewer bytes of what was read are copied: a read is up to 256 KiB, of which a batch tells nothing.
const SHARED_BYTES_MIN: usize = 32 * 1024;

const _: () = assert!(PIECE_BYTES_MAX + POSITIONS_BYTES_MAX + 256 <= RUN_BYTES_MAX);

/// Events with the header's positions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Piece {
    /// `meta.run`, encoded.
    pub positions: Bytes,
    /// The events back to back.
    pub events: Bytes,
    /// How many.
    pub count: u32,
    /// The offset of the first.
    pub first: u64,
    /// The offset of the last.
    pub last: u64,
}

/// The topic of a compact event.
pub(crate) fn topic_of(event: &[u8]) -> &str {
    let text = topic_bytes_of(event).and_then(|text| std::str::from_utf8(text).ok());
    text.unwrap_or_default() // it was checked before it was stored
}

/// The topic of events that are looked at one behind the other. Most have that of the one before, which their bytes show: only
/// what differs is read as a text.
#[derive(Debug, Default)]
pub(crate) struct RunningTopic<'a> {
    bytes: Option<&'a [u8]>,
    text: &'a str,
}

impl<'a> RunningTopic<'a> {
    /// Goes on to an event; whether its topic is another than that of the one before.
    #[inline]
    pub(crate) fn moves_to(&mut self, event: &'a [u8]) -> bool {
        let bytes = topic_bytes_of(event).unwrap_or_default();
        if self.bytes == Some(bytes) {
            return false;
        }
        self.bytes = Some(bytes);
        self.text = topic_of(event);
        true
    }

    /// That of the last event.
    #[inline]
    pub(crate) fn text(&self) -> &'a str {
        self.text
    }
}

/// Cuts stored events of one partition into pieces.
#[derive(Debug)]
pub(crate) struct Cutter {
    partition: u16,
    pieces: Vec<Piece>,
    offsets: Vec<u64>,
    /// What the positions take without their first three.
    deltas_bytes: usize,
    /// Events that stand one behind the other in stored bytes; empty if they are being copied, or there are none.
    span: Option<(Bytes, Range<usize>)>,
    copied: BytesMut,
    /// Fewer bytes are not shared.
    shared_bytes_min: usize,
}

impl Cutter {
    /// Of what was read: each batch may be a part of something large.
    pub(crate) fn new(partition: u16) -> Self {
        Self {
            shared_bytes_min: SHARED_BYTES_MIN,
            ..Self::of_committed(partition)
        }
    }

    /// Of what was committed just now: each batch has memory of its own.
    pub(crate) fn of_committed(partition: u16) -> Self {
        Self {
            partition,
            pieces: Vec::new(),
            offsets: Vec::new(),
            deltas_bytes: 0,
            span: None,
            copied: BytesMut::new(),
            shared_bytes_min: 0,
        }
    }

    /// Adds the event that stands there in a stored batch.
    pub(crate) fn push(&mut self, batch: &Bytes, at: Range<usize>, offset: u64) {
        let delta_bytes = self
            .offsets
            .last()
            .map_or(0, |last| uint_bytes(offset.wrapping_sub(*last)));
        let is_full = self.bytes() + at.len() > PIECE_BYTES_MAX
            || POSITIONS_HEAD_BYTES_MAX + self.deltas_bytes + delta_bytes > POSITIONS_BYTES_MAX;
        if is_full && !self.offsets.is_empty() {
            self.seal();
        } else {
            self.deltas_bytes += delta_bytes;
        }
        self.offsets.push(offset);
        match &mut self.span {
            Some((bytes, span)) if span.end == at.start && is_same(bytes, batch) => span.end = at.end,
            None if self.copied.is_empty() => self.span = Some((batch.clone(), at)),
            _ => {
                if let Some((bytes, span)) = self.span.take() {
                    self.copied.extend_from_slice(&bytes[span]);
                }
                self.copied.extend_from_slice(&batch[at]);
            }
        }
    }

    /// How large the piece that is being made is.
    fn bytes(&self) -> usize {
        self.span
            .as_ref()
            .map_or(self.copied.len(), |(_, span)| span.len())
    }

    fn seal(&mut self) {
        let (Some(&first), Some(&last)) = (self.offsets.first(), self.offsets.last()) else {
            return;
        };
        let mut positions = Vec::with_capacity(POSITIONS_HEAD_BYTES_MAX + self.deltas_bytes);
        let deltas = self.offsets.windows(2).map(|pair| pair[1] - pair[0]);
        write_positions(self.partition, first, deltas, &mut positions);
        let events = match self.span.take() {
            // A small rest of something large is not to keep all of it in memory.
            Some((bytes, span)) if span.len() < self.shared_bytes_min.max(bytes.len() / 2) => {
                Bytes::copy_from_slice(&bytes[span])
            }
            Some((bytes, span)) => bytes.slice(span),
            None => self.copied.split().freeze(),
        };
        self.pieces.push(Piece {
            positions: positions.into(),
            events,
            count: self.offsets.len() as u32,
            first,
            last,
        });
        self.offsets.clear();
        self.deltas_bytes = 0;
    }

    pub(crate) fn finish(mut self) -> Vec<Piece> {
        self.seal();
        self.pieces
    }
}

/// Adds the events of a batch that are wanted, and says how many there were.
pub(crate) fn cut(cutter: &mut Cutter, stored: &Stored, mut wanted: impl FnMut(&[u8], u64) -> bool) {
    let bytes = &stored.events.bytes;
    let mut start = 0;
    for (offset, &end) in stored.offsets().zip(stored.events.ends.iter()) {
        let end = end as usize;
        if wanted(&bytes[start..end], offset) {
            cutter.push(bytes, start..end, offset);
        }
        start = end;
    }
}

fn is_same(one: &Bytes, other: &Bytes) -> bool {
    one.as_ptr() == other.as_ptr() && one.len() == other.len()
}

/// A batch of which everything is wanted as one piece, if it can be one.
pub(crate) fn whole(partition: u16, stored: &Stored) -> Option<Piece> {
    let count = stored.events.len();
    let bytes = stored.events.bytes.len();
    if stored.deltas.is_some()
        || count == 0
        || count > PIECE_EVENTS_MAX
        || (bytes > PIECE_BYTES_MAX && count > 1)
    {
        return None;
    }
    let mut positions = Vec::with_capacity(POSITIONS_HEAD_BYTES_MAX + count - 1);
    write_positions(
        partition,
        stored.first,
        std::iter::repeat_n(1, count - 1),
        &mut positions,
    );
    Some(Piece {
        positions: positions.into(),
        events: stored.events.bytes.clone(),
        count: count as u32,
        first: stored.first,
        last: stored.last(),
    })
}

/// Bytes of an encoded unsigned integer.
fn uint_bytes(value: u64) -> usize {
    match value {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::{Envelope, Form, Id, Kind};

    use super::*;

    /// What a read brought, and the batch of so many bytes in it.
    fn read_with(batch_bytes: usize) -> (Bytes, Bytes) {
        let read = Bytes::from(vec![7; 256 * 1024]);
        let batch = read.slice(1_000..1_000 + batch_bytes);
        (read, batch)
    }

    fn event_of(topic: &str) -> Vec<u8> {
        let mut event = Vec::new();
        Envelope {
            kind: Kind::Event,
            id: Id([0x5a; 16]),
            reference: None,
            target: Some(topic),
            meta: None,
            payload: &[0xf6],
            error: None,
        }
        .encode(Form::Compact, &mut event);
        event
    }

    #[test]
    fn a_running_topic_is_that_of_the_last_event() {
        let mut broken = event_of("abc");
        *broken.iter_mut().find(|byte| **byte == b'b').unwrap() = 0xff;
        let events = ["a", "a", "ab", "ab", "a"].map(event_of);
        let mut topic = RunningTopic::default();
        let seen = events.iter().chain([&broken, &events[0]]).map(|event| {
            let is_other = topic.moves_to(event);
            (is_other, topic.text())
        });
        let expected = [
            (true, "a"),
            (false, "a"),
            (true, "ab"),
            (false, "ab"),
            (true, "a"),
            (true, ""),
            (true, "a"),
        ];
        assert_eq!(seen.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_small_piece_holds_nothing_else_in_memory() {
        for (bytes, is_shared) in [(100, false), (SHARED_BYTES_MIN, true)] {
            let (read, batch) = read_with(bytes);
            let mut cutter = Cutter::new(3);
            cutter.push(&batch, 0..bytes, 1);
            drop(batch);
            let pieces = cutter.finish();
            assert_eq!(pieces[0].events.len(), bytes);
            assert_eq!(read.is_unique(), !is_shared, "{bytes} bytes");
        }
    }

    #[test]
    fn what_was_committed_just_now_is_shared() {
        let batch = Bytes::from(vec![7; 100]);
        let mut cutter = Cutter::of_committed(3);
        cutter.push(&batch, 0..60, 1);
        let pieces = cutter.finish();
        assert!(!batch.is_unique());
        assert_eq!(pieces[0].events, batch[..60]);
    }
}
