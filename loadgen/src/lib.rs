//! The load generator: what `loadgen` is made of.
//!
//! ```text
//!   campaign.toml ─> campaign ─> one run after another, interleaved ─> results.jsonl, .csv, .html, a table
//!                                   │
//!                                   v
//!        scenario (what to do) + target (to whom) ─> run ─> measured (what happened)
//!                                   │
//!                     worker: one pinned thread, one ring, its share of the connections
//!                       │ asks the workload what is due, and a session to write it
//!                       v
//!                     protocol: FLUXAR, NATS, Redis, MQTT: bytes of one connection, sans-I/O
//! ```
//!
//! Every payload carries a [`stamp`]: who published it, its number, and when it was *meant* to be sent. From these the
//! receiving side counts what was lost, repeated or out of order, and measures latency without the omission of which
//! closed loops are guilty (a server that stalls does not get its waiting messages for free).
#![forbid(unsafe_code)]

pub mod args;
pub mod arrivals;
pub mod campaign;
pub mod compare;
pub mod conduct;
pub mod find_knee;
pub mod interrupt;
pub mod knee;
pub mod ledger;
pub mod measured;
pub mod metric;
pub mod order;
pub mod payload;
pub mod process;
pub mod progress;
pub mod protocol;
pub mod record;
pub mod report;
pub mod run;
pub mod scenario;
pub mod server;
pub mod single;
pub mod slo;
pub mod stamp;
pub mod statistics;
pub mod table;
pub mod tally;
pub mod units;
pub mod worker;
pub mod workload;
