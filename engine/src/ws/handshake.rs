//! The HTTP/1.1 request that opens a WebSocket (RFC 6455, 4.2), and its answer.
//!
//! Nothing is looked at before the whole head is there, so a head costs one parse however it arrives. Every refusal
//! says, in plain text, what was wrong: the reader is a person with `curl` or a browser's console.

use std::ops::Range;

use httparse::{EMPTY_HEADER, Request, Status};
use tungstenite::handshake::derive_accept_key;

use super::WsConfig;
use super::fault::WsFault;

/// The longest request head that is taken.
pub(super) const HEAD_MAX_BYTES: usize = 8 * 1024;
/// The most header fields that it may have. A browser sends about 15.
pub(super) const HEAD_MAX_FIELDS: usize = 64;
/// As much of a value is quoted back to the peer that sent it.
const QUOTE_MAX_CHARS: usize = 128;

/// Refuses, by its first byte, what cannot become a request, so that a peer of another protocol hears of it at once
/// and not when its handshake times out.
pub(super) fn check_first_byte(first: u8) -> Result<(), WsFault> {
    match first {
        b'A'..=b'Z' => Ok(()),
        0x16 => Err(bad_request(
            "this looks like TLS, but this port takes WebSocket without TLS: connect with ws://, not wss://",
        )),
        _ => Err(bad_request(
            "this is not HTTP: a WebSocket begins with the request `GET … HTTP/1.1`",
        )),
    }
}

/// Where the head ends: behind its first empty line. Line ends before `from` were searched already.
pub(super) fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let line_ends = (from..bytes.len()).filter(|&at| bytes[at] == b'\n');
    for at in line_ends {
        match bytes[at + 1..] {
            [b'\n', ..] => return Some(at + 2),
            [b'\r', b'\n', ..] => return Some(at + 3),
            _ => {}
        }
    }
    None
}

/// Checks a whole request head and appends the response that accepts it to `reply`. Returns where in `head` the
/// path stands.
pub(super) fn accept(head: &[u8], config: &WsConfig, reply: &mut Vec<u8>) -> Result<Range<usize>, WsFault> {
    let mut fields = [EMPTY_HEADER; HEAD_MAX_FIELDS];
    let mut request = Request::new(&mut fields);
    match request.parse(head) {
        Ok(Status::Complete(bytes)) if bytes == head.len() => {}
        Ok(_) => return Err(bad_request("the request's head is malformed")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(WsFault::handshake(
                431,
                format!("more than {HEAD_MAX_FIELDS} header fields"),
            ));
        }
        Err(httparse::Error::Version) => {
            return Err(WsFault::handshake(
                505,
                "a WebSocket is opened over HTTP/1.1, not another version",
            ));
        }
        Err(error) => return Err(bad_request(format!("the request's head is malformed: {error}"))),
    }
    let (method, path) = (
        request.method.unwrap_or_default(),
        request.path.unwrap_or_default(),
    );
    if method != "GET" {
        return Err(WsFault::handshake(
            405,
            format!(
                "{} A WebSocket is opened with GET, not {method}.",
                config.greeting
            ),
        ));
    }

    let asked = Asked::read(&request, config)?;
    if !asked.upgrade_websocket {
        return Err(upgrade_required(config));
    }
    if request.version != Some(1) {
        return Err(WsFault::handshake(
            505,
            "a WebSocket is opened over HTTP/1.1, not HTTP/1.0",
        ));
    }
    asked.check(config)?;
    let key = asked.key.filter(|key| is_key(key)).ok_or_else(|| {
        bad_request("the header `Sec-WebSocket-Key` must be there and be 16 bytes in base64 (24 characters)")
    })?;

    reply.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    reply.extend_from_slice(derive_accept_key(key).as_bytes());
    if let (Some(protocol), true) = (&config.subprotocol, asked.offers_ours) {
        reply.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        reply.extend_from_slice(protocol.as_bytes());
    }
    reply.extend_from_slice(b"\r\n\r\n");

    // The request line is `GET`, one space, the path: the parser takes no other form.
    let path_at = method.len() + 1;
    Ok(path_at..path_at + path.len())
}

/// What the header fields ask for.
#[derive(Default)]
struct Asked<'h> {
    upgrade_websocket: bool,
    connection_upgrade: bool,
    hosts: usize,
    body: bool,
    version: Option<&'h [u8]>,
    key: Option<&'h [u8]>,
    origin: Option<&'h [u8]>,
    offers_any: bool,
    offers_ours: bool,
}

impl<'h> Asked<'h> {
    fn read(request: &Request<'h, '_>, config: &WsConfig) -> Result<Self, WsFault> {
        let mut asked = Asked::default();
        for field in request.headers.iter() {
            let value = field.value.trim_ascii();
            let name = field.name;
            if name.eq_ignore_ascii_case("upgrade") {
                asked.upgrade_websocket |= has_token(value, "websocket");
            } else if name.eq_ignore_ascii_case("connection") {
                asked.connection_upgrade |= has_token(value, "upgrade");
            } else if name.eq_ignore_ascii_case("host") {
                asked.hosts += 1;
            } else if name.eq_ignore_ascii_case("sec-websocket-version") {
                once(&mut asked.version, value, "Sec-WebSocket-Version")?;
            } else if name.eq_ignore_ascii_case("sec-websocket-key") {
                once(&mut asked.key, value, "Sec-WebSocket-Key")?;
            } else if name.eq_ignore_ascii_case("origin") {
                once(&mut asked.origin, value, "Origin")?;
            } else if name.eq_ignore_ascii_case("sec-websocket-protocol") {
                for offer in tokens(value) {
                    asked.offers_any = true;
                    // Subprotocol names are compared by the letter (RFC 6455, 4.2.2).
                    asked.offers_ours |= config
                        .subprotocol
                        .as_deref()
                        .is_some_and(|ours| ours.as_bytes() == offer);
                }
            } else if name.eq_ignore_ascii_case("content-length") {
                asked.body |= value != b"0";
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                asked.body = true;
            }
        }
        Ok(asked)
    }

    /// Everything that can be wrong with a request to upgrade but its key.
    fn check(&self, config: &WsConfig) -> Result<(), WsFault> {
        if !self.connection_upgrade {
            return Err(bad_request("the header `Connection: Upgrade` is missing"));
        }
        if self.hosts != 1 {
            return Err(bad_request("an HTTP/1.1 request has one `Host` header"));
        }
        if self.body {
            return Err(bad_request("a request that opens a WebSocket has no body"));
        }
        if self.version != Some(b"13") {
            return Err(WsFault::handshake(
                426,
                format!(
                    "WebSocket version {} is not spoken here: send `Sec-WebSocket-Version: 13` (RFC 6455)",
                    self.version.map_or("(none)".into(), quoted)
                ),
            ));
        }
        if let Some(origin) = self.origin {
            let allowed = std::str::from_utf8(origin).is_ok_and(|origin| config.origins.allow(origin));
            if !allowed {
                return Err(WsFault::handshake(
                    403,
                    format!(
                        "pages from the origin {} may not connect here. The setting `origins` says which may; by \
                         default pages of this machine only",
                        quoted(origin)
                    ),
                ));
            }
        }
        // Hand tools offer none, and get one that is not named.
        match &config.subprotocol {
            Some(ours) if self.offers_any && !self.offers_ours => Err(bad_request(format!(
                "none of the offered subprotocols is spoken here: offer `Sec-WebSocket-Protocol: {ours}`"
            ))),
            _ => Ok(()),
        }
    }
}

/// The answer to somebody who looks at the address with a browser or `curl`.
fn upgrade_required(config: &WsConfig) -> WsFault {
    let subprotocol = match &config.subprotocol {
        Some(ours) => format!(", subprotocol `{ours}`"),
        None => String::new(),
    };
    let greeting = &config.greeting;
    WsFault::handshake(
        426,
        format!("{greeting} Connect with a WebSocket client (ws://, RFC 6455{subprotocol})."),
    )
}

fn bad_request(reason: impl Into<std::borrow::Cow<'static, str>>) -> WsFault {
    WsFault::handshake(400, reason)
}

/// Stores the value of a field that a request must not repeat.
fn once<'h>(slot: &mut Option<&'h [u8]>, value: &'h [u8], name: &str) -> Result<(), WsFault> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(bad_request(format!(
            "the header `{name}` is there more than once"
        ))),
    }
}

pub(super) fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&octet| octet == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

pub(super) fn has_token(list: &[u8], token: &str) -> bool {
    tokens(list).any(|listed| listed.eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether a value is 16 bytes in base64: 22 digits, two of padding.
fn is_key(value: &[u8]) -> bool {
    let digit = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/');
    matches!(value.split_at_checked(22), Some((digits, b"==")) if digits.iter().all(digit))
}

/// A peer's value as it may stand in a text: short, and without control characters.
pub(super) fn quoted(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let short: String = text
        .chars()
        .take(QUOTE_MAX_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    format!("`{short}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_ends_at_the_first_empty_line() {
        assert_eq!(
            end_of_head(b"GET / HTTP/1.1\r\nA: b\r\n\r\n\r\n\r\n", 0),
            Some(24)
        );
        assert_eq!(end_of_head(b"GET / HTTP/1.1\n\nrest", 0), Some(16));
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\nA: b\r\n\r", 0), None);
        assert_eq!(end_of_head(b"", 0), None);
    }

    #[test]
    fn a_key_is_sixteen_bytes_of_base64() {
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        for wrong in [
            &b""[..],
            b"dGhlIHNhbXBsZSBub25jZQ=",
            b"dGhlIHNhbXBsZSBub25jZQ===",
            b"dGhl_HNhbXBsZSBub25jZQ==",
        ] {
            assert!(!is_key(wrong));
        }
    }

    #[test]
    fn quotes_are_short_and_printable() {
        assert_eq!(quoted(b"http://a\r\n\x1b[31m"), "`http://a\\r\\n\\u{1b}[31m`");
        assert_eq!(quoted(&[b'x'; 4000]).len(), QUOTE_MAX_CHARS + 2);
    }
}
