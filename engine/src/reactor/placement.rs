//! Which core a new connection goes to, and the parcel in which its socket travels there.
//!
//! Every core accepts; the kernel spreads accepts unevenly. So the accepting core looks at a board that shows how many
//! connections each core has, takes the core with the fewest (itself, if no other has fewer), counts the connection
//! there at once, so that a burst spreads, and sends the socket by mail. The owner counts it off when it is gone, or
//! counts it at another core when it hands it over there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::listener::{ListenerId, Peer};
use crate::mail::CachePadded;

use super::handover::Traveller;

/// How many connections each core has. Shared by all cores; the counts are a hint for placement and a figure for
/// people, nothing is derived from them that had to be exact.
#[derive(Debug, Clone)]
pub struct Board {
    connections: Arc<[CachePadded<AtomicUsize>]>,
}

impl Board {
    /// A board for so many cores.
    #[must_use]
    pub fn new(cores: usize) -> Board {
        Board {
            connections: (0..cores).map(|_| CachePadded::default()).collect(),
        }
    }

    /// How many connections a core has, those on their way to it included.
    #[must_use]
    pub fn connections(&self, core: usize) -> usize {
        self.connections[core].0.load(Ordering::Relaxed)
    }

    /// Picks the core for a connection that came in `here`, and counts it there.
    pub(super) fn place(&self, here: usize) -> usize {
        let mut chosen = here;
        let mut fewest = self.connections(here);
        for core in 0..self.connections.len() {
            let connections = self.connections(core);
            if connections < fewest {
                (chosen, fewest) = (core, connections);
            }
        }
        self.connections[chosen].0.fetch_add(1, Ordering::Relaxed);
        chosen
    }

    /// Counts a connection at the core where it came in.
    pub(super) fn count(&self, here: usize) -> usize {
        self.connections[here].0.fetch_add(1, Ordering::Relaxed);
        here
    }

    /// Counts a connection at another core.
    pub(super) fn move_to(&self, from: usize, to: usize) {
        self.left(from);
        self.connections[to].0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection off.
    pub(super) fn left(&self, core: usize) {
        self.connections[core].0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What travels in the mailboxes between reactors: the user's letters, and connections on their way to their core.
#[derive(Debug)]
pub struct Parcel<S, L>(pub(super) Content<S, L>);

#[derive(Debug)]
pub(super) enum Content<S, L> {
    Letter(L),
    Connection(Newcomer<S>),
    /// A connection that another core hands over.
    Traveller(Box<Traveller<S, L>>),
}

/// A connection that no core has taken yet.
#[derive(Debug)]
pub(super) struct Newcomer<S> {
    pub(super) listener: ListenerId,
    pub(super) socket: S,
    pub(super) peer: Peer,
}

impl<S, L> From<L> for Parcel<S, L> {
    fn from(letter: L) -> Parcel<S, L> {
        Parcel(Content::Letter(letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_spreads_and_ties_stay() {
        let board = Board::new(3);
        let placed: Vec<usize> = (0..7).map(|_| board.place(1)).collect();
        assert_eq!(placed, [1, 0, 2, 1, 0, 2, 1]);
        board.left(2);
        assert_eq!(board.place(0), 2);
    }
}
