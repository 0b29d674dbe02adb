//! L1 on byte-stream transports: a u32 big-endian length, then the body [P-1]. A WebSocket message is a body already.

use alloc::vec::Vec;

/// Bytes of length in front of a body.
pub const PREFIX_BYTES: usize = 4;

/// A frame whose announced length exceeds what the receiver takes. Nothing was allocated for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameTooLarge {
    /// The length that the peer announced, in bytes.
    pub announced_bytes: usize,
    /// The limit that it was told, in bytes.
    pub limit_bytes: usize,
}

/// Cuts a byte stream into frame bodies. Whole frames are borrowed from the input; only a frame that straddles two
/// inputs is copied, into a buffer that grows with what has arrived, never with what was announced.
#[derive(Debug, Default)]
pub struct Deframer {
    partial: Vec<u8>,
}

impl Deframer {
    /// An empty one; it owns no memory until a frame straddles.
    #[must_use]
    pub const fn new() -> Self {
        Self { partial: Vec::new() }
    }

    /// The next whole body, advancing `input` past what was taken. `None`: all input is taken, more is needed.
    ///
    /// # Errors
    /// [`FrameTooLarge`]; the stream cannot be continued.
    pub fn next<'a>(
        &'a mut self,
        input: &mut &'a [u8],
        limit_bytes: usize,
    ) -> Result<Option<&'a [u8]>, FrameTooLarge> {
        let _ = (input, limit_bytes, &mut self.partial);
        todo!()
    }

    /// Whether part of a frame is waiting for the rest.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Bytes held for a frame that is not whole yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.capacity()
    }
}

/// The prefix of a body of this length.
///
/// # Panics
/// If the length does not fit u32.
#[must_use]
pub fn prefix(body_bytes: usize) -> [u8; PREFIX_BYTES] {
    u32::try_from(body_bytes).expect("a frame body is far below 4 GiB").to_be_bytes()
}
