//! Redis publish and subscribe, in RESP2.
//!
//! A publish is answered by the number of clients that got it; that answer means nothing here (delivery is at most
//! once) and is swallowed. A connection that has subscribed can do nothing else but ping: Redis refuses its publishes. There
//! are no calls. At qos 1 topics are streams that Redis stores; see `stored`.

mod stored;

use std::collections::VecDeque;
use std::sync::Arc;

use super::prepared::Prepared;
use super::straddle::{Parser, Step, Straddle};
use super::text::{self, KnownHead, quoted};
use super::{Ability, Fault, Incoming, Names, Outgoing, Protocol, Session};
use stored::Reading;

/// Most elements of an array: a message has three.
const ELEMENTS_MAX: usize = 4;

/// Redis with its settings.
#[derive(Debug)]
pub struct Redis {
    /// 1: by streams.
    qos: u8,
    /// What publishes begin with, by topic, up to the `$` of the payload's length.
    heads: Prepared<Vec<Box<[u8]>>>,
}

impl Redis {
    /// Publish and subscribe (qos 0), or streams: publishes are acknowledged when they are stored (qos 1).
    #[must_use]
    pub fn new(qos: u8) -> Self {
        Self {
            qos,
            heads: Prepared::default(),
        }
    }
}

impl Protocol for Redis {
    type Session = RedisSession;

    fn is_able(&self, ability: Ability) -> bool {
        match ability {
            Ability::PubSub => true,
            Ability::AcknowledgedPublish | Ability::Replay => self.qos > 0,
            Ability::Calls | Ability::Streams | Ability::Listening => false,
        }
    }

    fn session(&self, _number: u64, names: &Arc<Names>) -> RedisSession {
        let heads = self.heads.of(names, |names| {
            let heads = names.topics.iter().map(|topic| {
                if self.qos > 0 {
                    return stored::publish_head(topic);
                }
                let mut head = b"*3\r\n".to_vec();
                write_bulk(b"PUBLISH", &mut head);
                write_bulk(topic.as_bytes(), &mut head);
                head.push(b'$');
                head.into()
            });
            heads.collect()
        });
        RedisSession {
            names: names.clone(),
            heads,
            straddle: Straddle::default(),
            talk: Talk {
                is_stored: self.qos > 0,
                ..Talk::default()
            },
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct RedisSession {
    names: Arc<Names>,
    heads: Arc<Vec<Box<[u8]>>>,
    straddle: Straddle,
    talk: Talk,
}

/// What a session has to know to understand what arrives.
#[derive(Debug, Default)]
struct Talk {
    /// What the PONGs to come stand for.
    awaited: VecDeque<Incoming<'static>>,
    is_open: bool,
    /// Of the message that came last.
    known: KnownHead,
    /// Topics are streams.
    is_stored: bool,
    /// The one that is read.
    reading: Option<Reading>,
}

impl Session for RedisSession {
    fn open(&mut self, out: &mut Outgoing) {
        self.ask(Incoming::Ready, out);
    }

    fn subscribe(&mut self, topic: usize, out: &mut Outgoing) {
        if self.talk.is_stored {
            self.ask(Incoming::Subscribed, out);
            self.talk.reading = Some(Reading::begin(&self.names.topics[topic], out));
            return;
        }
        self.command(b"SUBSCRIBE", topic, out);
    }

    fn unsubscribe(&mut self, topic: usize, out: &mut Outgoing) {
        if let Some(reading) = &mut self.talk.reading {
            return reading.end();
        }
        self.command(b"UNSUBSCRIBE", topic, out);
    }

    /// Not able: nothing is said, and nothing follows.
    fn serve(&mut self, _method: usize, _out: &mut Outgoing) {}

    #[inline]
    fn publish(&mut self, topic: usize, payload: &[u8], out: &mut Outgoing) {
        let head = &self.heads[topic];
        out.bytes.reserve(head.len() + payload.len() + 24);
        out.bytes.extend_from_slice(head);
        text::write_decimal(payload.len() as u64, &mut out.bytes);
        out.bytes.extend_from_slice(b"\r\n");
        out.bytes.extend_from_slice(payload);
        out.bytes.extend_from_slice(b"\r\n");
    }

    /// Not able, as with [`Session::serve`].
    fn call(&mut self, _method: usize, _payload: &[u8], _out: &mut Outgoing) {}

    fn ping(&mut self, out: &mut Outgoing) {
        self.ask(Incoming::Pong, out);
    }

    /// Redis needs no goodbye.
    fn close(&mut self, _out: &mut Outgoing) {}

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

impl RedisSession {
    /// Sends a PING whose PONG means this.
    fn ask(&mut self, meaning: Incoming<'static>, out: &mut Outgoing) {
        out.bytes.extend_from_slice(b"*1\r\n");
        write_bulk(b"PING", &mut out.bytes);
        self.talk.awaited.push_back(meaning);
    }

    fn command(&mut self, name: &[u8], topic: usize, out: &mut Outgoing) {
        out.bytes.extend_from_slice(b"*2\r\n");
        write_bulk(name, &mut out.bytes);
        write_bulk(self.names.topics[topic].as_bytes(), &mut out.bytes);
    }
}

fn write_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'$');
    text::write_decimal(bytes.len() as u64, out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Part of an array.
enum Element<'a> {
    Bytes(&'a [u8]),
    Number,
    /// Bytes that have not all arrived: so many have to be there from the start of the input.
    Need(usize),
}

impl Parser for Talk {
    #[inline]
    fn step(
        &mut self,
        input: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<Step, Fault> {
        if let Some(reading) = self.reading.as_mut().filter(|reading| reading.is_inside()) {
            return reading.entry(input, out, on);
        }
        if let Some((payload, end)) = self.known.recognise(input) {
            on(Incoming::Event { payload });
            return Ok(Step::Taken(end));
        }
        let Some((line, next)) = text::line(input, 0)? else {
            return Ok(Step::Need(input.len() + 1));
        };
        match line.split_first() {
            Some((b'+', b"PONG")) => self.pong(on)?,
            Some((b'+', _)) => {}
            Some((b':', number)) if is_number(number) => {}
            Some((b'-', error)) => {
                let message = String::from_utf8_lossy(error).into_owned();
                if !self.is_open {
                    return Err(Fault(format!("the server refused the connection: {message}")));
                }
                on(Incoming::Refused { message });
            }
            Some((b'*', count)) => match &mut self.reading {
                Some(reading) if count == b"1" => return reading.open(input, next),
                _ => return self.array(count, input, next, on),
            },
            // The id of an entry that was added.
            Some((b'$', digits)) if self.is_stored => {
                let end = next + text::length(digits).ok_or_else(|| not_redis(line))?;
                match input.get(end..end + 2) {
                    None => return Ok(Step::Need(end + 2)),
                    Some(b"\r\n") => on(Incoming::Acknowledged { count: 1 }),
                    Some(_) => return Err(not_redis(input)),
                }
                return Ok(Step::Taken(end + 2));
            }
            _ => return Err(not_redis(line)),
        }
        Ok(Step::Taken(next))
    }
}

impl Talk {
    fn array(
        &mut self,
        count: &[u8],
        input: &[u8],
        mut at: usize,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<Step, Fault> {
        let count = text::length(count).filter(|count| (1..=ELEMENTS_MAX).contains(count));
        let count = count.ok_or_else(|| not_redis(input))?;
        let mut elements = [&[][..]; ELEMENTS_MAX];
        let mut head_bytes = 0;
        for part in &mut elements[..count] {
            let Some((element, next)) = element(input, at)? else {
                return Ok(Step::Need(input.len() + 1));
            };
            match element {
                Element::Bytes(bytes) => {
                    *part = bytes;
                    head_bytes = next - bytes.len() - 2;
                }
                Element::Number => {}
                Element::Need(bytes) => return Ok(Step::Need(bytes)),
            }
            at = next;
        }
        match (elements[0], count) {
            (b"message", 3) => {
                let payload = elements[2];
                self.known.learn(&input[..head_bytes], payload.len());
                on(Incoming::Event { payload });
            }
            (b"subscribe", 3) => on(Incoming::Subscribed),
            (b"unsubscribe", 3) => {}
            (b"pong", 2) => self.pong(on)?,
            _ => return Err(not_redis(input)),
        }
        Ok(Step::Taken(at))
    }

    fn pong(&mut self, on: &mut impl FnMut(Incoming<'_>)) -> Result<(), Fault> {
        let awaited = self.awaited.pop_front();
        let awaited = awaited.ok_or_else(|| Fault("the server sent a PONG that nobody asked for".into()))?;
        self.is_open = true;
        on(awaited);
        Ok(())
    }
}

/// The element that begins at `at`, and where the next one does. `None` if its first line has not arrived.
fn element(input: &[u8], at: usize) -> Result<Option<(Element<'_>, usize)>, Fault> {
    let Some((line, next)) = text::line(input, at)? else {
        return Ok(None);
    };
    let wrong = || not_redis(&input[at..]);
    match line.split_first() {
        Some((b':', number)) if is_number(number) => Ok(Some((Element::Number, next))),
        Some((b'$', b"-1")) => Ok(Some((Element::Number, next))), // null: an unsubscribe from nothing
        Some((b'$', digits)) => {
            let end = next + text::length(digits).ok_or_else(wrong)?;
            match input.get(end..end + 2) {
                None => Ok(Some((Element::Need(end + 2), end + 2))),
                Some(b"\r\n") => Ok(Some((Element::Bytes(&input[next..end]), end + 2))),
                Some(_) => Err(wrong()),
            }
        }
        _ => Err(wrong()),
    }
}

fn is_number(digits: &[u8]) -> bool {
    let digits = digits.strip_prefix(b"-").unwrap_or(digits);
    (1..=20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
}

fn not_redis(bytes: &[u8]) -> Fault {
    Fault(format!(
        "the server sent what is no answer of Redis that belongs here, or is too large: {}",
        quoted(bytes)
    ))
}

#[cfg(test)]
mod tests;
