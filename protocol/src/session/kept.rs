//! What was sent and may have to be sent again [P-7.7].

use alloc::collections::{VecDeque, vec_deque};
use core::{fmt, mem};

use crate::batch::Batch;

/// Room for so many items is kept, whether there are any or not.
const ROOM_MIN: usize = 16;

/// The counted envelopes that the peer is not known to have, oldest first, by reference: `S` is a counted reference to
/// bytes, or the bytes.
///
/// An envelope is kept when it is queued for the peer, whether there is a connection or not: what was not sent yet is
/// among what is sent again, so on a resume nothing but this is sent of what was queued.
///
/// At most `bytes_max` bytes are kept, and nothing waits for room: past the bound the oldest are forgotten. Then a resume
/// that would need them is refused, and one that does not still works.
#[derive(Debug)]
pub struct Kept<S> {
    items: VecDeque<Item<S>>,
    /// So many envelopes came before those in `items`.
    begin: u64,
    /// So many the peer is known to have, or they are forgotten. At least `begin`; beyond it within the first item.
    first: u64,
    /// So many there were in all.
    sent: u64,
    /// What `items` hold on to, what they take themselves included.
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Item<S> {
    /// Whole envelopes back to back, all of them counted.
    bytes: S,
    /// How many.
    count: u32,
    /// Bytes of memory that they hold on to: their own, or those of a larger buffer.
    held_bytes: u32,
}

/// Why a session cannot go on from where its peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotKept {
    /// The peer has `recv`, and what comes next was forgotten.
    Forgotten {
        /// What the peer has.
        recv: u64,
        /// The least from which the session could go on.
        first: u64,
    },
    /// The peer says that it has more than was sent: it does not count as this side does.
    NeverSent {
        /// What the peer says that it has.
        recv: u64,
        /// What was sent.
        sent: u64,
    },
}

impl<S: AsRef<[u8]>> Kept<S> {
    /// Nothing, of a new session.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            items: VecDeque::new(),
            begin: 0,
            first: 0,
            sent: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// Keeps `count` envelopes that stand back to back in `bytes`, all of them counted and in the order in which they
    /// are sent.
    pub fn keep(&mut self, bytes: S, count: u32) {
        let held_bytes = bytes.as_ref().len();
        self.keep_holding(bytes, count, held_bytes);
    }

    /// The same of a slice of a larger buffer, which holds on to all of that: so many bytes count, so that the bound is one of
    /// memory. What is a small part of one the caller copies.
    pub fn keep_holding(&mut self, bytes: S, count: u32, held_bytes: usize) {
        if count == 0 {
            return;
        }
        let item = Item {
            bytes,
            count,
            held_bytes: u32::try_from(held_bytes).unwrap_or(u32::MAX),
        };
        self.sent += u64::from(count);
        self.bytes += item.size();
        self.items.push_back(item);
        self.shrink_to(self.bytes_max);
    }

    /// Forgets the oldest until no more than so many bytes are kept, for a bound over many sessions.
    pub fn shrink_to(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.drop_first() {}
        self.give_back_room();
    }

    /// The peer told its `recv`: what that covers is let go.
    ///
    /// # Errors
    /// [`NotKept::NeverSent`]: a breach of [P-7.7], and nothing has changed.
    pub fn covered(&mut self, recv: u64) -> Result<(), NotKept> {
        if recv > self.sent {
            return Err(NotKept::NeverSent {
                recv,
                sent: self.sent,
            });
        }
        while let Some(item) = self.items.front()
            && recv.saturating_sub(self.begin) >= u64::from(item.count)
        {
            self.drop_first();
        }
        self.first = self.first.max(recv);
        self.give_back_room();
        Ok(())
    }

    /// What to send again to a peer that has `recv`: everything behind that, in order. What `recv` covers is let go.
    ///
    /// # Errors
    /// The session cannot go on, and nothing has changed.
    pub fn resume(&mut self, recv: u64) -> Result<Again<'_, S>, NotKept> {
        if recv < self.first {
            let first = self.first;
            return Err(NotKept::Forgotten { recv, first });
        }
        self.covered(recv)?;
        // Below the count of the first item, or it would be gone.
        let skipped = (recv - self.begin) as usize;
        let from = match self.items.front() {
            Some(item) if skipped > 0 => {
                let mut envelopes = Batch::new(item.bytes.as_ref());
                let _ = envelopes.by_ref().take(skipped).count();
                envelopes.position()
            }
            _ => 0,
        };
        Ok(Again {
            items: self.items.iter(),
            from,
        })
    }

    /// How many counted envelopes were sent in this session.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// How many bytes are kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets the first item go; false if there is none.
    fn drop_first(&mut self) -> bool {
        let Some(item) = self.items.pop_front() else {
            return false;
        };
        self.bytes -= item.size();
        self.begin += u64::from(item.count);
        self.first = self.first.max(self.begin);
        true
    }

    /// Room for items that is not used counts for nothing, so there must not be much of it. Half of what is left is
    /// room again, so a queue that goes up and down does not pay for it each time.
    fn give_back_room(&mut self) {
        let room = self.items.capacity();
        if room > ROOM_MIN && self.items.len() < room / 4 {
            self.items.shrink_to(ROOM_MIN.max(2 * self.items.len()));
        }
    }
}

impl<S> Item<S> {
    fn size(&self) -> usize {
        self.held_bytes as usize + size_of::<Self>()
    }
}

/// What is sent again: kept pieces of whole envelopes, in order.
#[derive(Debug, Clone)]
pub struct Again<'a, S> {
    items: vec_deque::Iter<'a, Item<S>>,
    /// Where the first piece begins that the peer does not have.
    from: usize,
}

impl<'a, S> Iterator for Again<'a, S> {
    /// A piece, and where in it what is to be sent begins: 0 for all but the first.
    type Item = (&'a S, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.items.next()?;
        Some((&item.bytes, mem::take(&mut self.from)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

impl<S> ExactSizeIterator for Again<'_, S> {}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forgotten { recv, first } => write!(
                f,
                "the peer has {recv} counted envelopes, and of those behind only the ones from {} on are kept",
                first + 1
            ),
            Self::NeverSent { recv, sent } => {
                write!(
                    f,
                    "the peer says that it has {recv} counted envelopes; {sent} were sent"
                )
            }
        }
    }
}

impl core::error::Error for NotKept {}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use crate::envelope::{Envelope, Form, Id, Kind};

    /// So many answers back to back, numbered from `first` on.
    fn answers(first: u8, count: u8) -> Vec<u8> {
        let mut out = Vec::new();
        for number in first..first + count {
            answer(number).encode(Form::Compact, &mut out);
        }
        out
    }

    fn answer(number: u8) -> Envelope<'static> {
        Envelope {
            kind: Kind::Call,
            id: Id([number; 16]),
            reference: Some(Id([0; 16])),
            target: None,
            meta: None,
            payload: &[],
            error: None,
        }
    }

    /// The numbers of what is sent again to a peer that has `recv`.
    fn again(kept: &mut Kept<Vec<u8>>, recv: u64) -> Result<Vec<u8>, NotKept> {
        let mut numbers = Vec::new();
        for (bytes, from) in kept.resume(recv)? {
            for decoded in Batch::new(&bytes[from..]) {
                numbers.push(decoded.expect("an envelope").envelope.id.0[0]);
            }
        }
        Ok(numbers)
    }

    #[test]
    fn what_is_behind_recv_is_sent_again_in_order() {
        for recv in 0..=6 {
            let mut kept = Kept::new(10_000);
            kept.keep(answers(1, 3), 3);
            kept.keep(answers(4, 1), 1);
            kept.keep(answers(5, 2), 2);
            let expected: Vec<u8> = (1..=6).skip(recv as usize).collect();
            assert_eq!(again(&mut kept, recv), Ok(expected.clone()), "{recv}");
            assert_eq!(
                again(&mut kept, recv),
                Ok(expected),
                "once more, for the answer may be lost"
            );
        }
    }

    #[test]
    fn what_is_covered_is_let_go_and_cannot_be_had_again() {
        let mut kept = Kept::new(10_000);
        kept.keep(answers(1, 2), 2);
        let whole = kept.bytes();
        assert_eq!(kept.covered(1), Ok(()));
        assert_eq!(kept.bytes(), whole, "a part of a piece stays with it");
        assert_eq!(again(&mut kept, 0), Err(NotKept::Forgotten { recv: 0, first: 1 }));
        assert_eq!(again(&mut kept, 1), Ok(vec![2]));
        assert_eq!(kept.covered(2), Ok(()));
        assert_eq!((kept.bytes(), kept.sent()), (0, 2));
        assert_eq!(kept.covered(1), Ok(()), "an old one says nothing new");
        assert_eq!(again(&mut kept, 2), Ok(vec![]));
    }

    #[test]
    fn past_the_bound_the_oldest_is_forgotten_and_a_peer_that_has_it_still_resumes() {
        let mut kept = Kept::new(0);
        kept.keep(answers(1, 1), 1);
        let one = answers(1, 1).len() + size_of::<Item<Vec<u8>>>();
        assert_eq!(kept.bytes(), 0, "not even itself has room");
        let mut kept = Kept::new(2 * one);
        for number in 1..=4 {
            kept.keep(answers(number, 1), 1);
        }
        assert_eq!(kept.bytes(), 2 * one);
        assert_eq!(again(&mut kept, 1), Err(NotKept::Forgotten { recv: 1, first: 2 }));
        assert_eq!(again(&mut kept, 2), Ok(vec![3, 4]));
        kept.shrink_to(one);
        assert_eq!(again(&mut kept, 2), Err(NotKept::Forgotten { recv: 2, first: 3 }));
        assert_eq!(again(&mut kept, 3), Ok(vec![4]));
    }

    #[test]
    fn a_slice_counts_for_the_buffer_that_it_holds_on_to() {
        let one = answers(1, 1).len() + size_of::<Item<Vec<u8>>>();
        let mut kept = Kept::new(3 * one);
        kept.keep_holding(answers(1, 1), 1, 2 * one);
        assert!(kept.bytes() > 2 * one);
        kept.keep(answers(2, 1), 1);
        assert_eq!(again(&mut kept, 1), Ok(vec![2]));
        assert_eq!(kept.bytes(), one, "the first and its buffer are forgotten");
    }

    #[test]
    fn room_for_what_is_gone_is_given_back() {
        let many = 10_000;
        let filled = || {
            let mut kept = Kept::new(usize::MAX);
            for _ in 0..many {
                kept.keep(answers(1, 1), 1);
            }
            kept
        };
        let (mut told, mut forgotten) = (filled(), filled());
        assert_eq!(told.covered(many - 3), Ok(()));
        assert!(told.items.capacity() <= 2 * ROOM_MIN, "{}", told.items.capacity());
        assert_eq!(again(&mut told, many - 3), Ok(vec![1, 1, 1]));
        forgotten.shrink_to(0);
        assert!(
            forgotten.items.capacity() <= 2 * ROOM_MIN,
            "{}",
            forgotten.items.capacity()
        );
        assert_eq!(again(&mut forgotten, many), Ok(vec![]));
    }

    #[test]
    fn a_peer_cannot_have_what_was_never_sent() {
        let mut kept = Kept::new(10_000);
        kept.keep(answers(1, 2), 2);
        let wrong = NotKept::NeverSent { recv: 3, sent: 2 };
        assert_eq!(kept.covered(3), Err(wrong));
        assert_eq!(again(&mut kept, 3), Err(wrong));
        assert_eq!(again(&mut kept, 0), Ok(vec![1, 2]));
    }
}
