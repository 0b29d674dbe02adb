//! The client's end of a simulated connection, for test code.

use super::Shared;
use super::network::LinkId;

/// A connected socket as a client has it. Nothing blocks: what cannot be done now is not done. Dropping it closes it
/// as a process that ends does: with a reset if it left bytes unread.
#[derive(Debug)]
pub struct ClientSocket {
    link: LinkId,
    network: Shared,
}

/// How a client's socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// Bytes may come.
    Open,
    /// The core ended its direction, and all was read.
    Ended,
    /// The connection was reset, and all that had arrived was read.
    Reset,
}

impl ClientSocket {
    pub(super) fn new(link: LinkId, network: Shared) -> ClientSocket {
        ClientSocket { link, network }
    }

    /// Sends; how many bytes there was room for. If not all, [`super::Step::Clients`] comes when there is room.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.network.lock().client_writes(self.link, bytes)
    }

    /// Everything that has arrived.
    pub fn read(&mut self) -> Vec<u8> {
        self.network.lock().client_reads(self.link)
    }

    /// Ends this direction: the core reads end-of-stream behind what was written.
    pub fn shutdown(&mut self) {
        self.network.lock().client_shuts_down(self.link);
    }

    /// Resets the connection.
    pub fn abort(self) {
        self.network.lock().client_closes(self.link, true);
    }

    /// From now on [`ClientSocket::read`] yields nothing, and what the core sends piles up until the socket buffer is
    /// full.
    pub fn stop_reading(&mut self) {
        self.set_deaf(true);
    }

    /// Takes [`ClientSocket::stop_reading`] back.
    pub fn read_on(&mut self) {
        self.set_deaf(false);
    }

    fn set_deaf(&mut self, deaf: bool) {
        if let Some(link) = self.network.lock().link(self.link) {
            link.client_deaf = deaf;
        }
    }

    /// How the socket is.
    #[must_use]
    pub fn state(&self) -> ClientState {
        let mut network = self.network.lock();
        let now_ns = network.now_ns();
        match network.link(self.link) {
            Some(link) if link.reset && link.to_client.readable_bytes() == 0 => ClientState::Reset,
            Some(link) if link.to_client.is_at_end(now_ns) => ClientState::Ended,
            Some(_) => ClientState::Open,
            None => ClientState::Reset,
        }
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        self.network.lock().client_closes(self.link, false);
    }
}
