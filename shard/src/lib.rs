//! One core's share of the truth: who subscribed to what, who serves what, which calls are open.
//!
//! Pure state. Nothing here does I/O, reads a clock, waits, or calls back upward: the gateway's worker hands in what
//! its peers and the other cores want, and polls what comes of it.
//!
//! ```text
//!   publish ─> topics (who gets it) ─> runs (bytes, once) ─┬─> poll_delivery: this core's connections
//!                                                          └─> poll_letter: interested cores ─> handle_letter there
//!   ask ─> serving (who answers) ─> exchanges (what is open) ─┬─> Asking::Forward, poll_outgoing: this core's connections
//!   answer, part, cancel ─> exchanges ─> AnswerRoute, PartRoute └─> poll_letter: the core of the other end
//! ```
//!
//! At-most-once topics have no owner. Each core tells the others which patterns it wants ([`Letter::Want`]), and a
//! publisher's core sends a run straight to the cores that want it: one hop. Calls and streams are kept by the
//! core of whoever began them; the home core of a peer that takes a bounded number at a time keeps its gate.
#![forbid(unsafe_code)]

mod absence;
mod counts;
pub mod delivery;
mod exchanges;
mod groups;
mod ids;
mod interest;
pub mod letter;
pub mod limits;
pub mod log;
pub mod logged;
pub mod offering;
pub mod peer;
mod post;
mod publishing;
pub mod refusal;
pub mod routes;
pub mod runs;
mod serving;
mod shard;
mod subscriptions;
mod topics;

pub use counts::Counts;
pub use delivery::{Delivery, Grouped};
pub use exchanges::attempts::{Forward, Outgoing, Told};
pub use exchanges::calls::{AnswerRoute, Asking, Outcome, Route};
pub use exchanges::streams::{Lane, PartRoute, Spoken};
pub use interest::Ended;
pub use letter::{Arrival, Letter};
pub use limits::Limits;
pub use offering::{Offering, Standing};
pub use peer::PeerId;
pub use refusal::Refusal;
pub use routes::Routes;
pub use runs::Run;
pub use serving::ServiceRow;
pub use shard::{Seed, Shard};
