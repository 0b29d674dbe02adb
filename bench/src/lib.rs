//! What the benches of the gateway's hot path share: the input that they are run on, and the judgement on counts of
//! instructions.
#![forbid(unsafe_code)]

pub mod counts;
pub mod documents;
pub mod messages;
pub mod shards;

/// How many times each counted case does its work: so many envelopes, documents, publishes. Enough for what is
/// around the work not to matter.
pub const COUNTED_TIMES: usize = 64;
