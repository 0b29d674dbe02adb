//! A gather list: what one send carries, owned by the operation until it completes.
//!
//! The reactor moves a connection's queue into a list at the flush; the driver reads its [`slices`](Gather::slices)
//! into one `sendmsg`, and the reactor [`advance`](Gather::advance)s it behind a short write. Pieces of a few hundred
//! bytes are copied into one coalescing buffer, because an iovec each costs more than the copy (measured: 97 ns a
//! small frame); larger ones travel by reference. One piece alone travels by reference whatever its size. What a
//! WebSocket client sends is masked, so it is copied.
//!
//! Invariant that drivers rely on: between the last mutation (`push_*`, `advance`, `clear`) and the next one, the
//! addresses of the slices stay what they are, even if the `Box<Gather>` that holds the list is moved.

use bytes::Bytes;

use crate::limits::{COALESCED_KEPT_BYTES, COPY_BELOW_BYTES, SLICES_MAX};
use crate::ws::mask;

/// Byte slices that leave in one send, in order.
#[derive(Debug, Default)]
pub struct Gather {
    /// What the slices are, in order.
    pieces: Vec<Piece>,
    /// The bytes of all [`Place::Coalesced`] pieces. Grows only while the list is filled.
    coalesced: Vec<u8>,
    /// Pieces before this one are sent.
    first: usize,
    /// So many bytes of `pieces[first]` are sent.
    first_sent: usize,
    /// Bytes still to send.
    len: usize,
}

/// One slice.
#[derive(Debug)]
struct Piece {
    place: Place,
    /// How many of its bytes are the transport's own (frame headers, control frames).
    overhead: usize,
}

#[derive(Debug)]
enum Place {
    Shared(Bytes),
    Coalesced { start: usize, end: usize },
}

impl Piece {
    fn len(&self) -> usize {
        match &self.place {
            Place::Shared(bytes) => bytes.len(),
            Place::Coalesced { start, end } => end - start,
        }
    }
}

impl Gather {
    /// An empty list.
    #[must_use]
    pub fn new() -> Gather {
        Gather::default()
    }

    /// Bytes still to send.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether all is sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes may still be pushed: 0 if the list is full by bytes or by slices.
    #[must_use]
    pub fn room(&self, send_bytes_max: usize) -> usize {
        // A message takes two slices at most (its header coalesced, its body by reference).
        if self.pieces.len() + 2 > SLICES_MAX {
            0
        } else {
            send_bytes_max.saturating_sub(self.len)
        }
    }

    /// Adds a user's bytes.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        if bytes.len() < COPY_BELOW_BYTES && self.coalesce_last() {
            self.copy(&bytes, 0);
        } else {
            self.len += bytes.len();
            self.pieces.push(Piece {
                place: Place::Shared(bytes),
                overhead: 0,
            });
        }
    }

    /// Adds a user's bytes XORed with a WebSocket mask: copied, because others may share them.
    pub(crate) fn push_masked(&mut self, bytes: &[u8], key: [u8; 4]) {
        if bytes.is_empty() {
            return;
        }
        self.coalesce_last();
        let start = self.coalesced.len();
        self.copy(bytes, 0);
        mask(&mut self.coalesced[start..], key);
    }

    /// Adds bytes of the transport itself, a frame header or a control frame: sent, but not counted by
    /// [`Gather::advance`].
    pub fn push_overhead(&mut self, bytes: &[u8]) {
        self.coalesce_last();
        self.copy(bytes, bytes.len());
    }

    /// Makes the last piece one that can be copied behind, if it is small; false if there is nothing to copy behind
    /// (the list is empty), so that a lone piece stays a reference.
    fn coalesce_last(&mut self) -> bool {
        let Some(last) = self.pieces.last_mut() else {
            return false;
        };
        if let Place::Shared(bytes) = &last.place
            && bytes.len() < COPY_BELOW_BYTES
        {
            let start = self.coalesced.len();
            self.coalesced.extend_from_slice(bytes);
            last.place = Place::Coalesced {
                start,
                end: self.coalesced.len(),
            };
        }
        true
    }

    /// Copies bytes behind the last coalesced piece, or begins one.
    fn copy(&mut self, bytes: &[u8], overhead: usize) {
        let start = self.coalesced.len();
        self.coalesced.extend_from_slice(bytes);
        self.len += bytes.len();
        let now = self.coalesced.len();
        match self.pieces.last_mut() {
            Some(Piece {
                place: Place::Coalesced { end, .. },
                overhead: so_far,
            }) => {
                debug_assert_eq!(*end, start, "coalesced pieces lie back to back");
                *end = now;
                *so_far += overhead;
            }
            _ => self.pieces.push(Piece {
                place: Place::Coalesced { start, end: now },
                overhead,
            }),
        }
    }

    /// What is still to send, in order; no slice is empty, at most [`SLICES_MAX`] of them.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> + '_ {
        self.pieces[self.first..]
            .iter()
            .enumerate()
            .map(|(index, piece)| {
                let whole: &[u8] = match &piece.place {
                    Place::Shared(bytes) => bytes,
                    Place::Coalesced { start, end } => &self.coalesced[*start..*end],
                };
                if index == 0 {
                    &whole[self.first_sent..]
                } else {
                    whole
                }
            })
    }

    /// Takes note that `sent` bytes went out, and returns how many of the user's bytes that completed. Where a slice
    /// mixes the user's bytes with the transport's, the transport's count as gone first: never too many are reported,
    /// and all are once the slice is through.
    ///
    /// # Panics
    /// If `sent` is more than [`Gather::len`]: a driver that reports this is broken.
    pub fn advance(&mut self, sent: usize) -> usize {
        assert!(sent <= self.len, "{sent} bytes sent of {}", self.len);
        self.len -= sent;
        let mut left = sent;
        let mut users = 0;
        while left > 0 {
            let piece = &mut self.pieces[self.first];
            let of_piece = piece.len();
            let before = self.first_sent;
            let after = of_piece.min(before + left);
            left -= after - before;
            users += after.saturating_sub(piece.overhead) - before.saturating_sub(piece.overhead);
            if after == of_piece {
                // A shared run is let go as soon as it is sent, not when the whole list is.
                piece.place = Place::Coalesced { start: 0, end: 0 };
                self.first += 1;
                self.first_sent = 0;
            } else {
                self.first_sent = after;
            }
        }
        users
    }

    /// What it takes beside itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.pieces.capacity() * size_of::<Piece>() + self.coalesced.capacity()
    }

    /// Empties the list for its next use, keeping what memory is worth keeping.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.coalesced.clear();
        self.coalesced.shrink_to(COALESCED_KEPT_BYTES);
        self.first = 0;
        self.first_sent = 0;
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::SEND_BYTES_MAX;

    fn joined(gather: &Gather) -> Vec<u8> {
        gather.slices().flatten().copied().collect()
    }

    #[test]
    fn a_lone_piece_is_not_copied() {
        let bytes = Bytes::from(vec![7; 40]);
        let mut gather = Gather::new();
        gather.push(bytes.clone());
        assert_eq!(gather.slices().next().map(<[u8]>::as_ptr), Some(bytes.as_ptr()));
    }

    #[test]
    fn small_pieces_share_a_slice_and_large_ones_are_referenced() {
        let large = Bytes::from(vec![1; COPY_BELOW_BYTES]);
        let mut gather = Gather::new();
        for _ in 0..100 {
            gather.push(Bytes::from_static(b"small"));
        }
        gather.push(large.clone());
        gather.push_overhead(b"header");
        gather.push(Bytes::from_static(b"small"));
        let slices: Vec<_> = gather.slices().collect();
        assert_eq!(slices.len(), 3);
        assert_eq!(slices[1].as_ptr(), large.as_ptr());
        assert_eq!(slices[2], b"headersmall");
    }

    #[test]
    fn a_full_list_has_no_room() {
        let mut gather = Gather::new();
        while gather.room(SEND_BYTES_MAX) > 0 {
            gather.push_overhead(b"h");
            gather.push(Bytes::from(vec![0; COPY_BELOW_BYTES]));
        }
        assert!(gather.slices().count() <= SLICES_MAX);
        gather.clear();
        gather.push(Bytes::from(vec![0; SEND_BYTES_MAX]));
        assert_eq!(gather.room(SEND_BYTES_MAX), 0);
    }

    #[test]
    fn a_sent_run_is_let_go_before_the_list_is_through() {
        let run = Bytes::from(vec![1; 4096]);
        let mut gather = Gather::new();
        gather.push(run.clone());
        gather.push(Bytes::from(vec![2; 4096]));
        assert_eq!(gather.advance(4096), 4096);
        assert!(run.is_unique());
    }

    proptest! {
        #[test]
        fn any_mix_leaves_in_order_and_counts_the_users_bytes(
            pieces in prop::collection::vec((any::<bool>(), 1usize..1500), 0..60),
            cuts in prop::collection::vec(1usize..3000, 1..40),
        ) {
            let mut gather = Gather::new();
            let (mut expected, mut users) = (Vec::new(), 0);
            for (index, (overhead, size)) in pieces.into_iter().enumerate() {
                let bytes = vec![index as u8; size];
                expected.extend_from_slice(&bytes);
                if overhead {
                    gather.push_overhead(&bytes);
                } else {
                    users += size;
                    gather.push(Bytes::from(bytes));
                }
            }
            prop_assert_eq!(joined(&gather), expected.clone());
            let mut told = 0;
            for cut in cuts.iter().cycle() {
                if gather.is_empty() {
                    break;
                }
                let sent = (*cut).min(gather.len());
                told += gather.advance(sent);
                expected.drain(..sent);
                prop_assert_eq!(joined(&gather), expected.clone());
                prop_assert!(gather.slices().all(|slice| !slice.is_empty()));
            }
            prop_assert_eq!(told, users);
        }
    }
}
