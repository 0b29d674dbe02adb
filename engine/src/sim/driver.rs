//! The simulation's [`Driver`]: it hands what a reactor asks for to the network, and takes from it what is ready.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::dial::Remote;
use crate::disk::DiskOp;
use crate::driver::{Completion, Driver, Token};
use crate::gather::Gather;
use crate::listener::ListenerId;

use super::Shared;
use super::link::End;
use super::network::{LinkId, Outcome};

/// One core's driver. Its turns never block: a turn that would park returns without completions, and the world does
/// not step the core again before something happens.
#[derive(Debug)]
pub struct SimDriver {
    core: usize,
    /// Which of the core's drivers this is.
    life: u32,
    network: Shared,
    now_ns: u64,
    outcomes: VecDeque<Outcome>,
    buffers: usize,
    buffers_lent: Arc<AtomicUsize>,
}

/// A core's end of a simulated connection, accepted or dialled.
#[derive(Debug)]
pub struct SimSocket {
    link: LinkId,
    end: End,
    network: Shared,
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.network.lock().core_closes(self.link, self.end);
    }
}

/// Received bytes on loan: of a bounded number of buffers, one is taken until this is dropped.
#[derive(Debug)]
pub struct SimLease {
    bytes: Vec<u8>,
    lent: Arc<AtomicUsize>,
}

impl Deref for SimLease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for SimLease {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for SimLease {
    fn drop(&mut self) {
        self.lent.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        self.network.lock().retire(self.core, self.life);
    }
}

impl SimDriver {
    pub(super) fn new(core: usize, network: Shared) -> SimDriver {
        let (life, now_ns, (buffers, buffers_lent)) = {
            let mut network = network.lock();
            (network.enlist(core), network.now_ns(), network.buffers(core))
        };
        SimDriver {
            core,
            life,
            network,
            now_ns,
            outcomes: VecDeque::new(),
            buffers,
            buffers_lent,
        }
    }
}

impl Driver for SimDriver {
    type Lease = SimLease;
    type Socket = SimSocket;

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn entropy(&mut self) -> io::Result<[u8; 32]> {
        let mut network = self.network.lock();
        Ok(std::array::from_fn(|_| network.random().next() as u8))
    }

    fn accept(&mut self, listener: ListenerId) {
        self.network.lock().accept(self.core, listener);
    }

    fn stop_accept(&mut self, listener: ListenerId) {
        self.network.lock().stop_accept(self.core, listener);
    }

    fn open(&mut self, _remote: Remote<'_>, _source: Option<IpAddr>) -> io::Result<SimSocket> {
        Ok(SimSocket {
            link: self.network.lock().open(),
            end: End::Client,
            network: self.network.clone(),
        })
    }

    fn connect(&mut self, token: Token, socket: &SimSocket, remote: Remote<'_>) {
        self.network.lock().dial(self.core, token, socket.link, remote);
    }

    fn receive(&mut self, token: Token, socket: &SimSocket) {
        self.network
            .lock()
            .receive(self.core, token, (socket.link, socket.end));
    }

    fn stop_receive(&mut self, token: Token) {
        self.network.lock().stop_receive(self.core, token);
    }

    fn send(&mut self, token: Token, socket: &SimSocket, gather: Box<Gather>) {
        self.network
            .lock()
            .send(self.core, token, (socket.link, socket.end), gather);
    }

    fn shutdown_write(&mut self, socket: &SimSocket) {
        self.network.lock().shutdown_write(socket.link, socket.end);
    }

    fn close(&mut self, token: Token, socket: SimSocket) {
        self.network.lock().end_operations(self.core, token);
        drop(socket);
    }

    fn free_buffers(&self) -> usize {
        self.buffers - self.buffers_lent.load(Ordering::Relaxed)
    }

    fn disk(&mut self, op: DiskOp) {
        self.network.lock().disk(self.core, op);
    }

    fn wake(&mut self, core: usize) {
        self.network.lock().wake(core);
    }

    fn turn(&mut self, park_until_ns: Option<u64>) -> io::Result<()> {
        let mut network = self.network.lock();
        self.now_ns = network.now_ns();
        network.turn(self.core, park_until_ns, &mut self.outcomes);
        Ok(())
    }

    fn has_completions(&self) -> bool {
        !self.outcomes.is_empty()
    }

    fn poll(&mut self) -> Option<Completion<SimLease, SimSocket>> {
        Some(match self.outcomes.pop_front()? {
            Outcome::Accepted(listener, link, peer) => Completion::Accepted {
                listener,
                socket: SimSocket {
                    link,
                    end: End::Core,
                    network: self.network.clone(),
                },
                peer,
            },
            Outcome::AcceptFailed(listener) => Completion::AcceptFailed {
                listener,
                error: io::Error::other("simulated: out of descriptors"),
            },
            Outcome::Connected(token, result) => Completion::Connected { token, result },
            Outcome::Received(token, bytes) => Completion::Received {
                token,
                lease: SimLease {
                    bytes,
                    lent: Arc::clone(&self.buffers_lent),
                },
            },
            Outcome::ReceiveEnded(token, end) => Completion::ReceiveEnded { token, end },
            Outcome::Sent(token, result, gather) => Completion::Sent {
                token,
                result,
                gather,
            },
            Outcome::Disk(done) => Completion::Disk(done),
        })
    }
}
