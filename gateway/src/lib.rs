//! The FLUXAR gateway: puts the engine and the shards together, one of each a core.
//!
//! A message comes in through [`worker`], is understood in [`front`] and [`exchanges`], finds its receivers in the
//! shard, and leaves through [`delivery`] and [`outbox`]. The binary is `main.rs`; the simulation drives [`worker`]
//! over the simulated engine.
#![forbid(unsafe_code)]

pub(crate) mod agents;
pub mod args;
mod chunks;
pub mod config;
pub mod connections;
pub mod counters;
pub mod deadlines;
pub mod delivery;
pub mod exchanges;
pub mod flow;
pub mod front;
pub mod gateway;
pub mod greeting;
pub mod health;
pub mod ids;
pub mod limits;
pub mod log;
pub mod logged;
pub mod mail;
pub mod outbox;
pub mod rate;
pub mod refusals;
pub mod reload;
pub mod resume;
pub mod services;
pub mod session;
pub mod settings;
pub mod stderr;
pub mod streams;
pub mod threads;
pub mod upstreams;
pub mod worker;
