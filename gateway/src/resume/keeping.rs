//! What was said to a session that can be resumed, kept until its peer is known to have it: of each frame that is sealed
//! the counted envelopes, by reference where they are most of it [P-7.7].

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use fluxar_protocol::session::{Kept, NotKept};

use crate::outbox::SLACK_BYTES;

/// Room for so many ranges stays from frame to frame.
const RANGES_ROOM: usize = 32;

/// Bytes that all sessions of a core keep together.
pub(crate) type KeptBytes = Rc<Cell<usize>>;

/// The sending side of one session.
#[derive(Debug)]
pub struct Keeping {
    kept: Kept<Bytes>,
    /// Where in the frame that is being filled counted envelopes stand, and how many: neighbours are one.
    ranges: Vec<Counted>,
    on_core: KeptBytes,
    /// There is no connection: frames are kept and go nowhere.
    is_away: bool,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    start: u32,
    end: u32,
    count: u32,
}

impl Keeping {
    /// For a new session, which keeps at most so many bytes.
    pub(crate) fn new(bytes_max: usize, on_core: KeptBytes) -> Self {
        Self {
            kept: Kept::new(bytes_max),
            ranges: Vec::new(),
            on_core,
            is_away: false,
        }
    }

    pub(crate) fn is_away(&self) -> bool {
        self.is_away
    }

    pub(crate) fn set_away(&mut self, is_away: bool) {
        self.is_away = is_away;
    }

    /// So many counted envelopes were written there into the frame that is being filled.
    #[inline]
    pub(crate) fn note(&mut self, start: usize, end: usize, count: u32) {
        let (start, end) = (start as u32, end as u32);
        match self.ranges.last_mut() {
            Some(last) if last.end == start => {
                last.end = end;
                last.count += count;
            }
            _ => self.ranges.push(Counted { start, end, count }),
        }
    }

    /// That frame is sealed, in a buffer of so many bytes.
    pub(crate) fn sealed(&mut self, framed: &Bytes, buffer_bytes: usize) {
        if self.ranges.is_empty() {
            return;
        }
        let before = self.kept.bytes();
        for range in self.ranges.drain(..) {
            let envelopes = framed.slice(range.start as usize..range.end as usize);
            // A slice holds all of the frame and its unused room for as long as it is kept, whatever becomes of the others: it
            // must be most of that itself. A small frame has room of up to `SLACK_BYTES`.
            let is_most = framed.len() > SLACK_BYTES && 2 * range.bytes() >= framed.len();
            if is_most {
                self.kept.keep_holding(envelopes, range.count, buffer_bytes);
            } else {
                self.kept.keep(Bytes::copy_from_slice(&envelopes), range.count);
            }
        }
        if self.ranges.capacity() > RANGES_ROOM {
            self.ranges = Vec::new(); // such a frame is rare, and sessions are many
        }
        self.count(before);
    }

    /// The peer told its `recv`.
    pub(crate) fn covered(&mut self, recv: u64) -> Result<(), NotKept> {
        let before = self.kept.bytes();
        let covered = self.kept.covered(recv);
        self.count(before);
        covered
    }

    /// What to send again to a peer that has `recv`, piece by piece.
    pub(crate) fn resume(&mut self, recv: u64, mut again: impl FnMut(Bytes)) -> Result<(), NotKept> {
        let before = self.kept.bytes();
        let pieces = self.kept.resume(recv)?;
        for (piece, from) in pieces {
            again(piece.slice(from..));
        }
        self.count(before);
        Ok(())
    }

    /// Whether it could be resumed from there.
    pub(crate) fn can_resume(&mut self, recv: u64) -> Result<(), NotKept> {
        self.resume(recv, |_| {})
    }

    /// Bytes that it keeps.
    pub(crate) fn bytes(&self) -> usize {
        self.kept.bytes()
    }

    /// Forgets the oldest until it keeps no more than so many bytes.
    pub(crate) fn shrink_to(&mut self, bytes_max: usize) {
        let before = self.kept.bytes();
        self.kept.shrink_to(bytes_max);
        self.count(before);
    }

    /// Takes note of what it keeps now and `before`.
    fn count(&self, before: usize) {
        self.on_core.set(self.on_core.get() - before + self.kept.bytes());
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.on_core.set(self.on_core.get() - self.kept.bytes());
    }
}

impl Counted {
    fn bytes(&self) -> usize {
        (self.end - self.start) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What keeps of a frame of so many bytes, in a buffer of so many, the counted bytes that stand there.
    fn keeping(bytes: usize, room: usize, ranges: &[(usize, usize)]) -> (Keeping, Bytes) {
        let mut frame = Vec::with_capacity(room);
        frame.resize(bytes, 0xab);
        let framed = Bytes::from(frame);
        let mut keeping = Keeping::new(usize::MAX, KeptBytes::default());
        for &(start, end) in ranges {
            keeping.note(start, end, 1);
        }
        keeping.sealed(&framed, room);
        (keeping, framed)
    }

    #[test]
    fn a_small_part_of_a_frame_does_not_hold_on_to_all_of_it() {
        const BYTES: usize = 1 << 20;
        let ranges = [(4, BYTES - 200), (BYTES - 100, BYTES)];
        let (mut keeping, framed) = keeping(BYTES, BYTES, &ranges);
        assert!(!framed.is_unique(), "what is most of it is not copied");
        keeping.covered(1).expect("it was sent");
        assert!(keeping.bytes() < 200);
        assert!(
            framed.is_unique(),
            "{} bytes are said to be kept",
            keeping.bytes()
        );
    }

    #[test]
    fn a_small_frame_does_not_hold_on_to_its_room() {
        let (keeping, framed) = keeping(54, SLACK_BYTES, &[(4, 54)]);
        assert!(
            framed.is_unique(),
            "{} bytes are said to be kept",
            keeping.bytes()
        );
    }

    #[test]
    fn what_is_kept_of_a_frame_counts_for_its_buffer() {
        const ROOM: usize = 1 << 20;
        let (mut keeping, framed) = keeping(ROOM / 2, ROOM, &[(4, ROOM / 2)]);
        assert!(!framed.is_unique());
        assert!(keeping.bytes() >= ROOM, "{} bytes", keeping.bytes());
        keeping.covered(1).expect("it was sent");
        assert_eq!((keeping.bytes(), keeping.on_core.get()), (0, 0));
    }

    #[test]
    fn a_frame_of_many_ranges_leaves_no_room_behind() {
        let ranges: Vec<_> = (0..10_000).map(|at| (4 + 2 * at, 5 + 2 * at)).collect();
        let (keeping, _) = keeping(20_004, 20_004, &ranges);
        assert!(keeping.ranges.capacity() <= RANGES_ROOM);
    }
}
