//! Redis: a stream, `appendfsync always`, a consumer group with one consumer. A publish that is sent again is another
//! entry: Redis knows no ids of publishers.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::link::Link;
use super::{Heard, Hearer, Peer, Publisher, Settled, event, payload};

/// See the module.
pub(super) struct Redis {
    pub(super) program: PathBuf,
}

impl Peer for Redis {
    fn title(&self) -> String {
        "Redis streams, appendfsync always".into()
    }

    fn command(&self, folder: &Path, port: u16) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        command.args([
            "--bind",
            "127.0.0.1",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ]);
        command
            .args(["--save", "", "--port", &port.to_string(), "--dir"])
            .arg(folder);
        Ok(command)
    }

    fn prepare(&self, port: u16) -> io::Result<()> {
        let mut link = Link::open(port)?;
        match ask(
            &mut link,
            &["XGROUP", "CREATE", "crash", "audit", "0", "MKSTREAM"],
        )? {
            Value::Error(error) if !error.starts_with("BUSYGROUP") => Err(io::Error::other(error)),
            _ => Ok(()),
        }
    }

    fn publisher(&self, publisher: u32) -> Box<dyn Publisher> {
        Box::new(RedisPublisher {
            link: Link::default(),
            publisher,
            asked: VecDeque::new(),
        })
    }

    fn hearer(&self) -> Box<dyn Hearer> {
        Box::new(RedisHearer {
            link: Link::default(),
            from: String::new(),
            is_asked: false,
        })
    }

    fn log_suffix(&self) -> &str {
        ".aof"
    }
}

struct RedisPublisher {
    link: Link,
    publisher: u32,
    /// Answers come in the order of what was asked.
    asked: VecDeque<u64>,
}

impl Publisher for RedisPublisher {
    fn connect(&mut self, port: u16) -> io::Result<()> {
        self.asked.clear();
        self.link = Link::open(port)?;
        Ok(())
    }

    fn publish(&mut self, number: u64) {
        let payload = payload(self.publisher, number);
        write(&["XADD", "crash", "*", "event", &payload], &mut self.link.out);
        self.asked.push_back(number);
    }

    fn send(&mut self) -> io::Result<()> {
        self.link.send()
    }

    fn settled(&mut self, into: &mut Vec<Settled>) -> io::Result<()> {
        let result = self.link.fill();
        while let Some((value, bytes)) = Value::read(self.link.bytes(), 0)? {
            self.link.consume(bytes);
            let number = self.asked.pop_front().ok_or(io::ErrorKind::InvalidData)?;
            into.push(match value {
                Value::Error(_) => Settled::Refused(number),
                _ => Settled::Acknowledged(number),
            });
        }
        result.map(|_| ())
    }
}

struct RedisHearer {
    link: Link,
    /// Behind which entry it asks: first for those that it was given before and did not acknowledge, then `>`, new ones.
    from: String,
    is_asked: bool,
}

impl Hearer for RedisHearer {
    fn connect(&mut self, port: u16) -> io::Result<()> {
        self.link = Link::open(port)?;
        self.from = "0".into();
        self.is_asked = false;
        Ok(())
    }

    fn hear(&mut self, into: &mut Vec<Heard>) -> io::Result<()> {
        if !std::mem::replace(&mut self.is_asked, true) {
            let group = ["XREADGROUP", "GROUP", "audit", "auditor", "COUNT", "512"];
            let rest = ["BLOCK", "1000", "STREAMS", "crash", &self.from];
            write(&[&group[..], &rest[..]].concat(), &mut self.link.out);
            self.link.send()?;
        }
        let result = self.link.fill();
        while let Some((value, bytes)) = Value::read(self.link.bytes(), 0)? {
            self.link.consume(bytes);
            match value {
                // How many were acknowledged.
                Value::Integer => continue,
                Value::Error(error) => return Err(io::Error::other(error)),
                _ => {}
            }
            self.is_asked = false;
            let entries = value.entries();
            if entries.is_empty() && self.from != ">" {
                self.from = ">".into();
            }
            let mut ack = vec!["XACK", "crash", "audit"];
            for (id, payload) in &entries {
                let place = id.split_once('-').and_then(|(ms, number)| {
                    let (ms, number): (u64, u64) = (ms.parse().ok()?, number.parse().ok()?);
                    Some(ms << 20 | number)
                });
                into.push(Heard {
                    event: event(payload)?,
                    place,
                });
                ack.push(id);
            }
            if let Some((last, _)) = entries.last() {
                if self.from != ">" {
                    self.from.clone_from(last);
                }
                write(&ack, &mut self.link.out);
                self.link.send()?;
            }
        }
        result.map(|_| ())
    }
}

fn write(words: &[&str], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

fn ask(link: &mut Link, words: &[&str]) -> io::Result<Value> {
    write(words, &mut link.out);
    link.send()?;
    link.wait_for(|bytes| Value::read(bytes, 0))
}

/// An answer.
#[derive(Debug)]
enum Value {
    Simple,
    Integer,
    Nil,
    Error(String),
    Bytes(Vec<u8>),
    Array(Vec<Value>),
}

impl Value {
    /// One from the beginning of the bytes, and how many of them it has; none if they do not hold all of it.
    fn read(bytes: &[u8], depth: u32) -> io::Result<Option<(Self, usize)>> {
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
            return Ok(None);
        };
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let text = std::str::from_utf8(bytes.get(1..end).ok_or_else(invalid)?).map_err(|_| invalid())?;
        let count = || text.parse::<i64>().map_err(|_| invalid());
        let mut at = end + 2;
        let value = match bytes[0] {
            b'+' => Self::Simple,
            b':' => Self::Integer,
            b'-' => Self::Error(text.to_owned()),
            b'$' | b'*' if count()? < 0 => Self::Nil,
            b'$' => {
                let length = count()? as usize;
                let Some(content) = bytes.get(at..at + length + 2) else {
                    return Ok(None);
                };
                at += length + 2;
                Self::Bytes(content[..length].to_vec())
            }
            b'*' if depth < 8 => {
                let mut items = Vec::new();
                for _ in 0..count()? {
                    let Some((item, bytes)) = Self::read(&bytes[at..], depth + 1)? else {
                        return Ok(None);
                    };
                    items.push(item);
                    at += bytes;
                }
                Self::Array(items)
            }
            _ => return Err(invalid()),
        };
        Ok(Some((value, at)))
    }

    fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            _ => &[],
        }
    }

    /// Ids and payloads of `[[stream, [[id, [field, payload]], …]]]`.
    fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let Some(stream) = self.items().first() else {
            return Vec::new();
        };
        let entries = stream.items().get(1).map_or(&[][..], Self::items);
        let entries = entries.iter().filter_map(|entry| {
            let [id, fields] = entry.items() else { return None };
            let payload = fields.items().get(1)?.bytes().to_vec();
            Some((String::from_utf8(id.bytes().to_vec()).ok()?, payload))
        });
        entries.collect()
    }
}
