//! What goes on below the drivers: operations of cores, links, the clock, and who goes on next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::driver::{ReceiveEnd, Token};
use crate::gather::Gather;
use crate::listener::{ListenerId, Peer};

use super::link::Link;
use super::{Faults, Random, Step};

/// The clock begins here, so that a time of 0 is never meant by accident.
const BEGIN_NS: u64 = 1_000_000_000;
/// Connections that wait to be accepted on a listener.
const BACKLOG_MAX: usize = 1024;
/// A driver accepts again so long after a failure.
const ACCEPT_PAUSE_NS: u64 = 1_000_000;

/// A connection's name. Never used twice.
pub(super) type LinkId = u64;

#[derive(Debug)]
pub(super) struct Network {
    now_ns: u64,
    random: Random,
    faults: Faults,
    digest: u64,
    cores: Vec<Core>,
    /// By listener: when a connection may be accepted, and which.
    backlogs: Vec<VecDeque<(u64, LinkId)>>,
    links: BTreeMap<LinkId, Link>,
    next_link: LinkId,
    /// Moments at which the clock stops, and why.
    moments: BinaryHeap<Reverse<(u64, Moment)>>,
    clients_due: bool,
    sockets_open: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// Something may arrive on a link.
    Link(LinkId),
    /// The clients asked for it.
    Alarm,
    /// An operation of some core is ready.
    Operation,
}

#[derive(Debug)]
struct Core {
    operations: Vec<Operation>,
    /// Listeners on which it accepts, and not before when.
    accepting: Vec<(ListenerId, u64)>,
    /// Its last turn was to park, and found nothing; nothing was asked of the driver since.
    parked: bool,
    woken: bool,
    deadline_ns: Option<u64>,
    buffers: usize,
    buffers_lent: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Operation {
    Receive {
        token: Token,
        link: LinkId,
        ready_at_ns: u64,
        stop: bool,
    },
    Send {
        token: Token,
        link: LinkId,
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
    fn token(&self) -> Token {
        let (Operation::Receive { token, .. }
        | Operation::Send { token, .. }
        | Operation::Done { token, .. }) = self;
        *token
    }
}

/// A completion, before the driver makes sockets and leases of it.
#[derive(Debug)]
pub(super) enum Outcome {
    Accepted(ListenerId, LinkId, Peer),
    AcceptFailed(ListenerId),
    Received(Token, Vec<u8>),
    ReceiveEnded(Token, ReceiveEnd),
    Sent(Token, io::Result<usize>, Box<Gather>),
}

impl Network {
    pub(super) fn new(seed: u64, cores: usize, faults: Faults) -> Network {
        let core = || Core {
            operations: Vec::new(),
            accepting: Vec::new(),
            parked: false,
            woken: false,
            deadline_ns: None,
            buffers: faults.buffers,
            buffers_lent: Arc::default(),
        };
        Network {
            now_ns: BEGIN_NS,
            random: Random::new(seed),
            digest: seed,
            cores: (0..cores).map(|_| core()).collect(),
            faults,
            backlogs: Vec::new(),
            links: BTreeMap::new(),
            next_link: 0,
            moments: BinaryHeap::new(),
            clients_due: false,
            sockets_open: 0,
        }
    }

    // What tests see.

    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn leases_lent(&self, core: usize) -> usize {
        self.cores[core].buffers_lent.load(Ordering::Relaxed)
    }

    pub(super) fn sockets_open(&self) -> usize {
        self.sockets_open
    }

    pub(super) fn operations(&self) -> usize {
        self.cores.iter().map(|core| core.operations.len()).sum()
    }

    pub(super) fn alarm_at(&mut self, at_ns: u64) {
        self.moments.push(Reverse((at_ns, Moment::Alarm)));
    }

    // Time and turns.

    pub(super) fn step(&mut self) -> Step {
        loop {
            let runnable: Vec<usize> = (0..self.cores.len()).filter(|core| self.can_run(*core)).collect();
            if self.clients_due && (runnable.is_empty() || self.random.chance(0.5)) {
                self.clients_due = false;
                self.note(1, 0);
                return Step::Clients;
            }
            if !runnable.is_empty() {
                let core = runnable[self.random.index(runnable.len())];
                self.note(2, core as u64);
                return Step::Core(core);
            }
            let moment = self.moments.peek().map(|Reverse((at_ns, _))| *at_ns);
            let deadline = self.cores.iter().filter_map(|core| core.deadline_ns).min();
            let Some(next_ns) = moment.into_iter().chain(deadline).min() else {
                return Step::Quiet;
            };
            self.now_ns = self.now_ns.max(next_ns);
            while self
                .moments
                .peek()
                .is_some_and(|Reverse((at_ns, _))| *at_ns <= self.now_ns)
                && let Some(Reverse((_, moment))) = self.moments.pop()
            {
                match moment {
                    Moment::Operation => {}
                    Moment::Alarm => self.clients_due = true,
                    Moment::Link(link) => {
                        if let Some(link) = self.links.get_mut(&link) {
                            link.to_core.arrive(self.now_ns);
                            self.clients_due |= link.to_client.arrive(self.now_ns);
                        }
                    }
                }
            }
        }
    }

    /// Takes part of everything that happens, so that runs can be compared.
    fn note(&mut self, what: u64, number: u64) {
        for word in [self.now_ns, what, number] {
            self.digest = (self.digest ^ word)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(23);
        }
    }

    fn can_run(&self, core: usize) -> bool {
        let Core {
            operations,
            accepting,
            parked,
            woken,
            deadline_ns,
            ..
        } = &self.cores[core];
        !parked
            || *woken
            || deadline_ns.is_some_and(|at_ns| at_ns <= self.now_ns)
            || operations.iter().any(|operation| self.is_ready(operation))
            || accepting.iter().any(|accepting| self.can_accept(*accepting))
    }

    fn is_ready(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Receive {
                link,
                ready_at_ns,
                stop,
                ..
            } => {
                *ready_at_ns <= self.now_ns
                    && self.links.get(link).is_none_or(|link| {
                        *stop
                            || link.reset
                            || link.to_core.readable_bytes() > 0
                            || link.to_core.is_at_end(self.now_ns)
                    })
            }
            Operation::Send { link, .. } => self.links.get(link).is_none_or(|link| {
                link.reset || link.client_closed || link.to_client.room(self.faults.socket_buffer_bytes) > 0
            }),
            Operation::Done { ready_at_ns, .. } => *ready_at_ns <= self.now_ns,
        }
    }

    fn can_accept(&self, (listener, not_before_ns): (ListenerId, u64)) -> bool {
        not_before_ns <= self.now_ns
            && self.backlogs[usize::from(listener.0)]
                .front()
                .is_some_and(|(at_ns, _)| *at_ns <= self.now_ns)
    }

    /// A core's turn: everything of it that is ready, in any order that keeps each socket's own.
    pub(super) fn turn(&mut self, core: usize, park_until_ns: Option<u64>, outcomes: &mut VecDeque<Outcome>) {
        let mut runs: Vec<VecDeque<Outcome>> = Vec::new();
        let mut operations = std::mem::take(&mut self.cores[core].operations);
        self.random.shuffle(&mut operations);
        for operation in operations {
            let mut run = VecDeque::new();
            if let Some(operation) = self.advance(core, operation, &mut run) {
                self.cores[core].operations.push(operation);
            }
            if !run.is_empty() {
                runs.push(run);
            }
        }
        let accepted = self.accept_some(core);
        if !accepted.is_empty() {
            runs.push(accepted);
        }
        while !runs.is_empty() {
            let chosen = self.random.index(runs.len());
            outcomes.extend(runs[chosen].pop_front());
            if runs[chosen].is_empty() {
                runs.swap_remove(chosen);
            }
        }
        let now_ns = self.now_ns;
        let core = &mut self.cores[core];
        let woken = std::mem::take(&mut core.woken);
        core.deadline_ns = park_until_ns;
        core.parked = outcomes.is_empty() && !woken && park_until_ns.is_none_or(|until_ns| until_ns > now_ns);
        self.note(3, outcomes.len() as u64);
    }

    /// Takes an operation as far as it goes; gives it back if it is not over.
    fn advance(
        &mut self,
        core: usize,
        operation: Operation,
        run: &mut VecDeque<Outcome>,
    ) -> Option<Operation> {
        if !self.is_ready(&operation) {
            return Some(operation);
        }
        match operation {
            Operation::Receive {
                token, link, stop, ..
            } => self.advance_receive(core, token, link, stop, run),
            Operation::Send {
                token,
                link,
                mut gather,
            } => {
                let result = self.transmit(link, &mut gather);
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
        id: LinkId,
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
            let readable = link.to_core.readable_bytes();
            // Bytes may still come before the end that was asked for.
            if stop && (readable == 0 || self.random.chance(0.5)) {
                return end(ReceiveEnd::Stopped);
            }
            if readable == 0 {
                return if link.reset {
                    end(ReceiveEnd::Failed(io::ErrorKind::ConnectionReset.into()))
                } else if link.to_core.is_at_end(self.now_ns) {
                    end(ReceiveEnd::EndOfStream)
                } else {
                    Some(Operation::Receive {
                        token,
                        link: id,
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
            let received = link.to_core.read(bytes);
            if std::mem::take(&mut link.client_blocked) {
                self.clients_due = true;
            }
            self.note(4, bytes as u64);
            run.push_back(Outcome::Received(token, received));
            if let Some(ready_at_ns) = self.late() {
                return Some(Operation::Receive {
                    token,
                    link: id,
                    ready_at_ns,
                    stop,
                });
            }
        }
    }

    /// Moves bytes of a send into the pipe.
    fn transmit(&mut self, id: LinkId, gather: &mut Gather) -> io::Result<usize> {
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        let arrives_ns = self.arrival_ns();
        let link = self.links.get_mut(&id).ok_or_else(reset)?;
        if link.reset || link.client_closed || self.random.chance(self.faults.reset) {
            link.reset();
            self.clients_due = true;
            return Err(reset());
        }
        let mut bytes = gather
            .len()
            .min(link.to_client.room(self.faults.socket_buffer_bytes));
        if bytes > 1 && self.random.chance(self.faults.short_write) {
            bytes = self.random.between(1, bytes as u64) as usize;
        }
        let mut sent = Vec::with_capacity(bytes);
        for slice in gather.slices() {
            sent.extend_from_slice(&slice[..slice.len().min(bytes - sent.len())]);
        }
        link.to_client.push(arrives_ns, sent);
        self.expect(id);
        self.note(5, bytes as u64);
        Ok(bytes)
    }

    fn accept_some(&mut self, core: usize) -> VecDeque<Outcome> {
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

    /// When bytes that are sent now arrive.
    fn arrival_ns(&mut self) -> u64 {
        let (low, high) = self.faults.latency_ns;
        self.now_ns + self.random.between(low, high).max(1)
    }

    /// Has the clock stop when the next thing arrives on a link.
    fn expect(&mut self, id: LinkId) {
        if let Some(link) = self.links.get(&id) {
            for at_ns in link.expected_ns(self.now_ns) {
                self.moments.push(Reverse((at_ns, Moment::Link(id))));
            }
        }
    }

    /// Whether the completion at hand comes late, and when.
    fn late(&mut self) -> Option<u64> {
        if !self.random.chance(self.faults.late) {
            return None;
        }
        let ready_at_ns = self.now_ns + self.random.between(1, self.faults.late_ns_max.max(1));
        self.moments.push(Reverse((ready_at_ns, Moment::Operation)));
        Some(ready_at_ns)
    }

    // What drivers ask for.

    pub(super) fn accept(&mut self, core: usize, listener: ListenerId) {
        self.asked(core).accepting.push((listener, 0));
    }

    pub(super) fn stop_accept(&mut self, core: usize, listener: ListenerId) {
        self.asked(core)
            .accepting
            .retain(|(accepting, _)| *accepting != listener);
    }

    pub(super) fn receive(&mut self, core: usize, token: Token, link: LinkId) {
        let armed = |operation: &Operation| matches!(operation, Operation::Receive { token: other, .. } if *other == token);
        assert!(
            !self.cores[core].operations.iter().any(armed),
            "{token:?} has two receives"
        );
        self.asked(core).operations.push(Operation::Receive {
            token,
            link,
            ready_at_ns: 0,
            stop: false,
        });
    }

    pub(super) fn stop_receive(&mut self, core: usize, of: Token) {
        for operation in &mut self.asked(core).operations {
            if let Operation::Receive { token, stop, .. } = operation
                && *token == of
            {
                *stop = true;
            }
        }
    }

    pub(super) fn send(&mut self, core: usize, token: Token, link: LinkId, gather: Box<Gather>) {
        let sending = |operation: &Operation| {
            operation.token() == token && !matches!(operation, Operation::Receive { .. })
        };
        assert!(
            !self.cores[core].operations.iter().any(sending),
            "{token:?} has two sends in flight"
        );
        assert!(!gather.is_empty(), "{token:?} sends nothing");
        self.asked(core)
            .operations
            .push(Operation::Send { token, link, gather });
    }

    pub(super) fn shutdown_write(&mut self, id: LinkId) {
        let arrives_ns = self.arrival_ns();
        if let Some(link) = self.links.get_mut(&id) {
            link.to_client.end(arrives_ns);
            self.expect(id);
        }
    }

    /// Ends a socket's operations. One that can send still does; their completions come as any other.
    pub(super) fn end_operations(&mut self, core: usize, of: Token) {
        self.stop_receive(core, of);
        let operations = std::mem::take(&mut self.cores[core].operations);
        for operation in operations {
            let operation = match operation {
                Operation::Send {
                    token,
                    link,
                    mut gather,
                } if token == of => {
                    let ready = self.links.get(&link).is_some_and(|link| {
                        !link.reset && link.to_client.room(self.faults.socket_buffer_bytes) > 0
                    });
                    let result = if ready && self.random.chance(0.5) {
                        self.transmit(link, &mut gather)
                    } else {
                        Err(io::ErrorKind::ConnectionAborted.into())
                    };
                    let ready_at_ns = self.late().unwrap_or(0);
                    Operation::Done {
                        token,
                        result,
                        gather,
                        ready_at_ns,
                    }
                }
                other => other,
            };
            self.cores[core].operations.push(operation);
        }
    }

    /// A core lets its socket go.
    pub(super) fn core_closes(&mut self, id: LinkId) {
        let arrives_ns = self.arrival_ns();
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        self.sockets_open -= 1;
        link.core_closed = true;
        if link.to_core.has_bytes() {
            // As TCP does: closing over unread bytes resets, and what is under way is lost.
            link.reset();
            self.clients_due = true;
        } else {
            link.to_client.end(arrives_ns);
            self.expect(id);
        }
        self.forget_if_over(id);
    }

    pub(super) fn buffers(&self, core: usize) -> (usize, Arc<AtomicUsize>) {
        (
            self.cores[core].buffers,
            Arc::clone(&self.cores[core].buffers_lent),
        )
    }

    pub(super) fn wake(&mut self, core: usize) {
        self.cores[core].woken = true;
    }

    /// The core, which is not parked any more, since it asks for something.
    fn asked(&mut self, core: usize) -> &mut Core {
        let core = &mut self.cores[core];
        core.parked = false;
        core
    }

    // What clients do.

    pub(super) fn listen(&mut self) -> ListenerId {
        self.backlogs.push(VecDeque::new());
        ListenerId((self.backlogs.len() - 1) as u16)
    }

    pub(super) fn connect(&mut self, listener: ListenerId) -> LinkId {
        let id = self.next_link;
        self.next_link += 1;
        let mut link = Link::default();
        let arrives_ns = self.arrival_ns();
        let backlog = &mut self.backlogs[usize::from(listener.0)];
        if backlog.len() < BACKLOG_MAX {
            let arrives_ns = backlog
                .back()
                .map_or(arrives_ns, |(last_ns, _)| arrives_ns.max(*last_ns));
            backlog.push_back((arrives_ns, id));
            self.moments.push(Reverse((arrives_ns, Moment::Operation)));
        } else {
            link.reset();
            link.core_closed = true;
        }
        self.links.insert(id, link);
        id
    }

    pub(super) fn client_writes(&mut self, id: LinkId, bytes: &[u8]) -> usize {
        let arrives_ns = self.arrival_ns();
        let Some(link) = self.links.get_mut(&id) else {
            return 0;
        };
        if link.core_closed && !bytes.is_empty() {
            link.reset();
        }
        if link.reset || link.to_core.is_ended_by_writer() {
            return 0;
        }
        let taken = bytes
            .len()
            .min(link.to_core.room(self.faults.socket_buffer_bytes));
        link.client_blocked = taken < bytes.len();
        if taken > 0 {
            link.to_core.push(arrives_ns, bytes[..taken].to_vec());
            self.expect(id);
        }
        taken
    }

    pub(super) fn client_reads(&mut self, id: LinkId) -> Vec<u8> {
        match self.links.get_mut(&id) {
            Some(link) if !link.client_deaf => link.to_client.read(link.to_client.readable_bytes()),
            _ => Vec::new(),
        }
    }

    pub(super) fn client_shuts_down(&mut self, id: LinkId) {
        let arrives_ns = self.arrival_ns();
        if let Some(link) = self.links.get_mut(&id) {
            link.to_core.end(arrives_ns);
            self.expect(id);
        }
    }

    pub(super) fn client_closes(&mut self, id: LinkId, abort: bool) {
        let arrives_ns = self.arrival_ns();
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.client_closed = true;
        if abort || link.to_client.has_bytes() {
            link.reset();
        } else {
            link.to_core.end(arrives_ns);
            self.expect(id);
        }
        self.forget_if_over(id);
    }

    pub(super) fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    fn forget_if_over(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(Link::is_over) {
            self.links.remove(&id);
        }
    }
}
