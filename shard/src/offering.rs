//! What a peer offers to serve, and how fit it is to do so.

use std::sync::Arc;

use crate::limits::WEIGHT_MAX;

/// The terms of an offer to serve. Told to the other cores with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offering {
    /// The fleet that it joins; `None`: outside of any named one.
    pub fleet: Option<Arc<str>>,
    /// Its share, relative to the others', 1..=[`WEIGHT_MAX`].
    pub weight: u32,
    /// Calls and streams that the peer takes at a time, over all its offers and all cores; `u32::MAX`: any number.
    /// Of several offers of a peer the last one counts.
    pub in_flight_max: u32,
    /// Where it stands.
    pub zone: Option<Arc<str>>,
    /// What its hello announced: bytes that a stream may send to it at first.
    pub credit_bytes: u32,
    /// Who it says it is, or the endpoint that was dialled: for people.
    pub name: Arc<str>,
}

impl Offering {
    /// The weight as it is used.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.clamp(1, WEIGHT_MAX)
    }
}

/// Why a serving peer gets no new calls at the moment, as its home core sees it. It gets them while all are false.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// It does not read what is sent to it: its queue is over its bound.
    pub crowded: bool,
    /// It did not answer a ping in time; what it says next ends this, and it comes back slowly.
    pub silent: bool,
    /// It is to finish what it has, and get nothing new.
    pub draining: bool,
}

impl Standing {
    /// Whether it gets new calls.
    #[must_use]
    pub fn is_fit(self) -> bool {
        self == Self::default()
    }
}
