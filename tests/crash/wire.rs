//! A blocking client that takes every loss of its connection as an everyday thing: what a program in front of a gateway
//! that is killed again and again has to be.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fluxar_protocol::frame::{Deframer, prefix};
use fluxar_protocol::hello::Hello;
use fluxar_protocol::{Batch, Id, Kind};
use fluxar_tests::Received;
use fluxar_tests::message::encoded;

/// How long a read waits before the caller looks at other things.
const READ_WAIT: Duration = Duration::from_millis(20);

/// Waits of an answer: ten seconds of them.
const ANSWER_WAITS: u32 = 500;

/// After so long a silence the other side is pinged.
const SILENCE: Duration = Duration::from_millis(700);

/// After so long a silence the connection is taken as lost: nobody says so when it ends in a black hole.
const SILENCE_MAX: Duration = Duration::from_millis(2100);

/// Bytes of events in one body, at most: what every receiver takes, with room for what surrounds them.
pub(crate) const BODY_BYTES: usize = 48 * 1024;

/// A greeted connection.
pub(crate) struct Wire {
    stream: TcpStream,
    deframer: Deframer,
    received: VecDeque<Received>,
    buffer: Vec<u8>,
    ids: u64,
    heard: Instant,
    is_pinged: bool,
    /// When the last event or acknowledgement arrived, on this connection or on the one before.
    pub(crate) last_event: Option<Instant>,
    /// From the last one on the connection before to the first one on this.
    pub(crate) pause: Option<Duration>,
    /// Nothing of that kind has arrived on this connection.
    is_new: bool,
}

impl Wire {
    /// Connects and is greeted. `last_event`: what the connection before this one knew.
    pub(crate) fn open(address: &str, last_event: Option<Instant>) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_WAIT))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let mut wire = Self {
            stream,
            deframer: Deframer::new(),
            received: VecDeque::new(),
            buffer: vec![0; 64 * 1024],
            ids: 0,
            heard: Instant::now(),
            is_pinged: false,
            last_event,
            pause: None,
            is_new: true,
        };
        let mut payload = Vec::new();
        Hello::default().encode(&mut payload);
        let id = wire.id();
        wire.send(&encoded(Kind::Hello, id, None, None, None, &payload))?;
        match wire.answer_to(id)?.error {
            None => Ok(wire),
            Some((code, message)) => Err(io::Error::other(format!("{code:?}: {message}"))),
        }
    }

    /// An id for a message that is not an event.
    pub(crate) fn id(&mut self) -> Id {
        self.ids += 1;
        let mut id = [0xff; 16];
        id[8..].copy_from_slice(&self.ids.to_be_bytes());
        Id(id)
    }

    /// Sends one body.
    pub(crate) fn send(&mut self, body: &[u8]) -> io::Result<()> {
        let mut frame = prefix(body.len()).to_vec();
        frame.extend_from_slice(body);
        self.stream.write_all(&frame)
    }

    /// What has arrived, if anything does within a moment. Pings are answered.
    pub(crate) fn next(&mut self) -> io::Result<Option<Received>> {
        loop {
            if let Some(received) = self.received.pop_front() {
                if received.kind == Kind::Ping && received.reference.is_none() {
                    let id = self.id();
                    // What was received before the end of a connection still counts.
                    let _ = self.send(&encoded(Kind::Ping, id, Some(received.id), None, None, &[]));
                    continue;
                }
                if received.kind == Kind::Event {
                    let last = self.last_event.replace(Instant::now());
                    if std::mem::take(&mut self.is_new) {
                        self.pause = last.map(|last| last.elapsed());
                    }
                }
                return Ok(Some(received));
            }
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => {
                    self.heard = Instant::now();
                    self.is_pinged = false;
                    let mut input = &self.buffer[..bytes];
                    while let Some(body) = self
                        .deframer
                        .next(&mut input, 16 << 20)
                        .map_err(|fault| io::Error::other(format!("{fault:?}")))?
                    {
                        for decoded in Batch::new(body) {
                            let decoded = decoded.map_err(|fault| io::Error::other(format!("{fault:?}")))?;
                            self.received.push_back(Received::from_decoded(&decoded));
                        }
                    }
                }
                Err(error) if is_timeout(&error) => {
                    let silence = self.heard.elapsed();
                    if silence >= SILENCE_MAX {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    if silence >= SILENCE && !std::mem::replace(&mut self.is_pinged, true) {
                        let id = self.id();
                        self.send(&encoded(Kind::Ping, id, None, None, None, &[]))?;
                    }
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether more has arrived than was taken.
    pub(crate) fn has_more(&self) -> bool {
        !self.received.is_empty()
    }

    /// The answer to a message; what comes before it is thrown away.
    pub(crate) fn answer_to(&mut self, id: Id) -> io::Result<Received> {
        for _ in 0..ANSWER_WAITS {
            while let Some(received) = self.next()? {
                if received.reference == Some(id) {
                    return Ok(received);
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// What the other side had sent before the end of the connection.
    pub(crate) fn drain(&mut self) -> Vec<Received> {
        let mut rest = Vec::new();
        while let Ok(Some(received)) = self.next() {
            rest.push(received);
        }
        rest
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
