//! Logged events, against a gateway that the test plays: what the SDK says, when it says it again, and what it makes of
//! what it is told.

#[path = "../raw/mod.rs"]
mod raw;

mod publishing;
mod subscribing;

use std::collections::VecDeque;

use fluxar::{Client, ClientBuilder, Code};
use fluxar_protocol::{
    Envelope, ErrorBody, Id, Kind, Position,
    meta::{Meta, MetaWriter},
    position,
};
use raw::{Raw, Received, envelope};
use tokio::net::TcpListener;

/// Upper bits name the logs, lower ones the start of the gateway.
const EPOCH: u64 = 5 << 20;

/// A gateway that is played, one connection after the other.
struct Gateway {
    listener: TcpListener,
    raw: Option<Raw>,
    received: VecDeque<Received>,
}

impl Gateway {
    async fn bind() -> (Self, ClientBuilder) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::connect(format!("tcp://{}", listener.local_addr().unwrap()))
            .reconnect_first(std::time::Duration::from_millis(1));
        let gateway = Self {
            listener,
            raw: None,
            received: VecDeque::new(),
        };
        (gateway, client)
    }

    /// With a client that is connected.
    async fn with_client() -> (Self, Client) {
        let (gateway, client) = Self::bind().await;
        gateway.greet(client).await
    }

    async fn greet(mut self, client: ClientBuilder) -> (Self, Client) {
        let (client, ()) = tokio::join!(client.build(), self.welcome());
        (self, client.unwrap())
    }

    /// Takes the next connection.
    async fn welcome(&mut self) {
        let accepted = tokio::time::timeout(raw::PATIENCE, self.listener.accept());
        let mut raw = Raw(accepted.await.expect("somebody dials").unwrap().0);
        raw.welcome().await;
        self.raw = Some(raw);
        self.received.clear();
    }

    /// Loses the connection, without a word.
    fn lose(&mut self) {
        self.raw = None;
    }

    fn raw(&mut self) -> &mut Raw {
        self.raw.as_mut().expect("a connection")
    }

    /// What comes next, pings aside.
    async fn next(&mut self) -> Received {
        loop {
            if let Some(next) = self.received.pop_front() {
                return next;
            }
            let received = self.raw().receive().await.expect("the connection lives");
            self.received.extend(received);
        }
    }

    /// Nothing more has come when the client has answered a ping.
    async fn silence(&mut self) {
        self.raw()
            .send(&Envelope {
                id: Id([0xee; 16]),
                ..envelope(Kind::Ping, None, &[])
            })
            .await;
        let next = self.next().await;
        assert_eq!((next.kind, next.reference), (Kind::Ping, Some(Id([0xee; 16]))));
    }

    async fn send(&mut self, kind: Kind, reference: Id, meta: MetaWriter, payload: &[u8]) {
        let meta = meta.finish();
        let said = Envelope {
            meta: meta.as_deref().map(Meta::from_checked),
            ..envelope(kind, Some(reference), payload)
        };
        self.raw().send(&said).await;
    }

    /// Acknowledges a publish.
    async fn stored(&mut self, publish: Id, partition: u16, offset: u64) {
        let meta = MetaWriter::new().position("at", Position { partition, offset });
        self.send(Kind::Event, publish, meta, &[]).await;
    }

    async fn refuse(&mut self, kind: Kind, reference: Id, code: Code, retry_after_ms: Option<u32>) {
        let mut error = Vec::new();
        ErrorBody {
            code,
            message: "because",
            details: None,
            retry_after_ms,
        }
        .encode(&mut error);
        let said = Envelope {
            error: Some(&error),
            ..envelope(kind, Some(reference), &[])
        };
        self.raw().send(&said).await;
    }

    /// Takes a subscription and accepts it behind these places.
    async fn accept(&mut self, epoch: u64, at: &[(u16, u64)]) -> Received {
        let asked = self.next().await;
        assert_eq!((asked.kind, asked.reference), (Kind::Subscribe, None));
        let mut payload = Vec::new();
        let at = at
            .iter()
            .map(|&(partition, offset)| Position { partition, offset });
        position::write_epoch(epoch, at, &mut payload);
        self.send(Kind::Subscribe, asked.id, MetaWriter::new(), &payload)
            .await;
        asked
    }

    /// Sends a run of events at these offsets, whose payloads are the offsets' last bytes.
    async fn run(&mut self, subscription: Id, partition: u16, offsets: &[u64], dup: u64) {
        let deltas: Vec<u64> = offsets.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mut meta = MetaWriter::new().positions("run", partition, offsets[0], deltas.into_iter());
        if dup > 0 {
            meta = meta.uint("dup", dup);
        }
        let meta = meta.finish();
        let mut body = Vec::new();
        Envelope {
            meta: meta.as_deref().map(Meta::from_checked),
            ..envelope(Kind::Subscribe, Some(subscription), &[])
        }
        .encode(Default::default(), &mut body);
        for offset in offsets {
            Envelope {
                target: Some("a.b"),
                ..envelope(Kind::Event, None, &[(offset % 24) as u8])
            }
            .encode(Default::default(), &mut body);
        }
        self.raw().send_body(&body).await;
    }

    /// Takes an acknowledgement of events.
    async fn acknowledged(&mut self, subscription: Id) -> (u16, Vec<u64>) {
        let ack = self.next().await;
        assert_eq!((ack.kind, ack.reference), (Kind::Event, Some(subscription)));
        let positions = ack.meta().ack().unwrap().expect("positions");
        (positions.partition(), positions.offsets().collect())
    }
}
