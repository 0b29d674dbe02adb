//! The seams of the harness, at which faults are planted to see that the auditor catches them: between a core and its
//! disk ([`Seam`], a driver around the simulation's), between recovery and its files, between what recovery found and the cores,
//! and between the gateway and its clients. Nothing of this is in the gateway.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use fluxar_engine::dial::Remote;
use fluxar_engine::disk::{DiskDone, DiskOp};
use fluxar_engine::driver::{Completion, Driver, Token};
use fluxar_engine::gather::Gather;
use fluxar_engine::listener::ListenerId;
use fluxar_engine::sim::{Random, SimDriver, SimLease, SimSocket};
use fluxar_shard::log::CursorState;
use fluxar_shard::log::recovery::{Recovered, RecoveryFault};

/// A fault that a gateway could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It does not sync, and goes on as if it had.
    SyncLeftOut,
    /// It does not write, and goes on as if it had.
    WriteLeftOut,
    /// Recovery takes what was written for a torn tail.
    TailTakenForTorn,
    /// A start forgets which ids the log has.
    IdsForgotten,
    /// After a crash offsets are given out that events have.
    OffsetsReused,
    /// After a stop in good order an offset is left out.
    OffsetLeftOut,
    /// A start finds a cursor further than its subscriber came.
    CursorAhead,
    /// A start loses a row of a table.
    RowLost,
    /// A run never gets to its subscriber.
    RunLost,
    /// A run gets to its subscriber twice.
    RunTwice,
    /// Two runs change places.
    RunsSwapped,
    /// A byte of an event is another.
    EventAltered,
    /// An event of a work queue counts as acknowledged by a member that never got it.
    WorkSwallowed,
    /// What was given too often is dropped, and not set aside.
    DeadLetterLost,
    /// Events do not expire.
    ExpiryForgotten,
    /// A step of recovery fails although the disk refused nothing; the next may not.
    StepFails,
    /// The last recovery never ends.
    RecoveryStuck,
}

impl Fault {
    pub(crate) const ALL: [Fault; 17] = [
        Fault::SyncLeftOut,
        Fault::WriteLeftOut,
        Fault::TailTakenForTorn,
        Fault::IdsForgotten,
        Fault::OffsetsReused,
        Fault::OffsetLeftOut,
        Fault::CursorAhead,
        Fault::RowLost,
        Fault::RunLost,
        Fault::RunTwice,
        Fault::RunsSwapped,
        Fault::EventAltered,
        Fault::WorkSwallowed,
        Fault::DeadLetterLost,
        Fault::ExpiryForgotten,
        Fault::StepFails,
        Fault::RecoveryStuck,
    ];

    /// How often it strikes where it could.
    fn chance(self) -> f64 {
        match self {
            Fault::SyncLeftOut
            | Fault::IdsForgotten
            | Fault::OffsetsReused
            | Fault::OffsetLeftOut
            | Fault::CursorAhead
            | Fault::DeadLetterLost
            | Fault::ExpiryForgotten
            | Fault::RecoveryStuck => 1.0,
            Fault::RowLost => 0.5,
            Fault::TailTakenForTorn => 0.2,
            _ => 0.05,
        }
    }
}

/// Plants one fault, or none. Shared by all seams of a life.
#[derive(Debug, Clone)]
pub(crate) struct Saboteur(Rc<RefCell<Sabotage>>);

#[derive(Debug)]
struct Sabotage {
    fault: Option<Fault>,
    random: Random,
    struck: u64,
    /// All that publishers wait for was told: what starts now is the last to start.
    is_last: bool,
    /// Operations on files that the cores asked for so far.
    operations: u64,
}

impl Saboteur {
    pub(crate) fn new(fault: Option<Fault>, seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Sabotage {
            fault,
            random: Random::new(seed ^ 0x7361_626f),
            struck: 0,
            is_last: false,
            operations: 0,
        })))
    }

    /// Whether this fault strikes here and now.
    pub(crate) fn strikes(&self, fault: Fault) -> bool {
        let mut sabotage = self.0.borrow_mut();
        let is_time = fault != Fault::RecoveryStuck || sabotage.is_last;
        let strikes = sabotage.fault == Some(fault) && is_time && sabotage.random.chance(fault.chance());
        sabotage.struck += u64::from(strikes);
        strikes
    }

    /// What starts from now on is the last to start.
    pub(crate) fn is_last(&self) {
        self.0.borrow_mut().is_last = true;
    }

    /// What a step of recovery says, if it is not to read anything.
    pub(crate) fn fails_step(&self) -> Option<RecoveryFault> {
        let fault = RecoveryFault::Disk {
            verb: "read",
            name: "a segment".into(),
            error: io::Error::other("of a planted fault"),
        };
        self.strikes(Fault::StepFails).then_some(fault)
    }

    /// How often the fault struck.
    pub(crate) fn struck(&self) -> u64 {
        self.0.borrow().struck
    }

    /// Operations on files that the cores asked for so far.
    pub(crate) fn operations(&self) -> u64 {
        self.0.borrow().operations
    }

    /// What a core is told that recovery found.
    pub(crate) fn tamper(&self, share: &mut Recovered, was_clean: bool) {
        if !share.once.is_empty() && self.strikes(Fault::IdsForgotten) {
            share.once.clear();
        }
        for partition in &mut share.partitions {
            if !was_clean && partition.last > 0 && self.strikes(Fault::OffsetsReused) {
                partition.next = partition.last;
            }
            if was_clean && partition.last > 0 && self.strikes(Fault::OffsetLeftOut) {
                partition.next += 1;
            }
            if self.strikes(Fault::CursorAhead) {
                for cursor in &mut partition.cursors {
                    cursor.entry.state = Some(CursorState::up_to(partition.last));
                }
            }
            if !partition.rows.is_empty() && self.strikes(Fault::RowLost) {
                partition.rows.remove(0);
            }
        }
    }
}

/// A core's driver: the simulation's, with the disk behind a seam.
pub(crate) struct Seam {
    inner: SimDriver,
    core: usize,
    saboteur: Saboteur,
    /// Ends of operations that were never asked of the disk.
    lies: VecDeque<DiskDone>,
}

impl Seam {
    pub(crate) fn new(inner: SimDriver, core: usize, saboteur: Saboteur) -> Self {
        Self {
            inner,
            core,
            saboteur,
            lies: VecDeque::new(),
        }
    }
}

impl Driver for Seam {
    type Lease = SimLease;
    type Socket = SimSocket;

    fn now_ns(&self) -> u64 {
        self.inner.now_ns()
    }

    fn entropy(&mut self) -> io::Result<[u8; 32]> {
        self.inner.entropy()
    }

    fn accept(&mut self, listener: ListenerId) {
        self.inner.accept(listener);
    }

    fn stop_accept(&mut self, listener: ListenerId) {
        self.inner.stop_accept(listener);
    }

    fn open(&mut self, remote: Remote<'_>, source: Option<IpAddr>) -> io::Result<SimSocket> {
        self.inner.open(remote, source)
    }

    fn connect(&mut self, token: Token, socket: &SimSocket, remote: Remote<'_>) {
        self.inner.connect(token, socket, remote);
    }

    fn receive(&mut self, token: Token, socket: &SimSocket) {
        self.inner.receive(token, socket);
    }

    fn stop_receive(&mut self, token: Token) {
        self.inner.stop_receive(token);
    }

    fn send(&mut self, token: Token, socket: &SimSocket, gather: Box<Gather>) {
        self.inner.send(token, socket, gather);
    }

    fn shutdown_write(&mut self, socket: &SimSocket) {
        self.inner.shutdown_write(socket);
    }

    fn close(&mut self, token: Token, socket: SimSocket) {
        self.inner.close(token, socket);
    }

    fn free_buffers(&self) -> usize {
        self.inner.free_buffers()
    }

    fn disk(&mut self, op: DiskOp) {
        self.saboteur.0.borrow_mut().operations += 1;
        let lie = match op {
            DiskOp::Sync { file } if self.saboteur.strikes(Fault::SyncLeftOut) => {
                DiskDone::Synced { file, result: Ok(()) }
            }
            DiskOp::Write { file, at, .. } if self.saboteur.strikes(Fault::WriteLeftOut) => DiskDone::Wrote {
                file,
                at,
                result: Ok(()),
            },
            op => return self.inner.disk(op),
        };
        self.lies.push_back(lie);
        self.inner.wake(self.core);
    }

    fn wake(&mut self, core: usize) {
        self.inner.wake(core);
    }

    fn turn(&mut self, park_until_ns: Option<u64>) -> io::Result<()> {
        self.inner.turn(park_until_ns)
    }

    fn has_completions(&self) -> bool {
        !self.lies.is_empty() || self.inner.has_completions()
    }

    fn poll(&mut self) -> Option<Completion<SimLease, SimSocket>> {
        match self.lies.pop_front() {
            Some(done) => Some(Completion::Disk(done)),
            None => self.inner.poll(),
        }
    }
}
