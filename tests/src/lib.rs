//! What the tests across crates share: a gateway on ephemeral ports, and blocking clients that say exactly what a test
//! wants them to say.
#![forbid(unsafe_code)]

pub mod client;
pub mod message;
pub mod running;

pub use client::{Client, End};
pub use message::Received;
pub use running::Running;
