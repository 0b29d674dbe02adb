//! Stands in for verbs of the shard until it has them: its own come first.

use fluxar_shard::{PeerId, Shard, Standing};

#[allow(dead_code, unused_variables)]
pub(crate) trait Pending {
    fn handle_time(&mut self, now_us: u64) {}
    fn poll_timeout_ms(&self) -> Option<u64> {
        None
    }
    fn set_standing(&mut self, peer: PeerId, standing: Standing) {}
    fn is_serving(&self, peer: PeerId) -> bool {
        true
    }
    fn set_routes(&mut self, routes: std::sync::Arc<fluxar_shard::Routes>) {}
    fn attach(&mut self, peer: PeerId, patterns: &[std::sync::Arc<str>], offering: fluxar_shard::Offering) {}
    fn detach(&mut self, peer: PeerId) {}
    fn has_open(&self, peer: PeerId) -> usize {
        0
    }
}

impl Pending for Shard {}
