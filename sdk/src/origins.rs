//! Which web pages may connect to a WebSocket server.
//!
//! A browser lets any page open a WebSocket to any address, those of this machine included, and only tells the server in
//! the `Origin` header which page it was. Programs that are not browsers send none.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The web pages that a [`Server`](crate::Server) takes on WebSocket, by their `Origin`. A client that sends none, as all
/// but browsers, is always taken; it is no authentication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origins {
    /// Pages that this machine serves (`localhost`, `127.0.0.0/8`, `[::1]`; any scheme and port), and those opened from
    /// its disk by a browser that says `file://`. Not `null`, which any site can give itself.
    #[default]
    Loopback,
    /// Pages of any site.
    Any,
    /// These only, as a browser writes them: `https://app.example.org`, `http://localhost:8080`.
    List(Vec<String>),
}

impl Origins {
    pub(crate) fn allow(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::List(list) => list.iter().any(|known| known.eq_ignore_ascii_case(origin)),
            Self::Loopback => origin.eq_ignore_ascii_case("file://") || is_loopback(origin),
        }
    }
}

/// Whether it is exactly `scheme://host` or `scheme://host:port` with a host that is this machine.
fn is_loopback(origin: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let of_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if scheme.is_empty() || !scheme.bytes().all(of_scheme) {
        return false;
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback()),
        None => {
            host.eq_ignore_ascii_case("localhost")
                || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_this_machine_are_taken_and_no_others() {
        for origin in [
            "file://",
            "http://localhost",
            "https://LOCALHOST:8080",
            "http://127.3.2.1:1",
            "http://[::1]",
            "http://[::1]:65535",
        ] {
            assert!(Origins::default().allow(origin), "{origin}");
        }
        for origin in [
            "",
            "null",
            "localhost",
            "file:///etc",
            "://localhost",
            "http://example.org",
            "http://localhost.example.org",
            "http://localhost:80:80",
            "http://localhost:65536",
            "http://localhost/",
            "http://user@localhost",
            "http://[::2]",
            "http://[::1",
            "http://[::1]x",
            "http://0.0.0.0",
        ] {
            assert!(!Origins::default().allow(origin), "{origin}");
        }
        let list = Origins::List(vec!["https://app.example.org".into()]);
        assert!(list.allow("https://APP.example.org") && !list.allow("http://localhost"));
        assert!(Origins::Any.allow("null"));
    }
}
