//! Events at qos 1 and 2, and whoever follows them: what a connection wants of the log goes to the shard, what the shard has
//! for a connection comes out of it as news.
//!
//! ```text
//!   publish ── publishing.rs ─▶ Shard::publish_logged      Shard::poll_logged ─▶ delivery.rs ─▶ outboxes
//!   subscribe, ack ── wish.rs ─▶ subscribe_logged, acknowledge                     (acknowledgements, runs, ends)
//! ```

mod delivery;
mod publishing;
mod wish;

pub use publishing::Unacked;
pub(crate) use wish::{LogWish, WishFault};
