//! From a byte stream to envelopes, without waiting for whole frames.
//!
//! Bytes come from whatever read them off a socket; each envelope goes to the caller as soon as it is seen to be
//! whole (at once if it came in one input; one that straddles when twice as much of it is there, or its body is),
//! though the frame that it stands in [P-1.1] may go on. So a frame of a mebibyte costs its receiver no buffer and no copy:
//! only an envelope that straddles two inputs is copied. What is refused, and when a body is over, is the same as if
//! whole bodies had been cut out first ([`crate::frame::Deframer`]) and walked then ([`crate::Batch`]).
//!
//! ```text
//!          ┌───────────── length ──> Body ──────────┐
//!   Prefix ┤                          │ all taken   ├─ Err without an end: the rest of the body is skipped
//!          └<─────────────────────────┴─────────────┘
//! ```

use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::batch::Batch;
use crate::envelope::Decoded;
use crate::error::Reject;
use crate::frame::{FrameTooLarge, PREFIX_BYTES};

/// A straddling envelope is looked at again when this much more of it has come, or as much again as there was.
const LOOK_AGAIN_BYTES: u32 = 256;

/// Cuts a byte stream into envelopes. Owns no memory while none straddles.
#[derive(Debug, Default)]
pub struct EnvelopeReader {
    /// The beginning of a prefix or of an envelope: what its first input had of it.
    partial: Vec<u8>,
    /// Bytes of the body that are still to come, those of `partial` not counted.
    body_left: u32,
    /// When `partial` is this long, or all of the body is there, it is walked again.
    look_at_bytes: u32,
    place: Place,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Before or inside a prefix.
    #[default]
    Prefix,
    /// At the first byte of a body.
    BodyStart,
    /// Behind it.
    Body,
    /// In the rest of a body that cannot be read.
    Skipped,
}

/// How far [`EnvelopeReader::read`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A frame ended. There may be more input.
    Frame,
    /// All input is taken, and a frame goes on or has not begun.
    Starved,
    /// The caller wanted no more. The reader must not be used again.
    Stopped,
}

impl EnvelopeReader {
    /// At the beginning of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            partial: Vec::new(),
            body_left: 0,
            look_at_bytes: 0,
            place: Place::Prefix,
        }
    }

    /// Reads envelopes up to the end of one frame, or of the input, which is advanced past what was taken.
    /// A body of more than `body_bytes_max` is refused as soon as its length is known; envelopes are refused as
    /// [`Batch::within`] refuses them in a body of `max_frame_bytes` at most. (The two differ before the hello.)
    ///
    /// # Errors
    /// [`FrameTooLarge`]; the stream cannot be continued.
    #[inline]
    pub fn read(
        &mut self,
        input: &mut &[u8],
        body_bytes_max: usize,
        max_frame_bytes: usize,
        mut on: impl FnMut(Result<&Decoded<'_>, &Reject>) -> ControlFlow<()>,
    ) -> Result<Progress, FrameTooLarge> {
        if self.place == Place::Prefix {
            let Some(body_bytes) = self.prefix(input) else {
                return Ok(Progress::Starved);
            };
            if body_bytes as usize > body_bytes_max {
                return Err(FrameTooLarge {
                    announced_bytes: body_bytes as usize,
                    limit_bytes: body_bytes_max,
                });
            }
            self.body_left = body_bytes;
            self.place = Place::BodyStart;
        }
        while !self.partial.is_empty() {
            if let Some(end) = self.read_straddling(input, max_frame_bytes, &mut on) {
                return Ok(end);
            }
        }
        let (body, rest) = input.split_at(input.len().min(self.body_left as usize));
        *input = rest;
        self.body_left -= body.len() as u32;
        if self.place != Place::Skipped && !body.is_empty() {
            let mut batch = self.batch(body, max_frame_bytes);
            if batch.visit(&mut on).is_break() {
                return Ok(Progress::Stopped);
            }
            let tail = &body[batch.position()..];
            self.walked(batch.position(), batch.is_unreadable());
            if self.place != Place::Skipped && self.body_left > 0 && !tail.is_empty() {
                self.hold(tail.to_vec());
            }
        }
        Ok(self.progress())
    }

    /// Whether a frame has begun and is not over.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.place != Place::Prefix || !self.partial.is_empty()
    }

    /// Bytes of memory that wait for the rest of an envelope.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// The length of the body that begins.
    #[inline]
    fn prefix(&mut self, input: &mut &[u8]) -> Option<u32> {
        if self.partial.is_empty()
            && let Some((prefix, rest)) = input.split_first_chunk::<PREFIX_BYTES>()
        {
            *input = rest;
            return Some(u32::from_be_bytes(*prefix));
        }
        let (taken, rest) = input.split_at(input.len().min(PREFIX_BYTES - self.partial.len()));
        self.partial.extend_from_slice(taken);
        *input = rest;
        let prefix = *self.partial.first_chunk::<PREFIX_BYTES>()?;
        self.partial = Vec::new();
        Some(u32::from_be_bytes(prefix))
    }

    fn batch<'a>(&self, body: &'a [u8], max_frame_bytes: usize) -> Batch<'a> {
        Batch::piece(
            body,
            max_frame_bytes,
            self.place == Place::BodyStart,
            self.body_left == 0,
        )
    }

    /// Takes note of how far a walk came.
    fn walked(&mut self, position: usize, is_unreadable: bool) {
        if is_unreadable {
            self.place = Place::Skipped;
        } else if position > 0 {
            self.place = Place::Body;
        }
    }

    /// Keeps the beginning of an envelope. It is looked at again when there is twice as much of it: looking at every
    /// input would cost the square of a large envelope's length.
    fn hold(&mut self, partial: Vec<u8>) {
        self.look_at_bytes = partial.len() as u32 + (partial.len() as u32).max(LOOK_AGAIN_BYTES);
        self.partial = partial;
    }

    fn progress(&mut self) -> Progress {
        if self.body_left > 0 || !self.partial.is_empty() {
            return Progress::Starved;
        }
        self.place = Place::Prefix;
        Progress::Frame
    }

    /// Adds to a straddling envelope what it takes to look at it again, and looks. Bytes behind its end are given
    /// back to the input. `None`: go on.
    fn read_straddling(
        &mut self,
        input: &mut &[u8],
        max_frame_bytes: usize,
        on: &mut impl FnMut(Result<&Decoded<'_>, &Reject>) -> ControlFlow<()>,
    ) -> Option<Progress> {
        let before = *input;
        let wanted = (self.look_at_bytes - self.partial.len() as u32).min(self.body_left);
        let (taken, rest) = before.split_at(before.len().min(wanted as usize));
        let len = self.partial.len() + taken.len();
        if len > self.partial.capacity() {
            let most = self.partial.len() + wanted as usize;
            let capacity = (2 * self.partial.capacity()).clamp(len, most);
            self.partial.reserve_exact(capacity - self.partial.len());
        }
        self.partial.extend_from_slice(taken);
        *input = rest;
        self.body_left -= taken.len() as u32;
        if taken.len() < wanted as usize {
            return Some(Progress::Starved);
        }

        let partial = core::mem::take(&mut self.partial);
        let mut batch = self.batch(&partial, max_frame_bytes);
        if batch.visit(&mut *on).is_break() {
            return Some(Progress::Stopped);
        }
        let position = batch.position();
        self.walked(position, batch.is_unreadable());
        let behind = partial.len() - position;
        if self.place == Place::Skipped || self.body_left == 0 || behind == 0 {
            return None; // nothing of it is needed any more
        }
        if position > 0 && behind <= taken.len() {
            *input = &before[taken.len() - behind..];
            self.body_left += behind as u32;
        } else if position > 0 {
            self.hold(partial[position..].to_vec());
        } else {
            self.hold(partial);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::{String, ToString};
    use alloc::{format, vec};

    use super::*;
    use crate::envelope::Envelope;
    use crate::frame::{Deframer, prefix};
    use crate::meta::Meta;
    use crate::{Form, Id, Kind};

    const LIMIT_BYTES: usize = 64 * 1024;

    fn event(number: u8, payload_bytes: usize) -> Vec<u8> {
        let mut payload = vec![0x59];
        payload.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        payload.resize(3 + payload_bytes, number);
        let mut bytes = Vec::new();
        Envelope {
            kind: Kind::Event,
            id: Id([number; 16]),
            reference: None,
            target: Some("a.topic"),
            meta: None,
            payload: &payload,
            error: None,
        }
        .encode(Form::Compact, &mut bytes);
        bytes
    }

    /// In both forms, with all fields; what they hold is not always what it should be.
    fn full(form: Form, meta_bytes: u16, text: &[u8]) -> Vec<u8> {
        let mut meta = b"\xa1\x63key\x79".to_vec();
        meta.extend_from_slice(&meta_bytes.to_be_bytes());
        meta.resize(meta.len() + usize::from(meta_bytes), b'k');
        let mut payload = vec![0x82, 0x60 + text.len() as u8];
        payload.extend_from_slice(text);
        payload.push(0x05);
        let mut bytes = Vec::new();
        Envelope {
            kind: Kind::Call,
            id: Id([1; 16]),
            reference: Some(Id([2; 16])),
            target: Some("a.method"),
            meta: Some(Meta::from_checked(&meta)),
            payload: &payload,
            error: Some(b"\xa1\x64code\x69not_found"),
        }
        .encode(form, &mut bytes);
        bytes
    }

    fn bodies() -> Vec<Vec<u8>> {
        let unknown_kind = {
            let mut bytes = event(7, 300);
            bytes[1] = 9;
            bytes
        };
        let endless = [&event(1, 300)[..], &[0x87, 0x05, 0x50, 1, 2]].concat();
        vec![
            Vec::new(),
            event(1, 300),
            [event(2, 300), event(3, 900), event(4, 256)].concat(),
            [event(5, 300), unknown_kind, event(6, 300)].concat(),
            [event(1, 300), vec![0xff], event(2, 300)].concat(),
            endless,
            vec![0x28, 0xb5, 0x2f, 0xfd],
            [event(8, 5000), event(9, 300)].concat(),
            vec![0x00; 7],
            [
                full(Form::Compact, 30, b"whole"),
                full(Form::Named, 30, b"whole"),
                full(Form::Named, 30, b"broken \xff"),
                full(Form::Compact, 2500, b"large meta"),
                full(Form::Compact, 30, b"last"),
            ]
            .concat(),
        ]
    }

    fn stream() -> Vec<u8> {
        bodies()
            .iter()
            .flat_map(|body| [&prefix(body.len())[..], body].concat())
            .collect()
    }

    fn told(decoded: Result<&Decoded<'_>, &Reject>) -> String {
        match decoded {
            Ok(decoded) => format!("{:?}", decoded.bytes),
            Err(reject) => reject.to_string(),
        }
    }

    /// What whole bodies yield.
    fn oracle(mut input: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        let mut deframer = Deframer::new();
        while let Some(body) = deframer.next(&mut input, LIMIT_BYTES).unwrap() {
            out.extend(Batch::within(body, LIMIT_BYTES).map(|decoded| told(decoded.as_ref())));
            out.push("frame".to_string());
        }
        out
    }

    fn feed(reader: &mut EnvelopeReader, mut input: &[u8], out: &mut Vec<String>) {
        loop {
            let progress = reader.read(&mut input, LIMIT_BYTES, LIMIT_BYTES, |decoded| {
                out.push(told(decoded));
                ControlFlow::Continue(())
            });
            match progress.unwrap() {
                Progress::Frame => out.push("frame".to_string()),
                Progress::Starved => break,
                Progress::Stopped => unreachable!("nobody stopped it"),
            }
        }
        assert!(input.is_empty());
    }

    #[test]
    fn every_split_yields_what_whole_bodies_yield() {
        let stream = stream();
        let expected = oracle(&stream);
        for cut in 0..=stream.len() {
            let mut reader = EnvelopeReader::new();
            let mut out = Vec::new();
            feed(&mut reader, &stream[..cut], &mut out);
            feed(&mut reader, &stream[cut..], &mut out);
            assert_eq!(out, expected, "cut at {cut}");
            assert!(!reader.is_partial());
            assert_eq!(reader.held_bytes(), 0);
        }
    }

    #[test]
    fn every_size_of_input_yields_what_whole_bodies_yield() {
        let stream = stream();
        let expected = oracle(&stream);
        for size in 1..700 {
            let mut reader = EnvelopeReader::new();
            let mut out = Vec::new();
            for input in stream.chunks(size) {
                feed(&mut reader, input, &mut out);
            }
            assert_eq!(out, expected, "inputs of {size}");
        }
    }

    #[test]
    fn an_envelope_is_handed_on_before_its_frame_is_whole() {
        let stream = stream();
        let first = PREFIX_BYTES + PREFIX_BYTES + event(1, 300).len() + PREFIX_BYTES + event(2, 300).len();
        let mut out = Vec::new();
        feed(&mut EnvelopeReader::new(), &stream[..first + 20], &mut out);
        assert_eq!(out.iter().filter(|line| *line != "frame").count(), 2);
    }

    #[test]
    fn memory_follows_what_arrived() {
        let body = event(1, 60_000);
        let mut reader = EnvelopeReader::new();
        let mut out = Vec::new();
        feed(&mut reader, &prefix(body.len()), &mut out);
        for (count, input) in body.chunks(100).enumerate() {
            feed(&mut reader, input, &mut out);
            assert!(reader.held_bytes() <= 2 * 100 * (count + 1) + LOOK_AGAIN_BYTES as usize);
        }
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_by_its_prefix() {
        let announced_bytes = LIMIT_BYTES + 1;
        let error = EnvelopeReader::new()
            .read(
                &mut &prefix(announced_bytes)[..],
                LIMIT_BYTES,
                LIMIT_BYTES,
                |_| ControlFlow::Continue(()),
            )
            .unwrap_err();
        assert_eq!(
            error,
            FrameTooLarge {
                announced_bytes,
                limit_bytes: LIMIT_BYTES
            }
        );
    }

    #[test]
    fn a_caller_may_stop() {
        let stream = stream();
        let mut seen = 0;
        let mut input = &stream[4..];
        let progress = EnvelopeReader::new().read(&mut input, LIMIT_BYTES, LIMIT_BYTES, |_| {
            seen += 1;
            ControlFlow::Break(())
        });
        assert_eq!((progress, seen), (Ok(Progress::Stopped), 1));
    }
}
