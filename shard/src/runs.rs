//! Runs: consecutive events of one input that go to the same receivers, framed once for all of them.
//!
//! A run is built while one connection's input is read: each event is copied out of the receive buffer behind the
//! one before it, once. Then it is sealed, and every receiver shares its bytes.
//!
//! ```text
//!   | u32 length | event | event | event | event | event |
//!                  └ "a.b" ┘       └─── "a.c" ───────────┘     two segments: topic, events, end
//! ```

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::frame::{self, PREFIX_BYTES};
use fluxar_protocol::limits::RUN_BYTES_MAX;

use crate::groups::GROUP_HEADER_BYTES_MAX;
use crate::peer::PeerId;
use crate::topics::receivers::Receivers;

/// Events back to back behind the 4-byte length prefix of a byte-stream transport (a WebSocket slices it off).
/// Cheap to clone; all receivers share the bytes.
#[derive(Debug, Clone)]
pub struct Run {
    bytes: Bytes,
    segments: Segments,
}

#[derive(Debug, Clone)]
enum Segments {
    None,
    One(Segment),
    Many(Arc<[Segment]>),
}

/// Consecutive events of one topic. Offsets are into the run's bytes, prefix included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where the topic's text stands: inside the first of the events.
    topic_at: u32,
    topic_bytes: u32,
    /// Where the last event ends.
    end: u32,
    /// How many.
    pub(crate) events: u32,
}

impl Run {
    /// The frame: prefix and body.
    #[must_use]
    pub fn framed(&self) -> &Bytes {
        &self.bytes
    }

    /// The body alone: what is one WebSocket message.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.bytes.slice(PREFIX_BYTES..)
    }

    /// How many events it holds.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.segments()
            .iter()
            .map(|segment| u64::from(segment.events))
            .sum()
    }

    /// No events, in an empty frame that is not meant to be sent.
    pub(crate) const fn empty() -> Self {
        Self {
            bytes: Bytes::from_static(&[0; PREFIX_BYTES]),
            segments: Segments::None,
        }
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        match &self.segments {
            Segments::None => &[],
            Segments::One(segment) => std::slice::from_ref(segment),
            Segments::Many(segments) => segments,
        }
    }

    /// The topic of one of its segments.
    pub(crate) fn topic(&self, segment: &Segment) -> &str {
        std::str::from_utf8(text_at(&self.bytes, segment)).unwrap_or_default() // it was a &str when it was appended
    }

    /// The segments with these numbers as a run of their own.
    fn piece(&self, range: std::ops::Range<usize>) -> Self {
        let segments = &self.segments()[range.clone()];
        let Some(last) = segments.last() else {
            return Self::empty();
        };
        let start = match range.start {
            0 => PREFIX_BYTES,
            first => self.segments()[first - 1].end as usize,
        };
        let body = &self.bytes[start..last.end as usize];
        let mut bytes = Vec::with_capacity(PREFIX_BYTES + body.len());
        bytes.extend_from_slice(&frame::prefix(body.len()));
        bytes.extend_from_slice(body);
        let moved = (start - PREFIX_BYTES) as u32;
        let segments = segments.iter().map(|segment| Segment {
            topic_at: segment.topic_at - moved,
            end: segment.end - moved,
            ..*segment
        });
        Self {
            bytes: bytes.into(),
            segments: Segments::collect(segments),
        }
    }

    /// Cuts a run of another core where this core's receivers change. If all of it has the same ones, they share
    /// the bytes as they came.
    pub(crate) fn split(
        self,
        mut plain: impl FnMut(&str) -> Rc<[PeerId]>,
        mut part: impl FnMut(Self, Rc<[PeerId]>),
    ) {
        let segments = self.segments();
        let Some(first) = segments.first() else { return };
        let mut from = 0;
        let mut receivers = plain(self.topic(first));
        for (at, segment) in segments.iter().enumerate().skip(1) {
            let next = plain(self.topic(segment));
            if !Rc::ptr_eq(&next, &receivers) && next != receivers {
                if !receivers.is_empty() {
                    part(self.piece(from..at), receivers);
                }
                (from, receivers) = (at, next);
            }
        }
        if !receivers.is_empty() {
            let all = from == 0;
            part(
                if all {
                    self
                } else {
                    self.piece(from..segments.len())
                },
                receivers,
            );
        }
    }
}

impl Segments {
    fn collect(mut segments: impl ExactSizeIterator<Item = Segment>) -> Self {
        match (segments.len(), segments.next()) {
            (_, None) => Self::None,
            (1, Some(segment)) => Self::One(segment),
            (_, Some(segment)) => Self::Many(std::iter::once(segment).chain(segments).collect()),
        }
    }
}

#[inline]
fn text_at<'a>(bytes: &'a [u8], segment: &Segment) -> &'a [u8] {
    let at = segment.topic_at as usize;
    &bytes[at..at + segment.topic_bytes as usize]
}

/// The run that is being built.
#[derive(Debug, Default)]
pub(crate) struct RunBuilder {
    bytes: Vec<u8>,
    receivers: Option<Rc<Receivers>>,
    /// [`crate::topics::Topics::version`] at which the receivers were found.
    version: u64,
    segments: Vec<Segment>,
    /// Where each event ends in the body; kept only if there are groups among the receivers.
    ends: Vec<u32>,
    /// The bound of this run, prefix included.
    bytes_max: usize,
    /// How large the next one will probably be.
    bytes_expected: usize,
}

/// A finished run. Where its events end is in [`RunBuilder::ends`] until the next one is begun.
pub(crate) struct Sealed {
    pub(crate) run: Run,
    pub(crate) receivers: Rc<Receivers>,
}

impl RunBuilder {
    /// Whether an event of this topic has the receivers of the event before it, and there is room for it.
    #[inline]
    pub(crate) fn goes_on(&self, topic: &str, version: u64, event_bytes: usize) -> bool {
        self.version == version
            && self.has_room(event_bytes)
            && self
                .segments
                .last()
                .is_some_and(|last| text_at(&self.bytes, last) == topic.as_bytes())
    }

    /// Whether this event can be appended to what was begun for the same receivers.
    pub(crate) fn takes(&self, receivers: &Rc<Receivers>, event_bytes: usize) -> bool {
        self.receivers
            .as_ref()
            .is_some_and(|ours| Rc::ptr_eq(ours, receivers))
            && self.has_room(event_bytes)
    }

    /// Begins a run; the one before it was sealed.
    pub(crate) fn begin(&mut self, receivers: Rc<Receivers>, event_bytes: usize) {
        debug_assert!(self.bytes.is_empty(), "the run before this one was not sealed");
        self.bytes_max = PREFIX_BYTES + RUN_BYTES_MAX;
        if !receivers.groups.is_empty() {
            self.bytes_max -= GROUP_HEADER_BYTES_MAX; // a member that gets all of it gets a header too
        }
        self.bytes
            .reserve_exact(self.bytes_expected.max(PREFIX_BYTES + event_bytes));
        self.bytes.extend_from_slice(&[0; PREFIX_BYTES]);
        self.receivers = Some(receivers);
        self.ends.clear();
    }

    /// Appends an event whose topic is the one before it: [`RunBuilder::goes_on`] said so.
    #[inline]
    pub(crate) fn append_same(&mut self, event: &[u8]) {
        self.bytes.extend_from_slice(event);
        let end = self.bytes.len() as u32;
        if let Some(last) = self.segments.last_mut() {
            last.events += 1;
            last.end = end;
        }
        if self
            .receivers
            .as_ref()
            .is_some_and(|receivers| !receivers.groups.is_empty())
        {
            self.ends.push(end - PREFIX_BYTES as u32);
        }
    }

    /// Appends an event of any topic with the receivers that the run was begun for.
    pub(crate) fn append(&mut self, topic: &str, version: u64, event: &[u8], topic_at: usize) {
        self.version = version;
        if self
            .segments
            .last()
            .is_none_or(|last| text_at(&self.bytes, last) != topic.as_bytes())
        {
            let end = self.bytes.len();
            self.segments.push(Segment {
                topic_at: (end + topic_at) as u32,
                topic_bytes: topic.len() as u32,
                end: end as u32,
                events: 0,
            });
        }
        self.append_same(event);
    }

    /// Ends the run, if one was begun.
    pub(crate) fn seal(&mut self) -> Option<Sealed> {
        let receivers = self.receivers.take()?;
        let mut bytes = std::mem::take(&mut self.bytes);
        let prefix = frame::prefix(bytes.len() - PREFIX_BYTES);
        bytes[..PREFIX_BYTES].copy_from_slice(&prefix);
        self.bytes_expected = bytes
            .len()
            .max(self.bytes_expected - self.bytes_expected / 8)
            .min(self.bytes_max);
        if bytes.len() < bytes.capacity() / 2 {
            bytes.shrink_to_fit(); // a queue that counts its bytes must not hold twice as many
        }
        let segments = Segments::collect(self.segments.drain(..));
        Some(Sealed {
            run: Run {
                bytes: bytes.into(),
                segments,
            },
            receivers,
        })
    }

    /// Where each event of the run that was sealed last ends in its body, if groups are to get it.
    pub(crate) fn ends(&self) -> &[u32] {
        &self.ends
    }

    #[inline]
    fn has_room(&self, event_bytes: usize) -> bool {
        self.bytes.len() + event_bytes <= self.bytes_max
    }
}
