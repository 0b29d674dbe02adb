//! The body of a frame: envelopes back to back, a CBOR sequence (RFC 8742) [P-2.2].

use crate::envelope::Decoded;
use crate::error::Reject;

/// Walks the envelopes of one frame body. After a [`Reject`] with a known end it goes on behind it; after one
/// without, it is finished.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Batch<'a> {
    /// Over this frame body. An empty body holds no envelopes.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0 }
    }

    /// Offset of the next envelope in the body.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<Decoded<'a>, Reject>;

    fn next(&mut self) -> Option<Self::Item> {
        let _ = self.body;
        todo!()
    }
}
