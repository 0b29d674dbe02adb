//! Sessions that outlive their connections, against a gateway that the test plays.

#[path = "../raw/mod.rs"]
mod raw;

mod ends;
mod goes_on;
mod random;

use std::{collections::VecDeque, time::Duration};

use fluxar::{Client, ClientBuilder, State};
use fluxar_protocol::{
    Code, Envelope, ErrorBody, Id, Kind,
    hello::{Caps, Hello, Welcome},
    meta::{Meta, MetaWriter},
};
use raw::{Raw, Received, envelope};
use tokio::net::TcpListener;

/// A gateway that is played, one connection after the other.
struct Gateway {
    listener: TcpListener,
    raw: Option<Raw>,
    received: VecDeque<Received>,
}

/// What a hello said about resuming.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    offers: bool,
    /// Session, token and `recv`.
    resume: Option<(Id, Vec<u8>, u64)>,
}

const SESSION: Id = Id([9; 16]);

impl Gateway {
    async fn bind() -> (Self, ClientBuilder) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::connect(format!("tcp://{}", listener.local_addr().unwrap()))
            .reconnect_first(Duration::from_millis(4))
            .reconnect_max(Duration::from_millis(20));
        let gateway = Self {
            listener,
            raw: None,
            received: VecDeque::new(),
        };
        (gateway, client)
    }

    /// With a client that has a session that can be resumed.
    async fn with_client() -> (Self, Client) {
        let (gateway, client) = Self::bind().await;
        gateway.greet(client).await
    }

    async fn greet(mut self, client: ClientBuilder) -> (Self, Client) {
        let (client, asked) = tokio::join!(client.build(), self.welcome(b"token 1", None));
        let expected = Asked {
            offers: true,
            resume: None,
        };
        assert_eq!(asked, expected);
        (self, client.unwrap())
    }

    /// The next connection.
    async fn accept(&mut self) -> Raw {
        let accepted = tokio::time::timeout(raw::PATIENCE, self.listener.accept());
        Raw(accepted.await.expect("somebody dials").unwrap().0)
    }

    /// Takes the next connection, and welcomes it: with `recv`, the session goes on.
    async fn welcome(&mut self, token: &[u8], recv: Option<u64>) -> Asked {
        self.welcome_with(token, recv, None).await
    }

    async fn welcome_with(&mut self, token: &[u8], recv: Option<u64>, resume_ms: Option<u64>) -> Asked {
        let mut raw = self.accept().await;
        let hello = raw.hello().await;
        let limits = resume_ms.and_then(|ms| MetaWriter::new().uint("resume_ms", ms).finish());
        let welcome = Welcome {
            session: SESSION,
            token: Some(token),
            caps: Caps {
                resume: true,
                ..Caps::default()
            },
            resumed: recv.is_some(),
            recv: recv.unwrap_or(0),
            limits: limits.as_deref(),
            ..raw::welcome(65_536)
        };
        raw.accept(&hello, welcome).await;
        self.raw = Some(raw);
        self.received.clear();
        Asked::of(&hello)
    }

    /// Loses the connection, without a word.
    fn lose(&mut self) {
        self.raw = None;
        self.received.clear();
    }

    /// The same, when what was sent on it has been read: what is told afterwards is not lost with it.
    async fn lose_read(&mut self) {
        self.silence().await;
        self.lose();
    }

    fn raw(&mut self) -> &mut Raw {
        self.raw.as_mut().expect("a connection")
    }

    /// What comes next.
    async fn next(&mut self) -> Received {
        loop {
            if let Some(next) = self.received.pop_front() {
                return next;
            }
            let received = self.raw().receive().await.expect("the connection lives");
            self.received.extend(received);
        }
    }

    /// What comes next, which is of this kind.
    async fn next_of(&mut self, kind: Kind) -> Received {
        let next = self.next().await;
        assert_eq!(next.kind, kind, "{next:?}");
        next
    }

    /// Nothing more has come when the client has answered a ping. Returns the `recv` that it told.
    async fn silence(&mut self) -> Option<u64> {
        self.raw()
            .send(&Envelope {
                id: Id([0xee; 16]),
                ..envelope(Kind::Ping, None, &[])
            })
            .await;
        let next = self.next_of(Kind::Ping).await;
        assert_eq!(next.reference, Some(Id([0xee; 16])), "{next:?}");
        next.meta().uint("recv").unwrap()
    }

    async fn send(&mut self, kind: Kind, reference: Id, meta: MetaWriter, payload: &[u8]) {
        let meta = meta.finish();
        let said = Envelope {
            meta: meta.as_deref().map(Meta::from_checked),
            ..envelope(kind, Some(reference), payload)
        };
        self.raw().send(&said).await;
    }

    /// Answers with a payload.
    async fn answer(&mut self, to: &Received, payload: &[u8]) {
        self.send(to.kind, to.id, MetaWriter::new(), payload).await;
    }

    /// Refuses an event for a while.
    async fn refuse(&mut self, publish: Id, retry_after_ms: u32) {
        let mut error = Vec::new();
        ErrorBody {
            code: Code::ResourceExhausted,
            message: "the disk is full",
            details: None,
            retry_after_ms: Some(retry_after_ms),
        }
        .encode(&mut error);
        let said = Envelope {
            error: Some(&error),
            ..envelope(Kind::Event, Some(publish), &[])
        };
        self.raw().send(&said).await;
    }

    /// Says goodbye: it is to come back later.
    async fn stops(&mut self, retry_after_ms: u32) {
        let mut error = Vec::new();
        ErrorBody {
            code: Code::Unavailable,
            message: "stopping",
            details: None,
            retry_after_ms: Some(retry_after_ms),
        }
        .encode(&mut error);
        let goodbye = Envelope {
            error: Some(&error),
            ..envelope(Kind::Cancel, None, &[])
        };
        self.raw().send(&goodbye).await;
    }

    /// Answers the ping that a client sends on each connection that resumes, when nothing else is to come before it.
    async fn pong(&mut self) {
        let ping = self.next_of(Kind::Ping).await;
        assert_eq!(ping.reference, None);
        self.answer(&ping, &[]).await;
    }
}

impl Asked {
    fn of(hello: &Received) -> Self {
        let hello = Hello::decode(&hello.payload).unwrap();
        Self {
            offers: hello.caps.resume,
            resume: hello
                .resume
                .map(|resume| (resume.session, resume.token.to_vec(), resume.recv)),
        }
    }

    /// Asks for the session to go on.
    fn resuming(token: &[u8], recv: u64) -> Self {
        Self {
            offers: true,
            resume: Some((SESSION, token.to_vec(), recv)),
        }
    }

    fn anew() -> Self {
        Self {
            offers: true,
            resume: None,
        }
    }
}

async fn comes_to(client: &Client, state: impl FnMut(&State) -> bool) {
    let mut states = client.watch_state();
    tokio::time::timeout(raw::PATIENCE, states.wait_for(state))
        .await
        .expect("the state is reached")
        .unwrap();
}

async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(raw::PATIENCE, what)
        .await
        .expect("it is done in time")
}
