//! The hand that writes for workloads: connections, their sessions and their budgets.

use crate::payload::Payloads;
use crate::protocol::{Opening, Session};
use crate::stamp::Stamp;
use crate::workload::streaming::Pen;

use super::QUEUED_BYTES_MAX;
use super::peer::{Peer, State};

/// What one turn writes.
pub(super) struct Hand<'a, S> {
    pub(super) peers: &'a mut [Peer<S>],
    /// Peers that have something to send.
    pub(super) dirty: &'a mut Vec<u32>,
    pub(super) payloads: &'a mut Payloads,
    /// Bytes that this turn may still write.
    pub(super) left_bytes: usize,
    /// Messages that it wrote.
    pub(super) sent: usize,
    /// A connection had no room.
    pub(super) blocked: bool,
}

impl<S: Session> Hand<'_, S> {
    /// Writes something with a payload, unless the connection or the turn has no room.
    pub(super) fn write(&mut self, at: u32, stamp: &Stamp, write: impl FnOnce(&mut Peer<S>, &[u8])) -> bool {
        if !self.is_open(at) || self.left_bytes == 0 {
            return false;
        }
        let peer = &mut self.peers[at as usize];
        let before = peer.out.bytes.len();
        write(peer, self.payloads.next(stamp));
        self.wrote(at, before);
        self.sent += 1;
        true
    }

    /// Whether the connection is there and takes more.
    fn is_open(&mut self, at: u32) -> bool {
        let peer = &self.peers[at as usize];
        let is_open =
            peer.queued_bytes + peer.out.bytes.len() < QUEUED_BYTES_MAX && peer.state == State::Prepared;
        self.blocked |= !is_open;
        is_open
    }

    fn wrote(&mut self, at: u32, before_bytes: usize) {
        let peer = &mut self.peers[at as usize];
        self.left_bytes = self
            .left_bytes
            .saturating_sub(peer.out.bytes.len() - before_bytes);
        if !peer.is_dirty {
            peer.is_dirty = true;
            self.dirty.push(at);
        }
    }

    /// Writes something small, which is not refused.
    fn say(&mut self, at: u32, say: impl FnOnce(&mut Peer<S>)) {
        let peer = &mut self.peers[at as usize];
        if peer.state == State::Prepared {
            let before = peer.out.bytes.len();
            say(peer);
            self.wrote(at, before);
        }
    }
}

impl<S: Session> Pen for Hand<'_, S> {
    fn has_room(&mut self, peer: u32) -> bool {
        self.left_bytes > 0 && self.is_open(peer)
    }

    fn credit(&self, peer: u32, stream: u32) -> u64 {
        self.peers[peer as usize].session.stream_credit(stream)
    }

    fn open(&mut self, peer: u32, stream: u32, method: u32, opening: Opening, stamp: &Stamp) {
        let payload = self.payloads.next(stamp);
        let peer_at = &mut self.peers[peer as usize];
        let before = peer_at.out.bytes.len();
        let out = &mut peer_at.out;
        peer_at
            .session
            .open_stream(stream, method as usize, opening, payload, out);
        self.wrote(peer, before);
    }

    #[inline]
    fn chunk(&mut self, peer: u32, stream: u32, stamp: &Stamp, is_last: bool) -> u64 {
        let payload = self.payloads.next(stamp);
        let bytes = payload.len() as u64;
        let peer_at = &mut self.peers[peer as usize];
        let before = peer_at.out.bytes.len();
        peer_at
            .session
            .send_chunk(stream, payload, is_last, &mut peer_at.out);
        self.wrote(peer, before);
        self.sent += 1;
        bytes
    }

    fn end(&mut self, peer: u32, stream: u32) {
        self.say(peer, |peer| peer.session.end_stream(stream, &mut peer.out));
    }

    fn grant(&mut self, peer: u32, stream: u32, bytes: u32) {
        self.say(peer, |peer| peer.session.grant(stream, bytes, &mut peer.out));
    }
}
