//! Runs: consecutive events of one input that go to the same receivers, framed once for all of them.

use std::sync::Arc;

use bytes::Bytes;

/// Events back to back behind the 4-byte length prefix of a byte-stream transport (a WebSocket slices it off).
/// Cheap to clone; all receivers share the bytes.
#[derive(Debug, Clone)]
pub struct Run {
    bytes: Bytes,
    segments: Segments,
}

#[derive(Debug, Clone)]
enum Segments {
    One(Segment),
    Many(Arc<[Segment]>),
}

/// Consecutive events of one topic. Offsets are into the run's bytes, prefix included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where the topic's text stands: inside the first of the events.
    pub(crate) topic_at: u32,
    /// Where the last event ends.
    pub(crate) end: u32,
    /// How many.
    pub(crate) events: u32,
    pub(crate) topic_bytes: u8,
}

impl Run {
    /// The frame: prefix and body.
    #[must_use]
    pub fn framed(&self) -> &Bytes {
        &self.bytes
    }

    /// How many events it holds.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.segments()
            .iter()
            .map(|segment| u64::from(segment.events))
            .sum()
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        match &self.segments {
            Segments::One(segment) => std::slice::from_ref(segment),
            Segments::Many(segments) => segments,
        }
    }
}
