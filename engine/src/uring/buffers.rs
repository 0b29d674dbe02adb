//! The receive buffers of one core and the ring through which the kernel takes them.
//!
//! ```text
//!            publish (once a turn)              completion names a buffer
//!   ring ──────────────────────────> kernel ──────────────────────────────> Lease ─┐
//!    ^                                                                             │
//!    └──────────────────────────────── drop ──────────────────────────────────────┘
//! ```
//!
//! A buffer is in exactly one place: in the ring, with the kernel, or behind one [`Lease`]. The ring has as many
//! entries as there are buffers, so giving one back always finds room.

#![allow(unsafe_code)]

use std::cell::Cell;
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
    /// Where the next buffer is given back; the kernel sees it after [`Pool::publish`].
    tail: Cell<u16>,
    /// Buffers that are in the ring, as far as completions told.
    free: Cell<u32>,
}

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
            free: Cell::new(0),
        };
        for id in 0..config.buffers {
            // SAFETY: each buffer is named once, and the kernel knows none of them yet.
            unsafe { pool.give_back(id) };
        }
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

    /// Lets the kernel see the buffers that were given back since the last time.
    #[inline]
    pub(super) fn publish(&self) {
        // SAFETY: the tail lies in the ring's first entry, is aligned for a u16, and is written by nobody else; the
        // kernel only reads it. Release, so that the entries before it are seen first.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.as_ptr().cast_const()).cast_mut()) };
        tail.store(self.tail.get(), Ordering::Release);
    }

    /// Takes note that a completion named a buffer.
    #[inline]
    pub(super) fn note_filled(&self) {
        self.free.set(self.free.get() - 1);
    }

    /// Buffers that are neither on loan nor filled.
    #[inline]
    pub(super) fn free(&self) -> usize {
        self.free.get() as usize
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

    /// Puts a buffer back into the ring.
    ///
    /// # Safety
    /// The buffer is not in the ring, not with the kernel, and nobody will touch it until a completion names it again.
    #[inline]
    unsafe fn give_back(&self, id: u16) {
        let tail = self.tail.get();
        // SAFETY: the index is masked to the ring's size (a power of two). There are as many entries as buffers and
        // this one is not in the ring, so the kernel is through with this entry. The setters leave the tail, which
        // shares the first entry, alone.
        let entry = unsafe { &mut *self.ring.as_ptr().add(usize::from(tail & (self.count - 1))) };
        entry.set_addr(self.buffer(id).as_ptr() as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail.set(tail.wrapping_add(1));
        self.free.set(self.free.get() + 1);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Pool({} × {} bytes, {} free)",
            self.count,
            self.buffer_bytes,
            self.free.get()
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
        // SAFETY: the buffer left the ring when a completion named it, only this lease had it, and it is gone.
        unsafe { self.pool.give_back(self.id) };
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
