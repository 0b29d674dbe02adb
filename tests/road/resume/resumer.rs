//! A peer that resumes: keeps what it said, counts what it heard, and comes back.

use std::time::Duration;

use fluxar_engine::listener::Address;
use fluxar_protocol::envelope;
use fluxar_protocol::hello::{Caps, Hello, Resume, Welcome};
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::session::{Kept, Received as Count, is_counted};
use fluxar_protocol::{Code, Form, Id, Kind, Position};
use fluxar_tests::message::encoded;
use fluxar_tests::{Client, End, Received};

/// How a connection is lost.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    /// Its socket is closed: the gateway hears of it, by an end or a reset.
    Close,
    /// Nobody reads it any more, and the gateway hears nothing.
    HalfOpen,
    /// Its WebSocket is closed in good order, with this code and without a goodbye.
    WebSocket(u16),
}

/// See the module.
pub(crate) struct Resumer {
    client: Option<Client>,
    old: Option<Client>,
    form: Form,
    pub(crate) session: Id,
    pub(crate) token: Vec<u8>,
    kept: Kept<Vec<u8>>,
    count: Count,
    ids: u64,
}

impl Resumer {
    /// Opens a session that can be resumed.
    pub(crate) fn open(address: &Address, form: Form) -> Self {
        Self::try_open(address, form).expect("a session that can be resumed")
    }

    /// The same, if the gateway does that.
    pub(crate) fn try_open(address: &Address, form: Form) -> Option<Self> {
        let mut resumer = Self {
            client: None,
            old: None,
            form,
            session: Id([0; 16]),
            token: Vec::new(),
            kept: Kept::new(usize::MAX),
            count: Count::default(),
            ids: 0,
        };
        let hello = Hello {
            caps: Caps {
                resume: true,
                ..Caps::default()
            },
            ..Hello::default()
        };
        resumer.greet(address, &hello);
        (!resumer.token.is_empty()).then_some(resumer)
    }

    /// Connects and says this; whether a session goes on, and how much the gateway has of what was said in it.
    fn greet(&mut self, address: &Address, hello: &Hello<'_>) -> Option<u64> {
        let (mut client, mut answer, mut id);
        loop {
            client = Client::connect(address);
            id = self.id();
            client.send(&self.formed(&hello_envelope(id, hello)));
            answer = client.expect();
            if hello.resume.is_none() || answer.code() != Some(Code::Unavailable) {
                break;
            }
            // It was resumed too often of late: 50 times a second is what a session may be.
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(
            (answer.kind, answer.reference, answer.code()),
            (Kind::Hello, Some(id), None),
            "{answer:?}"
        );
        let welcome = Welcome::decode(&answer.payload).expect("a welcome");
        if welcome.resumed {
            assert_eq!(welcome.session, self.session);
        }
        self.session = welcome.session;
        self.token = welcome.token.unwrap_or_default().to_vec();
        assert_eq!(welcome.caps.resume, !self.token.is_empty());
        self.client = Some(client);
        welcome.resumed.then_some(welcome.recv)
    }

    /// Its hello, as it would come back now.
    pub(crate) fn hello_bytes(&self) -> Vec<u8> {
        hello_envelope(Id([3; 16]), &hello(self.session, &self.token, self.count.count()))
    }

    /// Connects anew and resumes; if that cannot be, there is a new session.
    pub(crate) fn resume(&mut self, address: &Address) -> bool {
        let token = self.token.clone();
        let hello = hello(self.session, &token, self.count.count());
        let Some(recv) = self.greet(address, &hello) else {
            self.kept = Kept::new(usize::MAX);
            self.count = Count::default();
            return false;
        };
        let again: Vec<Vec<u8>> = self
            .kept
            .resume(recv)
            .expect("it keeps all")
            .map(|(bytes, from)| bytes[from..].to_vec())
            .collect();
        for body in again {
            self.client.as_mut().expect("a connection").send(&body);
        }
        true
    }

    /// Loses the connection.
    pub(crate) fn cut(&mut self, how: Cut) {
        let client = self.client.take();
        self.old = match (how, client) {
            (Cut::HalfOpen, client) => client,
            (Cut::WebSocket(code), Some(mut client)) => {
                let end = client.close_websocket(code);
                assert_eq!(
                    end,
                    End::Closed(Some(code)),
                    "a close frame is answered [RFC 6455 5.5.1]"
                );
                None
            }
            _ => None,
        };
    }

    /// Whether the connection that was left half-open has been closed by the gateway.
    pub(crate) fn is_old_closed(&mut self) -> bool {
        let mut old = self.old.take().expect("a connection that was left");
        old.rest();
        true
    }

    /// Somebody else with the same session, and this token.
    pub(crate) fn impostor(&self, token: Vec<u8>) -> Self {
        Self {
            client: None,
            old: None,
            form: self.form,
            session: self.session,
            token,
            kept: Kept::new(usize::MAX),
            count: self.count,
            ids: self.ids + 1_000,
        }
    }

    fn id(&mut self) -> Id {
        self.ids += 1;
        let mut id = [8; 16];
        id[8..].copy_from_slice(&self.ids.to_be_bytes());
        Id(id)
    }

    fn formed(&self, compact: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let decoded = envelope::decode(compact).expect("our own");
        decoded.envelope.encode(self.form, &mut bytes);
        bytes
    }

    /// Says something.
    pub(crate) fn say(
        &mut self,
        kind: Kind,
        reference: Option<Id>,
        target: Option<&str>,
        meta: MetaWriter,
        payload: &[u8],
    ) -> Id {
        let id = self.id();
        let meta = meta.finish();
        let compact = encoded(kind, id, reference, target, meta.as_deref(), payload);
        let bytes = self.formed(&compact);
        let decoded = envelope::decode(&compact).expect("our own");
        if is_counted(&decoded.envelope) {
            self.kept.keep(bytes.clone(), 1);
        }
        // One that was cut says it later.
        if let Some(client) = &mut self.client {
            let _ = client.try_send(&bytes);
        }
        id
    }

    pub(crate) fn call(&mut self, method: &str, payload: &[u8]) -> Id {
        self.say(Kind::Call, None, Some(method), MetaWriter::new(), payload)
    }

    pub(crate) fn answer(&mut self, call: &Received, payload: &[u8]) {
        self.say(Kind::Call, Some(call.id), None, MetaWriter::new(), payload);
    }

    /// Subscribes, or offers, and takes the acceptance.
    pub(crate) fn subscribe(&mut self, pattern: &str, meta: MetaWriter) -> Id {
        loop {
            let id = self.say(Kind::Subscribe, None, Some(pattern), meta.clone(), &[]);
            let answer = self.expect();
            assert_eq!(
                (answer.kind, answer.reference),
                (Kind::Subscribe, Some(id)),
                "{answer:?}"
            );
            if answer.code().is_none() {
                return id;
            }
            // A log that is being read.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The next envelope.
    pub(crate) fn expect(&mut self) -> Received {
        let received = self.client.as_mut().expect("a connection").expect();
        self.hear(received)
    }

    /// The next envelope but for calls of 0 that tried the way to it, and what became of them.
    pub(crate) fn expect_more_than_probes(&mut self) -> Received {
        loop {
            let next = self.expect();
            let is_probe = next.kind == Kind::Call && next.reference.is_none() && next.number() == 0;
            if !is_probe && next.kind != Kind::Cancel {
                return next;
            }
        }
    }

    /// The next one, if there is one soon.
    pub(crate) fn poll(&mut self) -> Option<Received> {
        let wait = Duration::from_millis(100);
        let client = self.client.as_mut().expect("a connection");
        let received = client.poll(wait).expect("it stands")?;
        Some(self.hear(received))
    }

    fn hear(&mut self, received: Received) -> Received {
        let decoded = envelope::decode(&received.bytes).expect("it was read before");
        if is_counted(&decoded.envelope) {
            self.count.take(received.bytes.len());
        }
        received
    }

    /// So many events of a logged subscription: each one's number, where it is, and whether it may have come before.
    pub(crate) fn logged(&mut self, sub: Id, events: usize) -> Vec<(u64, Position, bool)> {
        let mut heard = Vec::new();
        while heard.len() < events {
            let header = self.expect();
            assert_eq!(
                (header.kind, header.reference),
                (Kind::Subscribe, Some(sub)),
                "{header:?}"
            );
            let Some((partition, offsets)) = header.positions() else {
                continue; // the cursor moved on
            };
            let is_again = header.uint("dup").is_some();
            for offset in offsets {
                let event = self.expect();
                let position = Position { partition, offset };
                heard.push((event.number(), position, is_again));
            }
        }
        heard.truncate(events);
        heard
    }

    /// Waits until the gateway has handled all that was sent before; nothing else may come.
    pub(crate) fn settle(&mut self) {
        let id = self.say(Kind::Ping, None, None, MetaWriter::new(), &[]);
        let client = self.client.as_mut().expect("a connection");
        let pong = client.answer_to(id);
        assert!(
            pong.uint("recv").is_some(),
            "such a session's pings count: {pong:?}"
        );
    }

    /// Says how much it has, and waits until the gateway has heard it; what comes meanwhile is lost with the connection.
    pub(crate) fn tell(&mut self) {
        let recv = MetaWriter::new().uint("recv", self.count.count());
        let id = self.say(Kind::Ping, None, None, recv, &[]);
        self.client.as_mut().expect("a connection").answer_to(id);
    }

    /// The same, of what the gateway has to say to it as well, which stays unread.
    pub(crate) fn settle_unread(&mut self) {
        for _ in 0..3 {
            self.settle();
        }
        // Two answers are under way: they come in front of a call's that is behind them.
        let id = self.call("echo", &[0x00]);
        let client = self.client.as_mut().expect("a connection");
        client.answer_to(id);
    }

    /// Ends the session in good order.
    pub(crate) fn goodbye(&mut self) {
        self.say(Kind::Cancel, None, None, MetaWriter::new(), &[]);
        if let Some(mut client) = self.client.take() {
            client.rest();
        }
    }
}

/// A hello that resumes.
fn hello(session: Id, token: &[u8], recv: u64) -> Hello<'_> {
    Hello {
        caps: Caps {
            resume: true,
            ..Caps::default()
        },
        resume: Some(Resume { session, token, recv }),
        ..Hello::default()
    }
}

fn hello_envelope(id: Id, hello: &Hello<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    hello.encode(&mut payload);
    encoded(Kind::Hello, id, None, None, None, &payload)
}
