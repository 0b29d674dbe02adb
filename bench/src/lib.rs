//! What the benches of the gateway's hot path share: the input that they are run on.
#![forbid(unsafe_code)]

pub mod documents;
