//! A publisher: events at qos 1 or 2, each sent again with the same id until it is acknowledged, in order; what is refused
//! for a while holds back its topic for as long.

use std::collections::{BTreeMap, VecDeque};

use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::encoded;

use super::auditor::{EventName, Published, Strength};
use super::citizen::{Scene, ending_of, id_of, name_of, signed};
use super::line::Line;

const MS: u64 = 1_000_000;
/// A topic of the town: its name, what its acknowledgements survive, and whether it is a table.
pub(crate) type Topic = (&'static str, Strength, bool);

/// How publishers go about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Events that are not acknowledged, at most.
    pub(crate) window: usize,
    /// Between two bodies with what is sent, at least.
    pub(crate) pause_ms: u64,
    pub(crate) again: Again,
    /// What was refused is sent again as the refusals came, and not in the order of publication.
    pub(crate) as_refused: bool,
}

/// When what was refused for a while is sent again: always before what is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// When it was said; its topic waits for as long.
    ByTopic,
    /// When it was said; what is new goes on.
    ByEvent,
    /// At once.
    AtOnce,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            window: 48,
            pause_ms: 0,
            again: Again::ByTopic,
            as_refused: false,
        }
    }
}

/// See the module.
pub(crate) struct Publisher {
    name: u32,
    once: bool,
    topics: Vec<Topic>,
    manner: Manner,
    /// Some of its events are worth nothing after a while.
    expires: bool,
    next: u32,
    unacked: VecDeque<Unacked>,
    /// Acknowledged, and sent so often more in this session that an answer may still come.
    settled: BTreeMap<EventName, u32>,
    /// Its session went on, and it waits for the answer to this ping: what was acknowledged meanwhile comes before that.
    awaits: Option<Id>,
    /// Topics that are held back, and until when.
    held: BTreeMap<&'static str, u64>,
    next_at_ns: u64,
    /// Nothing is sent before then.
    sends_at_ns: u64,
    /// Refusals so far.
    refusals: u64,
}

struct Unacked {
    event: EventName,
    topic: &'static str,
    body: Vec<u8>,
    is_sent: bool,
    /// It is not sent again before then.
    again_at_ns: u64,
    /// Which refusal of this session it was that it had last, where that counts; none sorts behind all.
    refusal: u64,
    /// How often it was sent in this session and not answered.
    open: u32,
}

impl Publisher {
    pub(crate) fn new(name: u32, once: bool, topics: Vec<Topic>, (manner, expires): (Manner, bool)) -> Self {
        Self {
            name,
            once,
            topics,
            manner,
            expires,
            next: 1,
            unacked: VecDeque::new(),
            settled: BTreeMap::new(),
            awaits: None,
            held: BTreeMap::new(),
            next_at_ns: 0,
            sends_at_ns: 0,
            refusals: 0,
        }
    }

    /// Whether everything that it published was acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.unacked.is_empty()
    }

    /// The oldest event that is not acknowledged.
    pub(crate) fn oldest(&self) -> Option<EventName> {
        self.unacked.front().map(|unacked| unacked.event)
    }

    pub(crate) fn is_cut_off(&mut self) {
        for unacked in &mut self.unacked {
            unacked.is_sent = false;
            unacked.again_at_ns = 0;
            unacked.refusal = u64::MAX;
            unacked.open = 0;
        }
        self.settled.clear();
        self.awaits = None;
        self.held.clear();
    }

    /// Its session goes on over another connection.
    pub(crate) fn goes_on(&mut self, line: &mut Line, scene: &mut Scene<'_>) {
        self.awaits = Some(line.ping(scene.random));
    }

    pub(crate) fn hear(&mut self, envelope: &Envelope<'_>, scene: &mut Scene<'_>) {
        let id = match (envelope.kind, envelope.reference) {
            (Kind::Event, Some(id)) => id,
            (Kind::Ping, Some(id)) if self.awaits == Some(id) => {
                self.awaits = None;
                for unacked in &mut self.unacked {
                    unacked.is_sent = false;
                    unacked.refusal = u64::MAX;
                }
                return;
            }
            _ => return,
        };
        let event = name_of(id);
        let index = self.unacked.iter().position(|unacked| unacked.event == event);
        let open = match index {
            Some(index) => Some(&mut self.unacked[index].open),
            None => self.settled.get_mut(&event),
        };
        let Some(open) = open.filter(|open| **open > 0) else {
            let promise = format!("{event:?} was answered more often than it was published");
            return scene.auditor.breaks(promise, Some(event), None, Some(self.name));
        };
        *open -= 1;
        if envelope.error.is_none() {
            let Some(at) = envelope.meta.and_then(|meta| meta.at().ok().flatten()) else {
                let promise = format!("{event:?} was acknowledged without a position");
                return scene.auditor.breaks(promise, Some(event), None, Some(self.name));
            };
            if let Some(unacked) = index.and_then(|index| self.unacked.remove(index))
                && unacked.open > 0
            {
                self.settled.insert(event, unacked.open);
            }
            return scene.auditor.acknowledges(event, (at.partition, at.offset));
        }
        let Some(ending) = ending_of(envelope) else {
            let promise = format!("{event:?} was refused with an error that cannot be read");
            return scene.auditor.breaks(promise, Some(event), None, Some(self.name));
        };
        let retryable = matches!(ending.code, Code::Unavailable | Code::ResourceExhausted);
        let Some(retry_after_ms) = ending.retry_after_ms.filter(|_| retryable) else {
            let promise = format!(
                "{event:?} was refused for good: {:?}, {}",
                ending.code, ending.message
            );
            return scene.auditor.breaks(promise, Some(event), None, Some(self.name));
        };
        scene.auditor.refuses(event, ending.code);
        // Of one that was acknowledged, another copy was refused.
        let Some(unacked) = index.map(|index| &mut self.unacked[index]) else {
            return;
        };
        unacked.is_sent = false;
        if self.manner.as_refused {
            self.refusals += 1;
            unacked.refusal = self.refusals;
        }
        let until_ns = scene.now_ns + u64::from(retry_after_ms) * MS;
        match self.manner.again {
            Again::ByTopic => {
                let held = self.held.entry(unacked.topic).or_default();
                *held = until_ns.max(*held);
            }
            Again::ByEvent => unacked.again_at_ns = until_ns,
            Again::AtOnce => {}
        }
    }

    pub(crate) fn act(&mut self, line: &mut Line, scene: &mut Scene<'_>) {
        if !line.has_room() || self.awaits.is_some() {
            return;
        }
        let room = self.manner.window.saturating_sub(self.unacked.len());
        if !scene.calm && scene.now_ns >= self.next_at_ns && room > 0 {
            self.next_at_ns = scene.now_ns + scene.random.below(30 * MS);
            let events = match self.manner.pause_ms {
                0 => 1 + scene.random.index(6),
                // What others leave of a window is filled now and then.
                _ if scene.random.chance(0.1) => room,
                _ => room.min(1 + scene.random.index(6)),
            };
            for _ in 0..events {
                self.publish(scene);
            }
        }
        if scene.now_ns < self.sends_at_ns {
            return;
        }
        self.held.retain(|_, until_ns| *until_ns > scene.now_ns);
        let mut body = Vec::new();
        let mut unsent: Vec<&mut Unacked> = self
            .unacked
            .iter_mut()
            .filter(|unacked| !unacked.is_sent)
            .collect();
        unsent.sort_by_key(|unacked| unacked.refusal);
        for unacked in unsent {
            if self.held.contains_key(unacked.topic) || unacked.again_at_ns > scene.now_ns {
                continue;
            }
            unacked.is_sent = true;
            unacked.open += 1;
            body.extend_from_slice(&unacked.body);
            self.sends_at_ns = scene.now_ns + self.manner.pause_ms * MS;
            // Bodies of all sizes, and runs that end anywhere.
            if body.len() > 4_000 || scene.random.chance(0.1) {
                line.send(&body, scene.random);
                body.clear();
            }
        }
        line.send(&body, scene.random);
    }

    fn publish(&mut self, scene: &mut Scene<'_>) {
        let event = EventName {
            publisher: self.name,
            number: self.next,
        };
        self.next += 1;
        let (topic, strength, is_table) = self.topics[scene.random.index(self.topics.len())];
        let mut meta = MetaWriter::new().uint("qos", if self.once { 2 } else { 1 });
        let mut row = None;
        let filler_bytes = if scene.random.chance(0.1) { 900 } else { 60 };
        let mut payload = signed(event, 4 + scene.random.index(filler_bytes));
        if is_table {
            // Of this publisher alone, so that the newest is the one that it published last.
            let (key, removes) = (
                self.name as u8 * 8 + scene.random.below(4) as u8,
                scene.random.chance(0.2),
            );
            if removes {
                payload = vec![0xf6];
            }
            meta = meta.flag("retain", true).text("key", &key.to_string());
            row = Some((key, removes));
        }
        let mut ttl_ms = None;
        if self.expires && !is_table && scene.random.chance(0.3) {
            // A moment, or longer than anybody lives.
            let lives_ms = if scene.random.chance(0.7) {
                10 + scene.random.below(100)
            } else {
                3_600_000
            };
            meta = meta.uint("ttl_ms", lives_ms);
            ttl_ms = Some(lives_ms);
        }
        let meta = meta.finish();
        let body = encoded(
            Kind::Event,
            id_of(event),
            None,
            Some(topic),
            meta.as_deref(),
            &payload,
        );
        let published = Published {
            topic,
            once: self.once,
            strength,
            row,
            ttl_ms,
            at_ns: scene.now_ns,
        };
        scene.auditor.publishes(event, published);
        self.unacked.push_back(Unacked {
            event,
            topic,
            body,
            is_sent: false,
            again_at_ns: 0,
            refusal: u64::MAX,
            open: 0,
        });
    }
}
