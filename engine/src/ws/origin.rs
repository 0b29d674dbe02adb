//! Which web pages may connect.
//!
//! A browser lets any page open a WebSocket to any address, this machine's loopback included, and only tells the
//! server which page it was, in the `Origin` header. So a server without a policy is open to every site that its
//! user visits. Programs that are not browsers send no `Origin` and are not held by this: it is no authentication.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The pages whose WebSockets a listener accepts, by their `Origin`. A request without one is always accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// Pages served by this machine (`localhost`, `127.0.0.0/8`, `[::1]`, any scheme and port) and pages opened from
    /// its disk, as far as the browser says so by `file://`, which some embedded ones do.
    ///
    /// Not `null`, which the common browsers say for files: they say it for any site's sandboxed frame as well. Who
    /// wants it all the same names it in [`Origins::List`].
    #[default]
    Loopback,
    /// Every page.
    Any,
    /// These origins only, as a browser writes them: `https://app.example.org`, `http://localhost:8080`, `null`.
    /// Letter case does not matter.
    List(Vec<String>),
}

impl Origins {
    /// Whether a request that names `origin` may connect.
    pub fn allow(&self, origin: &str) -> bool {
        match self {
            Origins::Any => true,
            Origins::Loopback => {
                origin.eq_ignore_ascii_case("file://") || host(origin).is_some_and(is_loopback)
            }
            Origins::List(list) => list.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)),
        }
    }
}

/// The host of `scheme://host[:port]`, IPv6 still in its brackets. `None` if it has any other shape: an origin has
/// no path and no user, and what merely looks like one is not taken apart generously.
fn host(origin: &str) -> Option<&str> {
    let (scheme, authority) = origin.split_once("://")?;
    let clean = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(clean) {
        return None;
    }
    let host_ends = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, port) = authority.split_at(host_ends);
    match port.strip_prefix(':') {
        Some(digits) => digits.parse::<u16>().is_ok().then_some(host),
        None => port.is_empty().then_some(host),
    }
}

fn is_loopback(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return v6.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback());
    }
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_takes_this_machine_and_its_files_only() {
        for origin in [
            "file://",
            "http://localhost",
            "https://LocalHost:8080",
            "http://127.0.0.1",
            "http://127.8.9.10:65535",
            "http://[::1]",
            "http://[::1]:9001",
            "tauri://localhost",
        ] {
            assert!(Origins::Loopback.allow(origin), "{origin}");
        }
        for origin in [
            "",
            // Any site gets it by a sandboxed frame.
            "null",
            "NULL",
            "file:",
            "file:///",
            "file://example.org",
            "file:///home/someone/page.html",
            "localhost",
            "http://example.org",
            "http://localhost.example.org",
            "http://example.org/localhost",
            "http://localhost@example.org",
            "http://example.org#://localhost",
            "http://localhost:80:80",
            "http://localhost:99999",
            "http://localhost/",
            "http://127.0.0.1.example.org",
            "http://128.0.0.1",
            "http://[::2]",
            "http://[::1]x",
            "http://[::1",
            "://localhost",
            "http://0.0.0.0",
        ] {
            assert!(!Origins::Loopback.allow(origin), "{origin}");
        }
    }

    #[test]
    fn a_list_takes_what_it_names() {
        let list = Origins::List(vec!["https://app.example.org".into(), "null".into()]);
        assert!(list.allow("https://APP.example.org"));
        assert!(list.allow("null"));
        assert!(!list.allow("http://app.example.org"));
        assert!(!list.allow("https://app.example.org:444"));
        assert!(!list.allow("http://localhost"));
        assert!(Origins::Any.allow("anything at all"));
    }
}
