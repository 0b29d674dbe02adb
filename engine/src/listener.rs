//! Listening sockets: opened once by the main thread, shared by every core's ring.
//!
//! An [`Address`] is what a person writes (`tcp://127.0.0.1:9000`); [`Listener::open`] turns it into a socket or into
//! a sentence that says what is wrong and what to do.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};

/// Connections that the kernel has accepted and no core has taken yet; more are refused or time out. (The kernel cuts
/// this to `net.core.somaxconn`.)
const BACKLOG: i32 = 4096;

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

/// Where to listen, and how bytes travel there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `tcp://host:port`: a byte stream.
    Tcp {
        /// A name or an IP address, an IPv6 one without its brackets.
        host: String,
        /// 0: any free one; [`Listener::address`] tells which.
        port: u16,
    },
    /// `ws://host:port/path`: WebSocket.
    WebSocket {
        /// As for TCP.
        host: String,
        /// As for TCP.
        port: u16,
        /// Begins with `/`.
        path: String,
    },
    /// `unix:///path`: a byte stream on a Unix socket.
    Unix {
        /// Absolute.
        path: PathBuf,
    },
}

/// What is wrong with an address that somebody wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError {
    /// The address as it was written.
    pub address: String,
    /// What is wrong and what would be right.
    pub fault: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.address, self.fault)
    }
}

impl std::error::Error for AddressError {}

impl Address {
    /// Reads `tcp://host:port`, `ws://host:port[/path]` or `unix:///path`.
    ///
    /// # Errors
    /// What is wrong with it and what would be right.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        parse(text).map_err(|fault| AddressError {
            address: text.to_owned(),
            fault,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = |f: &mut fmt::Formatter<'_>, host: &str, port: u16| {
            if host.contains(':') {
                write!(f, "[{host}]:{port}")
            } else {
                write!(f, "{host}:{port}")
            }
        };
        match self {
            Address::Tcp { host, port } => {
                f.write_str("tcp://")?;
                authority(f, host, *port)
            }
            Address::WebSocket { host, port, path } => {
                f.write_str("ws://")?;
                authority(f, host, *port)?;
                f.write_str(path)
            }
            Address::Unix { path } => write!(f, "unix://{}", path.display()),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        Address::parse(text)
    }
}

fn parse(text: &str) -> Result<Address, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("write the transport in front: tcp://, ws:// or unix://".to_owned());
    };
    match scheme {
        "tcp" => {
            let (host, port) = host_and_port(rest.strip_suffix('/').unwrap_or(rest))?;
            Ok(Address::Tcp { host, port })
        }
        "ws" => {
            let (authority, path) = match rest.find('/') {
                Some(at) => (&rest[..at], &rest[at..]),
                None => (rest, "/"),
            };
            if path.contains(['?', '#']) || path.contains(|c: char| c.is_ascii_control() || c == ' ') {
                return Err("the path takes no query, fragment or blank".to_owned());
            }
            let (host, port) = host_and_port(authority)?;
            Ok(Address::WebSocket {
                host,
                port,
                path: path.to_owned(),
            })
        }
        "unix" => {
            if !rest.starts_with('/') || rest.ends_with('/') {
                return Err("write the absolute path of the socket file: unix:///run/name.sock".to_owned());
            }
            if rest.contains('\0') {
                return Err("a path has no NUL".to_owned());
            }
            if SocketAddrUnix::new(rest).is_err() {
                return Err("the path of a Unix socket has at most 107 bytes".to_owned());
            }
            Ok(Address::Unix {
                path: PathBuf::from(rest),
            })
        }
        "tls" | "wss" | "quic" => Err(format!(
            "{scheme}:// is not in this release; use tcp://, ws:// or unix://"
        )),
        _ => Err(format!(
            "{scheme}:// is no transport; use tcp://, ws:// or unix://"
        )),
    }
}

/// `host:port`, `1.2.3.4:port` or `[::1]:port`.
fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .ok_or("the bracket of the IPv6 address is not closed")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("[{host}] is not an IPv6 address"));
            }
            (
                host,
                rest.strip_prefix(':')
                    .ok_or("the port is missing: write [::1]:9000")?,
            )
        }
        None => {
            let (host, port) = text
                .rsplit_once(':')
                .ok_or("the port is missing: write host:port")?;
            if host.contains(':') {
                return Err("write an IPv6 address in brackets: [::1]:9000".to_owned());
            }
            (host, port)
        }
    };
    if host.is_empty() {
        return Err("the host is missing: 127.0.0.1 is this machine alone, 0.0.0.0 every network".to_owned());
    }
    if host.contains(['/', '@', '?', '#', ' ']) {
        return Err(format!("{host:?} is not a host name"));
    }
    // A bare u16 parse would take "+80".
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { port.parse().ok() } else { None };
    Ok((
        host.to_owned(),
        port.ok_or("the port must be a number from 0 to 65535")?,
    ))
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
    /// The address is not shared with other processes (no `SO_REUSEPORT`): a second gateway on the same port is
    /// refused rather than given half of the connections.
    ///
    /// # Errors
    /// The address, the cause, and what to do.
    pub fn open(address: &Address) -> Result<Listener, ListenError> {
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
        _ => in_the_way("the socket is in use by another process; stop that one, or choose another path"),
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

    fn fault(text: &str) -> String {
        Address::parse(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn good_addresses_read_back_as_they_were_written() {
        for text in [
            "tcp://127.0.0.1:9000",
            "tcp://[::1]:9000",
            "tcp://localhost:0",
            "ws://0.0.0.0:9001/",
            "ws://[fe80::1]:1/a/b",
            "unix:///run/gateway.sock",
        ] {
            assert_eq!(Address::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(
            Address::parse("ws://a:1").expect("default path").to_string(),
            "ws://a:1/"
        );
    }

    #[test]
    fn each_bad_address_gets_its_own_sentence() {
        for (text, word) in [
            ("127.0.0.1:9000", "in front"),
            ("http://a:1", "no transport"),
            ("tls://a:1", "not in this release"),
            ("wss://a:1", "not in this release"),
            ("quic://a:1", "not in this release"),
            ("tcp://a", "port is missing"),
            ("tcp://:80", "host is missing"),
            ("tcp://a:65536", "0 to 65535"),
            ("tcp://a:+1", "0 to 65535"),
            ("tcp://a:", "0 to 65535"),
            ("tcp://::1:9", "in brackets"),
            ("tcp://[::1:9", "not closed"),
            ("tcp://[::1]", "port is missing"),
            ("tcp://[::x]:1", "not an IPv6"),
            ("tcp://a/b:1", "not a host name"),
            ("ws://a:1/?q", "no query"),
            ("unix://relative", "absolute"),
            ("unix:///", "absolute"),
        ] {
            let fault = fault(text);
            assert!(fault.contains(word) && fault.contains(text), "{text}: {fault}");
        }
        assert!(fault(&format!("unix:///{}", "x".repeat(108))).contains("107 bytes"));
    }

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
