//! A connected socket of the real kernel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::dial::{DialError, Remote};

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

/// A socket that can be connected to `remote`.
pub(super) fn open(remote: Remote<'_>, source: Option<IpAddr>) -> io::Result<Socket> {
    let family = match remote {
        Remote::Ip(SocketAddr::V4(_)) => AddressFamily::INET,
        Remote::Ip(SocketAddr::V6(_)) => AddressFamily::INET6,
        Remote::Unix(path) => {
            // Whether it can be written as an address at all.
            SocketAddrUnix::new(path)?;
            AddressFamily::UNIX
        }
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if let Remote::Ip(remote) = remote {
        // As accepted sockets have it: sends are coalesced by the turn, Nagle's wait would only add to it.
        sockopt::set_tcp_nodelay(&socket, true)?;
        if let Some(source) = source {
            if source.is_ipv4() != remote.is_ipv4() {
                return Err(DialError::OtherFamily { source, remote }.into());
            }
            choose_port_late(&socket)?;
            bind(&socket, &SocketAddr::new(source, 0))?;
        }
    }
    Ok(Socket(socket))
}

/// Has the port of a socket that is bound to an address chosen when it is connected. Else `bind` chooses one that no
/// other socket of that address has, whatever it is connected to, and the ports are used up that much earlier.
fn choose_port_late(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the kernel reads as many bytes as `on` has.
    #[allow(unsafe_code)]
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
