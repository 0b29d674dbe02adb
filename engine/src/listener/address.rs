//! The addresses that people write: `tcp://127.0.0.1:9000`, `ws://0.0.0.0:9001/`, `unix:///run/name.sock`.

use std::fmt;
use std::path::PathBuf;

use rustix::net::SocketAddrUnix;

/// Where to listen, and how bytes travel there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `tcp://host:port`: a byte stream.
    Tcp {
        /// A name or an IP address, an IPv6 one without its brackets.
        host: String,
        /// 0: any free one; [`super::Listener::address`] tells which.
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

#[cfg(test)]
mod tests {
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
}
