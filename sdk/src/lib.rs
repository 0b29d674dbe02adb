//! FLUXAR for Rust, async on Tokio: calls, streams and publish/subscribe over one connection, typed by serde.
//!
//! A [`Client`] dials and a [`Server`] is dialled; both get the same thing, a [`Peer`]: after the handshake either
//! side may call, answer, open streams, publish and subscribe. Between them is a gateway, which routes calls and streams
//! to who serves them and events to who subscribed, or nothing at all.
//!
//! ```
//! use fluxar::{Client, Message, Request, Server};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct Order { id: u64, total_cents: u64 }
//!
//! # #[tokio::main] async fn main() -> fluxar::Result<()> {
//! let server = Server::bind("127.0.0.1:0").build().await?;
//! server.handle("orders.get", |req: Request| async move {
//!     let id: u64 = req.payload()?;
//!     Ok(Order { id, total_cents: 1999 })
//! })?;
//! let url = server.url().to_owned();
//! tokio::spawn({ let server = server.clone(); async move { server.run().await } });
//!
//! let client = Client::connect(url).build().await?;
//! let order: Order = client.call("orders.get", &7).await?;
//! assert_eq!(order, Order { id: 7, total_cents: 1999 });
//!
//! client.subscribe("orders.*", |msg: Message| async move {
//!     println!("{:?}", msg.payload::<Order>()?);
//!     msg.ack().await
//! }).await?;
//! server.publish("orders.created", &order)?;
//! # Ok(()) }
//! ```
//!
//! # Where a message comes from and goes
//! Outgoing messages are encoded straight into the connection's bounded outbox; its one writer puts everything
//! queued meanwhile into one write. Incoming frames are cut into messages that share the frame's memory; answers
//! go to who waits for them, each call and each stream that is opened to a task of its own, items into the queue of
//! their stream, events into the bounded queue of each subscription that matches. An event that is to be stored
//! ([`Peer::event`]) is kept here until the gateway has acknowledged it, and stored events that arrive are acknowledged when
//! they are handled.
//!
//! A session outlives its connection where the other side keeps it: what is open stays open, what is sent meanwhile waits
//! in the outbox, and on the next connection each side sends again what the other has not.
//!
//! # What is bounded, and what happens when it is full
//! | what | bound | when it is full |
//! |---|---|---|
//! | bytes to be written | `outbox_bytes`, 4 MiB | `call`, `publish` and [`ItemSink::send`] wait, `try_publish` and `try_send` [are full](Error::is_full) |
//! | stored events that are not acknowledged | `publish_unacked_bytes`, 4 MiB | [`Event::enqueue`] waits, up to the event's timeout |
//! | own calls without an answer | `open_calls_max`, 65,536 | a call fails `resource_exhausted` |
//! | handlers running for a peer, of calls and streams | `handlers_max`, 1,024 | what it asks for is answered `resource_exhausted`; a gateway that was told so lets it wait |
//! | own streams that are open | `open_streams_max`, 1,024 | opening one fails `resource_exhausted` |
//! | items that arrived on a stream and were not taken | `credit_bytes`, 64 KiB, and as much again for what is at hand | its writer waits, and nothing else; a writer that does not is told `failed_precondition`, and its stream ends |
//! | an item | the other side's window | sending it fails `resource_exhausted`, the stream goes on |
//! | time for the other side to end a stream that was cancelled | 5 s | [`ItemStream::cancel`] waits no longer |
//! | events waiting in a subscription | `subscription_queue`, 1,024 | reading stops for up to `stall` (1 s in 10 s, for all of them together), then its events are dropped and counted until it is half empty |
//! | stored events waiting in a subscription | what the gateway lets be open, 4,096 or 256 KiB, and 65,536 here | reading waits; nothing is dropped |
//! | a frame | `max_frame_bytes`, 1 MiB | the connection is closed with the reason |
//! | connections of a server, handshakes included | `connections_max`, 10,000 | further ones are told `resource_exhausted` and closed |
//! | what was sent and the other side is not known to have, of a session that can be resumed | 4 MiB beyond what waits to be written | the oldest is forgotten; a resume that needs it begins a new session |
//! | time without a connection, of such a session | what the other side says, 60 s | the session is over |
//! | time from a frame's first byte to its last | `frame_timeout`, 60 s | the connection is closed with the reason |
//!
//! Compression, TLS and QUIC are not there yet.
#![forbid(unsafe_code)]

mod address;
mod backoff;
mod client;
mod codec;
mod decode;
mod dialer;
mod drive;
mod error;
mod event;
mod handlers;
mod handshake;
mod ids;
mod keeping;
mod link;
mod logged;
mod message;
mod offer;
mod options;
mod origins;
mod outbox;
mod peer;
mod place;
mod progress;
mod publishing;
mod receive;
mod request;
mod resuming;
mod server;
mod shared;
mod stall;
mod streams;
mod subscribe;
mod subscriptions;
mod terms;
mod wire;

pub use address::Transport;
pub use client::{Client, ClientBuilder};
pub use error::{Code, Error, Origin, Result};
pub use event::{Event, Receipt};
pub use handshake::Auth;
pub use message::{Message, Request};
pub use offer::{Offer, Serve};
pub use origins::Origins;
pub use peer::{Peer, State};
pub use place::{Begin, Cursor, Position};
pub use request::Call;
pub use server::{Server, ServerBuilder};
pub use streams::{ItemSink, ItemStream, OpenStream};
pub use subscribe::{Subscribe, SubscribeStream, Subscribed, Subscription};
