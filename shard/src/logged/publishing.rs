//! The home side of publishing: consecutive events of one connection for one partition become one run, which is appended
//! here or sent to the partition's owner, and what became of it comes back.
//!
//! One input may go to several partitions in turn, so a few runs are open side by side; within a partition the order stays.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::Code;
use foldhash::fast::FixedState;

use super::pieces::{PIECE_BYTES_MAX, PIECE_EVENTS_MAX, topic_of};
use super::wish::LoggedPublish;
use super::{LogLetter, LoggedNews};
use crate::log::class::{Class, Level, terms_of};
use crate::log::{Events, LogRefusal, Settings, owner_of, partition_of};
use crate::logged::queueing::is_of_queues;
use crate::peer::PeerId;
use crate::shard::Shard;
use crate::topics::cache::NameCache;
use std::hash::BuildHasher;

/// Most runs that are open side by side; one more seals the oldest. As many as there are partitions by default: events that go
/// to all of them in turn still make one run for each.
const OPEN_RUNS_MAX: usize = 64;

/// What the configuration says of a topic, as publishing needs it.
#[derive(Debug, Clone, Copy)]
struct Place {
    partition: u16,
    level: Level,
    always: bool,
}

/// A run that is being built.
#[derive(Debug)]
struct OpenRun {
    peer: PeerId,
    partition: u16,
    how: LoggedPublish,
    level: Level,
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

/// A run that was sealed.
#[derive(Debug)]
pub(crate) struct SealedRun {
    pub(super) from: Option<PeerId>,
    pub(super) partition: u16,
    pub(super) class: Class,
    pub(super) events: Events,
}

#[derive(Debug)]
pub(crate) struct Publishing {
    settings: Arc<Settings>,
    places: NameCache<Place>,
    hasher: FixedState,
    open: Vec<OpenRun>,
    /// The one that took the last event, and that event's topic.
    last: usize,
    last_topic: Vec<u8>,
    /// How large the next run will probably be.
    bytes_expected: usize,
    /// Lists of ends to be used again.
    spare: Vec<Vec<u32>>,
    /// Runs that were sealed because others took their place.
    sealed: Vec<SealedRun>,
}

impl Publishing {
    pub(crate) fn new(settings: Arc<Settings>, hasher: &FixedState, names_remembered: usize) -> Self {
        Self {
            settings,
            places: NameCache::new(names_remembered),
            hasher: hasher.clone(),
            open: Vec::new(),
            last: 0,
            last_topic: Vec::new(),
            bytes_expected: 0,
            spare: Vec::new(),
            sealed: Vec::new(),
        }
    }

    pub(crate) fn is_always(&mut self, topic: &str) -> bool {
        self.place(topic).always
    }

    /// Takes an event.
    #[inline]
    pub(crate) fn push(&mut self, peer: PeerId, topic: &str, event: &[u8], how: LoggedPublish) {
        let fits = |run: &OpenRun| run.peer == peer && run.how == how && run.has_room(event.len());
        if self.last_topic == topic.as_bytes() && self.open.get(self.last).is_some_and(fits) {
            self.open[self.last].push(event);
        } else {
            self.push_anew(peer, topic, event, how);
        }
    }

    #[inline(never)]
    fn push_anew(&mut self, peer: PeerId, topic: &str, event: &[u8], how: LoggedPublish) {
        let Place { partition, level, .. } = self.place(topic);
        let found = self.open.iter().position(|run| run.partition == partition);
        let at = match found {
            Some(at) => {
                let run = &self.open[at];
                if run.peer != peer || run.how != how || run.level != level || !run.has_room(event.len()) {
                    let run = self.open.remove(at);
                    self.seal(run);
                    self.begin(peer, partition, how, level, event.len())
                } else {
                    at
                }
            }
            None => self.begin(peer, partition, how, level, event.len()),
        };
        self.open[at].push(event);
        self.last = at;
        self.last_topic.clear();
        self.last_topic.extend_from_slice(topic.as_bytes());
    }

    /// Seals what is open and hands out all that is sealed, in order within each partition.
    pub(crate) fn take_sealed(&mut self) -> Vec<SealedRun> {
        let mut open = std::mem::take(&mut self.open);
        for run in open.drain(..) {
            self.seal(run);
        }
        self.open = open;
        self.last_topic.clear();
        std::mem::take(&mut self.sealed)
    }

    /// Gives the list back.
    pub(crate) fn sealed_done(&mut self, mut sealed: Vec<SealedRun>) {
        sealed.clear();
        self.sealed = sealed;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.sealed.is_empty()
    }

    fn begin(
        &mut self,
        peer: PeerId,
        partition: u16,
        how: LoggedPublish,
        level: Level,
        bytes: usize,
    ) -> usize {
        if self.open.len() >= OPEN_RUNS_MAX {
            let run = self.open.remove(0);
            self.seal(run);
        }
        // Several runs share an input, so only the first is expected to be as large as the last one was.
        let expected = if self.open.is_empty() {
            self.bytes_expected
        } else {
            0
        };
        self.open.push(OpenRun {
            peer,
            partition,
            how,
            level,
            bytes: Vec::with_capacity(bytes.max(expected)),
            ends: self.spare.pop().unwrap_or_default(),
        });
        self.open.len() - 1
    }

    fn seal(&mut self, run: OpenRun) {
        let OpenRun {
            peer,
            partition,
            how,
            level,
            mut bytes,
            mut ends,
        } = run;
        self.bytes_expected = bytes
            .len()
            .max(self.bytes_expected - self.bytes_expected / 8)
            .min(PIECE_BYTES_MAX);
        if bytes.len() < bytes.capacity() / 2 {
            bytes.shrink_to_fit(); // what waits for the disk is counted by its length
        }
        let events = Events {
            bytes: Bytes::from(bytes),
            ends: Arc::from(&ends[..]),
        };
        ends.clear();
        if self.spare.len() < OPEN_RUNS_MAX {
            self.spare.push(ends);
        }
        let class = Class {
            level,
            once: how.once,
            retain: how.retain,
            expires: how.expires,
        };
        self.sealed.push(SealedRun {
            from: how.acked.then_some(peer),
            partition,
            class,
            events,
        });
    }

    /// Where a topic lives, and what is promised there. Without rules that takes a look at its bytes, and nothing is
    /// remembered.
    fn place(&mut self, topic: &str) -> Place {
        if self.settings.topics.is_empty() {
            return self.find(topic);
        }
        let hash = self.hasher.hash_one(topic.as_bytes());
        if let Some(found) = self.places.find(hash, topic).and_then(|at| self.places.at(at)) {
            return *found;
        }
        let place = self.find(topic);
        self.places.insert(hash, topic, place);
        place
    }

    fn find(&self, topic: &str) -> Place {
        let terms = terms_of(topic, &self.settings.topics);
        Place {
            partition: partition_of(topic, self.settings.partitions),
            level: terms.level,
            always: terms.always,
        }
    }
}

impl OpenRun {
    fn has_room(&self, event_bytes: usize) -> bool {
        self.bytes.len() + event_bytes <= PIECE_BYTES_MAX && self.ends.len() < PIECE_EVENTS_MAX
    }

    #[inline]
    fn push(&mut self, event: &[u8]) {
        self.bytes.extend_from_slice(event);
        self.ends.push(self.bytes.len() as u32);
    }
}

impl Shard {
    /// Whether what is published at qos 0 to this topic is logged, too.
    pub fn always_logged(&mut self, topic: &str) -> bool {
        self.logged
            .publishing
            .as_mut()
            .is_some_and(|publishing| publishing.is_always(topic))
    }

    /// Takes an event to be logged; what becomes of it is told by [`Shard::poll_logged`], behind [`Shard::flush_run`].
    /// `event` is a whole compact envelope without ref, whose target is `topic`, both checked by the caller.
    #[inline]
    pub fn publish_logged(&mut self, peer: PeerId, topic: &str, event: &[u8], how: LoggedPublish) {
        match &mut self.logged.publishing {
            Some(publishing) => publishing.push(peer, topic, event, how),
            None => {
                let events = Events {
                    bytes: Bytes::copy_from_slice(event),
                    ends: Arc::new([event.len() as u32]),
                };
                self.not_stored(how.acked.then_some(peer), events, &LogRefusal::NoLog);
            }
        }
    }

    /// Ends the runs that are being built, and appends them or sends them to their owners.
    pub(crate) fn flush_logged(&mut self) {
        let Some(publishing) = self
            .logged
            .publishing
            .as_mut()
            .filter(|publishing| !publishing.is_empty())
        else {
            return;
        };
        let mut sealed = publishing.take_sealed();
        for run in sealed.drain(..) {
            match run.from {
                Some(peer) if self.logged.order.hear(peer, run.partition, self.now_us) => {
                    self.hand_on_in_turn(peer, run);
                }
                _ => self.hand_on(run),
            }
        }
        if let Some(publishing) = &mut self.logged.publishing {
            publishing.sealed_done(sealed);
        }
        self.pump_log();
    }

    /// Appends a run, or sends it to its partition's owner.
    pub(super) fn hand_on(&mut self, run: SealedRun) {
        let SealedRun {
            from,
            partition,
            class,
            events,
        } = run;
        let owner = owner_of(partition, self.post.cores());
        if owner == self.core {
            self.append(from, partition, class, events);
        } else {
            let letter = LogLetter::Append {
                from,
                partition,
                class,
                events,
            };
            self.say(owner, letter);
        }
    }

    /// Appends to a partition of this core, and tells its publisher if that cannot be.
    pub(crate) fn append(&mut self, from: Option<PeerId>, partition: u16, class: Class, events: Events) {
        let result = match self.shut_out(from, partition) {
            Some(refusal) => Err(refusal),
            None => self.logged.log.append(partition, class, events.clone(), from),
        };
        if let Err(refusal) = result {
            self.append_refused(from, partition, events, refusal);
        }
    }

    /// The next events of qos 0 that the log should have taken and did not: somebody should know.
    pub fn poll_unlogged(&mut self) -> Option<Unlogged> {
        self.logged.unlogged.take()
    }

    /// Events that nobody waits for were not taken. They are not handed to plain subscriptions past the log: some that their
    /// publisher sent before them may wait for the disk still, and would come behind them.
    fn not_logged(&mut self, events: &Events, refusal: &LogRefusal) {
        let count = events.len() as u64;
        self.logged.unlogged_events += count;
        match &mut self.logged.unlogged {
            Some(unlogged) => unlogged.events += count,
            none => {
                *none = Some(Unlogged {
                    events: count,
                    topic: topic_of(events.get(0)).into(),
                    message: refusal_words(refusal).1,
                });
            }
        }
    }

    /// Events of a connection of this core, or of nobody, were not taken.
    pub(crate) fn not_stored(&mut self, from: Option<PeerId>, events: Events, refusal: &LogRefusal) {
        let Some(to) = from else {
            return self.not_logged(&events, refusal);
        };
        if is_of_queues(to) {
            self.logged.queues.aside_refused(events.id(0));
            return;
        }
        let (code, message, retry_after_ms) = refusal_words(refusal);
        self.logged.news.push_back(LoggedNews::Refused {
            to,
            events,
            code,
            message,
            retry_after_ms,
        });
    }
}

/// What is said of everything at qos 1 and 2 where there is no log.
pub const NO_LOG: &str =
    "this gateway keeps no log: use qos 0, or start it with a data directory (`log.dir`)";

/// Events at qos 0 on topics that are always logged, which the log did not take: nobody is given them, and no publisher waits
/// to hear of it. Those since the last were told together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlogged {
    /// How many.
    pub events: u64,
    /// The first one's topic.
    pub topic: Box<str>,
    /// Why that one was not taken.
    pub message: Cow<'static, str>,
}

/// What a peer is told when the log takes something not.
pub(crate) fn refusal_words(refusal: &LogRefusal) -> (Code, Cow<'static, str>, Option<u32>) {
    let (code, message) = match refusal {
        LogRefusal::Recovering => (
            Code::Unavailable,
            "the log is being read after a start; try again in a moment",
        ),
        LogRefusal::Behind => (
            Code::ResourceExhausted,
            "the log's disk does not keep up; try again in a moment",
        ),
        LogRefusal::DiskFull => (
            Code::ResourceExhausted,
            "the log's disk is full; it goes on by itself when there is space",
        ),
        LogRefusal::DiskFailed(why) => {
            let message = format!("the log's disk fails: {why}");
            return (Code::Unavailable, Cow::Owned(message), retry_after_ms(refusal));
        }
        LogRefusal::TooManyIds => (
            Code::ResourceExhausted,
            "as many ids of qos 2 events are remembered as may be (`log.once_ids`); try again later, or with qos 1",
        ),
        LogRefusal::TooManyCursors => (
            Code::ResourceExhausted,
            "there are as many durable cursors as may be (`log.cursors`)",
        ),
        LogRefusal::TooManyRows => (
            Code::ResourceExhausted,
            "there are as many retained events as may be (`log.rows`)",
        ),
        LogRefusal::Stopping => (
            Code::Unavailable,
            "the gateway is stopping; try again when it is back",
        ),
        LogRefusal::NoLog => (Code::FailedPrecondition, NO_LOG),
    };
    (code, Cow::Borrowed(message), retry_after_ms(refusal))
}

/// When it is worth another try, ms; `None`: not by itself.
pub(crate) fn retry_after_ms(refusal: &LogRefusal) -> Option<u32> {
    match refusal {
        LogRefusal::Behind => Some(200),
        LogRefusal::Recovering => Some(500),
        LogRefusal::DiskFull | LogRefusal::DiskFailed(_) | LogRefusal::Stopping => Some(1_000),
        LogRefusal::TooManyIds => Some(5_000),
        LogRefusal::TooManyCursors | LogRefusal::TooManyRows | LogRefusal::NoLog => None,
    }
}
