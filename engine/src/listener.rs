//! Listening sockets: opened once by the main thread, shared by every core's ring.
//!
//! An [`Address`] is what a person writes (`tcp://127.0.0.1:9000`); [`Listener::open`] turns it into a socket or into
//! a sentence that says what is wrong and what to do.

mod address;

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};

pub use self::address::{Address, AddressError};

/// Connections that the kernel has accepted and no core has taken yet; more are refused or time out. (The kernel cuts
/// this to `net.core.somaxconn`.)
const BACKLOG: i32 = 4096;
/// How long an address that is in use is tried again. The kernel takes a ring down some moments after its process is
/// gone, and the ring's pending accepts hold the listening sockets until then: a gateway that was killed and is started
/// again at once would be refused by its own shadow.
pub const RELEASE_PATIENCE: Duration = Duration::from_secs(1);
const RELEASE_PAUSE: Duration = Duration::from_millis(20);

/// Index of a listener, the same on every core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u16);

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// TCP.
    Ip(SocketAddr),
    /// A Unix socket; the kernel's word for who it is (`SO_PEERCRED`).
    Unix {
        /// Process.
        pid: i32,
        /// User.
        uid: u32,
    },
}

/// A listening socket. Dropping it closes it, and removes the file of a Unix socket if it is still its own.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: Address,
    file: Option<SocketFile>,
}

/// Why a listener could not be opened.
#[derive(Debug)]
pub struct ListenError {
    /// Where.
    pub address: Address,
    /// What happened and what to do about it.
    pub fault: String,
    /// The system's word for it, if it was the system's.
    pub source: Option<io::Error>,
}

impl ListenError {
    fn is_in_use(&self) -> bool {
        self.source.as_ref().and_then(io::Error::raw_os_error) == Some(libc::EADDRINUSE)
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.fault)
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

impl Listener {
    /// Opens a socket and listens. A host name that has several addresses gets the first that can be had.
    ///
    /// An address that is in use is tried for [`RELEASE_PATIENCE`], since it may be about to become free.
    ///
    /// The address is not shared with other processes (no `SO_REUSEPORT`): a second gateway on the same port is
    /// refused rather than given half of the connections.
    ///
    /// # Errors
    /// The address, the cause, and what to do.
    pub fn open(address: &Address) -> Result<Listener, ListenError> {
        Listener::open_until(address, Instant::now() + RELEASE_PATIENCE)
    }

    /// The same with a deadline of the caller's, which may be one for several addresses.
    ///
    /// # Errors
    /// As [`Listener::open`].
    pub fn open_until(address: &Address, until: Instant) -> Result<Listener, ListenError> {
        loop {
            match Listener::try_open(address) {
                Err(error) if error.is_in_use() && Instant::now() < until => {
                    std::thread::sleep(RELEASE_PAUSE);
                }
                outcome => return outcome,
            }
        }
    }

    fn try_open(address: &Address) -> Result<Listener, ListenError> {
        let opened = match address {
            Address::Tcp { host, port } => {
                let (socket, host, port) = open_ip(host, *port).map_err(|failure| failure.at(address))?;
                Listener {
                    socket,
                    address: Address::Tcp { host, port },
                    file: None,
                }
            }
            Address::WebSocket { host, port, path } => {
                let (socket, host, port) = open_ip(host, *port).map_err(|failure| failure.at(address))?;
                let path = path.clone();
                Listener {
                    socket,
                    address: Address::WebSocket { host, port, path },
                    file: None,
                }
            }
            Address::Unix { path } => {
                let (socket, file) = open_unix(path).map_err(|failure| failure.at(address))?;
                Listener {
                    socket,
                    address: address.clone(),
                    file: Some(file),
                }
            }
        };
        Ok(opened)
    }

    /// Where it listens: IP addresses resolved, port 0 replaced by the real one.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

/// A fault before it knows its address.
struct Failure {
    fault: String,
    source: Option<io::Error>,
}

impl Failure {
    fn at(self, address: &Address) -> ListenError {
        ListenError {
            address: address.clone(),
            fault: self.fault,
            source: self.source,
        }
    }

    fn system(error: impl Into<io::Error>, port: u16) -> Failure {
        let error = error.into();
        let fault = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => {
                "the address is in use by another process; stop that one, or choose another port".to_owned()
            }
            Some(libc::EACCES) if port != 0 && port < 1024 => {
                "permission denied: ports below 1024 need CAP_NET_BIND_SERVICE; choose another port or grant it"
                    .to_owned()
            }
            Some(libc::EADDRNOTAVAIL) => {
                "this machine has no such address; use one of its own, 127.0.0.1 or 0.0.0.0".to_owned()
            }
            Some(libc::EMFILE) => "out of file descriptors; raise the limit (ulimit -n, LimitNOFILE=)".to_owned(),
            _ => error.to_string(),
        };
        Failure {
            fault,
            source: Some(error),
        }
    }

    fn file(error: impl Into<io::Error>, path: &Path, what: &str) -> Failure {
        let error = error.into();
        let directory = path.parent().unwrap_or(Path::new("/")).display();
        let fault = match error.raw_os_error() {
            Some(libc::ENOENT) => format!("the directory {directory} does not exist; make it first"),
            Some(libc::EACCES | libc::EPERM) => {
                format!("permission denied: this user may not write to {directory}")
            }
            Some(libc::EROFS) => format!("{directory} is on a read-only file system"),
            _ => format!("{what}: {error}"),
        };
        Failure {
            fault,
            source: Some(error),
        }
    }
}

fn open_ip(host: &str, port: u16) -> Result<(OwnedFd, String, u16), Failure> {
    let resolved = (host, port).to_socket_addrs().map_err(|error| Failure {
        fault: format!("the host name {host:?} cannot be resolved ({error}); use an IP address"),
        source: Some(error),
    })?;
    let mut last = Failure {
        fault: format!("the host name {host:?} has no address"),
        source: None,
    };
    for address in resolved {
        match listen_ip(address) {
            Ok((socket, bound)) => return Ok((socket, bound.ip().to_string(), bound.port())),
            Err(error) => last = Failure::system(error, port),
        }
    }
    Err(last)
}

fn listen_ip(address: SocketAddr) -> rustix::io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A restart must not wait for the last incarnation's connections to time out.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Accepted sockets inherit it: sends are coalesced by the turn, Nagle's wait would only add to it.
    sockopt::set_tcp_nodelay(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, bound))
}

fn open_unix(path: &Path) -> Result<(OwnedFd, SocketFile), Failure> {
    clear_stale(path)?;
    let failed = |error: rustix::io::Errno| Failure::file(error, path, "cannot make the socket file");
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed)?;
    bind(&socket, &address).map_err(failed)?;
    let file =
        SocketFile::of(path).map_err(|error| Failure::file(error, path, "cannot read the socket file"))?;
    // Before it listens nobody can connect, so nobody slips in under the wider mode that it was made with.
    let ready = fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .and_then(|()| Ok(listen(&socket, BACKLOG)?));
    if let Err(error) = ready {
        file.remove();
        return Err(Failure::file(error, path, "cannot listen"));
    }
    Ok((socket, file))
}

/// Removes a socket file that a process left behind: one on which nobody answers.
fn clear_stale(path: &Path) -> Result<(), Failure> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::file(error, path, "cannot look for an old socket file")),
    };
    let in_the_way = |fault: &str| {
        Err(Failure {
            fault: fault.to_owned(),
            source: None,
        })
    };
    if !kind.is_socket() {
        return in_the_way("a file that is not a socket is there; choose another path or remove it");
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| Failure::file(error, path, "cannot remove the old socket file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            in_the_way("another user's socket is there; choose another path or remove it")
        }
        _ => Err(Failure {
            fault: "the socket is in use by another process; stop that one, or choose another path"
                .to_owned(),
            source: Some(io::Error::from_raw_os_error(libc::EADDRINUSE)),
        }),
    }
}

/// A socket file, by what it is rather than by what it is called.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(SocketFile {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Removes the file, unless another took its place.
    fn remove(&self) {
        if let Ok(now) = SocketFile::of(&self.path)
            && (now.device, now.inode) == (self.device, self.inode)
        {
            // It is a courtesy to the next start, which would find out by itself.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn port_zero_becomes_a_real_port_that_answers() {
        for host in ["127.0.0.1", "localhost"] {
            let listener = Listener::open(&Address::Tcp {
                host: host.to_owned(),
                port: 0,
            })
            .expect("open");
            let Address::Tcp { host, port } = listener.address().clone() else {
                panic!("still TCP")
            };
            assert_ne!(port, 0);
            TcpStream::connect((host.as_str(), port)).expect("connect");
        }
    }

    #[test]
    fn a_port_in_use_is_refused_with_the_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = taken.local_addr().expect("address").port();
        let refusal = Listener::open(&Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        })
        .expect_err("in use");
        let text = refusal.to_string();
        assert!(
            text.contains(&format!("127.0.0.1:{port}")) && text.contains("in use by another process"),
            "{text}"
        );
        assert_eq!(refusal.source.expect("system's").kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn two_gateways_cannot_share_a_port() {
        let first = Listener::open(&Address::parse("tcp://127.0.0.1:0").expect("address")).expect("first");
        assert!(
            Listener::open(first.address())
                .expect_err("second")
                .to_string()
                .contains("in use")
        );
    }

    #[test]
    fn foreign_and_unknown_hosts_are_explained() {
        let open = |host: &str| {
            let address = Address::Tcp {
                host: host.to_owned(),
                port: 0,
            };
            Listener::open(&address).expect_err("refused").to_string()
        };
        assert!(open("192.0.2.1").contains("no such address"));
        assert!(open("does-not-exist.invalid").contains("cannot be resolved"));
    }

    #[test]
    fn a_privileged_port_names_the_capability() {
        let failure = Failure::system(io::Error::from_raw_os_error(libc::EACCES), 80);
        assert!(failure.fault.contains("CAP_NET_BIND_SERVICE"));
        let failure = Failure::system(io::Error::from_raw_os_error(libc::EACCES), 8080);
        assert!(!failure.fault.contains("CAP_NET_BIND_SERVICE"));
    }

    #[test]
    fn a_unix_socket_has_its_mode_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let listener = Listener::open(&Address::Unix { path: path.clone() }).expect("open");
        assert_eq!(
            fs::metadata(&path).expect("file").permissions().mode() & 0o777,
            0o660
        );
        UnixStream::connect(&path).expect("connect");
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let address = Address::Unix { path: path.clone() };
        let live = UnixListener::bind(&path).expect("bind");
        assert!(
            Listener::open(&address)
                .expect_err("live")
                .to_string()
                .contains("in use by another process")
        );
        drop(live);
        assert!(path.exists(), "left behind");
        let first = Listener::open(&address).expect("replaces it");
        UnixStream::connect(&path).expect("connect");
        // Another takes the place: the first leaves that file alone.
        fs::remove_file(&path).expect("remove");
        let _second = Listener::open(&address).expect("open");
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("precious");
        fs::write(&path, "data").expect("write");
        let refusal = Listener::open(&Address::Unix { path: path.clone() }).expect_err("refused");
        assert!(refusal.to_string().contains("not a socket"), "{refusal}");
        assert_eq!(fs::read(&path).expect("still there"), b"data");
        let missing = Address::Unix {
            path: directory.path().join("no/such/s"),
        };
        assert!(
            Listener::open(&missing)
                .expect_err("refused")
                .to_string()
                .contains("does not exist")
        );
    }
}
