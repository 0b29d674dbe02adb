//! Mosquitto: MQTT 3.1.1 with persistent sessions on both sides. As it is installed it writes its state every half an hour and
//! when it ends; its documents recommend `autosave_on_changes` to those for whom that is too seldom.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::link::Link;
use super::{Heard, Hearer, Peer, Publisher, Settled, event, payload, topic};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;

/// See the module.
pub(super) struct Mosquitto {
    pub(super) program: PathBuf,
    pub(super) qos: u8,
    /// `autosave_on_changes true`, `autosave_interval 1`: the whole state is written behind every change.
    pub(super) is_saved_often: bool,
}

impl Peer for Mosquitto {
    fn title(&self) -> String {
        let saved = if self.is_saved_often {
            "autosave on every change"
        } else {
            "autosave as installed"
        };
        format!("Mosquitto, persistent sessions, qos {}, {saved}", self.qos)
    }

    fn command(&self, folder: &Path, port: u16) -> io::Result<Command> {
        let mut config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
             persistence_location {}/\nmax_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n",
            folder.display()
        );
        if self.is_saved_often {
            config.push_str("autosave_on_changes true\nautosave_interval 1\n");
        }
        let path = folder.join("mosquitto.conf");
        std::fs::write(&path, config)?;
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(path);
        Ok(command)
    }

    fn prepare(&self, port: u16) -> io::Result<()> {
        // The subscription is there before the first event is.
        MqttHearer::new(self.qos).connect(port)
    }

    fn publisher(&self, publisher: u32) -> Box<dyn Publisher> {
        Box::new(MqttPublisher {
            link: Link::default(),
            qos: self.qos,
            publisher,
            sent: BTreeMap::new(),
        })
    }

    fn hearer(&self) -> Box<dyn Hearer> {
        Box::new(MqttHearer::new(self.qos))
    }

    fn log_suffix(&self) -> &str {
        // Nothing of it is only appended to.
        "/"
    }
}

/// What a publish waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// PUBACK or PUBREC.
    Taken,
    /// PUBCOMP.
    Complete,
}

struct MqttPublisher {
    link: Link,
    qos: u8,
    publisher: u32,
    /// Under way: numbers by their packet ids.
    sent: BTreeMap<u16, (u64, Waits)>,
}

impl Publisher for MqttPublisher {
    fn connect(&mut self, port: u16) -> io::Result<()> {
        let (link, has_session) = open(port, &format!("publisher-{}", self.publisher))?;
        self.link = link;
        if !has_session {
            self.sent.clear();
        }
        Ok(())
    }

    fn publish(&mut self, number: u64) {
        let packet = (number % 65_535) as u16 + 1;
        if let Some((_, Waits::Complete)) = self.sent.get(&packet) {
            // The broker has it; what is missing is the second half.
            return acknowledge(PUBREL, packet, &mut self.link.out);
        }
        let dup = if self.sent.contains_key(&packet) { 0x08 } else { 0 };
        self.sent.insert(packet, (number, Waits::Taken));
        let mut body = Vec::new();
        put_text(&topic(self.publisher, number, '/'), &mut body);
        body.extend_from_slice(&packet.to_be_bytes());
        body.extend_from_slice(payload(self.publisher, number).as_bytes());
        put_packet(PUBLISH | dup | self.qos << 1, &body, &mut self.link.out);
    }

    fn send(&mut self) -> io::Result<()> {
        self.link.send()
    }

    fn settled(&mut self, into: &mut Vec<Settled>) -> io::Result<()> {
        let result = self.link.fill();
        while let Some((kind, body)) = next(&mut self.link)? {
            let packet = packet_id(&body)?;
            match (kind & 0xf0, self.sent.get_mut(&packet)) {
                (PUBREC, Some((_, waits))) => {
                    *waits = Waits::Complete;
                    acknowledge(PUBREL, packet, &mut self.link.out);
                }
                (PUBACK | PUBCOMP, Some((number, _))) => {
                    into.push(Settled::Acknowledged(*number));
                    self.sent.remove(&packet);
                }
                _ => {}
            }
        }
        if !self.link.out.is_empty() {
            self.link.send()?;
        }
        result.map(|_| ())
    }
}

struct MqttHearer {
    link: Link,
    qos: u8,
    /// Handled at qos 2, and not released yet: these may come again.
    unreleased: BTreeSet<u16>,
}

impl MqttHearer {
    fn new(qos: u8) -> Self {
        Self {
            link: Link::default(),
            qos,
            unreleased: BTreeSet::new(),
        }
    }
}

impl Hearer for MqttHearer {
    fn connect(&mut self, port: u16) -> io::Result<()> {
        let (mut link, has_session) = open(port, "audit")?;
        if !has_session {
            self.unreleased.clear();
            let mut body = vec![0, 1];
            put_text("crash/#", &mut body);
            body.push(self.qos);
            put_packet(SUBSCRIBE, &body, &mut link.out);
            link.send()?;
            link.wait_for(|bytes| Ok(read_packet(bytes)?.filter(|((kind, _), _)| *kind == SUBACK)))?;
        }
        self.link = link;
        Ok(())
    }

    fn hear(&mut self, into: &mut Vec<Heard>) -> io::Result<()> {
        let result = self.link.fill();
        while let Some((kind, body)) = next(&mut self.link)? {
            match (kind & 0xf0, kind >> 1 & 3) {
                (PUBLISH, qos) => {
                    let short = || io::Error::from(io::ErrorKind::InvalidData);
                    let topic_len = usize::from(packet_id(&body)?);
                    let rest = body.get(2 + topic_len..).ok_or_else(short)?;
                    let packet = packet_id(rest)?;
                    if qos != 2 || self.unreleased.insert(packet) {
                        into.push(Heard {
                            event: event(&rest[2..])?,
                            place: None,
                        });
                    }
                    let answer = if qos == 2 { PUBREC } else { PUBACK };
                    acknowledge(answer, packet, &mut self.link.out);
                }
                (0x60, _) => {
                    let packet = packet_id(&body)?;
                    self.unreleased.remove(&packet);
                    acknowledge(PUBCOMP, packet, &mut self.link.out);
                }
                _ => {}
            }
        }
        if !self.link.out.is_empty() {
            self.link.send()?;
        }
        result.map(|_| ())
    }
}

/// A greeted connection, and whether the broker remembers the session.
fn open(port: u16, client: &str) -> io::Result<(Link, bool)> {
    let mut link = Link::open(port)?;
    let mut body = Vec::new();
    put_text("MQTT", &mut body);
    // Version 3.1.1, the session stays, no keep-alive.
    body.extend_from_slice(&[4, 0, 0, 0]);
    put_text(client, &mut body);
    put_packet(CONNECT, &body, &mut link.out);
    link.send()?;
    let (kind, body) = link.wait_for(read_packet)?;
    match (kind, &body[..]) {
        (CONNACK, [flags, 0]) => Ok((link, flags & 1 == 1)),
        _ => Err(io::Error::other(format!(
            "CONNECT was answered {kind:#x} {body:?}"
        ))),
    }
}

type Packet = (u8, Vec<u8>);

fn next(link: &mut Link) -> io::Result<Option<Packet>> {
    let Some((packet, bytes)) = read_packet(link.bytes())? else {
        return Ok(None);
    };
    link.consume(bytes);
    Ok(Some(packet))
}

/// A packet from the beginning of the bytes, and how many of them it has.
fn read_packet(bytes: &[u8]) -> io::Result<Option<(Packet, usize)>> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).enumerate() {
        if at == 4 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let begin = at + 2;
            let body = bytes.get(begin..begin + length);
            return Ok(body.map(|body| ((bytes[0], body.to_vec()), begin + length)));
        }
    }
    Ok(None)
}

fn put_packet(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    let mut length = body.len();
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        out.push((length & 0x7f) as u8 | more);
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn acknowledge(kind: u8, packet: u16, out: &mut Vec<u8>) {
    put_packet(kind, &packet.to_be_bytes(), out);
}

fn packet_id(body: &[u8]) -> io::Result<u16> {
    match body {
        [high, low, ..] => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
