//! One stream as one of its two ends sees it, and as a gateway between two hops sees it [P-3.11].
//!
//! ```text
//!            open sent or received             both directions have ended
//!     IDLE ─────────────────────────▶ ACTIVE ──────────────────────────────▶ CLOSED
//!                                       │ cancel sent or received               ▲
//!                                       ▼                                       │
//!                                  CANCELLING ──── the peer's end arrives ──────┘
//! ```
//!
//! Every message of a stream but its open is read into a [`Part`] and given to [`Stream::handle`] (a cancel to
//! [`Stream::handle_cancel`]), which says what it means here. Before a part is sent, the `send_…` methods say whether
//! it may be. An error, sent or received, closes both directions at once, in every state. Time is the caller's: a
//! stream that stays `CANCELLING` for [`CANCEL_MS_MAX`] is closed by [`Stream::close`].
//!
//! Credit counts bytes of encoded chunk payloads. It is spent by the sender of a chunk and given by its receiver.

mod part;
mod relay;

pub use part::Part;
pub use relay::{Failure, Note, Passage, Relay, Side};

/// How long the other side of a cancelled stream may take to end its direction, ms.
pub const CANCEL_MS_MAX: u64 = 5_000;

/// Where in its life a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Not opened yet.
    #[default]
    Idle,
    /// Open; at least one direction has not ended.
    Active,
    /// One side has cancelled, which ended its direction; the other has not ended its own yet.
    Cancelling,
    /// Over.
    Closed,
}

/// One end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stream {
    /// Bytes that this side may still send.
    credit_bytes: u64,
    /// Bytes that the other side may still send.
    granted_bytes: u64,
    state: State,
    /// This side's direction has ended.
    sent_end: bool,
    /// The other side's direction has ended.
    received_end: bool,
}

/// What a part that arrived means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// This side may send more.
    Granted,
    /// A chunk, perhaps the last one.
    Chunk {
        /// Whether the other side's direction ended with it.
        is_last: bool,
    },
    /// The other side's direction has ended.
    Ended,
    /// Both directions have ended, by an error.
    Failed,
    /// The other side cancelled: this side is to end its own direction, and sends nothing else any more.
    Cancelled,
    /// Nothing: it came too late, or for a stream that this side has cancelled.
    Ignored,
}

/// How the other side broke the rules. The stream is closed; it is to be told by an error `failed_precondition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// A chunk that is larger than what was left of its credit.
    BeyondCredit {
        /// The chunk's payload, bytes.
        chunk_bytes: u64,
        /// What was left, bytes.
        credit_bytes: u64,
    },
    /// A chunk or an end behind the end of its direction.
    BehindEnd,
}

/// Why a chunk cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsendable {
    /// Not now: wait for a grant.
    NoCredit {
        /// What there is, bytes.
        credit_bytes: u64,
    },
    /// This side's direction has ended, or the stream is over.
    Ended,
    /// The other side cancelled.
    Cancelled,
}

impl Stream {
    /// This side sends the open: with or without `meta.end`, granting `granted_bytes` (its hello's credit, or the open's
    /// `meta.credit`), and may itself send `credit_bytes` (what the other side announced in its hello).
    #[must_use]
    pub fn opened_here(ends: bool, granted_bytes: u64, credit_bytes: u64) -> Self {
        Self {
            credit_bytes,
            granted_bytes,
            state: State::Active,
            sent_end: ends,
            received_end: false,
        }
    }

    /// An open arrived: the mirror image.
    #[must_use]
    pub fn opened_there(ends: bool, granted_bytes: u64, credit_bytes: u64) -> Self {
        Self {
            credit_bytes,
            granted_bytes,
            state: State::Active,
            sent_end: false,
            received_end: ends,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Bytes of chunks that this side may still send.
    #[must_use]
    pub fn credit_bytes(&self) -> u64 {
        self.credit_bytes
    }

    /// Bytes of chunks that the other side may still send.
    #[must_use]
    pub fn granted_bytes(&self) -> u64 {
        self.granted_bytes
    }

    /// Whether this side's direction has ended.
    #[must_use]
    pub fn has_sent_end(&self) -> bool {
        self.sent_end
    }

    /// Whether the other side's direction has ended.
    #[must_use]
    pub fn has_received_end(&self) -> bool {
        self.received_end
    }

    /// A part arrived.
    ///
    /// # Errors
    /// [`Breach`]: the stream is closed now; tell the other side by an error.
    #[inline]
    pub fn handle(&mut self, part: Part) -> Result<Heard, Breach> {
        match self.state {
            State::Idle | State::Closed => return Ok(Heard::Ignored),
            State::Active | State::Cancelling => {}
        }
        match part {
            Part::Grant { bytes } => {
                if self.sent_end || self.state == State::Cancelling {
                    return Ok(Heard::Ignored);
                }
                self.credit_bytes = self.credit_bytes.saturating_add(bytes);
                Ok(Heard::Granted)
            }
            Part::Chunk { bytes, end } => {
                if self.received_end {
                    return self.breach(Breach::BehindEnd);
                }
                if bytes > self.granted_bytes {
                    return self.breach(Breach::BeyondCredit {
                        chunk_bytes: bytes,
                        credit_bytes: self.granted_bytes,
                    });
                }
                self.granted_bytes -= bytes;
                let is_unwanted = self.state == State::Cancelling;
                if end {
                    self.ended_there();
                }
                Ok(match (is_unwanted, end) {
                    (false, is_last) => Heard::Chunk { is_last },
                    (true, true) => Heard::Ended,
                    (true, false) => Heard::Ignored,
                })
            }
            Part::End => {
                if self.received_end {
                    return self.breach(Breach::BehindEnd);
                }
                self.ended_there();
                Ok(Heard::Ended)
            }
            Part::Fail => {
                self.close();
                Ok(Heard::Failed)
            }
        }
    }

    /// A cancel arrived. It counts as the other side's end.
    pub fn handle_cancel(&mut self) -> Heard {
        match self.state {
            State::Idle | State::Closed => Heard::Ignored,
            // What was cancelled by the other side before stays that; where both cancelled, both have ended.
            State::Cancelling if self.received_end => Heard::Ignored,
            State::Active | State::Cancelling => {
                self.received_end = true;
                if self.sent_end {
                    self.state = State::Closed;
                    Heard::Ended
                } else {
                    self.state = State::Cancelling;
                    Heard::Cancelled
                }
            }
        }
    }

    /// This side is about to send a chunk of so many bytes, which perhaps is its last.
    ///
    /// # Errors
    /// [`Unsendable`]: do not send it; nothing has changed.
    #[inline]
    pub fn send_chunk(&mut self, bytes: u64, end: bool) -> Result<(), Unsendable> {
        if self.sent_end || matches!(self.state, State::Idle | State::Closed) {
            return Err(Unsendable::Ended);
        }
        if self.state == State::Cancelling {
            return Err(Unsendable::Cancelled);
        }
        if bytes > self.credit_bytes {
            return Err(Unsendable::NoCredit {
                credit_bytes: self.credit_bytes,
            });
        }
        self.credit_bytes -= bytes;
        if end {
            self.ended_here();
        }
        Ok(())
    }

    /// This side ends its direction. Whether there is anything to send.
    pub fn send_end(&mut self) -> bool {
        if self.sent_end || matches!(self.state, State::Idle | State::Closed) {
            return false;
        }
        self.ended_here();
        true
    }

    /// This side grants so many more bytes. Whether there is anything to send: not if nothing more will come.
    pub fn send_grant(&mut self, bytes: u64) -> bool {
        if self.received_end || self.state != State::Active || bytes == 0 {
            return false;
        }
        self.granted_bytes = self.granted_bytes.saturating_add(bytes);
        true
    }

    /// This side ends both directions by an error. Whether there is anything to send.
    pub fn send_fail(&mut self) -> bool {
        let is_open = matches!(self.state, State::Active | State::Cancelling);
        self.close();
        is_open
    }

    /// This side cancels. Whether there is anything to send: not if it has cancelled already or the stream is over.
    pub fn send_cancel(&mut self) -> bool {
        match self.state {
            State::Idle | State::Closed => false,
            State::Cancelling if self.sent_end => false,
            State::Active | State::Cancelling => {
                self.sent_end = true;
                self.state = if self.received_end {
                    State::Closed
                } else {
                    State::Cancelling
                };
                true
            }
        }
    }

    /// It is over, without a word: its connection is lost, or its time is up.
    pub fn close(&mut self) {
        self.state = State::Closed;
        self.sent_end = true;
        self.received_end = true;
    }

    fn ended_here(&mut self) {
        self.sent_end = true;
        if self.received_end {
            self.state = State::Closed;
        }
    }

    fn ended_there(&mut self) {
        self.received_end = true;
        if self.sent_end {
            self.state = State::Closed;
        }
    }

    fn breach(&mut self, breach: Breach) -> Result<Heard, Breach> {
        self.close();
        Err(breach)
    }
}
