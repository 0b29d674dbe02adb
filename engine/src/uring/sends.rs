//! Sends in flight: each keeps its gather list, and the vectors that point into it, until the kernel is through.

use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{opcode, squeue, types};

use super::user_data::{Kind, pack};
use crate::driver::Token;
use crate::gather::Gather;
use crate::limits::SLICES_MAX;

// More vectors than this are refused by the kernel (UIO_MAXIOV).
const _: () = assert!(SLICES_MAX <= 1024);

/// How many lists of vectors are kept for the sends to come, at most 1 KiB each.
const VECTORS_POOLED: usize = 1024;

/// The table of sends in flight. Slots are used again, so that sending allocates nothing once it runs.
///
/// Bound: one send a socket, so never more slots than the core had sockets at a time. A slot takes about 120 bytes, and
/// its vectors, 16 bytes each, only while its send is in flight.
#[derive(Debug, Default)]
pub(super) struct Sends {
    /// Boxed, because the kernel holds the address of a slot's header while the table grows.
    #[allow(clippy::vec_box)]
    slots: Vec<Box<Slot>>,
    free: Vec<u32>,
    /// Lists of vectors that no send uses.
    vectors: Vec<Vec<libc::iovec>>,
}

#[derive(Debug)]
struct Slot {
    owner: Token,
    gather: Option<Box<Gather>>,
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl Sends {
    /// Takes the list and makes the operation for it: one slice is a `SEND`, several are a `SENDMSG`.
    ///
    /// Without `MSG_WAITALL`: a send that fills the socket's buffer completes short. So progress is visible, sent runs
    /// are let go early, and the rest goes out coalesced with what was queued meanwhile.
    ///
    /// The operation points into this table. It is sound to submit as long as the table lives, unless
    /// [`Sends::finish`] was called for its slot.
    pub(super) fn begin(
        &mut self,
        owner: Token,
        socket: BorrowedFd<'_>,
        gather: Box<Gather>,
    ) -> squeue::Entry {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).expect("fewer sends than user_data has slots");
            self.slots.push(Box::new(Slot {
                owner,
                gather: None,
                vectors: Vec::new(),
                header: empty_header(),
            }));
            index
        });
        let slot = &mut self.slots[index as usize];
        slot.owner = owner;
        slot.vectors = self.vectors.pop().unwrap_or_default();
        slot.vectors.extend(gather.slices().map(|slice| libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        }));
        // The list may move now, its slices do not (an invariant of Gather).
        slot.gather = Some(gather);
        let fd = types::Fd(socket.as_raw_fd());
        let entry = match slot.vectors.as_slice() {
            [] => opcode::Nop::new().build(),
            [one] => {
                // A slice of 4 GiB and more is sent in part, like any short send.
                let len = u32::try_from(one.iov_len).unwrap_or(u32::MAX);
                opcode::Send::new(fd, one.iov_base.cast_const().cast(), len)
                    .flags(libc::MSG_NOSIGNAL)
                    .build()
            }
            _ => {
                slot.header.msg_iov = slot.vectors.as_mut_ptr();
                slot.header.msg_iovlen = slot.vectors.len() as _;
                opcode::SendMsg::new(fd, &raw const slot.header)
                    .flags(libc::MSG_NOSIGNAL as u32)
                    .build()
            }
        };
        entry.user_data(pack(
            Kind::Send,
            Token {
                slot: index,
                generation: 0,
            },
        ))
    }

    /// The kernel is through with a slot: its owner, and the list. `None` for a slot that has nothing in flight.
    pub(super) fn finish(&mut self, index: u32) -> Option<(Token, Box<Gather>)> {
        let slot = self.slots.get_mut(index as usize)?;
        let gather = slot.gather.take()?;
        let mut vectors = std::mem::take(&mut slot.vectors);
        if self.vectors.len() < VECTORS_POOLED {
            vectors.clear();
            self.vectors.push(vectors);
        }
        self.free.push(index);
        Some((slot.owner, gather))
    }
}

/// A header that names no address, no vectors, no control data.
fn empty_header() -> libc::msghdr {
    // SAFETY: msghdr is a C structure of pointers and integers, for which all-zero bytes are valid values. (It has
    // private padding on some targets, which is why it is not written out.)
    #[allow(unsafe_code)]
    unsafe {
        std::mem::zeroed()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use bytes::Bytes;

    use super::*;

    fn gather(pieces: usize) -> Box<Gather> {
        let mut gather = Box::new(Gather::new());
        for _ in 0..pieces {
            gather.push(Bytes::from(vec![7; 4096]));
        }
        gather
    }

    #[test]
    fn a_slot_keeps_its_list_until_it_is_finished_and_is_then_used_again() {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("pair");
        let mut sends = Sends::default();
        let owner = Token {
            slot: 9,
            generation: 3,
        };
        for pieces in [0, 1, 2, SLICES_MAX] {
            let entry = sends.begin(owner, socket.as_fd(), gather(pieces));
            let expected = match pieces {
                0 => opcode::Nop::CODE,
                1 => opcode::Send::CODE,
                _ => opcode::SendMsg::CODE,
            };
            assert_eq!(entry.get_opcode(), u32::from(expected));
            let (token, list) = sends.finish(0).expect("in flight");
            assert_eq!((token, list.len()), (owner, pieces * 4096));
            assert!(sends.finish(0).is_none());
        }
        assert_eq!(sends.slots.len(), 1);
    }

    #[test]
    fn after_a_burst_the_table_keeps_little() {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("pair");
        let mut sends = Sends::default();
        let owner = Token {
            slot: 0,
            generation: 0,
        };
        let burst = 3 * VECTORS_POOLED as u32;
        for _ in 0..burst {
            sends.begin(owner, socket.as_fd(), gather(3));
        }
        for slot in 0..burst {
            sends.finish(slot).expect("in flight");
        }
        let kept = |vectors: &Vec<libc::iovec>| vectors.capacity();
        assert_eq!(
            sends.slots.iter().map(|slot| kept(&slot.vectors)).sum::<usize>(),
            0
        );
        assert_eq!(sends.vectors.len(), VECTORS_POOLED);
        assert!(sends.vectors.iter().map(kept).sum::<usize>() <= VECTORS_POOLED * SLICES_MAX);
    }

    #[test]
    fn a_slot_stays_where_it_is_while_the_table_grows() {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("pair");
        let mut sends = Sends::default();
        let owner = Token {
            slot: 0,
            generation: 0,
        };
        sends.begin(owner, socket.as_fd(), gather(2));
        let before = &raw const sends.slots[0].header;
        for _ in 0..1000 {
            sends.begin(owner, socket.as_fd(), gather(2));
        }
        assert_eq!(before, &raw const sends.slots[0].header);
        assert_eq!(
            sends.slots[0].header.msg_iov.cast_const(),
            sends.slots[0].vectors.as_ptr()
        );
    }
}
