//! The receive buffers of one core and the ring through which the kernel takes them.
//!
//! ```text
//!               publish (once a turn)            completion names a buffer
//!   spare ──> ring ─────────────────> kernel ──────────────────────────────> Lease ─┐
//!     ^                                                                             │
//!     └──────────────────────────────── drop ───────────────────────────────────────┘
//! ```
//!
//! From Linux 6.12 on the kernel fills a buffer bit by bit (`IOU_PBUF_RING_INC`): each receive takes what it needs of
//! the first buffer in the ring and leaves the rest to the next one, so that a thousand small messages touch a few
//! pages. Before, each receive takes a whole buffer. Either way a buffer goes from the ring to its leases, each with a
//! part of its own, and is spare again when the kernel has said that it is through with it and the last lease is gone.
//! The ring has as many entries as there are buffers, so publishing always finds room.
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
    /// What of each buffer is on loan.
    loans: Box<[Cell<Loans>]>,
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

/// A buffer that is not spare.
#[derive(Debug, Clone, Copy, Default)]
struct Loans {
    /// Bytes that the kernel has filled, as far as completions told.
    filled: u32,
    /// Leases that are out. Each but those that are dropped at once has a byte of its own, so they are no more than the
    /// bytes of a buffer, 2 to the power of 24.
    leases: u32,
    /// Whether the kernel may fill more of it.
    in_ring: bool,
}

/// What the ring is filled up to at least: twice what a turn of the gateway takes.
const WANTED_BYTES_LEAST: u32 = 512 * 1024;
/// … and in buffers.
const WANTED_LEAST: u16 = 4;
/// `IOU_PBUF_RING_INC`, see io_uring_register_buf_ring(3).
const INCREMENTAL: u16 = 2;
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
            loans: vec![Cell::default(); usize::from(config.buffers)].into(),
            spare: RefCell::new((0..config.buffers).rev().collect()),
            wanted: Cell::new(wanted_least(config.buffers, config.buffer_bytes)),
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
            let submitter = ring.submitter();
            let register =
                |flags| submitter.register_buf_ring_with_flags(address, config.buffers, GROUP, flags);
            // A kernel that does not know the flag refuses it; then the registration without it has the last word.
            let incremental = if config.incremental { INCREMENTAL } else { 0 };
            register(incremental).or_else(|_| register(0))?;
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

    /// Takes note that a completion named a buffer. Unless the kernel has `more` for it, the ring has one less.
    #[inline]
    pub(super) fn note_filled(&self, more: bool) {
        if more {
            return;
        }
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

    /// Buffers that a receive may still use: spare ones, and those in the ring, be they filled in part.
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
            self.wanted
                .set((wanted / 2).max(wanted_least(self.count, self.buffer_bytes)));
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
            self.loans[usize::from(id)].set(Loans {
                filled: 0,
                leases: 0,
                in_ring: true,
            });
            self.tail.set(tail.wrapping_add(1));
            self.in_ring.set(self.in_ring.get() + 1);
        }
    }

    /// The next part of a buffer on loan.
    ///
    /// # Safety
    /// A completion said that `len` bytes were filled in buffer `id`, and whether there is `more` to come. Completions of
    /// one buffer are lent in the kernel's order, each once, after [`Pool::note_filled`].
    #[inline]
    pub(super) unsafe fn lend(self: &Rc<Pool>, id: u16, len: usize, more: bool) -> Lease {
        let loans = &self.loans[usize::from(id)];
        let Loans {
            filled,
            leases,
            in_ring,
        } = loans.get();
        assert!(
            in_ring && len <= (self.buffer_bytes - filled) as usize,
            "the kernel names a part of a buffer that it was given"
        );
        loans.set(Loans {
            filled: filled + len as u32,
            leases: leases + 1,
            in_ring: more,
        });
        Lease {
            pool: Rc::clone(self),
            id,
            start: filled,
            len: len as u32,
        }
    }

    /// A lease is gone.
    #[inline]
    fn give_back(&self, id: u16) {
        let cell = &self.loans[usize::from(id)];
        let mut loans = cell.get();
        loans.leases -= 1;
        cell.set(loans);
        if loans.leases == 0 && !loans.in_ring {
            self.spare.borrow_mut().push(id);
        }
    }

    /// Where a buffer begins.
    #[inline]
    fn buffer(&self, id: u16) -> NonNull<u8> {
        debug_assert!(id < self.count);
        // SAFETY: `id` is below `count` (it indexed `loans` in `lend` for every lease, and `spare` holds no others), so
        // the offset stays inside the one mapping of count × buffer_bytes.
        unsafe { self.bytes.start.add(usize::from(id) * self.buffer_bytes as usize) }
    }
}

fn wanted_least(buffers: u16, buffer_bytes: u32) -> u16 {
    let least = WANTED_BYTES_LEAST / buffer_bytes.max(1);
    (least.min(u32::from(u16::MAX)) as u16)
        .max(WANTED_LEAST)
        .min(buffers)
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

/// Received bytes in a part of a buffer on loan. Dropping the last one of a buffer that the kernel is through with
/// gives it back; the kernel sees it at the next turn.
pub struct Lease {
    pool: Rc<Pool>,
    id: u16,
    start: u32,
    len: u32,
}

impl Lease {
    /// Where its part begins.
    #[inline]
    fn bytes(&self) -> *mut u8 {
        // SAFETY: `lend` checked that start and len lie inside the buffer.
        unsafe { self.pool.buffer(self.id).add(self.start as usize).as_ptr() }
    }
}

impl Deref for Lease {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: these `len` bytes of the buffer (checked by `lend`) are this lease's alone until it is dropped: what
        // was lent before lies in front of them, what the kernel still fills behind. They were zeroed at the start and
        // written by the kernel since.
        unsafe { std::slice::from_raw_parts(self.bytes(), self.len as usize) }
    }
}

impl DerefMut for Lease {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.bytes(), self.len as usize) }
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        self.pool.give_back(self.id);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Lease({} bytes at {} of buffer {})",
            self.len, self.start, self.id
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(buffers: u16, buffer_bytes: u32) -> (IoUring, Rc<Pool>) {
        let config = UringConfig {
            buffers,
            buffer_bytes,
            ..UringConfig::default()
        };
        let ring = IoUring::new(8).expect("ring");
        let pool = Pool::register(&ring, &config).expect("register");
        (ring, pool)
    }

    /// Plays the kernel: the buffers in the order of the ring, each in `parts` parts.
    fn lend_all(pool: &Rc<Pool>, parts: u32) -> Vec<Lease> {
        let mut leases = Vec::new();
        let head = pool.tail.get().wrapping_sub(pool.in_ring.get());
        for at in 0..pool.in_ring.get() {
            // SAFETY: inside the ring; nobody writes it meanwhile.
            let entry = unsafe {
                &*pool
                    .ring
                    .as_ptr()
                    .add(usize::from(head.wrapping_add(at) & (pool.count - 1)))
            };
            for part in 1..=parts {
                let more = part < parts;
                pool.note_filled(more);
                let len = (pool.buffer_bytes / parts) as usize;
                // SAFETY: no operation is armed, so the kernel holds none of the buffers, and each is lent in order.
                leases.push(unsafe { pool.lend(entry.bid(), len, more) });
            }
        }
        leases
    }

    /// Buffers go round many times more than the 16-bit tail counts, each lease has its own memory, writable.
    #[test]
    fn leases_go_round_without_overlap() {
        let (ring, pool) = pool(8, 64);
        assert_eq!(pool.free(), 8);
        for round in 0..20_000u32 {
            let mut leases = lend_all(&pool, 1 + round % 4);
            assert_eq!(leases.len() as u32, 8 * (1 + round % 4));
            assert_eq!(pool.free(), 0);
            for (at, lease) in leases.iter_mut().enumerate() {
                lease.fill(round as u8 ^ at as u8);
            }
            for (at, lease) in leases.iter().enumerate() {
                assert!(lease.iter().all(|&byte| byte == round as u8 ^ at as u8));
            }
            drop(leases);
            pool.publish();
        }
        assert_eq!(pool.free(), 8);
        ring.submitter().unregister_buf_ring(GROUP).expect("unregister");
    }

    #[test]
    fn a_buffer_that_the_kernel_goes_on_filling_is_not_spare() {
        let (_ring, pool) = pool(4, 64);
        pool.note_filled(true);
        // SAFETY: as above.
        let first = unsafe { pool.lend(0, 10, true) };
        drop(first);
        assert!(!pool.spare.borrow().contains(&0));
        pool.note_filled(false);
        // SAFETY: as above.
        let last = unsafe { pool.lend(0, 54, false) };
        assert!(!pool.spare.borrow().contains(&0));
        drop(last);
        assert!(pool.spare.borrow().contains(&0));
    }

    #[test]
    fn a_ring_that_many_find_dry_grows_and_one_that_nobody_needs_shrinks() {
        let (_ring, pool) = pool(1024, 16 * 1024);
        let least = pool.wanted.get();
        assert_eq!(least, 32);
        pool.note_starved();
        pool.publish();
        assert_eq!(pool.wanted.get(), least, "one bulk stream is no reason");
        for _ in 0..STARVED_LEAST {
            pool.note_starved();
        }
        pool.publish();
        assert_eq!((pool.wanted.get(), pool.in_ring.get()), (2 * least, 2 * least));
        for _ in 0..PUBLISHES_A_LOOK {
            pool.publish();
        }
        assert_eq!(pool.wanted.get(), least);
    }

    #[test]
    fn a_lease_outlives_the_driver_that_lent_it() {
        let (ring, pool) = pool(2, 64);
        pool.note_filled(false);
        // SAFETY: as above.
        let lease = unsafe { pool.lend(1, 10, false) };
        ring.submitter().unregister_buf_ring(GROUP).expect("unregister");
        drop((ring, pool));
        assert_eq!(lease[..], [0; 10]);
    }
}
