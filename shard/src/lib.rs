//! One core's share of the truth: who subscribed to what, who serves what, which calls are open.
//!
//! Pure state. Nothing here does I/O, reads a clock, waits, or calls back upward: the gateway's worker hands in what
//! its peers and the other cores want, and polls what comes of it.
//!
//! ```text
//!   publish ─> topics (who gets it) ─> runs (bytes, once) ─┬─> poll_delivery: this core's connections
//!                                                          └─> poll_letter: interested cores ─> handle_letter there
//!   call ─> serving (who answers) ─> Route                     answer ─> AnswerRoute
//! ```
//!
//! At-most-once topics have no owner. Each core tells the others which patterns it wants ([`Letter::Want`]), and a
//! publisher's core sends a run straight to the cores that want it: one hop. Calls are kept by the asker's core.
#![forbid(unsafe_code)]

mod asking;
mod calls;
mod counts;
pub mod delivery;
mod groups;
mod ids;
mod interest;
pub mod letter;
pub mod limits;
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

pub use asking::{AnswerRoute, FailedCall, Route};
pub use counts::Counts;
pub use delivery::{Delivery, Grouped};
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
