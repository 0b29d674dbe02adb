//! MQTT 3.1.1 and 5, qos 0 and 1.
//!
//! ```text
//!   CONNECT ─▶ CONNACK: Ready        SUBSCRIBE ─▶ SUBACK: Subscribed        PINGREQ ─▶ PINGRESP: Pong
//!   PUBLISH qos 1 ─▶ PUBACK: Acknowledged        PUBLISH qos 1 arrives: Event, and a PUBACK goes back
//! ```
//!
//! A publish at qos 1 holds a packet id until it is acknowledged, and a server takes only so many at a time (its receive
//! maximum, 65,535 if it says nothing). When none is free publishes wait in the session, in order, and go out as
//! acknowledgements come in. What does not fit into that queue either is not sent: the next poll says `Refused` for
//! each. At qos 1 a server keeps publishes for sessions that are away, and for nobody else: a protocol of [`Mqtt::keeping`] makes
//! sessions that outlive their connections. Keep-alive is switched off, so a session may be silent for as long as the worker likes. There are no calls.

mod ids;
mod packet;

use std::sync::Arc;

use super::prepared::Prepared;
use super::straddle::{Parser, Step, Straddle};
use super::text::quoted;
use super::{Ability, Fault, Incoming, Names, Outgoing, Protocol, Session};
use ids::PacketIds;
use packet::{Header, Reader};

/// Most bytes of publishes that wait in a session for a packet id.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// Which MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1.
    V3,
    /// 5.
    V5,
}

/// MQTT with its settings.
#[derive(Debug)]
pub struct Mqtt {
    version: Version,
    qos: u8,
    /// Sessions outlive their connections.
    keeps: bool,
    topics: Prepared<Topics>,
}

/// The topics with their lengths in front, and in MQTT 5 what stands behind the packet id: no properties.
type Topics = Vec<Box<[u8]>>;

impl Mqtt {
    /// `qos` (0 or 1) is that of publishes and subscriptions.
    #[must_use]
    pub fn new(version: Version, qos: u8) -> Self {
        Self {
            version,
            qos: qos.min(1),
            keeps: false,
            topics: Prepared::default(),
        }
    }

    /// Sessions stay with the server when their connections end, and with them what they subscribed to: the server keeps what is
    /// published there.
    #[must_use]
    pub fn keeping(mut self) -> Self {
        self.keeps = true;
        self
    }
}

impl Protocol for Mqtt {
    type Session = MqttSession;

    fn is_able(&self, ability: Ability) -> bool {
        match ability {
            Ability::PubSub => true,
            Ability::AcknowledgedPublish => self.qos > 0,
            Ability::Replay | Ability::Calls | Ability::Streams | Ability::Listening => false,
        }
    }

    fn needs_keeper(&self) -> bool {
        self.keeps
    }

    fn session(&self, number: u64, names: &Arc<Names>) -> MqttSession {
        let topics = self.topics.of(names, |names| {
            let topics = names.topics.iter().map(|topic| {
                let mut bytes = Vec::new();
                packet::write_text(topic, &mut bytes);
                bytes.into()
            });
            topics.collect()
        });
        MqttSession {
            straddle: Straddle::default(),
            talk: Talk {
                version: self.version,
                qos: self.qos,
                keeps: self.keeps,
                number,
                topics,
                is_open: false,
                ids: PacketIds::default(),
                asked: Vec::new(),
                waiting: Waiting::default(),
                not_sent: 0,
            },
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct MqttSession {
    straddle: Straddle,
    talk: Talk,
}

/// All of a session but what has arrived in part.
#[derive(Debug)]
struct Talk {
    version: Version,
    qos: u8,
    keeps: bool,
    number: u64,
    topics: Arc<Topics>,
    /// CONNACK came.
    is_open: bool,
    ids: PacketIds,
    /// Packet ids of subscribes and unsubscribes without an answer.
    asked: Vec<u16>,
    waiting: Waiting,
    /// Publishes that found no room in `waiting`, to be told.
    not_sent: u64,
}

/// Publishes that wait for a packet id: topic (u32), length (u32) and payload of each, back to back.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Where the first one begins that was not sent.
    start: usize,
}

impl Waiting {
    const HEAD_BYTES: usize = 8;

    fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// False if there is no room.
    fn push(&mut self, topic: usize, payload: &[u8]) -> bool {
        if self.bytes.len() - self.start + payload.len() + Self::HEAD_BYTES > WAITING_BYTES_MAX {
            return false;
        }
        // What was sent is moved out of the way when it is more than what waits: the buffer stays below twice the bound,
        // and each byte is moved about once.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(&(topic as u32).to_le_bytes());
        self.bytes
            .extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(payload);
        true
    }

    fn pop(&mut self) -> Option<(usize, &[u8])> {
        let (head, rest) = self.bytes.get(self.start..)?.split_at_checked(Self::HEAD_BYTES)?;
        let topic = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
        let payload = rest.get(..u32::from_le_bytes(head[4..].try_into().ok()?) as usize)?;
        self.start += Self::HEAD_BYTES + payload.len();
        Some((topic, payload))
    }

    /// Gives memory back once everything was sent.
    fn tidy(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

impl Session for MqttSession {
    fn open(&mut self, out: &mut Outgoing) {
        let talk = &self.talk;
        let mut body = Vec::new();
        packet::write_text("MQTT", &mut body);
        body.push(if talk.version == Version::V5 { 5 } else { 4 });
        let flags = if talk.keeps { 0 } else { packet::CLEAN_SESSION };
        body.extend_from_slice(&[flags, 0, 0]); // keep-alive is off
        if talk.keeps && talk.version == Version::V5 {
            body.extend_from_slice(&packet::STAYS);
        } else {
            talk.write_no_properties(&mut body);
        }
        packet::write_text(&format!("loadgen-{}", talk.number), &mut body);
        packet::write(packet::CONNECT, &body, &mut out.bytes);
    }

    fn subscribe(&mut self, topic: usize, out: &mut Outgoing) {
        let qos = self.talk.qos;
        self.talk.ask(packet::SUBSCRIBE, topic, Some(qos), out);
    }

    fn unsubscribe(&mut self, topic: usize, out: &mut Outgoing) {
        self.talk.ask(packet::UNSUBSCRIBE, topic, None, out);
    }

    /// Not able: nothing is said, and nothing follows.
    fn serve(&mut self, _method: usize, _out: &mut Outgoing) {}

    #[inline]
    fn publish(&mut self, topic: usize, payload: &[u8], out: &mut Outgoing) {
        let talk = &mut self.talk;
        if talk.qos == 0 {
            return talk.write_publish(topic, None, payload, out);
        }
        let id = if talk.waiting.is_empty() {
            talk.ids.take_for_publish()
        } else {
            None
        };
        match id {
            Some(id) => talk.write_publish(topic, Some(id), payload, out),
            None => {
                if !talk.waiting.push(topic, payload) {
                    talk.not_sent += 1;
                }
            }
        }
    }

    /// Not able, as with [`Session::serve`].
    fn call(&mut self, _method: usize, _payload: &[u8], _out: &mut Outgoing) {}

    fn ping(&mut self, out: &mut Outgoing) {
        out.bytes.extend_from_slice(&[packet::PINGREQ, 0]);
    }

    fn close(&mut self, out: &mut Outgoing) {
        out.bytes.extend_from_slice(&[packet::DISCONNECT, 0]);
    }

    fn seal(&mut self, _out: &mut Outgoing) {}

    fn poll(&mut self, on: &mut impl FnMut(Incoming<'_>)) {
        for _ in 0..std::mem::take(&mut self.talk.not_sent) {
            on(Incoming::Refused {
                message: "not sent: the server acknowledges too slowly, and what may wait for it is full"
                    .into(),
            });
        }
    }

    fn receive(
        &mut self,
        bytes: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        self.poll(on);
        self.straddle.receive(&mut self.talk, bytes, out, on)
    }
}

impl Parser for Talk {
    #[inline]
    fn step(
        &mut self,
        input: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<Step, Fault> {
        if !self.is_open && input.first().is_some_and(|first| *first != packet::CONNACK) {
            return Err(Fault(format!(
                "the server answered CONNECT with what is no CONNACK: {}. Is it an MQTT server?",
                quoted(input)
            )));
        }
        let header = match Header::read(input)? {
            Ok(header) => header,
            Err(need_bytes) => return Ok(Step::Need(need_bytes)),
        };
        let Some(body) = input.get(header.body_at..header.end) else {
            return Ok(Step::Need(header.end));
        };
        if header.first & 0xf0 == packet::PUBLISH {
            self.receive_publish(header.first, body, out, on)?;
        } else {
            self.receive_other(header.first, body, out, on)?;
        }
        Ok(Step::Taken(header.end))
    }
}

impl Talk {
    fn write_no_properties(&self, out: &mut Vec<u8>) {
        if self.version == Version::V5 {
            out.push(0);
        }
    }

    #[inline]
    fn write_publish(&self, topic: usize, id: Option<u16>, payload: &[u8], out: &mut Outgoing) {
        let topic = &self.topics[topic];
        let properties = usize::from(self.version == Version::V5);
        let body_bytes = topic.len() + if id.is_some() { 2 } else { 0 } + properties + payload.len();
        let out = &mut out.bytes;
        out.reserve(body_bytes + 5);
        out.push(packet::PUBLISH | if id.is_some() { 1 << 1 } else { 0 });
        packet::write_length(body_bytes, out);
        out.extend_from_slice(topic);
        if let Some(id) = id {
            out.extend_from_slice(&id.to_be_bytes());
        }
        self.write_no_properties(out);
        out.extend_from_slice(payload);
    }

    /// SUBSCRIBE and UNSUBSCRIBE. They need a packet id too; the publishes leave some free for them.
    fn ask(&mut self, first: u8, topic: usize, qos: Option<u8>, out: &mut Outgoing) {
        let Some(id) = self.ids.take() else {
            self.not_sent += 1;
            return;
        };
        self.asked.push(id);
        let mut body = id.to_be_bytes().to_vec();
        self.write_no_properties(&mut body);
        body.extend_from_slice(&self.topics[topic]);
        body.extend(qos);
        packet::write(first, &body, &mut out.bytes);
    }

    #[inline]
    fn receive_publish(
        &mut self,
        first: u8,
        body: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        reader.text()?;
        match first >> 1 & 3 {
            0 => {}
            1 => {
                let id = reader.u16()?;
                if id == 0 {
                    return Err(Fault("the server sent a PUBLISH with packet id 0".into()));
                }
                out.bytes.extend_from_slice(&[packet::PUBACK, 2]);
                out.bytes.extend_from_slice(&id.to_be_bytes());
            }
            qos => {
                return Err(Fault(format!(
                    "the server sent a PUBLISH of qos {qos}, which nobody asked for"
                )));
            }
        }
        if self.version == Version::V5 {
            reader.skip_properties()?;
        }
        let payload = reader.rest();
        on(Incoming::Event { payload });
        Ok(())
    }

    fn receive_other(
        &mut self,
        first: u8,
        body: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        match first {
            packet::CONNACK if !self.is_open => self.be_accepted(&mut reader, on)?,
            packet::PUBACK => self.be_acknowledged(&mut reader, out, on)?,
            packet::SUBACK => {
                self.answered(reader.u16()?)?;
                if self.version == Version::V5 {
                    reader.skip_properties()?;
                }
                match reader.u8()? {
                    0..=2 => on(Incoming::Subscribed),
                    code => on(Incoming::Refused {
                        message: format!("the subscription was refused with code {code:#04x}"),
                    }),
                }
            }
            packet::UNSUBACK => self.answered(reader.u16()?)?,
            packet::PINGRESP => on(Incoming::Pong),
            packet::DISCONNECT if self.version == Version::V5 => {
                let code = reader.u8().unwrap_or(0);
                return Err(Fault(format!(
                    "the server ended the session with code {code:#04x}{}",
                    packet::reason(code)
                )));
            }
            _ => {
                return Err(Fault(format!(
                    "the server sent a packet that begins with {first:#04x}, which has no place here"
                )));
            }
        }
        Ok(())
    }

    fn be_accepted(
        &mut self,
        reader: &mut Reader<'_>,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        reader.u8()?; // session present: of no matter here
        let code = reader.u8()?;
        if code != 0 {
            return Err(Fault(format!(
                "the server refused the connection with code {code:#04x}{}",
                packet::reason(code)
            )));
        }
        if self.version == Version::V5 {
            let properties = reader.properties()?;
            if properties.qos_max < self.qos {
                return Err(Fault("the server takes publishes at qos 0 only".into()));
            }
            self.ids.limit_publishes(properties.receive_maximum);
        }
        self.is_open = true;
        on(Incoming::Ready);
        Ok(())
    }

    fn be_acknowledged(
        &mut self,
        reader: &mut Reader<'_>,
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        let id = reader.u16()?;
        if self.asked.contains(&id) || !self.ids.give_back_publish(id) {
            return Err(Fault(format!(
                "the server acknowledged a publish {id} that is not open"
            )));
        }
        match reader.u8() {
            Ok(code @ 0x80..) => on(Incoming::Refused {
                message: format!(
                    "the publish was refused with code {code:#04x}{}",
                    packet::reason(code)
                ),
            }),
            _ => on(Incoming::Acknowledged { count: 1 }),
        }
        if !self.waiting.is_empty() {
            self.send_waiting(out);
        }
        Ok(())
    }

    fn send_waiting(&mut self, out: &mut Outgoing) {
        let mut waiting = std::mem::take(&mut self.waiting);
        while !waiting.is_empty() {
            let Some(id) = self.ids.take_for_publish() else {
                break;
            };
            if let Some((topic, payload)) = waiting.pop() {
                self.write_publish(topic, Some(id), payload, out);
            }
        }
        waiting.tidy();
        self.waiting = waiting;
    }

    /// A SUBACK or UNSUBACK came for this id.
    fn answered(&mut self, id: u16) -> Result<(), Fault> {
        let Some(at) = self.asked.iter().position(|asked| *asked == id) else {
            return Err(Fault(format!(
                "the server answered a subscription {id} that nobody asked for"
            )));
        };
        self.asked.swap_remove(at);
        self.ids.give_back(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
