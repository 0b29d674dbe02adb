//! NATS: a session as a client library would hold it, with one inbox for the answers to all of its calls. At qos 1 its topics are
//! those of a stream of JetStream; see `stored`.
//!
//! ```text
//!   server                          client
//!   INFO {…}             ────────▶
//!                        ◀────────  CONNECT {…}, PING         PONG: Ready
//!                        ◀────────  SUB subject sid, PING     PONG: Subscribed
//!   MSG subject sid 64   ────────▶                            Event
//!                        ◀────────  PUB method inbox 64       a call; MSG to the inbox is its answer
//! ```
//!
//! A serving session joins the queue group `loadgen`, so that each call reaches one of them. A call that nobody serves is
//! answered by the server with status 503, since CONNECT asks for it.

mod stored;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::prepared::Prepared;
use super::straddle::{Parser, Step, Straddle};
use super::text::{self, KnownHead, quoted};
use super::{Ability, Fault, Incoming, Names, Outgoing, Protocol, Session};
use stored::{ReplyTo, Stored};

/// Errors that cost a message or a subscription, and not the session. All others end it.
const ERRORS_THAT_REFUSE: [&[u8]; 2] = [b"permissions violation", b"invalid subject"];

/// NATS with its settings.
#[derive(Debug)]
pub struct Nats {
    /// 1: by JetStream.
    qos: u8,
    /// Random: inboxes of two generators do not meet.
    seed: u32,
    heads: Prepared<Heads>,
}

/// What publishes and calls begin with, by index: `PUB subject `.
#[derive(Debug)]
struct Heads {
    topics: Vec<Box<[u8]>>,
    methods: Vec<Box<[u8]>>,
}

impl Nats {
    /// NATS core (qos 0), or JetStream (qos 1): publishes are acknowledged when they are stored.
    #[must_use]
    pub fn new(qos: u8) -> Self {
        Self {
            qos,
            seed: RandomState::new().hash_one("loadgen") as u32,
            heads: Prepared::default(),
        }
    }
}

impl Protocol for Nats {
    type Session = NatsSession;

    fn is_able(&self, ability: Ability) -> bool {
        match ability {
            Ability::PubSub | Ability::Calls => true,
            Ability::AcknowledgedPublish | Ability::Replay => self.qos > 0,
            Ability::Streams | Ability::Listening => false,
        }
    }

    fn session(&self, number: u64, names: &Arc<Names>) -> NatsSession {
        let publishes = |names: &[String]| -> Vec<Box<[u8]>> {
            let heads = names.iter().map(|name| format!("PUB {name} "));
            heads.map(|head| head.into_bytes().into()).collect()
        };
        let heads = self.heads.of(names, |names| Heads {
            topics: publishes(&names.topics),
            methods: publishes(&names.methods),
        });
        NatsSession {
            straddle: Straddle::default(),
            talk: Talk {
                names: names.clone(),
                heads,
                number,
                seed: self.seed,
                is_greeted: false,
                has_inbox: false,
                calls: 0,
                awaited: VecDeque::new(),
                known: KnownHead::default(),
                stored: (self.qos > 0).then(Stored::default),
            },
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct NatsSession {
    straddle: Straddle,
    talk: Talk,
}

/// All of a session but what has arrived in part.
#[derive(Debug)]
struct Talk {
    names: Arc<Names>,
    heads: Arc<Heads>,
    number: u64,
    seed: u32,
    /// INFO came, and was answered.
    is_greeted: bool,
    /// The inbox is subscribed to.
    has_inbox: bool,
    /// Calls made; the number of the next one ends its reply subject.
    calls: u64,
    /// What the PONGs to come stand for, one for each PING that was sent.
    awaited: VecDeque<Incoming<'static>>,
    /// Of the event that came last.
    known: KnownHead,
    /// With JetStream.
    stored: Option<Stored>,
}

/// What a subscription id stands for: topics count from 1, methods behind them, the inbox last.
enum Purpose {
    Topic,
    Method,
    Inbox,
    /// None of ours, or no longer.
    None,
}

impl Session for NatsSession {
    /// The server speaks first.
    fn open(&mut self, _out: &mut Outgoing) {}

    fn subscribe(&mut self, topic: usize, out: &mut Outgoing) {
        if self.talk.stored.is_some() {
            return self.talk.consume(topic, out);
        }
        let command = format!("SUB {} {}\r\n", self.talk.names.topics[topic], topic + 1);
        out.bytes.extend_from_slice(command.as_bytes());
        self.talk.ask(Incoming::Subscribed, out);
    }

    fn unsubscribe(&mut self, topic: usize, out: &mut Outgoing) {
        out.bytes
            .extend_from_slice(format!("UNSUB {}\r\n", topic + 1).as_bytes());
    }

    fn serve(&mut self, method: usize, out: &mut Outgoing) {
        let sid = self.talk.names.topics.len() + method + 1;
        let command = format!("SUB {} loadgen {sid}\r\n", self.talk.names.methods[method]);
        out.bytes.extend_from_slice(command.as_bytes());
        self.talk.ask(Incoming::Subscribed, out);
    }

    #[inline]
    fn publish(&mut self, topic: usize, payload: &[u8], out: &mut Outgoing) {
        let talk = &mut self.talk;
        out.bytes.extend_from_slice(&talk.heads.topics[topic]);
        if let Some(stored) = &mut talk.stored {
            let number = stored.published;
            stored.published += 1;
            talk.write_inbox(out);
            out.bytes.push(stored::PUBLISH_TOKEN);
            text::write_decimal(number, &mut out.bytes);
            out.bytes.push(b' ');
        }
        write_payload(payload, out);
    }

    fn call(&mut self, method: usize, payload: &[u8], out: &mut Outgoing) {
        let talk = &mut self.talk;
        talk.have_inbox(out);
        out.bytes.extend_from_slice(&talk.heads.methods[method]);
        talk.write_inbox(out);
        text::write_decimal(talk.calls, &mut out.bytes);
        talk.calls += 1;
        out.bytes.push(b' ');
        write_payload(payload, out);
    }

    fn ping(&mut self, out: &mut Outgoing) {
        self.talk.ask(Incoming::Pong, out);
    }

    /// NATS has no goodbye.
    fn close(&mut self, _out: &mut Outgoing) {}

    /// NATS has no frames.
    #[inline]
    fn seal(&mut self, _out: &mut Outgoing) {}

    fn receive(
        &mut self,
        bytes: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        self.straddle.receive(&mut self.talk, bytes, out, on)
    }
}

/// The rest of a PUB behind its subjects.
#[inline]
fn write_payload(payload: &[u8], out: &mut Outgoing) {
    text::write_decimal(payload.len() as u64, &mut out.bytes);
    out.bytes.extend_from_slice(b"\r\n");
    out.bytes.extend_from_slice(payload);
    out.bytes.extend_from_slice(b"\r\n");
}

impl Parser for Talk {
    #[inline]
    fn step(
        &mut self,
        input: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<Step, Fault> {
        if let Some((payload, end)) = self.known.recognise(input) {
            on(Incoming::Event { payload });
            return Ok(Step::Taken(end));
        }
        let Some((line, next)) = text::line(input, 0)? else {
            return Ok(Step::Need(input.len() + 1));
        };
        if let Some(arguments) = line.strip_prefix(b"MSG ") {
            return self.message(Arguments::of(arguments, false), input, next, out, on);
        }
        if let Some(arguments) = line.strip_prefix(b"HMSG ") {
            return self.message(Arguments::of(arguments, true), input, next, out, on);
        }
        match line {
            b"PING" => out.bytes.extend_from_slice(b"PONG\r\n"),
            b"PONG" => {
                let awaited = self.awaited.pop_front();
                on(awaited.ok_or_else(|| Fault("the server sent a PONG that nobody asked for".into()))?);
            }
            b"+OK" => {}
            _ if line.starts_with(b"INFO ") => self.greet(line, out)?,
            _ if line.starts_with(b"-ERR") => {
                let message = line["-ERR".len()..].trim_ascii();
                let message = message.strip_prefix(b"'").unwrap_or(message);
                let message = message.strip_suffix(b"'").unwrap_or(message);
                let lower = message.to_ascii_lowercase();
                let said = String::from_utf8_lossy(message).into_owned();
                if !ERRORS_THAT_REFUSE.iter().any(|error| lower.starts_with(error)) {
                    return Err(Fault(format!("the server ended the session: {said}")));
                }
                on(Incoming::Refused { message: said });
            }
            _ => {
                return Err(Fault(format!(
                    "the server sent what is not NATS: {}",
                    quoted(line)
                )));
            }
        }
        Ok(Step::Taken(next))
    }
}

/// What stands behind MSG or HMSG.
struct Arguments<'a> {
    subject: &'a [u8],
    sid: &'a [u8],
    reply: Option<&'a [u8]>,
    header_bytes: usize,
    /// Headers and payload.
    total_bytes: usize,
}

impl<'a> Arguments<'a> {
    /// `subject sid [reply] [header bytes] bytes`.
    fn of(line: &'a [u8], has_headers: bool) -> Option<Self> {
        let mut words = [&[][..]; 5];
        let mut count = 0;
        for word in line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            *words.get_mut(count)? = word;
            count += 1;
        }
        let numbers = if has_headers { 2 } else { 1 };
        let reply = match count.checked_sub(2 + numbers)? {
            0 => None,
            1 => Some(words[2]),
            _ => return None,
        };
        let total_bytes = text::length(words[count - 1])?;
        let header_bytes = if has_headers {
            text::length(words[count - 2])?
        } else {
            0
        };
        (header_bytes <= total_bytes).then_some(Self {
            subject: words[0],
            sid: words[1],
            reply,
            header_bytes,
            total_bytes,
        })
    }
}

impl Talk {
    /// Sends a PING whose PONG means this.
    fn ask(&mut self, meaning: Incoming<'static>, out: &mut Outgoing) {
        out.bytes.extend_from_slice(b"PING\r\n");
        self.awaited.push_back(meaning);
    }

    /// Answers the first INFO; later ones tell of changes in a cluster.
    fn greet(&mut self, info: &[u8], out: &mut Outgoing) -> Result<(), Fault> {
        if self.is_greeted {
            return Ok(());
        }
        let tls = b"\"tls_required\":true";
        if info.windows(tls.len()).any(|window| window == tls) {
            return Err(Fault("the server asks for TLS: measure one that does not".into()));
        }
        self.is_greeted = true;
        let connect = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\"name\":\"loadgen-{}\",\
             \"lang\":\"rust\",\"version\":\"{}\",\"protocol\":1,\"echo\":true,\"headers\":true,\
             \"no_responders\":true}}\r\n",
            self.number,
            env!("CARGO_PKG_VERSION"),
        );
        out.bytes.extend_from_slice(connect.as_bytes());
        if self.stored.is_some() {
            // Ready when the stream is there.
            self.have_stream(out);
        } else {
            self.ask(Incoming::Ready, out);
        }
        Ok(())
    }

    /// Asks for the stream, which is there already if another session was the first to ask.
    fn have_stream(&mut self, out: &mut Outgoing) {
        let (subject, body) = stored::create_stream(&self.names.topics);
        self.request(&subject, stored::STREAM_TOKEN, &body, out);
    }

    /// Subscribes to the inbox, once.
    fn have_inbox(&mut self, out: &mut Outgoing) {
        if self.has_inbox {
            return;
        }
        self.has_inbox = true;
        out.bytes.extend_from_slice(b"SUB ");
        self.write_inbox(out);
        let sid = self.names.topics.len() + self.names.methods.len() + 1;
        out.bytes.extend_from_slice(format!("* {sid}\r\n").as_bytes());
    }

    /// Publishes a request whose reply comes to the inbox under that token.
    fn request(&mut self, subject: &str, token: &[u8], body: &str, out: &mut Outgoing) {
        self.have_inbox(out);
        out.bytes.extend_from_slice(format!("PUB {subject} ").as_bytes());
        self.write_inbox(out);
        out.bytes.extend_from_slice(token);
        out.bytes.push(b' ');
        write_payload(body.as_bytes(), out);
    }

    /// Has a topic's stored messages delivered. Where to is below the inbox, whose own subscription does not cover it.
    fn consume(&mut self, topic: usize, out: &mut Outgoing) {
        let mut deliver = Outgoing::default();
        self.write_inbox(&mut deliver);
        let deliver = format!("{}topic.{topic}", String::from_utf8_lossy(&deliver.bytes));
        out.bytes
            .extend_from_slice(format!("SUB {deliver} {}\r\n", topic + 1).as_bytes());
        let (subject, body) = stored::create_consumer(&self.names.topics, topic, &deliver);
        self.request(&subject, stored::CONSUMER_TOKEN, &body, out);
    }

    /// `_INBOX.x.`: what all reply subjects of this session begin with.
    fn write_inbox(&self, out: &mut Outgoing) {
        out.bytes.extend_from_slice(b"_INBOX.");
        text::write_decimal(self.seed.into(), &mut out.bytes);
        out.bytes.push(b'-');
        text::write_decimal(self.number, &mut out.bytes);
        out.bytes.push(b'.');
    }

    fn purpose(&self, sid: &[u8]) -> Purpose {
        let topics = self.names.topics.len();
        let methods = self.names.methods.len();
        match text::length(sid) {
            None | Some(0) => Purpose::None,
            Some(sid) if sid <= topics => Purpose::Topic,
            Some(sid) if sid <= topics + methods => Purpose::Method,
            Some(sid) if sid == topics + methods + 1 => Purpose::Inbox,
            Some(_) => Purpose::None,
        }
    }

    /// A MSG or HMSG whose line ends at `at`.
    fn message(
        &mut self,
        arguments: Option<Arguments<'_>>,
        input: &[u8],
        at: usize,
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<Step, Fault> {
        let Some(arguments) = arguments else {
            return Err(Fault(format!(
                "the server sent a message whose line is wrong, or which is too large: {}",
                quoted(&input[..at])
            )));
        };
        let end = at + arguments.total_bytes;
        match input.get(end..end + 2) {
            None => return Ok(Step::Need(end + 2)),
            Some(b"\r\n") => {}
            Some(_) => {
                return Err(Fault(format!(
                    "the server sent a message that does not end where it said: {}",
                    quoted(&input[..at])
                )));
            }
        }
        let headers = &input[at..at + arguments.header_bytes];
        let payload = &input[at + arguments.header_bytes..end];
        match self.purpose(arguments.sid) {
            Purpose::Topic if stored::is_status(headers) => {
                if let Some(answer) = stored::answer_to(headers, arguments.reply) {
                    out.bytes.extend_from_slice(b"PUB ");
                    out.bytes.extend_from_slice(answer);
                    out.bytes.extend_from_slice(b" 0\r\n\r\n");
                }
            }
            Purpose::Topic => {
                // Those of JetStream differ in their replies.
                if headers.is_empty() && self.stored.is_none() {
                    self.known.learn(&input[..at], payload.len());
                }
                on(Incoming::Event { payload });
            }
            Purpose::Method => {
                if let Some(reply) = arguments.reply {
                    out.bytes.extend_from_slice(b"PUB ");
                    out.bytes.extend_from_slice(reply);
                    out.bytes.push(b' ');
                    write_payload(payload, out);
                    on(Incoming::Served);
                }
            }
            Purpose::Inbox => {
                let to = ReplyTo::of(arguments.subject);
                if to == ReplyTo::Stream
                    && self
                        .stored
                        .as_mut()
                        .is_some_and(|stored| stored.asks_again(payload))
                {
                    self.have_stream(out);
                    return Ok(Step::Taken(end + 2));
                }
                let is_nobody = headers.starts_with(b"NATS/1.0 503");
                on(replied(to, is_nobody, payload));
            }
            Purpose::None => {}
        }
        Ok(Step::Taken(end + 2))
    }
}

/// What a message to the inbox means.
#[inline]
fn replied(to: ReplyTo, is_nobody: bool, payload: &[u8]) -> Incoming<'_> {
    if is_nobody {
        let message = match to {
            ReplyTo::Call => "no responders: nobody serves the method",
            _ => "no responders: JetStream is not switched on; start nats-server with -js",
        };
        let message = message.to_owned();
        return Incoming::Refused { message };
    }
    let (outcome, well) = match to {
        ReplyTo::Call => return Incoming::Answer { payload },
        ReplyTo::Publish => (stored::is_stored(payload), Incoming::Acknowledged { count: 1 }),
        ReplyTo::Stream => (stored::done(payload), Incoming::Ready),
        ReplyTo::Consumer => (stored::done(payload), Incoming::Subscribed),
    };
    match outcome {
        Ok(()) => well,
        Err(message) => Incoming::Refused { message },
    }
}

#[cfg(test)]
mod tests;
