//! NATS JetStream: a stream in files, publishes with `Nats-Msg-Id` (so that one that is sent again is stored once), a
//! durable pull consumer with explicit acknowledgements.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::link::Link;
use super::{Heard, Hearer, Peer, Publisher, Settled, event, payload, topic};

/// Events of one pull.
const PULL: u32 = 512;

/// See the module.
pub(super) struct Jetstream {
    pub(super) program: PathBuf,
    /// `sync_interval: always`, which nats-server has from 2.10 on.
    pub(super) is_synced_always: bool,
}

impl Peer for Jetstream {
    fn title(&self) -> String {
        if self.is_synced_always {
            "NATS JetStream, file store, sync_interval: always".into()
        } else {
            "NATS JetStream, file store, its default sync_interval".into()
        }
    }

    fn command(&self, folder: &Path, port: u16) -> io::Result<Command> {
        let sync = if self.is_synced_always {
            "sync_interval: always"
        } else {
            ""
        };
        let store = folder.join("store");
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{\n  store_dir: \"{}\"\n  {sync}\n}}\n",
            store.display()
        );
        let path = folder.join("nats.conf");
        std::fs::write(&path, config)?;
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(path);
        Ok(command)
    }

    fn prepare(&self, port: u16) -> io::Result<()> {
        let mut link = open(port)?;
        let stream =
            r#"{"name":"crash","subjects":["crash.>"],"storage":"file","duplicate_window":120000000000}"#;
        request(&mut link, "$JS.API.STREAM.CREATE.crash", stream)?;
        let consumer = r#"{"stream_name":"crash","config":{"durable_name":"audit","deliver_policy":"all","ack_policy":"explicit","ack_wait":5000000000,"max_ack_pending":4096}}"#;
        request(&mut link, "$JS.API.CONSUMER.DURABLE.CREATE.crash.audit", consumer)
    }

    fn publisher(&self, publisher: u32) -> Box<dyn Publisher> {
        Box::new(JetstreamPublisher {
            link: Link::default(),
            publisher,
        })
    }

    fn hearer(&self) -> Box<dyn Hearer> {
        Box::new(JetstreamHearer {
            link: Link::default(),
            pulled: 0,
            silent_reads: 0,
        })
    }

    fn log_suffix(&self) -> &str {
        ".blk"
    }
}

struct JetstreamPublisher {
    link: Link,
    publisher: u32,
}

impl Publisher for JetstreamPublisher {
    fn connect(&mut self, port: u16) -> io::Result<()> {
        self.link = open(port)?;
        let inbox = format!("SUB _INBOX.{}.* 1\r\n", self.publisher);
        self.link.out.extend_from_slice(inbox.as_bytes());
        Ok(())
    }

    fn publish(&mut self, number: u64) {
        let topic = topic(self.publisher, number, '.');
        let payload = payload(self.publisher, number);
        let inbox = format!("_INBOX.{}.{number}", self.publisher);
        let head = format!("NATS/1.0\r\nNats-Msg-Id: {payload}\r\n\r\n");
        let (head_len, total) = (head.len(), head.len() + payload.len());
        let line = format!("HPUB {topic} {inbox} {head_len} {total}\r\n{head}{payload}\r\n");
        self.link.out.extend_from_slice(line.as_bytes());
    }

    fn send(&mut self) -> io::Result<()> {
        self.link.send()
    }

    fn settled(&mut self, into: &mut Vec<Settled>) -> io::Result<()> {
        let result = self.link.fill();
        while let Some(message) = next(&mut self.link)? {
            let number = message
                .subject
                .rsplit('.')
                .next()
                .and_then(|number| number.parse().ok());
            let number = number.ok_or(io::ErrorKind::InvalidData)?;
            let is_stored = message.status.is_none() && message.payload_has(r#""seq":"#);
            into.push(if is_stored && !message.payload_has(r#""error":"#) {
                Settled::Acknowledged(number)
            } else {
                Settled::Refused(number)
            });
        }
        result.map(|_| ())
    }
}

struct JetstreamHearer {
    link: Link,
    /// Events that were asked for and have not come.
    pulled: u32,
    /// Reads in a row that brought nothing.
    silent_reads: u32,
}

impl Hearer for JetstreamHearer {
    fn connect(&mut self, port: u16) -> io::Result<()> {
        self.link = open(port)?;
        self.link.out.extend_from_slice(b"SUB _INBOX.h 1\r\n");
        self.pulled = 0;
        self.silent_reads = 0;
        Ok(())
    }

    fn hear(&mut self, into: &mut Vec<Heard>) -> io::Result<()> {
        if self.pulled == 0 {
            let pull = format!(r#"{{"batch":{PULL},"expires":1000000000}}"#);
            let line = format!(
                "PUB $JS.API.CONSUMER.MSG.NEXT.crash.audit _INBOX.h {}\r\n{pull}\r\n",
                pull.len()
            );
            self.link.out.extend_from_slice(line.as_bytes());
            self.link.send()?;
            self.pulled = PULL;
        }
        let result = self.link.fill();
        match result {
            Ok(false) => self.silent_reads += 1,
            _ => self.silent_reads = 0,
        }
        // A pull that was not even refused is over after twice its time.
        if self.silent_reads > 100 {
            self.silent_reads = 0;
            self.pulled = 0;
        }
        while let Some(message) = next(&mut self.link)? {
            if message.status.is_some() {
                self.pulled = 0; // timed out, or nobody is there to ask
                continue;
            }
            let Some(reply) = &message.reply else { continue };
            self.pulled = self.pulled.saturating_sub(1);
            // $JS.ACK.stream.consumer.deliveries.place.…
            let place = reply.split('.').nth(5).and_then(|place| place.parse().ok());
            into.push(Heard {
                event: event(&message.payload)?,
                place,
            });
            let ack = format!("PUB {reply} 4\r\n+ACK\r\n");
            self.link.out.extend_from_slice(ack.as_bytes());
        }
        if !self.link.out.is_empty() {
            self.link.send()?;
        }
        result.map(|_| ())
    }
}

/// A greeted connection.
fn open(port: u16) -> io::Result<Link> {
    let mut link = Link::open(port)?;
    let hello = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"protocol\":1}\r\nPING\r\n";
    link.out.extend_from_slice(hello.as_bytes());
    link.send()?;
    link.wait_for(|bytes| {
        let pong = bytes.windows(6).position(|window| window == b"PONG\r\n");
        Ok(pong.map(|at| ((), at + 6)))
    })?;
    Ok(link)
}

/// Asks the server for something that may be there already.
fn request(link: &mut Link, subject: &str, body: &str) -> io::Result<()> {
    let line = format!(
        "SUB _INBOX.r 9\r\nPUB {subject} _INBOX.r {}\r\n{body}\r\nUNSUB 9 1\r\n",
        body.len()
    );
    link.out.extend_from_slice(line.as_bytes());
    link.send()?;
    let answer = link.wait_for(Message::read_past)?;
    if answer.status.is_some() || answer.payload_has(r#""error":"#) {
        let text = String::from_utf8_lossy(&answer.payload).into_owned();
        return Err(io::Error::other(format!("{subject}: {:?} {text}", answer.status)));
    }
    Ok(())
}

/// The next message among what arrived. Pings are answered.
fn next(link: &mut Link) -> io::Result<Option<Message>> {
    loop {
        let Some((read, bytes)) = Message::read(link.bytes())? else {
            return Ok(None);
        };
        link.consume(bytes);
        match read {
            Read::Message(message) => return Ok(Some(message)),
            Read::Ping => link.out.extend_from_slice(b"PONG\r\n"),
            Read::Other => {}
        }
    }
}

enum Read {
    Message(Message),
    Ping,
    Other,
}

struct Message {
    subject: String,
    reply: Option<String>,
    /// Of an answer by the server itself, without content: 404, 408, 503.
    status: Option<String>,
    payload: Vec<u8>,
}

impl Message {
    fn payload_has(&self, text: &str) -> bool {
        self.payload
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    /// The first message in these bytes, and where it ends.
    fn read_past(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        let mut at = 0;
        while let Some((read, used)) = Self::read(&bytes[at..])? {
            at += used;
            if let Read::Message(message) = read {
                return Ok(Some((message, at)));
            }
        }
        Ok(None)
    }

    /// What these bytes begin with, and how many of them that is.
    fn read(bytes: &[u8]) -> io::Result<Option<(Read, usize)>> {
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
            return Ok(None);
        };
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let line = std::str::from_utf8(&bytes[..end]).map_err(|_| invalid())?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let at = end + 2;
        let (subject, reply, head_len, total) = match words[..] {
            ["PING"] => return Ok(Some((Read::Ping, at))),
            ["MSG", subject, _, total] => (subject, None, "0", total),
            ["MSG", subject, _, reply, total] => (subject, Some(reply), "0", total),
            ["HMSG", subject, _, head, total] => (subject, None, head, total),
            ["HMSG", subject, _, reply, head, total] => (subject, Some(reply), head, total),
            ["-ERR", ..] => return Err(io::Error::other(line.to_owned())),
            _ => return Ok(Some((Read::Other, at))),
        };
        let number = |text: &str| text.parse::<usize>().map_err(|_| invalid());
        let (head_len, total) = (number(head_len)?, number(total)?);
        let Some(content) = bytes.get(at..at + total + 2) else {
            return Ok(None);
        };
        if head_len > total {
            return Err(invalid());
        }
        let head = std::str::from_utf8(&content[..head_len]).map_err(|_| invalid())?;
        let status = head
            .strip_prefix("NATS/1.0 ")
            .and_then(|rest| rest.split_ascii_whitespace().next());
        let message = Self {
            subject: subject.to_owned(),
            reply: reply.map(str::to_owned),
            status: status.map(str::to_owned),
            payload: content[head_len..total].to_vec(),
        };
        Ok(Some((Read::Message(message), at + total + 2)))
    }
}
