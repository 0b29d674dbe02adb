//! The FLUXAR wire protocol, sans-I/O: bytes in, decisions out.
//!
//! Nothing here knows a socket, a clock, a source of randomness or an executor. A message comes in as bytes
//! that some transport received ([`frame`]), is cut into envelopes ([`batch`], [`envelope`]), understood
//! ([`exchange`], [`hello`], [`meta`]) and leaves as bytes again; [`session`] keeps what must outlive a connection.
//! `docs/protocol.md` numbers the clauses that the code cites as `[P-…]`.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod batch;
pub mod cbor;
pub mod envelope;
pub mod error;
pub mod exchange;
pub mod frame;
mod head;
pub mod hello;
pub mod limits;
pub mod meta;
pub mod position;
pub mod reader;
pub mod session;
pub mod stream;
pub mod target;

pub use batch::Batch;
pub use envelope::{Envelope, Form, Id, Kind};
pub use error::{Code, ErrorBody, Fault, Reject};
pub use position::Position;
