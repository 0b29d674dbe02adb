//! Dialled connections: to where, from where, and what can be wrong before anything is asked of the network.
//!
//! [`crate::reactor::Reactor::dial`] takes an [`Address`] and a [`Dial`]. It never waits: a host name is looked up by the
//! caller, where waiting is allowed, with [`resolve`]; inside a turn only IP addresses and paths are taken.
//!
//! What comes back when nothing was wrong so far is an event. Errors that are worth knowing there, by their
//! `raw_os_error`:
//!
//! | error | what it means | what to do |
//! |---|---|---|
//! | `ECONNREFUSED` | nobody listens there (or, on a Unix socket, nobody any more) | start the server |
//! | `ENOENT` | a Unix socket's file is not there | check the path |
//! | `EADDRNOTAVAIL` | all local ports towards that address are taken | dial from more addresses: [`Dial::source`] |
//! | kind `TimedOut` | no answer within [`crate::reactor::ReactorConfig::connect_ms`] (on a Unix socket: its backlog was full for as long), or no WebSocket within `handshake_ms` | dial again later |
//!
//! A server that answers the request for a WebSocket with anything but its good answer is told by a
//! [`crate::ws::WsFault`] inside the error.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use crate::listener::Address;
use crate::ws::{Unsendable, WsDial};

/// How to dial.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dial {
    /// The local address to dial from, of the remote's family; `None` lets the kernel choose. Its port is chosen with the
    /// remote's in mind (`IP_BIND_ADDRESS_NO_PORT`), so each source address has as many connections to each remote
    /// address as there are ports (28,232, unless `net.ipv4.ip_local_port_range` says otherwise). Unused for Unix
    /// sockets.
    pub source: Option<IpAddr>,
    /// For `ws://` addresses; unused for others.
    pub websocket: Arc<WsDial>,
}

/// Where a driver connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote<'a> {
    /// TCP.
    Ip(SocketAddr),
    /// A Unix socket.
    Unix(&'a Path),
}

/// Why nothing was dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialError {
    /// The host is a name.
    Unresolved {
        /// Which.
        host: String,
    },
    /// The source address is not of the remote's family.
    OtherFamily {
        /// From where.
        source: IpAddr,
        /// To where.
        remote: SocketAddr,
    },
    /// A part of a WebSocket's request that HTTP cannot carry.
    Unsendable(Unsendable),
    /// The core has [`crate::reactor::ReactorConfig::connections_max`].
    Full {
        /// How many that is.
        connections: usize,
    },
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Unresolved { host } => write!(
                f,
                "{host:?} is not an IP address, and names are not looked up in the loop: resolve it before"
            ),
            DialError::OtherFamily { source, remote } => write!(
                f,
                "{remote} cannot be reached from {source}: one is IPv4, the other IPv6; dial from an address like the remote's"
            ),
            DialError::Unsendable(unsendable) => unsendable.fmt(f),
            DialError::Full { connections } => write!(
                f,
                "this core has all {connections} connections that it may have; raise `connections_max`"
            ),
        }
    }
}

impl std::error::Error for DialError {}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> io::Error {
        let kind = match error {
            DialError::Unresolved { .. } | DialError::OtherFamily { .. } | DialError::Unsendable(_) => {
                io::ErrorKind::InvalidInput
            }
            DialError::Full { .. } => io::ErrorKind::QuotaExceeded,
        };
        io::Error::new(kind, error)
    }
}

/// Where an address leads.
///
/// # Errors
/// [`DialError::Unresolved`].
pub(crate) fn remote(address: &Address) -> Result<Remote<'_>, DialError> {
    match address {
        Address::Tcp { host, port } | Address::WebSocket { host, port, .. } => match host.parse() {
            Ok(ip) => Ok(Remote::Ip(SocketAddr::new(ip, *port))),
            Err(_) => Err(DialError::Unresolved { host: host.clone() }),
        },
        Address::Unix { path } => Ok(Remote::Unix(path)),
    }
}

/// The same address with its host name replaced by the first IP address that it has. **Waits** for the resolver: not for
/// use in a turn.
///
/// # Errors
/// The resolver's; `NotFound` for a name without addresses.
pub fn resolve(address: &Address) -> io::Result<Address> {
    let first = |host: &str, port: u16| -> io::Result<String> {
        let found = (host, port).to_socket_addrs()?.next();
        found.map(|found| found.ip().to_string()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("the host name {host:?} has no address"),
            )
        })
    };
    Ok(match address {
        Address::Tcp { host, port } => Address::Tcp {
            host: first(host, *port)?,
            port: *port,
        },
        Address::WebSocket { host, port, path } => Address::WebSocket {
            host: first(host, *port)?,
            port: *port,
            path: path.clone(),
        },
        Address::Unix { .. } => address.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses_and_resolved_outside() {
        for (text, host) in [
            ("tcp://localhost:80", "localhost"),
            ("ws://example.org:1/", "example.org"),
        ] {
            let address = Address::parse(text).expect(text);
            let error = remote(&address).expect_err("a name");
            assert_eq!(
                error,
                DialError::Unresolved {
                    host: host.to_owned()
                }
            );
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
        }
        for text in ["tcp://127.0.0.1:80", "tcp://[::1]:80", "ws://127.0.0.1:80/a"] {
            let address = Address::parse(text).expect(text);
            assert!(matches!(remote(&address), Ok(Remote::Ip(to)) if to.port() == 80));
            assert_eq!(resolve(&address).expect(text), address);
        }
        let local = resolve(&Address::parse("ws://localhost:9/x").expect("address")).expect("resolve");
        assert!(matches!(remote(&local), Ok(Remote::Ip(to)) if to.ip().is_loopback()));
        let unix = Address::parse("unix:///run/s").expect("address");
        assert_eq!(remote(&unix), Ok(Remote::Unix(Path::new("/run/s"))));
        assert_eq!(resolve(&unix).expect("unix"), unix);
    }
}
