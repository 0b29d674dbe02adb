//! Connects in flight: each keeps the address that it goes to until the kernel is through.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{opcode, squeue, types};
use rustix::net::addr::SocketAddrArg;
use rustix::net::{SocketAddrAny, SocketAddrUnix};

use super::user_data::{Kind, pack};
use crate::dial::Remote;
use crate::driver::Token;

/// The addresses of connects in flight, by owner. Bound: one a socket that is not connected yet.
#[derive(Debug, Default)]
pub(super) struct Connects {
    /// Boxed, because the kernel holds an address's address while the tree moves its nodes.
    addresses: BTreeMap<Token, Box<SocketAddrAny>>,
}

impl Connects {
    /// The operation that connects.
    ///
    /// It points into this table. It is sound to submit as long as the table lives, unless [`Connects::finish`] was
    /// called for its owner.
    ///
    /// # Panics
    /// If the owner has a connect in flight.
    #[must_use]
    pub(super) fn begin(
        &mut self,
        owner: Token,
        socket: BorrowedFd<'_>,
        remote: Remote<'_>,
    ) -> squeue::Entry {
        // Before anything is replaced: the kernel may still read the other one.
        let Entry::Vacant(vacant) = self.addresses.entry(owner) else {
            panic!("{owner:?} has two connects in flight");
        };
        let address = vacant.insert(Box::new(encode(remote)));
        let fd = types::Fd(socket.as_raw_fd());
        opcode::Connect::new(fd, address.as_ptr().cast(), address.addr_len())
            .build()
            .user_data(pack(Kind::Connect, owner))
    }

    /// The operation that cancels an owner's connect, if one is in flight. Its completion still comes.
    #[must_use]
    pub(super) fn cancel(&self, owner: Token) -> Option<squeue::Entry> {
        let quiet = Token {
            slot: 0,
            generation: 0,
        };
        self.addresses.contains_key(&owner).then(|| {
            opcode::AsyncCancel::new(pack(Kind::Connect, owner))
                .build()
                .user_data(pack(Kind::Quiet, quiet))
                .flags(squeue::Flags::SKIP_SUCCESS)
        })
    }

    /// The kernel is through with an owner's connect.
    pub(super) fn finish(&mut self, owner: Token) {
        self.addresses.remove(&owner);
    }
}

/// The address as the kernel reads it.
fn encode(remote: Remote<'_>) -> SocketAddrAny {
    match remote {
        Remote::Ip(SocketAddr::V4(address)) => address.into(),
        Remote::Ip(SocketAddr::V6(address)) => address.into(),
        // `open` refused paths that are too long; this one is refused by the kernel.
        Remote::Unix(path) => SocketAddrUnix::new(path).map_or_else(
            |_| SocketAddrUnix::new_unnamed().as_any(),
            |address| address.as_any(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;

    #[test]
    fn an_address_stays_where_it_is_until_it_is_finished() {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("pair");
        let mut connects = Connects::default();
        let token = |slot| Token { slot, generation: 1 };
        let remotes = [
            Remote::Ip("127.0.0.1:9".parse().expect("v4")),
            Remote::Ip("[::1]:9".parse().expect("v6")),
            Remote::Unix(Path::new("/nowhere")),
        ];
        for slot in 0..1000 {
            let _ = connects.begin(token(slot), socket.as_fd(), remotes[slot as usize % 3]);
        }
        let before: Vec<_> = connects
            .addresses
            .values()
            .map(|address| address.as_ptr())
            .collect();
        for slot in (1..1000).step_by(2) {
            assert!(connects.cancel(token(slot)).is_some());
            connects.finish(token(slot));
            assert!(connects.cancel(token(slot)).is_none());
        }
        let after: Vec<_> = connects
            .addresses
            .values()
            .map(|address| address.as_ptr())
            .collect();
        let kept: Vec<_> = before.into_iter().step_by(2).collect();
        assert_eq!(after, kept);
    }
}
