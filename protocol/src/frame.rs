//! L1 on byte-stream transports: a u32 big-endian length, then the body [P-1]. A WebSocket message is a body already.
//!
//! Bytes come from whatever read them off a socket; bodies go to [`crate::Batch`].

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

impl core::fmt::Display for FrameTooLarge {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            announced_bytes,
            limit_bytes,
        } = self;
        write!(
            f,
            "a frame of {announced_bytes} bytes was announced, and {limit_bytes} are the limit"
        )
    }
}

impl core::error::Error for FrameTooLarge {}

/// Cuts a byte stream into frame bodies. Whole frames are borrowed from the input; only a frame that straddles two
/// inputs is copied, into a buffer that grows with what has arrived, never with what was announced.
///
/// Use it in a loop until it returns `None`: that last call also gives the buffer back, so a connection between
/// two frames owns no memory here.
#[derive(Debug, Default)]
pub struct Deframer {
    /// The start of a frame, prefix included; or a whole frame that the last call handed out.
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
    /// The limit is compared as soon as the length is known, so it may change between two calls.
    ///
    /// # Errors
    /// [`FrameTooLarge`]; the stream cannot be continued.
    pub fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
        limit_bytes: usize,
    ) -> Result<Option<&'s [u8]>, FrameTooLarge> {
        if frame_bytes(&self.partial).is_some_and(|whole| self.partial.len() == whole) {
            self.partial.clear(); // the caller has seen it; keep the capacity in case the next one straddles too
        }
        if self.partial.is_empty() {
            if let Some(whole) = frame_bytes(input) {
                check(whole, limit_bytes)?;
                if let Some((frame, rest)) = input.split_at_checked(whole) {
                    *input = rest;
                    return Ok(Some(&frame[PREFIX_BYTES..]));
                }
                self.fill(input, whole);
                return Ok(None);
            }
            if input.is_empty() {
                self.partial = Vec::new();
                return Ok(None);
            }
        }
        self.fill(input, PREFIX_BYTES);
        let Some(whole) = frame_bytes(&self.partial) else {
            return Ok(None);
        };
        check(whole, limit_bytes)?;
        self.fill(input, whole);
        Ok((self.partial.len() == whole).then(|| &self.partial[PREFIX_BYTES..]))
    }

    /// Whether part of a frame is waiting for the rest.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty() && frame_bytes(&self.partial) != Some(self.partial.len())
    }

    /// Bytes held for a frame that is not whole yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// Takes from the input until `until` bytes are held, or it is empty. The capacity at most doubles what has
    /// arrived, and never exceeds the frame.
    fn fill(&mut self, input: &mut &[u8], until: usize) {
        let take = until.saturating_sub(self.partial.len()).min(input.len());
        let (taken, rest) = input.split_at(take);
        let len = self.partial.len() + take;
        if len > self.partial.capacity() {
            let capacity = (2 * self.partial.capacity()).min(until).max(len);
            self.partial.reserve_exact(capacity - self.partial.len());
        }
        self.partial.extend_from_slice(taken);
        *input = rest;
    }
}

/// Length of the frame that begins here, prefix included, if the prefix is there.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let prefix = bytes.first_chunk::<PREFIX_BYTES>()?;
    Some((u32::from_be_bytes(*prefix) as usize).saturating_add(PREFIX_BYTES))
}

fn check(whole: usize, limit_bytes: usize) -> Result<(), FrameTooLarge> {
    let announced_bytes = whole - PREFIX_BYTES;
    if announced_bytes > limit_bytes {
        return Err(FrameTooLarge {
            announced_bytes,
            limit_bytes,
        });
    }
    Ok(())
}

/// The prefix of a body of this length.
///
/// # Panics
/// If the length does not fit u32.
#[must_use]
pub fn prefix(body_bytes: usize) -> [u8; PREFIX_BYTES] {
    u32::try_from(body_bytes)
        .expect("a frame body is far below 4 GiB")
        .to_be_bytes()
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn stream(bodies: &[Vec<u8>]) -> Vec<u8> {
        bodies
            .iter()
            .flat_map(|body| [&prefix(body.len())[..], body].concat())
            .collect()
    }

    fn drain(deframer: &mut Deframer, mut input: &[u8], out: &mut Vec<Vec<u8>>) {
        while let Some(body) = deframer.next(&mut input, 64).unwrap() {
            out.push(body.to_vec());
        }
        assert!(input.is_empty());
    }

    fn bodies() -> Vec<Vec<u8>> {
        vec![
            vec![1, 2, 3],
            vec![],
            vec![9; 17],
            vec![],
            vec![],
            vec![0; 5],
            vec![7; 64],
        ]
    }

    #[test]
    fn every_split_in_three_gives_the_same_bodies() {
        let stream = stream(&bodies());
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let mut deframer = Deframer::new();
                let mut out = Vec::new();
                for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                    drain(&mut deframer, part, &mut out);
                }
                assert_eq!(out, bodies(), "{first} {second}");
                assert!(!deframer.is_partial());
                assert_eq!(deframer.held_bytes(), 0);
            }
        }
    }

    #[test]
    fn bytes_one_by_one() {
        let mut deframer = Deframer::new();
        let mut out = Vec::new();
        for byte in stream(&bodies()) {
            drain(&mut deframer, &[byte], &mut out);
        }
        assert_eq!(out, bodies());
        assert_eq!(deframer.held_bytes(), 0);
    }

    #[test]
    fn whole_frames_are_borrowed() {
        let stream = stream(&bodies());
        let mut deframer = Deframer::new();
        let mut input = &stream[..];
        while let Some(body) = deframer.next(&mut input, 64).unwrap() {
            assert!(stream.as_ptr_range().contains(&body.as_ptr()) || body.is_empty());
        }
        assert_eq!(deframer.held_bytes(), 0);
    }

    #[test]
    fn memory_follows_what_arrived() {
        let mut deframer = Deframer::new();
        let mut arrived = 0;
        let body = vec![0u8; 1 << 20];
        let stream = stream(core::slice::from_ref(&body));
        for mut part in stream.chunks(1000) {
            arrived += part.len();
            match deframer.next(&mut part, 1 << 20).unwrap() {
                None => assert!(deframer.is_partial()),
                Some(whole) => assert_eq!(whole, body),
            }
            assert!(deframer.held_bytes() <= 2 * arrived);
            assert!(deframer.held_bytes() <= stream.len());
        }
        assert!(!deframer.is_partial());
        assert_eq!(deframer.next(&mut &[][..], 1 << 20), Ok(None));
        assert_eq!(deframer.held_bytes(), 0);
    }

    #[test]
    fn too_large_is_told_without_allocation_and_again() {
        let claim = prefix(65);
        let error = FrameTooLarge {
            announced_bytes: 65,
            limit_bytes: 64,
        };
        for cut in 0..=claim.len() {
            let mut deframer = Deframer::new();
            assert_eq!(
                deframer.next(&mut &claim[..cut], 64),
                if cut < 4 { Ok(None) } else { Err(error) }
            );
            let mut rest = &claim[cut..];
            assert!(cut == 4 || deframer.next(&mut rest, 64) == Err(error));
            assert!(cut == 4 || deframer.next(&mut rest, 64) == Err(error));
            assert!(deframer.held_bytes() <= PREFIX_BYTES);
        }
        let mut deframer = Deframer::new();
        let limit_bytes = 16 << 20;
        assert_eq!(
            deframer.next(&mut &[0xff; 4][..], limit_bytes),
            Err(FrameTooLarge {
                announced_bytes: u32::MAX as usize,
                limit_bytes
            })
        );
    }
}
