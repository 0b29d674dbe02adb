//! Messages that begin in one piece of input and end in another.
//!
//! Parsers see the input in place and take whole messages off its start. Only a message that straddles two pieces is
//! copied, into a buffer that grows with what has arrived and is given back between two messages.

use super::{Fault, Incoming, Outgoing};

/// What a parser made of the start of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A whole message of so many bytes (at least one): it was handled.
    Taken(usize),
    /// Nothing yet: with fewer bytes than these, from the start of the input, it cannot be whole.
    Need(usize),
}

/// Takes messages off the start of a byte stream.
pub(super) trait Parser {
    /// Handles the message at the start of `input`, if it is all there. It says [`Step::Need`] again if it sees the same
    /// bytes again, and a [`Fault`] for what announces more than the parser takes: that bounds what is held here.
    fn step(
        &mut self,
        input: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<Step, Fault>;
}

/// How much is copied at a time while it is not known how long a message will be: more than a usual line.
const LOOK_AHEAD_BYTES: usize = 128;

/// The start of a message whose rest has not arrived.
#[derive(Debug, Default)]
pub(super) struct Straddle {
    partial: Vec<u8>,
    /// What the parser asked for when it saw `partial`.
    need_bytes: usize,
}

impl Straddle {
    /// Hands all messages that are complete now to the parser.
    pub(super) fn receive(
        &mut self,
        parser: &mut impl Parser,
        mut input: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        if !self.partial.is_empty() {
            match self.complete(parser, input, out, on)? {
                Some(rest) => input = rest,
                None => return Ok(()),
            }
        }
        while !input.is_empty() {
            match parser.step(input, out, on)? {
                Step::Taken(bytes) => input = &input[bytes..],
                Step::Need(bytes) => {
                    self.need_bytes = bytes;
                    self.partial.extend_from_slice(input);
                    return Ok(());
                }
            }
        }
        self.partial = Vec::new(); // between two messages nothing is owned
        Ok(())
    }

    /// Adds input to the message that has begun until it is handled; returns what stands behind it, if that happens.
    fn complete<'i>(
        &mut self,
        parser: &mut impl Parser,
        input: &'i [u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<Option<&'i [u8]>, Fault> {
        let before = self.partial.len();
        let mut copied = 0;
        while copied < input.len() {
            let least = self.need_bytes.saturating_sub(self.partial.len());
            let take = least.max(LOOK_AHEAD_BYTES).min(input.len() - copied);
            self.partial.extend_from_slice(&input[copied..copied + take]);
            copied += take;
            if self.partial.len() < self.need_bytes {
                break;
            }
            match parser.step(&self.partial, out, on)? {
                Step::Taken(bytes) => {
                    debug_assert!(bytes > before, "the parser wanted more than it then took");
                    self.partial.clear();
                    return Ok(Some(&input[bytes - before..]));
                }
                Step::Need(bytes) => self.need_bytes = bytes,
            }
        }
        Ok(None)
    }
}
