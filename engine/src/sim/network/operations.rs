//! Operations under way and how far they come in a turn. This is where the faults strike.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use crate::disk::DiskDone;
use crate::driver::{ReceiveEnd, Token};
use crate::gather::Gather;
use crate::listener::{ListenerId, Peer};

use super::super::link::End;
use super::clients::BACKLOG_MAX;
use super::{Core, LinkId, Moment, Network};

/// A driver accepts again so long after a failure.
const ACCEPT_PAUSE_NS: u64 = 1_000_000;

#[derive(Debug)]
pub(super) enum Operation {
    Connect {
        token: Token,
        link: LinkId,
        /// `None`: nobody listens there.
        listener: Option<ListenerId>,
        /// `None`: never.
        answered_at_ns: Option<u64>,
        cancelled: bool,
    },
    Receive {
        token: Token,
        end: (LinkId, End),
        ready_at_ns: u64,
        stop: bool,
    },
    Send {
        token: Token,
        end: (LinkId, End),
        gather: Box<Gather>,
    },
    /// A send that is done, and whose completion is late.
    Done {
        token: Token,
        result: io::Result<usize>,
        gather: Box<Gather>,
        ready_at_ns: u64,
    },
}

impl Operation {
    pub(super) fn token(&self) -> Token {
        let (Operation::Connect { token, .. }
        | Operation::Receive { token, .. }
        | Operation::Send { token, .. }
        | Operation::Done { token, .. }) = self;
        *token
    }
}

/// A completion, before the driver makes sockets and leases of it.
#[derive(Debug)]
pub(in crate::sim) enum Outcome {
    Accepted(ListenerId, LinkId, Peer),
    AcceptFailed(ListenerId),
    Connected(Token, io::Result<()>),
    Received(Token, Vec<u8>),
    ReceiveEnded(Token, ReceiveEnd),
    Sent(Token, io::Result<usize>, Box<Gather>),
    Disk(DiskDone),
}

impl Network {
    pub(super) fn is_ready(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Connect {
                answered_at_ns,
                cancelled,
                ..
            } => *cancelled || answered_at_ns.is_some_and(|at_ns| at_ns <= self.now_ns),
            Operation::Receive {
                end: (link, end),
                ready_at_ns,
                stop,
                ..
            } => {
                *ready_at_ns <= self.now_ns
                    && self.links.get(link).is_none_or(|link| {
                        *stop
                            || link.reset
                            || link.incoming(*end).readable_bytes() > 0
                            || link.incoming(*end).is_at_end(self.now_ns)
                    })
            }
            Operation::Send { end: (link, end), .. } => self.links.get(link).is_none_or(|link| {
                link.reset
                    || link.is_left_by_peer(*end)
                    || link.outgoing(*end).room(self.faults.socket_buffer_bytes) > 0
            }),
            Operation::Done { ready_at_ns, .. } => *ready_at_ns <= self.now_ns,
        }
    }
    pub(super) fn can_accept(&self, (listener, not_before_ns): (ListenerId, u64)) -> bool {
        not_before_ns <= self.now_ns
            && self.backlogs[usize::from(listener.0)]
                .front()
                .is_some_and(|(at_ns, _)| *at_ns <= self.now_ns)
    }
    /// Takes an operation as far as it goes; gives it back if it is not over.
    pub(super) fn advance(
        &mut self,
        core: usize,
        operation: Operation,
        run: &mut VecDeque<Outcome>,
    ) -> Option<Operation> {
        if !self.is_ready(&operation) {
            return Some(operation);
        }
        match operation {
            Operation::Connect {
                token,
                link,
                listener,
                cancelled,
                ..
            } => {
                let result = if cancelled {
                    Err(io::Error::from_raw_os_error(libc::ECANCELED))
                } else {
                    self.establish(link, listener)
                };
                self.note(6, u64::from(result.is_ok()));
                run.push_back(Outcome::Connected(token, result));
                None
            }
            Operation::Receive { token, end, stop, .. } => self.advance_receive(core, token, end, stop, run),
            Operation::Send {
                token,
                end: (link, end),
                mut gather,
            } => {
                let result = self.transmit(link, end, &mut gather);
                let Some(ready_at_ns) = self.late() else {
                    run.push_back(Outcome::Sent(token, result, gather));
                    return None;
                };
                Some(Operation::Done {
                    token,
                    result,
                    gather,
                    ready_at_ns,
                })
            }
            Operation::Done {
                token,
                result,
                gather,
                ..
            } => {
                run.push_back(Outcome::Sent(token, result, gather));
                None
            }
        }
    }

    fn advance_receive(
        &mut self,
        core: usize,
        token: Token,
        (id, side): (LinkId, End),
        stop: bool,
        run: &mut VecDeque<Outcome>,
    ) -> Option<Operation> {
        loop {
            let mut end = |end| {
                run.push_back(Outcome::ReceiveEnded(token, end));
                None
            };
            let Some(link) = self.links.get_mut(&id) else {
                return end(ReceiveEnd::Stopped);
            };
            let readable = link.incoming(side).readable_bytes();
            // Bytes may still come before the end that was asked for.
            if stop && (readable == 0 || self.random.chance(0.5)) {
                return end(ReceiveEnd::Stopped);
            }
            if readable == 0 {
                return if link.reset {
                    end(ReceiveEnd::Failed(io::ErrorKind::ConnectionReset.into()))
                } else if link.incoming(side).is_at_end(self.now_ns) {
                    end(ReceiveEnd::EndOfStream)
                } else {
                    Some(Operation::Receive {
                        token,
                        end: (id, side),
                        ready_at_ns: 0,
                        stop,
                    })
                };
            }
            let Core {
                buffers,
                buffers_lent,
                ..
            } = &self.cores[core];
            if buffers_lent.load(Ordering::Relaxed) >= *buffers || self.random.chance(self.faults.no_buffers)
            {
                return end(ReceiveEnd::NoBuffers);
            }
            let mut bytes = readable.min(self.faults.buffer_bytes);
            if self.random.chance(self.faults.short_read) {
                bytes = self.random.between(1, bytes as u64) as usize;
            }
            buffers_lent.fetch_add(1, Ordering::Relaxed);
            let received = link.incoming_mut(side).read(bytes);
            if std::mem::take(&mut link.client_blocked) {
                self.clients_due = true;
            }
            self.note(4, bytes as u64);
            run.push_back(Outcome::Received(token, received));
            if let Some(ready_at_ns) = self.late() {
                return Some(Operation::Receive {
                    token,
                    end: (id, side),
                    ready_at_ns,
                    stop,
                });
            }
        }
    }

    /// Moves bytes of a send into the pipe.
    pub(super) fn transmit(&mut self, id: LinkId, end: End, gather: &mut Gather) -> io::Result<usize> {
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        let arrives_ns = self.arrival_ns();
        let link = self.links.get_mut(&id).ok_or_else(reset)?;
        if link.reset || link.is_left_by_peer(end) || self.random.chance(self.faults.reset) {
            link.reset();
            self.clients_due = true;
            return Err(reset());
        }
        let mut bytes = gather
            .len()
            .min(link.outgoing(end).room(self.faults.socket_buffer_bytes));
        if bytes > 1 && self.random.chance(self.faults.short_write) {
            bytes = self.random.between(1, bytes as u64) as usize;
        }
        let mut sent = Vec::with_capacity(bytes);
        for slice in gather.slices() {
            sent.extend_from_slice(&slice[..slice.len().min(bytes - sent.len())]);
        }
        link.outgoing_mut(end).push(arrives_ns, sent);
        self.expect(id);
        self.note(5, bytes as u64);
        Ok(bytes)
    }

    /// A dial has come to its end: the connection waits to be accepted, or nobody took it.
    fn establish(&mut self, id: LinkId, listener: Option<ListenerId>) -> io::Result<()> {
        let refused = || Err(io::ErrorKind::ConnectionRefused.into());
        if self.random.chance(self.faults.refusal) {
            return refused();
        }
        let backlog = listener.and_then(|listener| self.backlogs.get_mut(usize::from(listener.0)));
        match (backlog, self.links.get_mut(&id)) {
            (Some(backlog), Some(link)) if backlog.len() < BACKLOG_MAX => {
                link.core_closed = false;
                let last_ns = backlog.back().map_or(0, |(last_ns, _)| *last_ns);
                let at_ns = self.now_ns.max(last_ns);
                backlog.push_back((at_ns, id));
                self.moments.push(Reverse((at_ns, Moment::Operation)));
                Ok(())
            }
            _ => refused(),
        }
    }

    pub(super) fn accept_some(&mut self, core: usize) -> VecDeque<Outcome> {
        let mut run = VecDeque::new();
        for index in 0..self.cores[core].accepting.len() {
            // Other cores get some, too.
            while self.can_accept(self.cores[core].accepting[index])
                && (run.is_empty() || self.random.chance(0.5))
            {
                let (listener, not_before_ns) = &mut self.cores[core].accepting[index];
                if self.random.chance(self.faults.accept_failure) {
                    *not_before_ns = self.now_ns + ACCEPT_PAUSE_NS;
                    self.moments.push(Reverse((*not_before_ns, Moment::Operation)));
                    run.push_back(Outcome::AcceptFailed(*listener));
                } else if let Some((_, link)) = self.backlogs[usize::from(listener.0)].pop_front() {
                    let port = 10_000 + (link % 50_000) as u16;
                    let peer = Peer::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                    run.push_back(Outcome::Accepted(*listener, link, peer));
                    self.sockets_open += 1;
                }
            }
        }
        run
    }
}
