//! The body of a frame: envelopes back to back, a CBOR sequence (RFC 8742) [P-2.2].
//!
//! Bodies come from [`crate::frame`] or from a WebSocket message; each envelope goes to whoever handles its verb.

use core::ops::ControlFlow;

use crate::envelope::{self, Decoded};
use crate::error::{Fault, Reject};
use crate::limits;

/// First byte of a zstd frame.
const ZSTD: u8 = 0x28;
/// First byte of a gzip member.
const GZIP: u8 = 0x1f;

/// Walks the envelopes of one frame body. After a [`Reject`] with a known end it goes on behind it; after one
/// without, it is finished. Each envelope ends where its walk ended, so nothing inside a payload is ever taken for
/// another one.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    body: &'a [u8],
    at: usize,
    max_frame_bytes: usize,
    /// Whether the body begins here.
    is_start: bool,
    /// Whether it ends here. If not, what cannot be read yet may be readable with more bytes.
    is_end: bool,
    is_unreadable: bool,
}

impl<'a> Batch<'a> {
    /// Over this frame body. An empty body holds no envelopes. An envelope may be as long as the body.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self::within(body, usize::MAX)
    }

    /// Over a body that arrived at a receiver with this frame limit: larger envelopes than that allows are refused
    /// with [`Fault::TooLarge`].
    #[must_use]
    pub fn within(body: &'a [u8], max_frame_bytes: usize) -> Self {
        Self::piece(body, max_frame_bytes, true, true)
    }

    /// Over a part of a body. If it is not the end, the walk stops, without a fault, before an envelope that may go on
    /// behind it.
    pub(crate) fn piece(body: &'a [u8], max_frame_bytes: usize, is_start: bool, is_end: bool) -> Self {
        Self {
            body,
            at: 0,
            max_frame_bytes,
            is_start,
            is_end,
            is_unreadable: false,
        }
    }

    /// Whether the rest of the body cannot be read: the last [`Reject`] had no end.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.is_unreadable
    }

    #[cold]
    fn unreadable(&mut self, reject: Reject) -> Reject {
        self.is_unreadable = true;
        self.body = &self.body[..self.at];
        reject
    }

    /// Hands what is left to `handle`, in order, until that breaks off: what going through it as an iterator does, but
    /// each envelope stays where it was decoded. Moving it twice costs as much as decoding a small one.
    #[inline]
    pub fn visit(
        &mut self,
        mut handle: impl FnMut(Result<&Decoded<'a>, &Reject>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        loop {
            if let Some(decoded) = envelope::decode_usual(&self.body[self.at..])
                && decoded.bytes.len() <= limits::envelope_bytes_max(self.max_frame_bytes)
            {
                self.at += decoded.bytes.len();
                handle(Ok(&decoded))?;
                continue;
            }
            match self.next_unusual() {
                Some(Ok(decoded)) => handle(Ok(&decoded))?,
                Some(Err(reject)) => handle(Err(&reject))?,
                None => return ControlFlow::Continue(()),
            }
        }
    }

    #[inline(never)]
    fn next_unusual(&mut self) -> Option<Result<Decoded<'a>, Reject>> {
        self.next()
    }

    /// Offset of the next envelope in the body.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<Decoded<'a>, Reject>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.body[self.at..];
        let first = *rest.first()?;
        if self.at == 0 && self.is_start && matches!(first, ZSTD | GZIP) {
            return Some(Err(self.unreadable(compressed())));
        }
        let decoded = if self.is_end {
            envelope::decode(rest)
        } else if let Some(decoded) = envelope::decode_piece(rest) {
            decoded
        } else {
            self.body = &self.body[..self.at];
            return None;
        };
        match decoded {
            Ok(decoded) => {
                self.at += decoded.bytes.len();
                if decoded.bytes.len() > limits::envelope_bytes_max(self.max_frame_bytes) {
                    return decoded.check_size(self.max_frame_bytes).err().map(Err);
                }
                Some(Ok(decoded))
            }
            Err(reject) => {
                let Some(end) = reject.end else {
                    return Some(Err(self.unreadable(reject)));
                };
                self.at += end;
                Some(Err(reject))
            }
        }
    }
}

impl core::iter::FusedIterator for Batch<'_> {}

#[cold]
fn compressed() -> Reject {
    Reject {
        fault: Fault::Compressed,
        at: 0,
        kind: None,
        id: None,
        has_ref: None,
        end: None,
    }
}
