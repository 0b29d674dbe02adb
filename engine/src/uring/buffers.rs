//! The receive buffers of one core and the ring through which the kernel takes them.
//!
//! ```text
//!               publish (once a turn)            completion names a buffer
//!   spare ──> ring ─────────────────> kernel ──────────────────────────────> Lease ─┐
//!     ^                                                                             │
//!     └──────────────────────────────── drop ───────────────────────────────────────┘
//! ```
//!
//! A buffer is in exactly one place: spare, in the ring or with the kernel, or behind one [`Lease`]. The ring has as
//! many entries as there are buffers, so publishing always finds room.
//!
//! The ring is first in, first out: with all buffers in it, receives would walk through all of their memory, and each
//! would be copied to lines that the cache has long let go. So the ring gets only as many as receives need between
//! two turns (`wanted`), and the spare ones, a stack, give the one that was used last. When several receives found the
//! ring dry the number doubles (one alone is a bulk stream, which goes on at the next turn); when for a while three
//! quarters of it were never touched, it halves.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::config::UringConfig;

/// The one group of provided buffers that a ring has.
pub(super) const GROUP: u16 = 0;

/// The buffers. Shared by the driver and its leases, on one thread.
pub(super) struct Pool {
    /// The first entry of the ring.
    ring: NonNull<BufRingEntry>,
    _ring_pages: Pages,
    bytes: Pages,
    count: u16,
    buffer_bytes: u32,
    /// Where the next buffer is put into the ring; the kernel sees it after [`Pool::publish`].
    tail: Cell<u16>,
    /// Buffers that are in the ring, as far as completions told.
    in_ring: Cell<u16>,
    /// Buffers that are nowhere. The last one given back is the first one taken. Never grows: it has room for all.
    spare: RefCell<Vec<u16>>,
    /// How many the ring is filled up to.
    wanted: Cell<u16>,
    /// Fewest that were in the ring since `wanted` was looked at last.
    fewest: Cell<u16>,
    /// Receives that found none, since then.
    starved: Cell<u16>,
    /// Publishes since then.
    published: Cell<u16>,
}

/// Fewest buffers that the ring is filled up to: 512 KiB of the default size, twice what a turn of the gateway takes.
const WANTED_LEAST: u16 = 32;
/// Receives that find the ring dry between two looks before it gets more.
const STARVED_LEAST: u16 = 4;
/// Publishes after which a ring that was never emptied to a quarter gets fewer buffers.
const PUBLISHES_A_LOOK: u16 = 4096;

impl Pool {
    /// Maps the buffers, fills the ring and registers it.
    ///
    /// # Errors
    /// What the kernel answers: `EINVAL` before Linux 5.19, `ENOMEM` past the lockable memory.
    pub(super) fn register(ring: &IoUring, config: &UringConfig) -> io::Result<Rc<Pool>> {
        let ring_pages = Pages::map(usize::from(config.buffers) * size_of::<BufRingEntry>())?;
        let bytes = Pages::map(usize::from(config.buffers) * config.buffer_bytes as usize)?;
        let pool = Pool {
            ring: ring_pages.start.cast(),
            _ring_pages: ring_pages,
            bytes,
            count: config.buffers,
            buffer_bytes: config.buffer_bytes,
            tail: Cell::new(0),
            in_ring: Cell::new(0),
            spare: RefCell::new((0..config.buffers).rev().collect()),
            wanted: Cell::new(WANTED_LEAST.min(config.buffers)),
            fewest: Cell::new(config.buffers),
            starved: Cell::new(0),
            published: Cell::new(0),
        };
        pool.publish();
        let address = pool.ring.as_ptr() as u64;
        // SAFETY: the ring is a mapping, so page-aligned, of `count` entries that lives as long as `pool`. No operation uses the
        // group before the driver has the pool, and the driver lets go of it only after the group is unregistered, or
        // never.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, config.buffers, GROUP, 0)?
        };
        Ok(Rc::new(pool))
    }

    /// Fills the ring up and lets the kernel see it.
    #[inline]
    pub(super) fn publish(&self) {
        self.look();
        let missing = self.wanted.get().saturating_sub(self.in_ring.get());
        if missing > 0 {
            self.fill(missing);
        }
        // SAFETY: the tail lies in the ring's first entry, is aligned for a u16, and is written by nobody else; the
        // kernel only reads it. Release, so that the entries before it are seen first.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.as_ptr().cast_const()).cast_mut()) };
        tail.store(self.tail.get(), Ordering::Release);
    }

    /// Takes note that a completion named a buffer.
    #[inline]
    pub(super) fn note_filled(&self) {
        let in_ring = self.in_ring.get() - 1;
        self.in_ring.set(in_ring);
        if in_ring < self.fewest.get() {
            self.fewest.set(in_ring);
        }
    }

    /// Takes note that a receive ended because the ring was dry.
    #[cold]
    pub(super) fn note_starved(&self) {
        self.starved.set(self.starved.get().saturating_add(1));
    }

    /// Buffers that are neither on loan nor filled.
    #[inline]
    pub(super) fn free(&self) -> usize {
        usize::from(self.in_ring.get()) + self.spare.borrow().len()
    }

    /// Looks whether the ring gets more buffers, or fewer, from now on.
    #[inline]
    fn look(&self) {
        let wanted = self.wanted.get();
        self.published.set(self.published.get() + 1);
        if self.starved.get() >= STARVED_LEAST {
            self.wanted.set(wanted.saturating_mul(2).min(self.count));
        } else if self.published.get() < PUBLISHES_A_LOOK {
            return;
        } else if self.fewest.get() > wanted - wanted / 4 {
            self.wanted.set((wanted / 2).max(WANTED_LEAST.min(self.count)));
        }
        self.published.set(0);
        self.starved.set(0);
        self.fewest.set(self.count);
    }

    /// Puts spare buffers into the ring.
    fn fill(&self, buffers: u16) {
        let mut spare = self.spare.borrow_mut();
        for _ in 0..buffers {
            let Some(id) = spare.pop() else { break };
            let tail = self.tail.get();
            // SAFETY: the index is masked to the ring's size (a power of two). There are as many entries as buffers and
            // this one is not in the ring, so the kernel is through with this entry. The setters leave the tail, which
            // shares the first entry, alone.
            let entry = unsafe { &mut *self.ring.as_ptr().add(usize::from(tail & (self.count - 1))) };
            entry.set_addr(self.buffer(id).as_ptr() as u64);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(id);
            self.tail.set(tail.wrapping_add(1));
            self.in_ring.set(self.in_ring.get() + 1);
        }
    }

    /// A filled buffer on loan.
    ///
    /// # Safety
    /// A completion named buffer `id`, was noted by [`Pool::note_filled`], and no lease was made for it before.
    #[inline]
    pub(super) unsafe fn lend(self: &Rc<Pool>, id: u16, len: usize) -> Lease {
        assert!(
            id < self.count && len <= self.buffer_bytes as usize,
            "the kernel names a buffer that it was given"
        );
        Lease {
            pool: Rc::clone(self),
            id,
            len: len as u32,
        }
    }

    /// Where a buffer begins.
    #[inline]
    fn buffer(&self, id: u16) -> NonNull<u8> {
        debug_assert!(id < self.count);
        // SAFETY: `id` is below `count` (checked by `lend` for every lease, by the loop bounds in `register`), so the
        // offset stays inside the one mapping of count × buffer_bytes.
        unsafe { self.bytes.start.add(usize::from(id) * self.buffer_bytes as usize) }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Pool({} × {} bytes, {} free)",
            self.count,
            self.buffer_bytes,
            self.free()
        )
    }
}

/// Zeroed pages of their own, which cost nothing until they are written. (An allocator would zero them by writing.)
///
/// Dropped with the pool: then no lease is left (each holds an Rc of the pool), and the kernel does not use them,
/// because the driver unregistered the group before it let go of its Rc, or leaked it.
struct Pages {
    start: NonNull<u8>,
    len: usize,
}

impl Pages {
    fn map(len: usize) -> io::Result<Pages> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, flags)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Pages { start, len })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, was made with this length, and nobody has its address any more (see
        // the type). An error would leave it mapped, which harms nobody.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Received bytes in a buffer on loan. Dropping it gives the buffer back; the kernel sees it at the next turn.
pub struct Lease {
    pool: Rc<Pool>,
    id: u16,
    len: u32,
}

impl Deref for Lease {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer is this lease's alone until it is dropped, was zeroed at the start and written by the
        // kernel since, and has at least `len` bytes (checked by `lend`).
        unsafe { std::slice::from_raw_parts(self.pool.buffer(self.id).as_ptr(), self.len as usize) }
    }
}

impl DerefMut for Lease {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pool.buffer(self.id).as_ptr(), self.len as usize) }
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        // The buffer left the ring when a completion named it, only this lease had it, and it is gone.
        self.pool.spare.borrow_mut().push(self.id);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({} bytes of buffer {})", self.len, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buffers go round many times more than the 16-bit tail counts, each lease has its own memory, writable.
    #[test]
    fn leases_go_round_without_overlap() {
        let config = UringConfig {
            buffers: 8,
            buffer_bytes: 64,
            ..UringConfig::default()
        };
        let ring = IoUring::new(8).expect("ring");
        let pool = Pool::register(&ring, &config).expect("register");
        assert_eq!(pool.free(), 8);
        for round in 0..20_000u32 {
            let mut leases: Vec<Lease> = (0..8)
                .map(|id| {
                    pool.note_filled();
                    // SAFETY: no operation is armed, so the kernel holds none of the buffers, and each is lent once
                    // before all are given back.
                    unsafe { pool.lend(id, 64) }
                })
                .collect();
            assert_eq!(pool.free(), 0);
            for (id, lease) in leases.iter_mut().enumerate() {
                lease.fill(round as u8 ^ id as u8);
            }
            for (id, lease) in leases.iter().enumerate() {
                assert!(lease.iter().all(|&byte| byte == round as u8 ^ id as u8));
            }
            drop(leases);
            pool.publish();
        }
        assert_eq!(pool.free(), 8);
        ring.submitter().unregister_buf_ring(GROUP).expect("unregister");
    }

    #[test]
    fn a_lease_outlives_the_driver_that_lent_it() {
        let config = UringConfig {
            buffers: 2,
            buffer_bytes: 64,
            ..UringConfig::default()
        };
        let ring = IoUring::new(8).expect("ring");
        let pool = Pool::register(&ring, &config).expect("register");
        pool.note_filled();
        // SAFETY: as above.
        let lease = unsafe { pool.lend(1, 10) };
        ring.submitter().unregister_buf_ring(GROUP).expect("unregister");
        drop((ring, pool));
        assert_eq!(lease[..], [0; 10]);
    }
}
