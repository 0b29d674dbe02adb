//! Streams between two peers that are connected directly, and with a peer made of a bare socket; and what offers and
//! calls tell it.

#[path = "../raw/mod.rs"]
mod raw;

mod bare;
mod credit;
mod ends;
mod items;
mod random;
mod terms;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use fluxar::{Client, ItemStream, Result, Server, ServerBuilder};
use fluxar_protocol::{Envelope, Id, Kind, meta::Meta};
use raw::{Raw, Received, envelope};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

async fn start(builder: ServerBuilder) -> Server {
    let server = builder.build().await.unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await.unwrap() });
    server
}

async fn tcp() -> (Server, Client) {
    let server = start(Server::bind("127.0.0.1:0")).await;
    let client = Client::connect(server.url()).build().await.unwrap();
    (server, client)
}

/// What comes next, which it does in time.
async fn next<T: DeserializeOwned>(items: &mut ItemStream<T>) -> Option<Result<T>> {
    tokio::time::timeout(raw::PATIENCE, items.next())
        .await
        .expect("an item or an end comes")
}

/// All items, and the error that ended them.
async fn all<T: DeserializeOwned>(items: &mut ItemStream<T>) -> (Vec<T>, Option<fluxar::Error>) {
    let mut taken = Vec::new();
    while let Some(item) = next(items).await {
        match item {
            Ok(item) => taken.push(item),
            Err(error) => {
                assert!(
                    next(items).await.is_none(),
                    "an error is the last thing that comes"
                );
                return (taken, Some(error));
            }
        }
    }
    assert!(next(items).await.is_none(), "it stays over");
    (taken, None)
}

/// How a handler fares: how often it began, went on past its last await, and was dropped.
#[derive(Debug, Clone, Default)]
struct Fate {
    begun: Arc<AtomicUsize>,
    is_done: Arc<AtomicBool>,
    is_dropped: Arc<AtomicBool>,
}

impl Fate {
    fn begin(&self) -> Watched {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Watched(self.clone())
    }

    async fn has_begun(&self) {
        raw::until(|| self.begun.load(Ordering::SeqCst) > 0).await;
    }

    /// It was dropped where it awaited.
    async fn was_dropped(&self) {
        raw::until(|| self.is_dropped.load(Ordering::SeqCst)).await;
        assert!(!self.is_done.load(Ordering::SeqCst), "it went on to its end");
    }
}

/// Held by a handler as long as it runs.
struct Watched(Fate);

impl Watched {
    fn done(&self) {
        self.0.is_done.store(true, Ordering::SeqCst);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.is_dropped.store(true, Ordering::SeqCst);
    }
}

/// The meta map `{"end": true}`.
const END: &[u8] = b"\xa1\x63end\xf5";

fn open<'a>(id: u8, method: &'a str, meta: &'a [u8]) -> Envelope<'a> {
    Envelope {
        id: Id([id; 16]),
        target: Some(method),
        meta: (!meta.is_empty()).then(|| Meta::from_checked(meta)),
        ..envelope(Kind::Stream, None, &[])
    }
}

/// A client, and the bare peer that it is connected to, which lets it send so much at the start.
async fn client_of_bare(credit_bytes: u32) -> (Client, Raw) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let client = tokio::spawn(Client::connect(url).reconnect(false).build());
    let mut raw = Raw(listener.accept().await.unwrap().0);
    raw.welcome_with(credit_bytes).await;
    (client.await.unwrap().unwrap(), raw)
}

/// The next envelope; frames that hold several are taken apart.
async fn hear(raw: &mut Raw, heard: &mut Vec<Received>) -> Received {
    while heard.is_empty() {
        heard.extend(raw.receive().await.expect("the connection lives"));
    }
    heard.remove(0)
}

/// Pings, which shows that nothing else was said before.
trait PingThrough {
    async fn ping_through(&self, raw: &mut Raw, heard: &mut Vec<Received>);
}

impl PingThrough for Client {
    async fn ping_through(&self, raw: &mut Raw, heard: &mut Vec<Received>) {
        let answer = async {
            let ping = hear(raw, heard).await;
            assert_eq!(ping.kind, Kind::Ping);
            raw.send(&envelope(Kind::Ping, Some(ping.id), &[])).await;
        };
        tokio::join!(self.ping(), answer).0.unwrap();
    }
}
