//! Logged events [P-5.8, P-5.9]: runs that come behind a header, and what is acknowledged in both directions.
//!
//! A gateway that stores a thousand publishes sends a thousand acknowledgements, and one that delivers sends a header with each
//! run. Both have one form that nearly all of them have, and that form is read here in one pass; every other form goes the long
//! way. What our subscriptions have received is acknowledged cumulatively, once for each partition when the turn ends. An
//! acknowledgement of a publish counts if it names one that is open: a gateway that acknowledged one twice and another never
//! would lose events, and lose them unseen.

use std::collections::VecDeque;
use std::ops::Range;

use fluxar_protocol::envelope::{COMPACT_HEAD, COMPACT_ID_AT, COMPACT_REF_AT};
use fluxar_protocol::position::Position;
use fluxar_protocol::{Id, Kind};

/// CBOR's null.
const NULL: u8 = 0xf6;
/// First byte of a byte string of 16: an id.
const ID_HEAD: u8 = 0x50;
/// Behind the ref: no target, meta with one key.
const META_RUN: &[u8] = b"\xf6\xa1\x63run";
const META_AT: &[u8] = b"\xf6\xa1\x62at";
/// The payload and the error: none.
const END: &[u8] = &[NULL, NULL];
/// Major types, in the upper three bits of a head.
const UINT: u8 = 0;
const ARRAY: u8 = 4;

/// What a session still has to do about logged events.
#[derive(Debug, Default)]
pub(super) struct Logged {
    /// What was received and is to be acknowledged, by subscription and partition. A topic has one partition, so there are few.
    owed: Vec<Owed>,
    is_owing: bool,
    /// Events of the run in hand that have not come.
    behind: u64,
}

#[derive(Debug)]
struct Owed {
    subscription: Id,
    position: Position,
    is_due: bool,
}

/// The header of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) subscription: Id,
    /// Of its last event.
    pub(super) last: Position,
    /// How many events it has.
    pub(super) count: u64,
}

impl Logged {
    /// A run begins: its events stand right behind.
    pub(super) fn begin(&mut self, header: &Header) {
        self.behind = header.count;
        self.is_owing = true;
        let known = self.owed.iter_mut().find(|owed| {
            owed.subscription == header.subscription && owed.position.partition == header.last.partition
        });
        match known {
            Some(owed) => {
                owed.position = header.last;
                owed.is_due = true;
            }
            None => self.owed.push(Owed {
                subscription: header.subscription,
                position: header.last,
                is_due: true,
            }),
        }
    }

    /// An event came.
    #[inline]
    pub(super) fn event(&mut self) {
        self.behind = self.behind.saturating_sub(1);
    }

    /// A body ends: how many events its run still lacks. A run never goes on in the next body [P-5.4].
    pub(super) fn end_body(&mut self) -> u64 {
        std::mem::take(&mut self.behind)
    }

    /// Whether anything is to be acknowledged.
    #[inline]
    pub(super) fn is_owing(&self) -> bool {
        self.is_owing
    }

    /// What is to be acknowledged now: subscription and position of each.
    pub(super) fn take_owed(&mut self) -> impl Iterator<Item = (Id, Position)> + use<'_> {
        self.is_owing = false;
        self.owed
            .iter_mut()
            .filter_map(|owed| std::mem::take(&mut owed.is_due).then_some((owed.subscription, owed.position)))
    }

    /// A subscription is over.
    pub(super) fn forget(&mut self, subscription: Id) {
        self.owed.retain(|owed| owed.subscription != subscription);
        self.is_owing = self.owed.iter().any(|owed| owed.is_due);
    }
}

/// Publishes that were neither acknowledged nor refused, by the numbers of their ids.
///
/// A session numbers all that it sends, so those of a turn follow each other, and they are settled in the order of their
/// partition: as runs of consecutive numbers, ascending, they are few.
#[derive(Debug, Default)]
pub(super) struct Unsettled(VecDeque<Range<u64>>);

impl Unsettled {
    /// A publish leaves; its number is higher than those before it.
    #[inline]
    pub(super) fn publish(&mut self, number: u64) {
        match self.0.back_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => self.0.push_back(number..number + 1),
        }
    }

    /// A publish was acknowledged or refused. False if it is not open: it was settled before, or is none of ours.
    #[inline]
    #[must_use]
    pub(super) fn settle(&mut self, number: u64) -> bool {
        match self.0.front_mut() {
            Some(run) if run.start == number => {
                run.start += 1;
                if run.is_empty() {
                    self.0.pop_front();
                }
                true
            }
            _ => self.settle_other(number),
        }
    }

    /// Not the oldest: that of another partition waits longer, or this one was refused.
    #[inline(never)]
    fn settle_other(&mut self, number: u64) -> bool {
        let at = self.0.partition_point(|run| run.end <= number);
        let Some(run) = self.0.get_mut(at).filter(|run| run.contains(&number)) else {
            return false;
        };
        let behind = number + 1..run.end;
        run.end = number;
        if run.is_empty() {
            self.0.remove(at);
            if !behind.is_empty() {
                self.0.insert(at, behind);
            }
        } else if !behind.is_empty() {
            self.0.insert(at + 1, behind);
        }
        true
    }
}

/// The header of a run of logged events at the start of `rest`, and its length; `None` if it has another form.
#[inline]
pub(super) fn header(rest: &[u8]) -> Option<(Header, usize)> {
    let (subscription, mut rest_of) = reference(rest, Kind::Subscribe)?;
    rest_of = rest_of.strip_prefix(META_RUN)?;
    let elements = number(&mut rest_of, ARRAY)?;
    let count = elements.checked_sub(1).filter(|count| *count > 0)?;
    let partition = number(&mut rest_of, UINT)?.try_into().ok()?;
    let mut offset = number(&mut rest_of, UINT)?;
    for _ in 1..count {
        let delta = number(&mut rest_of, UINT).filter(|delta| *delta > 0)?;
        offset = u64::checked_add(offset, delta)?;
    }
    rest_of = rest_of.strip_prefix(END)?;
    let header = Header {
        subscription,
        last: Position { partition, offset },
        count,
    };
    Some((header, rest.len() - rest_of.len()))
}

/// The acknowledgement of one publish at the start of `rest`: the publish, and the length; `None` if it has another form.
#[inline]
pub(super) fn acknowledgement(rest: &[u8]) -> Option<(Id, usize)> {
    let (publish, mut rest_of) = reference(rest, Kind::Event)?;
    rest_of = rest_of.strip_prefix(META_AT)?;
    if number(&mut rest_of, ARRAY)? != 2 {
        return None;
    }
    let _partition: u16 = number(&mut rest_of, UINT)?.try_into().ok()?;
    number(&mut rest_of, UINT)?;
    rest_of = rest_of.strip_prefix(END)?;
    Some((publish, rest.len() - rest_of.len()))
}

/// The ref of a compact envelope of this kind, and what stands behind it.
#[inline]
fn reference(rest: &[u8], kind: Kind) -> Option<(Id, &[u8])> {
    let is_such = rest.get(..COMPACT_ID_AT)? == [COMPACT_HEAD, kind as u8, ID_HEAD]
        && *rest.get(COMPACT_REF_AT - 1)? == ID_HEAD;
    if !is_such {
        return None;
    }
    let (id, behind) = rest.get(COMPACT_REF_AT..)?.split_first_chunk::<16>()?;
    Some((Id(*id), behind))
}

/// Takes the head of an item of this major type off, in its shortest encoding or not, and returns its number.
#[inline]
fn number(rest: &mut &[u8], major: u8) -> Option<u64> {
    let (&head, mut behind) = rest.split_first()?;
    if head >> 5 != major {
        return None;
    }
    let number = match head & 0x1f {
        small @ 0..24 => u64::from(small),
        width @ 24..28 => {
            let (bytes, after) = behind.split_at_checked(1 << (width - 24))?;
            behind = after;
            bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte))
        }
        _ => return None,
    };
    *rest = behind;
    Some(number)
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::envelope::{Form, decode};
    use fluxar_protocol::meta::{Meta, MetaWriter, Run};
    use fluxar_protocol::{Envelope, envelope};
    use proptest::prelude::*;

    use super::*;

    fn encoded(kind: Kind, meta: MetaWriter) -> Vec<u8> {
        let meta = meta.finish();
        let mut bytes = Vec::new();
        Envelope {
            kind,
            id: Id([1; 16]),
            reference: Some(Id([2; 16])),
            target: None,
            meta: meta.as_deref().map(Meta::from_checked),
            payload: &[],
            error: None,
        }
        .encode(Form::Compact, &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn what_is_read_in_one_pass_is_what_the_decoder_reads(
            partition: u16,
            first in 0..u64::MAX / 2,
            deltas in prop::collection::vec(prop_oneof![Just(1u64), 1u64..100_000], 0..300),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            is_header: bool,
        ) {
            let mut bytes = if is_header {
                encoded(Kind::Subscribe, MetaWriter::new().positions("run", partition, first, deltas.into_iter()))
            } else {
                encoded(Kind::Event, MetaWriter::new().position("at", Position { partition, offset: first }))
            };
            let is_whole = damage.is_none();
            if let Some((at, byte)) = damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let own_bytes = bytes.len();
            bytes.push(0x87);
            let decoded = decode(&bytes);
            if let Some((header, length)) = header(&bytes) {
                let decoded = decoded.expect("the decoder reads it as well");
                prop_assert_eq!((decoded.bytes.len(), Some(header.subscription)), (length, decoded.envelope.reference));
                let meta = decoded.envelope.meta.expect("it has meta");
                let Ok(Some(Run::Logged(run))) = meta.run() else { panic!("{meta:?}") };
                prop_assert_eq!((run.partition(), run.count()), (header.last.partition, header.count));
                prop_assert_eq!(run.offsets().last(), Some(header.last.offset));
            } else if let Some((publish, length)) = acknowledgement(&bytes) {
                let decoded = decoded.expect("the decoder reads it as well");
                prop_assert_eq!((decoded.bytes.len(), decoded.envelope.reference), (length, Some(publish)));
                let verb = fluxar_protocol::exchange::verb(&decoded.envelope);
                prop_assert!(matches!(verb, Ok(fluxar_protocol::exchange::Verb::Ack(_))), "{verb:?}");
            } else {
                prop_assert!(!is_whole, "not recognised: {bytes:x?}");
            }
            // Nothing that was cut off is recognised.
            for end in 0..own_bytes {
                prop_assert_eq!((header(&bytes[..end]), acknowledgement(&bytes[..end])), (None, None));
            }
        }
    }

    proptest! {
        #[test]
        fn a_publish_is_settled_once(
            sent in prop::collection::btree_set(0..60u64, 0..40),
            settled in prop::collection::vec(0..60u64, 0..120),
        ) {
            let mut unsettled = Unsettled::default();
            sent.iter().for_each(|number| unsettled.publish(*number));
            let mut open = sent;
            for number in settled {
                prop_assert_eq!(unsettled.settle(number), open.remove(&number));
                let left: Vec<u64> = unsettled.0.iter().cloned().flatten().collect();
                prop_assert_eq!(left, open.iter().copied().collect::<Vec<_>>());
                prop_assert!(unsettled.0.iter().all(|run| !run.is_empty()));
            }
        }
    }

    #[test]
    fn a_subscription_owes_its_last_position_once() {
        let mut logged = Logged::default();
        let header = |subscription, partition, offset, count| Header {
            subscription: Id([subscription; 16]),
            last: Position { partition, offset },
            count,
        };
        logged.begin(&header(1, 7, 3, 3));
        (0..3).for_each(|_| logged.event());
        assert_eq!(logged.end_body(), 0);
        logged.begin(&header(1, 7, 5, 2));
        logged.begin(&header(1, 8, 1, 1));
        logged.begin(&header(2, 7, 4, 4));
        assert_eq!(logged.end_body(), 4);
        assert!(logged.is_owing());
        logged.forget(Id([2; 16]));
        let owed: Vec<_> = logged
            .take_owed()
            .map(|(_, at)| (at.partition, at.offset))
            .collect();
        assert_eq!(owed, [(7, 5), (8, 1)]);
        assert!(!logged.is_owing() && logged.take_owed().next().is_none());
    }

    #[test]
    fn ids_stand_where_they_are_looked_for() {
        let mut bytes = encoded(
            Kind::Event,
            MetaWriter::new().position(
                "at",
                Position {
                    partition: 1,
                    offset: 2,
                },
            ),
        );
        envelope::patch_ref(&mut bytes, Id([9; 16]));
        assert_eq!(
            reference(&bytes, Kind::Event).map(|(id, _)| id),
            Some(Id([9; 16]))
        );
    }
}
