//! The way of an event: resolved, appended to a run, sealed, given to whoever gets it, here and on other cores.

use fluxar_protocol::envelope::compact::topic_at;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use crate::delivery::{Delivery, Grouped};
use crate::groups::{Seat, frame_piece};
use crate::ids::Ids;
use crate::letter::{GroupHandle, Letter};
use crate::peer::PeerId;
use crate::runs::Run;
use crate::shard::Shard;
use crate::subscriptions::Subscriptions;

impl Shard {
    /// Takes an event: copies it to the run that is being built, or begins another one.
    ///
    /// `event` is a whole compact envelope without ref, whose target is `topic`, both checked by the caller.
    ///
    /// # Panics
    /// If `topic` is not the target of `event`: a mistake of the caller.
    #[inline]
    pub fn publish(&mut self, topic: &str, event: &[u8]) {
        if self.run.goes_on(topic, self.topics.version(), event.len()) {
            self.run.append_same(event);
        } else {
            self.publish_anew(topic, event);
        }
    }

    /// Ends the runs that are being built: at the end of one connection's input.
    #[inline]
    pub fn flush_run(&mut self) {
        self.flush_plain();
        self.flush_logged();
    }

    /// Ends the run of plain events that is being built.
    pub(crate) fn flush_plain(&mut self) {
        let Some(sealed) = self.run.seal() else { return };
        let (run, receivers) = (sealed.run, sealed.receivers);
        for &core in &receivers.cores {
            self.post.send(core, Letter::Run(run.clone()));
        }
        let mut grouped = Vec::new();
        for &handle in &receivers.groups {
            self.deal(handle, &run, &mut grouped);
        }
        if !receivers.plain.is_empty() || !grouped.is_empty() {
            self.ready.push_back(Delivery {
                run,
                plain: receivers.plain.clone(),
                grouped,
            });
        }
    }

    /// This run was not queued for this plain receiver, whose queue is full: counts it for each of its matching
    /// subscriptions.
    pub fn dropped(&mut self, peer: PeerId, run: &Run) {
        for segment in run.segments() {
            let mut matched = self.topics.matched(run.topic(segment));
            matched.sort_unstable();
            self.subscriptions
                .all_missed(peer, &matched, u64::from(segment.events));
            self.topics.matched_done(matched);
        }
    }

    /// Likewise a piece for a member of a group.
    pub fn dropped_grouped(&mut self, grouped: &Grouped) {
        if let Some(at) = self.subscriptions.find(grouped.peer, grouped.sub) {
            self.subscriptions.missed(at, u64::from(grouped.events));
        }
    }

    /// A run of another core, for this core's plain subscriptions.
    pub(crate) fn arrived(&mut self, run: Run) {
        let Self {
            topics,
            subscriptions,
            groups,
            ready,
            ..
        } = self;
        run.split(
            |topic| topics.resolve(topic, subscriptions, groups).plain.clone(),
            |run, plain| {
                ready.push_back(Delivery {
                    run,
                    plain,
                    grouped: Vec::new(),
                })
            },
        );
    }

    /// Events of another core, for this core's members of a group.
    pub(crate) fn share_arrived(&mut self, handle: GroupHandle, events: &Bytes, ends: &[u32]) {
        let Self {
            groups,
            subscriptions,
            ids,
            orphaned_events,
            ..
        } = self;
        let Some(group) = groups.by_handle(handle).filter(|group| group.members_here() > 0) else {
            *orphaned_events += ends.len() as u64;
            return;
        };
        let mut grouped = Vec::new();
        group.deal_here(ends.len(), |sub, range| {
            grouped.push(piece_for(subscriptions, ids, sub, events, ends, range));
        });
        self.ready.push_back(Delivery {
            run: Run::empty(),
            plain: self.nobody.clone(),
            grouped,
        });
    }

    #[inline(never)]
    fn publish_anew(&mut self, topic: &str, event: &[u8]) {
        let topic_at = topic_at(topic, event).expect("an event's topic is its target");
        let receivers = self.topics.resolve(topic, &self.subscriptions, &self.groups);
        if receivers.is_empty() {
            self.unheard_events += 1;
            return;
        }
        if !self.run.takes(receivers, event.len()) {
            let receivers = Rc::clone(receivers);
            self.flush_plain(); // what is to be logged is not appended in the midst of what was, which may be published here
            self.run.begin(receivers, event.len());
        }
        self.run.append(topic, self.topics.version(), event, topic_at);
    }

    /// Deals a run to the members of a group, here and on other cores.
    fn deal(&mut self, handle: GroupHandle, run: &Run, grouped: &mut Vec<Grouped>) {
        let Self {
            run: built,
            groups,
            subscriptions,
            ids,
            post,
            orphaned_events,
            ..
        } = self;
        let (events, ends) = (run.body(), built.ends());
        let Some(group) = groups.by_handle(handle) else {
            *orphaned_events += ends.len() as u64;
            return;
        };
        group.deal(ends.len(), |seat, range| match seat {
            Seat::Here(sub) => grouped.push(piece_for(subscriptions, ids, sub, &events, ends, range)),
            Seat::Elsewhere(other) => {
                let bytes = bytes_of(ends, &range);
                let moved = bytes.start as u32;
                let letter = Letter::Share {
                    handle: other.handle,
                    events: events.slice(bytes),
                    ends: ends[range].iter().map(|end| end - moved).collect(),
                };
                post.send(other.core, letter);
            }
        });
    }
}

fn piece_for(
    subscriptions: &Subscriptions,
    ids: &mut Ids,
    sub: u32,
    events: &[u8],
    ends: &[u32],
    range: Range<usize>,
) -> Grouped {
    let sub = &subscriptions[sub];
    let count = range.len() as u32;
    let framed = frame_piece(ids.fresh(), sub.id, count, &events[bytes_of(ends, &range)]);
    Grouped {
        peer: sub.peer,
        sub: sub.id,
        framed,
        events: count,
    }
}

/// The bytes of these events.
fn bytes_of(ends: &[u32], events: &Range<usize>) -> Range<usize> {
    let start = events.start.checked_sub(1).map_or(0, |before| ends[before]);
    start as usize..ends[events.end - 1] as usize
}
