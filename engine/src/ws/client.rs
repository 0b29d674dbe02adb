//! The client's side: the request that asks for a WebSocket, the check of the answer (RFC 6455, 4.1), and the masks of
//! what is answered to frames.

use std::fmt;
use std::sync::Arc;

use httparse::{EMPTY_HEADER, Response, Status};
use tungstenite::handshake::derive_accept_key;

use super::fault::WsFault;
use super::handshake::{HEAD_MAX_BYTES, HEAD_MAX_FIELDS, has_token, quoted};
use super::mask::Masks;
use super::receive::{TooLong, Whole};
use super::{Phase, Role, Rules, WebSocket, WsEvent, frame};

/// The settings of dialled WebSockets, shared by as many as are dialled alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WsDial {
    /// The subprotocol that is offered; a server that does not agree to it is left. `None`: none is offered.
    pub subprotocol: Option<String>,
    /// The `Origin` to name. Web browsers do; other programs need none.
    pub origin: Option<String>,
    /// The longest message taken, over all its fragments; at most 4 GiB - 1. See also
    /// [`WebSocket::set_max_message_bytes`].
    pub max_message_bytes: usize,
    /// Whether text messages are taken too. If not, one fails the connection with code 1003.
    pub text: bool,
}

impl Default for WsDial {
    fn default() -> Self {
        Self {
            subprotocol: None,
            origin: None,
            max_message_bytes: 1024 * 1024,
            text: false,
        }
    }
}

/// A part of a request that HTTP cannot carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsendable(
    /// The part.
    pub String,
);

impl fmt::Display for Unsendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} cannot stand in an HTTP request: it may have visible ASCII characters only",
            self.0
        )
    }
}

impl std::error::Error for Unsendable {}

/// One connection's state on the client's side. Idle and open, it has nothing on the heap.
#[derive(Debug)]
pub struct WsClient {
    ws: WebSocket,
    dial: Arc<WsDial>,
    /// Until the server has answered.
    asked: Option<Box<Asked>>,
}

#[derive(Debug)]
struct Asked {
    request: Vec<u8>,
    /// What `Sec-WebSocket-Accept` has to be.
    accept: String,
}

impl WsClient {
    /// A new connection to `path` (query included) of the server at `authority` (`host:port`), its key drawn from
    /// `masks`.
    ///
    /// # Errors
    /// What cannot stand in an HTTP request.
    pub fn new(
        dial: &Arc<WsDial>,
        authority: &str,
        path: &str,
        masks: &mut Masks,
    ) -> Result<WsClient, Unsendable> {
        let parts = [
            Some(authority),
            Some(path),
            dial.subprotocol.as_deref(),
            dial.origin.as_deref(),
        ];
        for part in parts.into_iter().flatten() {
            if part.is_empty() || !part.bytes().all(|octet| octet.is_ascii_graphic()) {
                return Err(Unsendable(part.to_owned()));
            }
        }
        let key = nonce(masks);
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        );
        let optional = [
            ("Sec-WebSocket-Protocol", &dial.subprotocol),
            ("Origin", &dial.origin),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                request += &format!("{name}: {value}\r\n");
            }
        }
        request += "\r\n";
        let asked = Asked {
            request: request.into_bytes(),
            accept: derive_accept_key(key.as_bytes()),
        };
        Ok(WsClient {
            ws: WebSocket::of(Role::Client),
            dial: Arc::clone(dial),
            asked: Some(Box::new(asked)),
        })
    }

    /// The request, to be sent first. It is given out once.
    pub fn request(&mut self) -> Vec<u8> {
        self.asked
            .as_mut()
            .map(|asked| std::mem::take(&mut asked.request))
            .unwrap_or_default()
    }

    /// As [`WebSocket::next`], but that what is appended to `reply`, and what a fault has to [reply](WsFault::reply), has
    /// to go through [`WsClient::masked`] before it is sent.
    ///
    /// # Errors
    /// What the server did wrong, or its refusal.
    pub fn next<'e, 'i: 'e>(
        &'e mut self,
        input: &mut &'i mut [u8],
        reply: &mut Vec<u8>,
    ) -> Result<Option<WsEvent<'e>>, WsFault> {
        if self.asked.is_some() {
            return match self.read_response(input) {
                Ok(true) => Ok(Some(WsEvent::Opened { path: "" })),
                Ok(false) => Ok(None),
                Err(fault) => {
                    self.asked = None;
                    Err(self.ws.fail(fault).without_reply())
                }
            };
        }
        let rules = Rules::new(self.dial.max_message_bytes, self.dial.text);
        self.ws.next_message(input, rules, reply)
    }

    /// What both sides have in common: whether it is open, the limit, the close frame (which is to be
    /// [masked](WsClient::masked)). Not [`WebSocket::next`].
    pub fn state(&mut self) -> &mut WebSocket {
        &mut self.ws
    }

    /// The control frames of a reply as a client sends them: each with a key of its own.
    pub fn masked(frames: &[u8], masks: &mut Masks) -> Vec<u8> {
        frame::mask_control_frames(frames, || masks.key())
    }

    /// Reads the answer; whether it is there, and good.
    fn read_response(&mut self, input: &mut &mut [u8]) -> Result<bool, WsFault> {
        let (Some(&first), Some(asked)) = (input.first(), &self.asked) else {
            return Ok(false);
        };
        if self.ws.held.is_empty() && first != b'H' {
            return Err(WsFault::handshake(
                0,
                "the server's answer is not HTTP: it takes no WebSockets at this address",
            ));
        }
        let head = self.ws.take_head(input).map_err(|TooLong| {
            WsFault::handshake(
                0,
                format!("the head of the server's answer is over {HEAD_MAX_BYTES} bytes"),
            )
        })?;
        let head: &[u8] = match &head {
            None => return Ok(false),
            Some(Whole::Input(head)) => head,
            Some(Whole::Held(range)) => &self.ws.held[range.clone()],
        };
        check(head, input, &asked.accept, &self.dial)?;
        self.ws.held = Vec::new();
        self.ws.phase = Phase::Header;
        self.asked = None;
        Ok(true)
    }
}

/// Sixteen unpredictable bytes in base64: 21 digits of six bits, one of two, and the padding.
fn nonce(masks: &mut Masks) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut key = String::with_capacity(24);
    for digit in 0..22 {
        let bits = masks.bits() as usize & 63;
        let bits = if digit == 21 { bits & 0b11_0000 } else { bits };
        key.push(char::from(DIGITS[bits]));
    }
    key + "=="
}

/// Checks a whole response head. `behind` is what has come of a body, which may say why not.
fn check(head: &[u8], behind: &[u8], accept: &str, dial: &WsDial) -> Result<(), WsFault> {
    let mut fields = [EMPTY_HEADER; HEAD_MAX_FIELDS];
    let mut response = Response::new(&mut fields);
    match response.parse(head) {
        Ok(Status::Complete(bytes)) if bytes == head.len() => {}
        Ok(_) => {
            return Err(WsFault::handshake(
                0,
                "the head of the server's answer is malformed",
            ));
        }
        Err(error) => {
            return Err(WsFault::handshake(
                0,
                format!("the head of the server's answer is malformed: {error}"),
            ));
        }
    }
    let status = response.code.unwrap_or_default();
    let bad = |what: String| Err(WsFault::handshake(status, what));
    if status != 101 {
        let phrase = quoted(response.reason.unwrap_or_default().as_bytes());
        let said = behind.trim_ascii();
        return bad(if said.is_empty() {
            format!("the server answered {status} {phrase}")
        } else {
            format!("the server answered {status} {phrase} and said {}", quoted(said))
        });
    }
    if response.version != Some(1) {
        return bad("the server answered in HTTP/1.0".to_owned());
    }

    let all = |name: &str| {
        response
            .headers
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value.trim_ascii())
            .collect::<Vec<&[u8]>>()
    };
    if !matches!(all("upgrade")[..], [upgrade] if upgrade.eq_ignore_ascii_case(b"websocket")) {
        return bad("the server's answer lacks the header `Upgrade: websocket`".to_owned());
    }
    if !all("connection").iter().any(|list| has_token(list, "upgrade")) {
        return bad("the server's answer lacks the header `Connection: Upgrade`".to_owned());
    }
    if all("sec-websocket-accept") != [accept.as_bytes()] {
        return bad("`Sec-WebSocket-Accept` in the server's answer is not that of this request".to_owned());
    }
    if let Some(extension) = all("sec-websocket-extensions").first() {
        return bad(format!(
            "the server uses the extension {}, which was not offered",
            quoted(extension)
        ));
    }
    let agreed = all("sec-websocket-protocol");
    match (&dial.subprotocol, &agreed[..]) {
        (None, []) => Ok(()),
        (Some(ours), [theirs]) if ours.as_bytes() == *theirs => Ok(()),
        (Some(ours), []) => bad(format!(
            "the server does not agree to the subprotocol {}",
            quoted(ours.as_bytes())
        )),
        (_, [theirs, ..]) => bad(format!(
            "the server speaks the subprotocol {}, which was not offered",
            quoted(theirs)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks() -> Masks {
        Masks::new([7; 32])
    }

    fn client(dial: WsDial) -> (WsClient, String) {
        let mut client = WsClient::new(
            &Arc::new(dial),
            "server.example.com:80",
            "/chat?a=b",
            &mut masks(),
        )
        .expect("nothing is wrong");
        let request = String::from_utf8(client.request()).expect("ASCII");
        assert!(client.request().is_empty(), "given out once");
        (client, request)
    }

    fn subprotocol() -> WsDial {
        WsDial {
            subprotocol: Some("fine.v1".into()),
            ..WsDial::default()
        }
    }

    /// What a server answers to the request.
    fn answer(request: &str) -> String {
        let key = request
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
            .expect("a key");
        let accept = derive_accept_key(key.as_bytes());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
    }

    fn feed(client: &mut WsClient, bytes: &[u8], size: usize) -> Result<(bool, usize), WsFault> {
        let mut opened = false;
        let mut taken = 0;
        for piece in bytes.to_vec().chunks_mut(size) {
            let before = piece.len();
            let mut input = piece;
            opened |= matches!(
                client.next(&mut input, &mut Vec::new())?,
                Some(WsEvent::Opened { .. })
            );
            taken += before - input.len();
            if opened {
                break;
            }
        }
        Ok((opened, taken))
    }

    #[test]
    fn the_request_is_as_rfc_6455_asks() {
        let dial = WsDial {
            origin: Some("http://localhost:8080".into()),
            ..subprotocol()
        };
        let (_, request) = client(dial);
        for line in [
            "Host: server.example.com:80",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: fine.v1",
            "Origin: http://localhost:8080",
        ] {
            assert_eq!(request.lines().filter(|of| *of == line).count(), 1, "{request}");
        }
        assert!(request.starts_with("GET /chat?a=b HTTP/1.1\r\n") && request.ends_with("\r\n\r\n"));
    }

    #[test]
    fn keys_are_sixteen_bytes_of_base64_and_never_the_same() {
        let mut masks = masks();
        let mut keys: Vec<String> = (0..100).map(|_| nonce(&mut masks)).collect();
        for key in &keys {
            let (digits, last) = (&key[..21], key.as_bytes()[21]);
            assert!(
                key.len() == 24 && key.ends_with("==") && b"AQgw".contains(&last),
                "{key}"
            );
            assert!(
                digits
                    .bytes()
                    .all(|digit| digit.is_ascii_alphanumeric() || b"+/".contains(&digit))
            );
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 100);
    }

    #[test]
    fn a_good_answer_opens_however_it_is_cut() {
        for size in [1, 2, 3, 50, 1000] {
            let (mut client, request) = client(WsDial::default());
            let mut answer = answer(&request).into_bytes();
            let head_bytes = answer.len();
            assert!(!client.state().is_open());
            answer.extend_from_slice(&[0x82, 1, 9]);
            let (opened, taken) = feed(&mut client, &answer, size).expect("good");
            assert!(opened && client.state().is_open());
            assert_eq!(taken, head_bytes, "what is behind the head is left");
            assert_eq!(client.state().held_bytes(), 0);
        }
    }

    #[test]
    fn each_bad_answer_is_refused_by_its_fault() {
        let check = |dial: WsDial, change: &dyn Fn(String) -> String, status: u16, word: &str| {
            let (mut client, request) = client(dial);
            let fault = feed(&mut client, change(answer(&request)).as_bytes(), 10_000).expect_err(word);
            assert_eq!(
                fault.kind(),
                super::super::WsFaultKind::Handshake { status },
                "{fault}"
            );
            assert!(fault.reason().contains(word), "{fault}");
            assert!(fault.reply().is_empty(), "a client has no word in this");
            assert!(!client.state().is_open());
        };
        let plain = WsDial::default;
        let with = |field: &'static str| {
            move |answer: String| answer.replacen("\r\n", &format!("\r\n{field}\r\n"), 1)
        };
        let without = |name: &'static str| {
            move |answer: String| {
                let kept = answer
                    .split_inclusive("\r\n")
                    .filter(|line| !line.starts_with(name));
                kept.collect::<String>()
            }
        };
        check(plain(), &|_| "SSH-2.0-x\r\n".into(), 0, "not HTTP");
        check(plain(), &|_| "HTTP/1.1 101\u{1}\r\n\r\n".into(), 0, "malformed");
        check(
            plain(),
            &|_| format!("HTTP/1.1 101 {}", "x".repeat(9000)),
            0,
            "over 8192",
        );
        let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 11\r\n\r\nnot\x1b[1m you\n";
        check(
            plain(),
            &|_| refusal.into(),
            403,
            "403 `Forbidden` and said `not\\u{1b}[1m you`",
        );
        check(plain(), &|_| "HTTP/1.1 404 \r\n\r\n".into(), 404, "404");
        check(plain(), &|answer| answer.replace("/1.1", "/1.0"), 101, "HTTP/1.0");
        check(plain(), &without("Upgrade"), 101, "`Upgrade: websocket`");
        check(plain(), &without("Connection"), 101, "`Connection: Upgrade`");
        check(
            plain(),
            &without("Sec-WebSocket-Accept"),
            101,
            "not that of this request",
        );
        check(
            plain(),
            &|_| answer("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
            101,
            "not that of this request",
        );
        check(
            plain(),
            &with("Sec-WebSocket-Extensions: permessage-deflate"),
            101,
            "extension `permessage-deflate`",
        );
        check(
            plain(),
            &with("Sec-WebSocket-Protocol: other"),
            101,
            "`other`, which was not offered",
        );
        check(
            subprotocol(),
            &with("Sec-WebSocket-Protocol: other"),
            101,
            "`other`, which was not offered",
        );
        check(
            subprotocol(),
            &|answer| answer,
            101,
            "does not agree to the subprotocol `fine.v1`",
        );
        let (mut client, request) = client(subprotocol());
        let agreed = with("Sec-WebSocket-Protocol: fine.v1")(answer(&request));
        assert!(feed(&mut client, agreed.as_bytes(), 10_000).expect("agreed").0);
    }

    #[test]
    fn what_a_request_cannot_carry_is_refused() {
        let new = |dial: WsDial, path: &str| {
            WsClient::new(&Arc::new(dial), "a:1", path, &mut masks())
                .err()
                .map(|Unsendable(part)| part)
        };
        assert_eq!(new(WsDial::default(), "/a b"), Some("/a b".into()));
        assert_eq!(new(WsDial::default(), ""), Some(String::new()));
        let smuggling = WsDial {
            origin: Some("x\r\nHost: y".into()),
            ..WsDial::default()
        };
        assert_eq!(new(smuggling, "/"), Some("x\r\nHost: y".into()));
    }
}
