//! Whole gateways with their log on a simulated disk, killed, cut off from power and started again, while publishers and
//! subscribers hold them to what the protocol promises [P-5.8 – P-5.12 in docs/protocol.md].
//!
//! ```text
//!   Plan (of a seed) ─▶ Life ──┬─ House: workers, recovery, the disk and the network that outlive them ── Seam: planted faults
//!                              ├─ Citizens: publishers, followers, members of queues, each on a Line
//!                              └─ Auditor: who was told what; at the end, against the truth that the log holds
//! ```
//!
//! The tests live many short lives, and end small ones at each of their disk's operations; the example `sim` lives for as
//! long as one likes.

pub(crate) mod auditor;
mod citizen;
mod damage;
mod files;
mod follower;
mod history;
mod house;
pub(crate) mod life;
mod line;
mod member;
pub(crate) mod plan;
mod publisher;
pub(crate) mod seam;
pub(crate) mod totals;
mod truth;
