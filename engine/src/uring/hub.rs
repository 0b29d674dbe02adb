//! How cores wake each other: who is parked, and by which descriptor it hears.
//!
//! Each core has one word. A lost wake is impossible because every change of it is one atomic exchange, and because a
//! core empties its mailboxes *after* it has left the parked state:
//!
//! ```text
//!            park (nothing noted)                 wake: ring message or eventfd
//!   AWAKE ──────────────────────────> PARKED ───────────────────────────────────> NOTED
//!     │  ^                                                                          │
//!     │  └────────────────── turn ends, mailboxes are looked at ───────────────────┘
//!     └── wake: only noted; the next park returns at once ─────────────────────────> NOTED
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::event::{EventfdFlags, eventfd};

use crate::mail::Wake;

const AWAKE: u8 = 0;
const PARKED: u8 = 1;
const NOTED: u8 = 2;

/// The meeting point of all cores' rings. Made first, by the main thread; each core's driver registers itself. No
/// barrier is needed: a core that is woken before it exists finds the note when it first parks.
#[derive(Debug)]
pub struct UringHub {
    ports: Box<[Port]>,
}

/// One core's, on cache lines of its own: it is written by every core that sends it mail.
#[derive(Debug)]
#[repr(align(128))]
struct Port {
    state: AtomicU8,
    claimed: AtomicBool,
    /// A duplicate of the ring's descriptor, so that it never names anything else, even after the core is gone.
    ring: OnceLock<OwnedFd>,
    eventfd: OwnedFd,
}

impl UringHub {
    /// A hub for so many cores.
    ///
    /// # Errors
    /// Out of descriptors: it takes one a core, and each driver two more.
    pub fn new(cores: usize) -> io::Result<Arc<UringHub>> {
        let port = |_| {
            Ok(Port {
                state: AtomicU8::new(AWAKE),
                claimed: AtomicBool::new(false),
                ring: OnceLock::new(),
                eventfd: eventfd(0, EventfdFlags::CLOEXEC)?,
            })
        };
        Ok(Arc::new(UringHub {
            ports: (0..cores).map(port).collect::<io::Result<_>>()?,
        }))
    }

    /// How many cores.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.ports.len()
    }

    /// A way to wake a core for threads that have no ring.
    ///
    /// # Panics
    /// If the hub has no such core.
    #[must_use]
    pub fn waker(self: &Arc<UringHub>, core: usize) -> Waker {
        assert!(core < self.cores(), "core {core} of a hub for {}", self.cores());
        Waker {
            hub: Arc::clone(self),
            core,
        }
    }

    /// Takes a core's place.
    pub(super) fn claim(&self, core: usize) -> io::Result<()> {
        let refuse = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        match self.ports.get(core) {
            None => refuse(format!("core {core} of a hub for {}", self.cores())),
            Some(port) if port.claimed.swap(true, Ordering::AcqRel) => {
                refuse(format!("core {core} has a driver already"))
            }
            Some(_) => Ok(()),
        }
    }

    /// Gives a place up again whose driver did not come to be.
    pub(super) fn release(&self, core: usize) {
        self.ports[core].claimed.store(false, Ordering::Release);
    }

    /// Makes a core's ring known to the others.
    pub(super) fn introduce(&self, core: usize, ring: OwnedFd) {
        // Only the claimant of a core gets here, once.
        let _ = self.ports[core].ring.set(ring);
    }

    /// The other core's ring, if it is there yet.
    pub(super) fn ring(&self, core: usize) -> Option<RawFd> {
        self.ports[core].ring.get().map(AsRawFd::as_raw_fd)
    }

    pub(super) fn eventfd(&self, core: usize) -> BorrowedFd<'_> {
        self.ports[core].eventfd.as_fd()
    }

    /// Before waiting. False if a wake was noted since the last turn: do not wait.
    pub(super) fn park(&self, core: usize) -> bool {
        self.ports[core]
            .state
            .compare_exchange(AWAKE, PARKED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// After waiting, or instead of it: mail is looked at next, so notes up to here are served.
    pub(super) fn unpark(&self, core: usize) {
        let state = &self.ports[core].state;
        // Acquire: who noted the wake had put its letter into the mailbox before. The plain load keeps the cache line
        // shared while nothing is noted; a note that it misses stays for the next turn.
        if state.load(Ordering::Relaxed) != AWAKE {
            state.swap(AWAKE, Ordering::AcqRel);
        }
    }

    /// The core is gone: wakes are noted and nothing else.
    pub(super) fn retire(&self, core: usize) {
        self.ports[core].state.store(NOTED, Ordering::Release);
    }

    /// Notes a wake. True if the core was parked and has to be told.
    pub(super) fn note(&self, core: usize) -> bool {
        self.ports[core].state.swap(NOTED, Ordering::AcqRel) == PARKED
    }

    /// Tells a core by its eventfd.
    pub(super) fn signal(&self, core: usize) {
        // It fails only if 2^64 wakes are unread, and then the core is awake.
        let _ = rustix::io::write(self.eventfd(core), &1u64.to_ne_bytes());
    }
}

/// Wakes one core from any thread, by its eventfd.
#[derive(Debug, Clone)]
pub struct Waker {
    hub: Arc<UringHub>,
    core: usize,
}

impl Wake for Waker {
    fn wake(&self) {
        if self.hub.note(self.core) {
            self.hub.signal(self.core);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_before_the_park_forbids_it_once() {
        let hub = UringHub::new(1).expect("hub");
        assert!(!hub.note(0), "nobody is parked");
        assert!(!hub.park(0));
        hub.unpark(0);
        assert!(hub.park(0));
        assert!(hub.note(0), "parked: has to be told");
        assert!(!hub.note(0), "told once");
        hub.unpark(0);
        assert!(hub.park(0));
    }

    #[test]
    fn a_core_is_claimed_once_and_only_if_it_exists() {
        let hub = UringHub::new(1).expect("hub");
        hub.claim(0).expect("free");
        assert!(hub.claim(0).expect_err("taken").to_string().contains("already"));
        hub.release(0);
        hub.claim(0).expect("free again");
        assert!(
            hub.claim(1)
                .expect_err("beyond")
                .to_string()
                .contains("hub for 1")
        );
    }
}
