//! The shard: its parts, and how the outside takes from it what has come about.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use fluxar_protocol::Id;
use foldhash::fast::FixedState;

use crate::absence::Absences;
use crate::counts::Counts;
use crate::delivery::Delivery;
use crate::exchanges::Exchanges;
use crate::exchanges::attempts::Outgoing;
use crate::exchanges::calls::AnswerRoute;
use crate::exchanges::streams::PartRoute;
use crate::groups::Groups;
use crate::ids::Ids;
use crate::letter::{Arrival, Letter};
use crate::limits::{CORES_MAX, Limits};
use crate::logged::Logged;
use crate::peer::PeerId;
use crate::post::Post;
use crate::runs::RunBuilder;
use crate::serving::Serving;
use crate::serving::set::SetId;
use crate::subscriptions::Subscriptions;
use crate::topics::Topics;

/// What a shard cannot make itself, since it has no source of randomness.
#[derive(Debug, Clone, Copy)]
pub struct Seed {
    /// Secret, another one for each core: hashing.
    pub hash: u64,
    /// Secret, another one for each core and independent of `hash`: the ids that are given to forwarded messages.
    pub ids: u64,
    /// Public, the same on all cores: this incarnation of the gateway.
    pub epoch: u64,
}

/// One core's share.
#[derive(Debug)]
pub struct Shard {
    pub(crate) core: u16,
    pub(crate) epoch: u64,
    pub(crate) ids: Ids,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) serving: Serving,
    pub(crate) exchanges: Exchanges,
    pub(crate) run: RunBuilder,
    pub(crate) logged: Logged,
    pub(crate) post: Post,
    pub(crate) ready: VecDeque<Delivery>,
    pub(crate) out: VecDeque<Outgoing>,
    /// Peers of this core in front of which somebody waits, and where there may be room.
    pub(crate) moved_gates: VecDeque<PeerId>,
    /// Sets of which a part of those that wait was given away, and the rest may follow.
    pub(crate) moving: VecDeque<SetId>,
    /// Peers of this core that do not take what is queued for them, as they last told.
    pub(crate) crowded: HashSet<PeerId, FixedState>,
    /// Peers of this core that withdrew an offer: what is on its way to them from other cores may find none.
    pub(crate) withdrew: HashSet<PeerId, FixedState>,
    pub(crate) absences: Absences,
    /// Streams that left other cores' peers.
    pub(crate) leaving: VecDeque<(PeerId, Id)>,
    /// The receivers of what has none: shared, so that none is made.
    pub(crate) nobody: Rc<[PeerId]>,
    pub(crate) late_answers: u64,
    pub(crate) unheard_events: u64,
    pub(crate) orphaned_events: u64,
    /// The last time that was told.
    pub(crate) now_us: u64,
}

impl Shard {
    /// The share of core `core` out of `cores`.
    ///
    /// # Panics
    /// If `core` is not one of at most [`CORES_MAX`] `cores`.
    #[must_use]
    pub fn new(core: u16, cores: u16, limits: Limits, seed: Seed) -> Self {
        assert!(core < cores && cores <= CORES_MAX, "core {core} of {cores}");
        let hasher = &FixedState::with_seed(seed.hash);
        Self {
            core,
            epoch: seed.epoch,
            ids: Ids::new(seed.ids),
            subscriptions: Subscriptions::new(hasher, limits),
            topics: Topics::new(hasher, limits.names_remembered),
            groups: Groups::new(hasher),
            serving: Serving::new(core, hasher, !seed.ids.rotate_left(32), limits.names_remembered),
            exchanges: Exchanges::new(core, hasher, limits),
            run: RunBuilder::default(),
            logged: Logged::new(core, cores, hasher, limits),
            post: Post::new(core, cores),
            ready: VecDeque::new(),
            out: VecDeque::new(),
            moved_gates: VecDeque::new(),
            moving: VecDeque::new(),
            crowded: HashSet::with_hasher(hasher.clone()),
            withdrew: HashSet::with_hasher(hasher.clone()),
            absences: Absences::new(hasher),
            leaving: VecDeque::new(),
            nobody: Rc::from([]),
            late_answers: 0,
            unheard_events: 0,
            orphaned_events: 0,
            now_us: 0,
        }
    }

    /// Names this incarnation of the gateway.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How much there is of everything.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            subscribers: self.subscriptions.holders(),
            subscriptions: self.subscriptions.len(),
            away: self.absences.len(),
            pattern_bytes: self.subscriptions.text_bytes(),
            topic_patterns: self.topics.patterns.len(),
            method_patterns: self.serving.patterns(),
            groups: self.groups.len(),
            servers: self.serving.servers(),
            askers: self.exchanges.askers(),
            open_calls: self.exchanges.len() - self.exchanges.streams(),
            open_streams: self.exchanges.streams(),
            queued: self.exchanges.queue.len(),
            gated: self.exchanges.gates.waiting(),
            passed: self.exchanges.gates.passed(),
            held_bytes: self.exchanges.held_bytes(),
            late_answers: self.late_answers,
            unheard_events: self.unheard_events,
            orphaned_events: self.orphaned_events,
            logged_subscriptions: self.logged.readers.len(),
            logged_patterns: self.logged.readers.patterns() + self.logged.owner.followed.len(),
            cursor_holders: self.logged.owner.holders(),
            unacked_bytes: self.logged.readers.unacked_bytes(),
            refused_events: self.logged.order.len(),
            queue_members: self.logged.queues.members(),
            unlogged_events: self.logged.unlogged_events,
            log_gaps: self.logged.gaps,
        }
    }

    /// Takes a letter from another core.
    pub fn handle_letter(&mut self, from: u16, letter: Letter) -> Arrival {
        let Some(letter) = self.absences.put_aside(letter) else {
            return Arrival::Taken;
        };
        match letter {
            Letter::Want { pattern, wanted } => self.want(from, &pattern, wanted),
            Letter::Members {
                pattern,
                group,
                handle,
                members,
            } => {
                self.members(from, &pattern, &group, handle, members);
            }
            Letter::Offer {
                server,
                sub,
                pattern,
                offering,
                standing,
            } => {
                self.serving.offer(server, sub, &pattern, &offering);
                self.stands_elsewhere(server, standing);
            }
            Letter::Standing { server, standing } => self.stands_elsewhere(server, standing),
            Letter::Credit { server, credit_bytes } => {
                self.serving.set_credit(server, credit_bytes);
            }
            Letter::Withdraw { server, sub } => self.serving.withdraw_named(server, sub),
            Letter::ServerLost { server } => return self.server_lost_elsewhere(server),
            Letter::Flush { server } => {
                let is_told = self.absences.is_resumable(server);
                self.post.send(from, Letter::Flushed { server, is_told });
            }
            Letter::Flushed { server, is_told } => return self.loss_settled(from, server, is_told),
            Letter::Run(run) => self.arrived(run),
            Letter::Share { handle, events, ends } => self.share_arrived(handle, &events, &ends),
            Letter::Forward { to, bytes } => return self.forward_arrived(to, bytes),
            Letter::Answer {
                from,
                reference,
                outcome,
                bytes,
            } => {
                if let AnswerRoute::Deliver { asker, reference } = self.answer_here(from, reference, outcome)
                {
                    return Arrival::Answer {
                        asker,
                        reference,
                        bytes,
                    };
                }
            }
            Letter::Part {
                from,
                reference,
                spoken,
                bytes,
            } => {
                if let Some(PartRoute::Pass { to, reference }) = self.served_part(from, reference, spoken) {
                    return Arrival::Part { to, reference, bytes };
                }
            }
            Letter::Chunks {
                from,
                reference,
                bytes,
            } => {
                return Arrival::Chunks {
                    from,
                    reference,
                    bytes,
                };
            }
            Letter::Passed { to, bytes, envelopes } => return Arrival::Passed { to, bytes, envelopes },
            Letter::Cancel { from, reference } => {
                self.cancel_served(from, reference);
            }
            Letter::Note {
                to,
                reference,
                kind,
                note,
            } => self.note_arrived(to, reference, kind, note),
            Letter::Admitted { from, reference } => self.admitted_elsewhere(from, reference),
            Letter::Refused {
                from,
                reference,
                failure,
            } => self.refused_elsewhere(from, reference, failure),
            Letter::Unheard {
                from,
                reference,
                bytes,
                is_full,
            } => self.unheard_here(from, reference, bytes, is_full),
            Letter::Left { server, reference } => {
                self.left_gate(server, reference);
            }
            Letter::Log(letter) => {
                self.log_letter(from, letter);
                self.pump_log();
            }
            Letter::Queue(letter) => {
                self.queue_letter(from, letter);
                self.pump_log();
            }
        }
        Arrival::Taken
    }

    /// The next run for connections of this core, in order. Poll until `None` after each flush and letter: what one
    /// input leads to is bounded by that input, and nothing else bounds this queue.
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        self.ready.pop_front()
    }

    /// The next letter to post, and the core it is for. Runs and changes of interest keep their order between any two
    /// cores each for itself; a letter that cannot be posted yet is the caller's to keep.
    #[inline]
    pub fn poll_letter(&mut self) -> Option<(u16, Letter)> {
        if self.logged.has_more_to_say() {
            self.flush_acknowledged();
        }
        // Mostly there is nothing, and this is asked after each input.
        if self.post.has_letters() || !self.leaving.is_empty() {
            self.next_letter()
        } else {
            None
        }
    }

    fn next_letter(&mut self) -> Option<(u16, Letter)> {
        while let Some(news) = self.post.next_news() {
            if let Some(letter) = self.word(news) {
                self.post.circulate(letter);
            }
        }
        self.post.next().or_else(|| {
            self.tell_left();
            self.post.next()
        })
    }
}
