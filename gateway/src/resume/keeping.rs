//! What was said to a session that can be resumed, kept until its peer is known to have it: of each frame that is sealed
//! the counted envelopes, by reference where they are most of it [P-7.7].

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use fluxar_protocol::session::{Kept, NotKept};

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

    /// That frame is sealed.
    pub(crate) fn sealed(&mut self, framed: &Bytes) {
        if self.ranges.is_empty() {
            return;
        }
        let counted_bytes: usize = self.ranges.iter().map(|range| range.bytes()).sum();
        // A slice holds the whole frame: only where the frame is little more than that.
        let is_most = 2 * counted_bytes >= framed.len();
        let before = self.kept.bytes();
        for range in self.ranges.drain(..) {
            let envelopes = framed.slice(range.start as usize..range.end as usize);
            let envelopes = if is_most {
                envelopes
            } else {
                Bytes::copy_from_slice(&envelopes)
            };
            self.kept.keep(envelopes, range.count);
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
