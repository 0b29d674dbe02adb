//! What the tests of the log say and hear: publishes that are acknowledged, subscribers that read runs.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use fluxar_engine::listener::Address;
use fluxar_gateway::config::{Config, LogDir};
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::position::Acceptance;
use fluxar_protocol::{Code, Id, Kind, Position};
use fluxar_tests::client::PATIENCE;
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, Received, Running};

/// A gateway with its log in this folder, and what else `change` makes of it.
pub(crate) fn running_with(folder: &Path, change: impl FnOnce(&mut Config)) -> Running {
    Running::start(|config| {
        config.log.dir = LogDir::At(folder.join("log"));
        config.log.settings.segment_bytes = 4 << 20;
        change(config);
    })
}

/// A gateway with its log in this folder.
pub(crate) fn running(folder: &Path) -> Running {
    running_with(folder, |_| {})
}

pub(crate) fn qos(level: u64) -> MetaWriter {
    MetaWriter::new().uint("qos", level)
}

/// Sends an event with this meta.
pub(crate) fn send_event(client: &mut Client, topic: &str, meta: MetaWriter, payload: &[u8]) -> Id {
    let id = client.id();
    let meta = meta.finish();
    client.send(&encoded(
        Kind::Event,
        id,
        None,
        Some(topic),
        meta.as_deref(),
        payload,
    ));
    id
}

/// The position by which it is acknowledged.
pub(crate) fn stored(client: &mut Client, id: Id) -> Position {
    let answer = client.answer_to(id);
    assert_eq!((answer.kind, answer.code()), (Kind::Event, None), "{answer:?}");
    answer.at().expect("a position")
}

/// Publishes a number with this meta until it is taken: a log may still be read back.
pub(crate) fn publish_as(client: &mut Client, topic: &str, meta: &MetaWriter, value: u64) -> Position {
    let until = Instant::now() + PATIENCE;
    loop {
        let id = send_event(client, topic, meta.clone(), &number(value));
        let answer = client.answer_to(id);
        match answer.code() {
            None => return answer.at().expect("a position"),
            Some(Code::Unavailable) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Some(_) => panic!("{answer:?}"),
        }
    }
}

/// The same at qos 1 and nothing else.
pub(crate) fn publish(client: &mut Client, topic: &str, value: u64) -> Position {
    publish_as(client, topic, &qos(1), value)
}

/// What a subscriber hears.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// An event, where it is, and whether its run says that some may come again.
    Event(Position, u64, bool),
    /// The cursor moved on.
    Moved(Position),
    /// It is over, and why.
    Ended(Option<Code>, String),
}

/// One subscription on a connection of its own.
pub(crate) struct Subscriber {
    pub(crate) client: Client,
    pub(crate) sub: Id,
    pub(crate) epoch: u64,
    pub(crate) at: Vec<Position>,
    heard: VecDeque<Heard>,
}

/// Subscribes, again while the log is being read; the answer.
pub(crate) fn ask(client: &mut Client, pattern: &str, meta: &MetaWriter) -> (Id, Received) {
    let until = Instant::now() + PATIENCE;
    loop {
        let sub = client.id();
        let meta = meta.clone().finish();
        client.send(&encoded(
            Kind::Subscribe,
            sub,
            None,
            Some(pattern),
            meta.as_deref(),
            &[],
        ));
        let answer = client.answer_to(sub);
        if answer.code() != Some(Code::Unavailable) || Instant::now() > until {
            return (sub, answer);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Subscriber {
    /// Subscribes, again while the log is being read.
    pub(crate) fn on(address: &Address, pattern: &str, meta: &MetaWriter) -> Self {
        let mut client = Client::greeted(address);
        let (sub, answer) = ask(&mut client, pattern, meta);
        assert_eq!(answer.code(), None, "{answer:?}");
        let accepted = Acceptance::read(&answer.payload).expect("an acceptance");
        Self {
            client,
            sub,
            epoch: accepted.epoch,
            at: accepted.at.iter().collect(),
            heard: VecDeque::new(),
        }
    }

    /// The next thing.
    pub(crate) fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return heard;
            }
            let note = self.client.expect();
            self.take(note);
        }
    }

    /// The next thing, if it comes in time.
    pub(crate) fn poll(&mut self, wait: Duration) -> Option<Heard> {
        if self.heard.is_empty()
            && let Ok(Some(note)) = self.client.poll(wait)
        {
            self.take(note);
        }
        self.heard.pop_front()
    }

    fn take(&mut self, note: Received) {
        assert_eq!(
            (note.kind, note.reference),
            (Kind::Subscribe, Some(self.sub)),
            "{note:?}"
        );
        if note.ends() {
            let (code, message) = note.error.unzip();
            self.heard
                .push_back(Heard::Ended(code, message.unwrap_or_default()));
            return;
        }
        if let Some((partition, offsets)) = note.positions() {
            let again = note.uint("dup").is_some();
            for offset in offsets {
                let event = self.client.expect();
                assert_eq!((event.kind, event.reference), (Kind::Event, None), "{event:?}");
                let at = Position { partition, offset };
                self.heard.push_back(Heard::Event(at, event.number(), again));
            }
            return;
        }
        self.heard
            .push_back(Heard::Moved(note.at().expect("a header, or a position")));
    }

    /// The next event.
    pub(crate) fn event(&mut self) -> (Position, u64) {
        loop {
            match self.next() {
                Heard::Event(at, value, _) => return (at, value),
                Heard::Moved(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next events are these.
    pub(crate) fn expect(&mut self, values: impl IntoIterator<Item = u64>) -> Vec<Position> {
        let mut at = Vec::new();
        for value in values {
            let (position, heard) = self.event();
            assert_eq!(heard, value, "at {position:?}");
            at.push(position);
        }
        at
    }

    /// Acknowledges up to here; in a group, exactly this.
    pub(crate) fn ack(&mut self, at: Position) {
        let id = self.client.id();
        let meta = MetaWriter::new().position("ack", at).finish();
        self.client.send(&encoded(
            Kind::Event,
            id,
            Some(self.sub),
            None,
            meta.as_deref(),
            &[],
        ));
    }

    /// Waits until the gateway has handled what was sent; events that come meanwhile are kept.
    pub(crate) fn settle(&mut self) {
        let id = self.client.id();
        self.client.send(&encoded(Kind::Ping, id, None, None, None, &[]));
        loop {
            let note = self.client.expect();
            if note.reference == Some(id) {
                return;
            }
            self.take(note);
        }
    }

    /// How it goes on after what it has seen: `from {epoch, at}`.
    pub(crate) fn behind(&self, at: Position) -> MetaWriter {
        let mut places = self.at.clone();
        match places.iter_mut().find(|place| place.partition == at.partition) {
            Some(place) => *place = at,
            None => places.push(at),
        }
        qos(1).begin_behind(self.epoch, places.into_iter())
    }
}

/// The details of a refusal that was refused for what it asks.
pub(crate) fn refused(client: &mut Client, pattern: &str, meta: &MetaWriter) -> (Code, String) {
    let (_, answer) = ask(client, pattern, meta);
    answer.error.expect("a refusal")
}

/// A map's entry.
pub(crate) fn key(meta: MetaWriter, key: &str) -> MetaWriter {
    meta.text("key", key)
}
