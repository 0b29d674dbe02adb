//! The simulation: several cores' drivers, a network and clients in one thread, on a virtual clock, from one seed.
//!
//! What runs above the [`Driver`](crate::driver::Driver) is the code of a real gateway. What runs below it is this: a
//! network that cuts reads and writes short, delivers completions late and in another order, runs out of receive
//! buffers, fails accepts and resets connections, as often as [`Faults`] says, and never breaks what TCP promises:
//! bytes of a connection arrive in order, once, until it ends or is reset. Cores dial its listeners, too
//! ([`World::address`]). There is a disk, too ([`World::disk`]). It proves nothing about the kernel.
//!
//! ```text
//!   test code: ClientSocket::{write, read, …}        cores: Reactor over SimDriver, stepped by the test
//!            │ ^                                              │ ^  turn(): what is ready now
//!            v │                                              v │
//!          pipes, bounded, with latency ──────────────── operations under way
//!                        └────────── World::step(): who goes on? if nobody can, the clock moves ─┘
//! ```
//!
//! A test drives it like this, and prints the seed when it fails:
//!
//! ```
//! use fluxar_engine::sim::{Faults, Step, World};
//! # let mut cores: Vec<()> = Vec::new();
//! # let mut run_once = |_core: usize| {};
//! let mut world = World::new(7, 2, Faults::wild());
//! let listener = world.listen();
//! // For each core: Reactor::new(world.driver(core), …).
//! let mut client = world.connect(listener);
//! client.write(b"hello");
//! for _ in 0..1000 {
//!     match world.step() {
//!         Step::Core(core) => run_once(core),  // turn, poll until empty, effects, flush
//!         Step::Clients => { client.read(); }  // something arrived at a client, or an alarm rang
//!         Step::Quiet => break,                // nothing can happen any more
//!     }
//! }
//! ```

mod client;
pub mod disk;
mod driver;
mod faults;
mod link;
mod network;
mod random;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::listener::{Address, ListenerId};
use crate::mail::Wake;

pub use client::{ClientSocket, ClientState};
pub use disk::{DiskFaults, SimDisk};
pub use driver::{SimDriver, SimLease, SimSocket};
pub use faults::Faults;
pub use random::Random;

use network::Network;

/// The network, shared by drivers, sockets and clients. All are in one thread; the lock only makes sockets `Send`, as
/// drivers' sockets have to be, and is never contended.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Network>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Network> {
        // A test that panicked elsewhere is better reported by its own message.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This core: its loop runs once.
    Core(usize),
    /// The clients: something arrived at one, one can write again, or an alarm rang. Said once for each moment.
    Clients,
    /// Nobody: all cores are parked without a deadline, and nothing is under way.
    Quiet,
}

/// The simulated machine and its network.
#[derive(Debug)]
pub struct World {
    network: Shared,
}

impl World {
    /// A world in which everything follows from the seed.
    #[must_use]
    pub fn new(seed: u64, cores: usize, faults: Faults) -> World {
        World {
            network: Shared(Arc::new(Mutex::new(Network::new(seed, cores, faults)))),
        }
    }

    /// Opens a listener; every core's driver knows it.
    pub fn listen(&mut self) -> ListenerId {
        self.network.lock().listen()
    }

    /// Where a core that dials finds a listener, as a byte stream.
    #[must_use]
    pub fn address(&self, listener: ListenerId) -> Address {
        Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: network::FIRST_PORT + listener.0,
        }
    }

    /// Where a core that dials finds a listener, as a WebSocket.
    #[must_use]
    pub fn websocket_address(&self, listener: ListenerId) -> Address {
        Address::WebSocket {
            host: "127.0.0.1".to_owned(),
            port: network::FIRST_PORT + listener.0,
            path: "/".to_owned(),
        }
    }

    /// A core's driver. To be taken once a core, and again when that one was dropped: a core that starts anew.
    pub fn driver(&mut self, core: usize) -> SimDriver {
        SimDriver::new(core, self.network.clone())
    }

    /// The disk, which outlives the cores that write to it.
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        SimDisk::new(self.network.clone())
    }

    /// Wakes a core, as the main thread does with a letter; see [`crate::mail::Control::attach`].
    #[must_use]
    pub fn waker(&self, core: usize) -> Box<dyn Wake> {
        Box::new(SimWaker {
            core,
            network: self.network.clone(),
        })
    }

    /// Lets a core run although nothing happened to it: for tests that call a reactor's verbs between its turns.
    pub fn wake(&mut self, core: usize) {
        self.network.lock().wake(core);
    }

    /// Has a core take no turn before then, as one does whose thread is not run, or that is long about a single thing. A driver
    /// that is taken for the core meanwhile ends it.
    pub fn stall(&mut self, core: usize, until_ns: u64) {
        self.network.lock().stall(core, until_ns);
    }

    /// Connects a client. If the listener's backlog is full, the socket is [`ClientState::Reset`].
    pub fn connect(&mut self, listener: ListenerId) -> ClientSocket {
        let link = self.network.lock().connect(listener);
        ClientSocket::new(link, self.network.clone())
    }

    /// Says who goes on: one of the cores that can, drawn at random. Only if none can does the clock move, to the next
    /// moment at which something happens.
    pub fn step(&mut self) -> Step {
        self.network.lock().step()
    }

    /// Has [`World::step`] say [`Step::Clients`] at this time, for clients that act on their own.
    pub fn alarm_at(&mut self, at_ns: u64) {
        self.network.lock().alarm_at(at_ns);
    }

    /// The clock. It begins at one second.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.network.lock().now_ns()
    }

    /// The seeded randomness, for the test's own choices.
    pub fn random<T>(&mut self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(self.network.lock().random())
    }

    /// Changes how unkind the network is from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.network.lock().set_faults(faults);
    }

    /// A hash of everything that happened so far: two runs from one seed agree on it.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.network.lock().digest()
    }

    /// How many receive buffers of a core are on loan.
    #[must_use]
    pub fn leases_lent(&self, core: usize) -> usize {
        self.network.lock().leases_lent(core)
    }

    /// How many sockets the cores hold.
    #[must_use]
    pub fn sockets_open(&self) -> usize {
        self.network.lock().sockets_open()
    }

    /// How many operations (receives, sends) are under way.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.network.lock().operations()
    }
}

struct SimWaker {
    core: usize,
    network: Shared,
}

impl Wake for SimWaker {
    fn wake(&self) {
        self.network.lock().wake(self.core);
    }
}
