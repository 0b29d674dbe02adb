//! Which processes of this machine listen on an address: by the kernel's table of sockets, and by who has them open.
//! Best effort: other users' processes show their descriptors to root alone.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;

use fluxar_engine::listener::Address;

/// State of a listening TCP socket in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// The processes that listen there, if the address is one of this machine.
#[must_use]
pub fn listeners(url: &str) -> Vec<u32> {
    let inodes = match Address::parse(url) {
        Ok(Address::Tcp { host, port } | Address::WebSocket { host, port, .. }) => {
            let addresses = (host.as_str(), port).to_socket_addrs();
            addresses.map(tcp_inodes).unwrap_or_default()
        }
        Ok(Address::Unix { path }) => unix_inodes(&path),
        Err(_) => Vec::new(),
    };
    if inodes.is_empty() {
        Vec::new()
    } else {
        holders(&inodes)
    }
}

fn tcp_inodes(addresses: impl Iterator<Item = SocketAddr>) -> Vec<u64> {
    // Only loopback is surely this machine; another address is, if a socket is bound to that very address.
    let wanted: Vec<SocketAddr> = addresses.collect();
    let is_wanted = |local: SocketAddr| {
        wanted.iter().any(|wanted| {
            wanted.port() == local.port()
                && (wanted.ip() == local.ip() || (local.ip().is_unspecified() && wanted.ip().is_loopback()))
        })
    };
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            if let [_, local, _, LISTENS, ..] = words[..]
                && let Some(inode) = words.get(9).and_then(|inode| inode.parse().ok())
                && socket_address(local).is_some_and(is_wanted)
            {
                inodes.push(inode);
            }
        }
    }
    inodes
}

/// `0100007F:2328` → 127.0.0.1:9000. The kernel writes each 32-bit word of an address as the machine holds it.
fn socket_address(hex: &str) -> Option<SocketAddr> {
    let (address, port) = hex.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
    };
    Some(SocketAddr::new(ip, port))
}

fn unix_inodes(path: &Path) -> Vec<u64> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let is_there = |line: &&str| {
        line.split_ascii_whitespace()
            .nth(7)
            .is_some_and(|at| Path::new(at) == path)
    };
    table
        .lines()
        .skip(1)
        .filter(is_there)
        .filter_map(|line| line.split_ascii_whitespace().nth(6)?.parse().ok())
        .collect()
}

/// The processes that have one of these sockets open.
fn holders(inodes: &[u64]) -> Vec<u32> {
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|process| {
            let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else {
                return false;
            };
            descriptors
                .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
                .any(|link| {
                    link.to_str()
                        .is_some_and(|link| links.iter().any(|wanted| wanted == link))
                })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn who_listens_is_found() {
        for host in ["127.0.0.1", "0.0.0.0"] {
            let listener = TcpListener::bind((host, 0)).expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let found = listeners(&format!("tcp://127.0.0.1:{port}"));
            assert!(found.contains(&std::process::id()), "{host}: {found:?}");
            assert!(listeners(&format!("ws://192.0.2.1:{port}/")).is_empty());
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s.sock");
        let _listener = UnixListener::bind(&path).expect("a socket");
        assert!(listeners(&format!("unix://{}", path.display())).contains(&std::process::id()));
        assert!(listeners("unix:///nobody/there.sock").is_empty());
    }

    #[test]
    fn the_kernels_way_of_writing_addresses_is_understood() {
        if cfg!(target_endian = "little") {
            assert_eq!(
                socket_address("0100007F:2328"),
                Some("127.0.0.1:9000".parse().expect("v4"))
            );
            assert_eq!(
                socket_address("00000000000000000000000001000000:0050"),
                Some("[::1]:80".parse().expect("v6"))
            );
        }
        assert_eq!(socket_address("0100007F"), None);
        assert_eq!(socket_address("010000:1"), None);
    }
}
