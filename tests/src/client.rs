//! A blocking client on any of the transports. It does what a test says, right or wrong, and nothing by itself but
//! answering pings.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use fluxar_engine::listener::Address;
use fluxar_protocol::frame::{Deframer, prefix};
use fluxar_protocol::hello::{Hello, Welcome};
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Batch, Form, Id, Kind};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

use crate::message::{Received, encoded};

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a gateway.
pub struct Client {
    link: Link,
    deframer: Deframer,
    unread: Vec<u8>,
    received: VecDeque<Received>,
    ids: u64,
}

enum Link {
    Tcp(TcpStream),
    Unix(UnixStream),
    Ws(Box<WebSocket<TcpStream>>),
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// In its transport's good order; a WebSocket with this code.
    Closed(Option<u16>),
    /// By a reset.
    Reset,
}

impl Client {
    /// Connects and says nothing.
    ///
    /// # Panics
    /// If it cannot connect.
    #[must_use]
    pub fn connect(address: &Address) -> Self {
        let tcp = |host: &str, port: u16| {
            let stream = TcpStream::connect((host, port)).expect("a connection");
            stream.set_nodelay(true).expect("an option");
            stream.set_read_timeout(Some(PATIENCE)).expect("an option");
            stream.set_write_timeout(Some(PATIENCE)).expect("an option");
            stream
        };
        let link = match address {
            Address::Tcp { host, port } => Link::Tcp(tcp(host, *port)),
            Address::Unix { path } => {
                let stream = UnixStream::connect(path).expect("a connection");
                stream.set_read_timeout(Some(PATIENCE)).expect("an option");
                stream.set_write_timeout(Some(PATIENCE)).expect("an option");
                Link::Unix(stream)
            }
            Address::WebSocket { host, port, .. } => {
                let request = tungstenite::http::Request::builder()
                    .uri(format!("ws://{host}:{port}/"))
                    .header("Host", format!("{host}:{port}"))
                    .header("Connection", "Upgrade")
                    .header("Upgrade", "websocket")
                    .header("Sec-WebSocket-Version", "13")
                    .header(
                        "Sec-WebSocket-Key",
                        tungstenite::handshake::client::generate_key(),
                    )
                    .header("Sec-WebSocket-Protocol", "fluxar.v0")
                    .body(())
                    .expect("a request");
                let (socket, response) =
                    tungstenite::client(request, tcp(host, *port)).expect("a WebSocket handshake");
                assert_eq!(response.headers()["sec-websocket-protocol"], "fluxar.v0");
                Link::Ws(Box::new(socket))
            }
        };
        Self {
            link,
            deframer: Deframer::new(),
            unread: Vec::new(),
            received: VecDeque::new(),
            ids: 0,
        }
    }

    /// Connects and is greeted, in compact form.
    #[must_use]
    pub fn greeted(address: &Address) -> Self {
        let mut client = Self::connect(address);
        client.greet(Form::Compact, &Hello::default());
        client
    }

    /// Says hello and takes the answer.
    ///
    /// # Panics
    /// If it is refused.
    pub fn greet(&mut self, form: Form, hello: &Hello<'_>) {
        let mut payload = Vec::new();
        hello.encode(&mut payload);
        let id = self.id();
        let compact = encoded(Kind::Hello, id, None, None, None, &payload);
        let mut body = Vec::new();
        fluxar_protocol::envelope::decode(&compact)
            .expect("our own")
            .envelope
            .encode(form, &mut body);
        self.send(&body);
        let answer = self.expect();
        assert_eq!(
            (answer.kind, answer.reference, answer.code()),
            (Kind::Hello, Some(id), None),
            "{answer:?}"
        );
        assert_eq!(answer.form, form, "the answer comes in the form of the hello");
        Welcome::decode(&answer.payload).expect("a welcome");
    }

    /// An id that this client has not used.
    pub fn id(&mut self) -> Id {
        self.ids += 1;
        let mut id = [7; 16];
        id[8..].copy_from_slice(&self.ids.to_be_bytes());
        Id(id)
    }

    /// Sends one frame body.
    ///
    /// # Panics
    /// If it cannot be sent. See [`Client::try_send`].
    pub fn send(&mut self, body: &[u8]) {
        self.try_send(body).expect("the gateway reads");
    }

    /// Sends one frame body, if the gateway takes it.
    ///
    /// # Errors
    /// What the socket says.
    pub fn try_send(&mut self, body: &[u8]) -> io::Result<()> {
        match &mut self.link {
            Link::Ws(socket) => socket
                .send(Message::Binary(body.to_vec().into()))
                .map_err(io::Error::other),
            _ => {
                let mut frame = prefix(body.len()).to_vec();
                frame.extend_from_slice(body);
                self.try_send_raw(&frame)
            }
        }
    }

    /// Sends bytes as they are, beneath framing.
    ///
    /// # Errors
    /// What the socket says.
    pub fn try_send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.link {
            Link::Tcp(stream) => stream.write_all(bytes),
            Link::Unix(stream) => stream.write_all(bytes),
            Link::Ws(socket) => socket.get_mut().write_all(bytes),
        }
    }

    /// Publishes at qos 0.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> Id {
        let id = self.id();
        self.send(&encoded(Kind::Event, id, None, Some(topic), None, payload));
        id
    }

    /// Subscribes and takes the acceptance.
    ///
    /// # Panics
    /// If it is refused.
    pub fn subscribe(&mut self, pattern: &str, meta: MetaWriter) -> Id {
        let id = self.id();
        self.send(&encoded(
            Kind::Subscribe,
            id,
            None,
            Some(pattern),
            meta.finish().as_deref(),
            &[],
        ));
        let answer = self.answer_to(id);
        assert_eq!(
            (answer.kind, answer.code()),
            (Kind::Subscribe, None),
            "{answer:?}"
        );
        id
    }

    /// Offers to serve and takes the acceptance.
    pub fn serve(&mut self, pattern: &str) -> Id {
        self.subscribe(pattern, MetaWriter::new().flag("serve", true))
    }

    /// Sends a call.
    pub fn call(&mut self, method: &str, payload: &[u8]) -> Id {
        let id = self.id();
        self.send(&encoded(Kind::Call, id, None, Some(method), None, payload));
        id
    }

    /// Answers a call that arrived.
    pub fn answer(&mut self, call: &Received, payload: &[u8]) {
        let id = self.id();
        self.send(&encoded(Kind::Call, id, Some(call.id), None, None, payload));
    }

    /// Waits until the gateway has handled all that was sent before.
    pub fn settle(&mut self) {
        let id = self.id();
        self.send(&encoded(Kind::Ping, id, None, None, None, &[]));
        let _ = self.answer_to(id);
    }

    /// The next envelope whose ref is `id`; what comes before it stays to be received.
    ///
    /// # Panics
    /// If none comes.
    pub fn answer_to(&mut self, id: Id) -> Received {
        let mut before = VecDeque::new();
        loop {
            let next = self.expect();
            if next.reference == Some(id) {
                while let Some(earlier) = before.pop_back() {
                    self.received.push_front(earlier);
                }
                return next;
            }
            before.push_back(next);
        }
    }

    /// Whether what was asked with `id` reaches `server`: what came there, or nothing once it was refused. Neither takes a
    /// time that a test could know.
    ///
    /// # Panics
    /// If neither happens, or a connection ends.
    pub fn reaches(&mut self, id: Id, server: &mut Self) -> Option<Received> {
        const TURN: Duration = Duration::from_millis(5);
        let until = Instant::now() + PATIENCE;
        let mut before = VecDeque::new();
        let reached = loop {
            match server.poll(TURN).expect("the server stands") {
                Some(ping) if ping.kind == Kind::Ping && ping.reference.is_none() => server.pong(&ping),
                Some(reached) => break Some(reached),
                None => {}
            }
            match self.poll(TURN).expect("the asker stands") {
                Some(ping) if ping.kind == Kind::Ping && ping.reference.is_none() => self.pong(&ping),
                Some(answer) if answer.reference == Some(id) => {
                    assert!(answer.code().is_some(), "answered by somebody else: {answer:?}");
                    break None;
                }
                Some(other) => before.push_back(other),
                None => {}
            }
            assert!(Instant::now() < until, "neither given to the server nor refused");
        };
        while let Some(earlier) = before.pop_back() {
            self.received.push_front(earlier);
        }
        reached
    }

    fn pong(&mut self, ping: &Received) {
        let id = self.id();
        let _ = self.try_send(&encoded(Kind::Ping, id, Some(ping.id), None, None, &[]));
    }

    /// The next envelope.
    ///
    /// # Panics
    /// If the connection ends first.
    pub fn expect(&mut self) -> Received {
        match self.next() {
            Ok(received) => received,
            Err(end) => panic!("the connection ended ({end:?}) where an envelope was expected"),
        }
    }

    /// The next envelope, or how the connection ended. Pings are answered on the way.
    ///
    /// # Errors
    /// The end.
    ///
    /// # Panics
    /// If nothing comes for [`PATIENCE`], or what comes cannot be read.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Received, End> {
        loop {
            if let Some(received) = self.received.pop_front() {
                if received.kind == Kind::Ping && received.reference.is_none() {
                    self.pong(&received);
                    continue;
                }
                return Ok(received);
            }
            self.read()?;
        }
    }

    /// Reads on to the end of the connection, and returns what came and how it ended.
    pub fn rest(&mut self) -> (Vec<Received>, End) {
        let mut all = Vec::new();
        loop {
            match self.next() {
                Ok(received) => all.push(received),
                Err(end) => return (all, end),
            }
        }
    }

    /// Closes a WebSocket by a close frame with this code, and waits for how the other end answers.
    ///
    /// # Panics
    /// If it is no WebSocket, or does not stand.
    pub fn close_websocket(&mut self, code: u16) -> End {
        let Link::Ws(socket) = &mut self.link else {
            panic!("only a WebSocket has a close frame");
        };
        let frame = CloseFrame {
            code: code.into(),
            reason: "".into(),
        };
        socket.close(Some(frame)).expect("it stands");
        self.rest().1
    }

    /// What has arrived by now, without waiting.
    ///
    /// # Errors
    /// The end.
    pub fn poll(&mut self, wait: Duration) -> Result<Option<Received>, End> {
        let until = Instant::now() + wait;
        self.set_timeout(Duration::from_millis(10));
        let result = loop {
            if let Some(received) = self.received.pop_front() {
                break Ok(Some(received));
            }
            match self.read_some() {
                Ok(true) => {}
                Ok(false) if Instant::now() >= until => break Ok(None),
                Ok(false) => {}
                Err(end) => break Err(end),
            }
        };
        self.set_timeout(PATIENCE);
        result
    }

    fn set_timeout(&self, timeout: Duration) {
        let timeout = Some(timeout);
        match &self.link {
            Link::Tcp(stream) => stream.set_read_timeout(timeout),
            Link::Unix(stream) => stream.set_read_timeout(timeout),
            Link::Ws(socket) => socket.get_ref().set_read_timeout(timeout),
        }
        .expect("an option");
    }

    fn read(&mut self) -> Result<(), End> {
        assert!(self.read_some()?, "nothing came for {PATIENCE:?}");
        Ok(())
    }

    /// False if nothing came within the socket's timeout.
    fn read_some(&mut self) -> Result<bool, End> {
        let mut buffer = [0; 64 * 1024];
        let result = match &mut self.link {
            Link::Tcp(stream) => stream.read(&mut buffer),
            Link::Unix(stream) => stream.read(&mut buffer),
            Link::Ws(socket) => {
                return match socket.read() {
                    Ok(Message::Binary(body)) => {
                        take(&mut self.received, &body);
                        Ok(true)
                    }
                    Ok(Message::Close(frame)) => Err(End::Closed(frame.map(|frame| frame.code.into()))),
                    Ok(_) => Ok(true),
                    Err(tungstenite::Error::Io(error)) if is_timeout(&error) => Ok(false),
                    Err(tungstenite::Error::ConnectionClosed) => Err(End::Closed(None)),
                    Err(_) => Err(End::Reset),
                };
            }
        };
        match result {
            Ok(0) => Err(End::Closed(None)),
            Ok(bytes) => {
                self.unread.clear();
                self.unread.extend_from_slice(&buffer[..bytes]);
                let mut input = &self.unread[..];
                while let Some(body) = self
                    .deframer
                    .next(&mut input, 32 << 20)
                    .expect("a gateway keeps its limits")
                {
                    take(&mut self.received, body);
                }
                Ok(true)
            }
            Err(error) if is_timeout(&error) => Ok(false),
            Err(_) => Err(End::Reset),
        }
    }
}

fn take(received: &mut VecDeque<Received>, body: &[u8]) {
    for decoded in Batch::new(body) {
        let decoded = decoded.expect("a gateway sends what can be read");
        received.push_back(Received::from_decoded(&decoded));
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A TCP address as the standard library has it.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn socket_address(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp { host, port } | Address::WebSocket { host, port, .. } => {
            format!("{host}:{port}").parse().expect("an IP address")
        }
        Address::Unix { .. } => panic!("a Unix socket has no such address"),
    }
}
