//! A peer made of a bare TCP socket, to say what the SDK would never say and to see what it says.
#![allow(dead_code, missing_docs, unreachable_pub)] // each test file uses its part

use std::time::Duration;

use fluxar_protocol::{Batch, Envelope, Form, Id, Kind, frame, hello::Welcome, meta::Meta};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longer than anything here takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn connect(url: &str) -> Self {
        Self(
            TcpStream::connect(url.strip_prefix("tcp://").unwrap())
                .await
                .unwrap(),
        )
    }

    /// Connects and says hello.
    pub async fn greeted(url: &str) -> Self {
        let mut raw = Self::connect(url).await;
        let payload = [0xa1, 0x61, b'v', 0x81, 0x00]; // {"v": [0]}
        raw.send(&envelope(Kind::Hello, None, &payload)).await;
        assert_eq!(raw.receive().await.unwrap()[0].kind, Kind::Hello);
        raw
    }

    pub async fn send(&mut self, envelope: &Envelope<'_>) {
        let mut body = Vec::new();
        envelope.encode(Form::Compact, &mut body);
        self.send_body(&body).await;
    }

    pub async fn send_body(&mut self, body: &[u8]) {
        self.0.write_all(&frame::prefix(body.len())).await.unwrap();
        self.0.write_all(body).await.unwrap();
    }

    /// The envelopes of the next frame; `None` at the end of the connection.
    pub async fn receive(&mut self) -> Option<Vec<Received>> {
        tokio::time::timeout(PATIENCE, async {
            let len = self.0.read_u32().await.ok()?;
            let mut body = vec![0; len as usize];
            self.0.read_exact(&mut body).await.ok()?;
            Some(
                Batch::new(&body)
                    .map(|envelope| Received::new(&envelope.unwrap().envelope))
                    .collect(),
            )
        })
        .await
        .expect("the other side says something")
    }

    /// What is said until the connection ends.
    pub async fn receive_all(&mut self) -> Vec<Received> {
        let mut all = Vec::new();
        while let Some(envelopes) = self.receive().await {
            all.extend(envelopes);
        }
        all
    }

    /// Takes the hello of a client and accepts it.
    pub async fn welcome(&mut self) {
        self.welcome_with(65_536).await;
    }

    /// The same, and lets it send so much on each stream at the start.
    pub async fn welcome_with(&mut self, credit_bytes: u32) {
        let hello = self.hello().await;
        self.accept(&hello, welcome(credit_bytes)).await;
    }

    /// Takes the hello of a client.
    pub async fn hello(&mut self) -> Received {
        let hello = self.receive().await.unwrap().remove(0);
        assert_eq!(hello.kind, Kind::Hello);
        hello
    }

    /// Accepts it.
    pub async fn accept(&mut self, hello: &Received, welcome: Welcome<'_>) {
        let mut payload = Vec::new();
        welcome.encode(&mut payload);
        self.send(&envelope(Kind::Hello, Some(hello.id), &payload)).await;
    }
}

/// How a plain session begins.
pub fn welcome(credit_bytes: u32) -> Welcome<'static> {
    Welcome {
        v: 0,
        session: Id([9; 16]),
        token: None,
        caps: Default::default(),
        max_frame: 65_536,
        heartbeat_ms: 15_000,
        credit: credit_bytes,
        resumed: false,
        recv: 0,
        limits: None,
        agent: "raw/0",
    }
}

/// An envelope as it was received, without its borrows.
#[derive(Debug, Clone)]
pub struct Received {
    pub kind: Kind,
    pub id: Id,
    pub reference: Option<Id>,
    pub target: Option<String>,
    pub meta: Vec<u8>,
    pub payload: Vec<u8>,
    pub error: Option<(fluxar_protocol::Code, String)>,
}

impl Received {
    fn new(envelope: &Envelope<'_>) -> Self {
        let error = envelope.error.map(|raw| {
            let body = fluxar_protocol::ErrorBody::decode(raw).unwrap();
            (body.code, body.message.to_owned())
        });
        Self {
            kind: envelope.kind,
            id: envelope.id,
            reference: envelope.reference,
            target: envelope.target.map(str::to_owned),
            meta: envelope.meta.map_or(Vec::new(), |meta| meta.as_bytes().to_vec()),
            payload: envelope.payload.to_vec(),
            error,
        }
    }

    pub fn meta(&self) -> Meta<'_> {
        Meta::from_checked(&self.meta)
    }

    /// The bytes that a part of a stream grants.
    pub fn credit(&self) -> Option<u64> {
        self.meta().uint("credit").unwrap()
    }

    /// Whether it says that something is over.
    pub fn ends(&self) -> bool {
        self.meta().flag("end").unwrap()
    }
}

pub fn envelope(kind: Kind, reference: Option<Id>, payload: &[u8]) -> Envelope<'_> {
    Envelope {
        kind,
        id: Id([1; 16]),
        reference,
        target: None,
        meta: None,
        payload,
        error: None,
    }
}

/// Waits until a condition holds.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("the condition comes to hold");
}
