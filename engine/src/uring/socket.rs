//! A connected socket of the real kernel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A connected stream socket, TCP or Unix, in blocking mode: the ring waits for it, not the caller.
///
/// Dropping one that no operation was started on closes it. Once it was handed to an operation it goes back by
/// [`crate::driver::Driver::close`], which also ends what is in flight.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Socket {
        Socket(fd)
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> OwnedFd {
        socket.0
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
