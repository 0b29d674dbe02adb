//! Sockets: how frame bodies get in and out, over each transport. Above this file nobody knows which one it is.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use fluxar_protocol::{Code, frame, limits};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream},
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config, client_async_with_config,
    tungstenite::{
        self, Message as WsMessage,
        client::IntoClientRequest,
        error::{CapacityError, ProtocolError},
        handshake::server::{ErrorResponse, Request, Response},
        http::{
            HeaderValue, StatusCode,
            header::{ORIGIN, SEC_WEBSOCKET_PROTOCOL},
        },
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::{Error, Origin, Origins, Result, address::Address, outbox::Batch};

/// The WebSocket subprotocol that says FLUXAR [P-8.4].
const SUBPROTOCOL: &str = "fluxar.v0";
/// What one read asks the socket for.
const READ_BYTES: usize = 64 * 1024;

type Ws = WebSocketStream<Box<dyn Socket>>;

/// A byte stream, whichever it is.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for T {}

/// The receiving half of a connection.
pub(crate) struct Reader {
    source: Source,
    clock: Arc<Clock>,
}

enum Source {
    Stream {
        socket: Box<dyn AsyncRead + Send + Unpin>,
        buffer: BytesMut,
    },
    WebSocket(SplitStream<Ws>),
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection is lost.
    Lost(Error),
    /// The other side broke the rules of FLUXAR, and is told by a `cancel`.
    Fault(Error),
    /// It broke those of WebSocket, which says so in its close frame alone [P-8.4].
    WebSocket(CloseCode, Error),
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Lost(error) | Broken::Fault(error) | Broken::WebSocket(_, error) => error,
        }
    }
}

/// What the close frame of a WebSocket says: a hint, for the reason stands in the `cancel` in front of it [P-8.4].
#[derive(Debug, Clone)]
pub(crate) struct Farewell {
    code: CloseCode,
    reason: String,
}

impl Farewell {
    /// After a goodbye, for this reason if it has one.
    pub(crate) fn because(error: Option<&Error>) -> Self {
        let code = match error.map(Error::code) {
            None => CloseCode::Normal,
            Some(Code::Unavailable) => CloseCode::Away,
            Some(_) => CloseCode::Policy,
        };
        Self {
            code,
            reason: String::new(),
        }
    }

    /// For a breach of WebSocket's own rules.
    pub(crate) fn breach(code: CloseCode, error: &Error) -> Self {
        const REASON_BYTES_MAX: usize = 123; // a control frame holds no more
        let mut reason = error.message().to_owned();
        while reason.len() > REASON_BYTES_MAX {
            reason.pop();
        }
        Self { code, reason }
    }
}

/// When bytes arrived, as the socket sees it; what is above it may read much at once, and hand out little.
struct Clock {
    began: Instant,
    /// Nanoseconds since `began`.
    read: AtomicU64,
    /// The same for the first byte of the frame that is not complete; 0 if there is none.
    frame_begun: AtomicU64,
}

impl Clock {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            read: AtomicU64::new(0),
            frame_begun: AtomicU64::new(0),
        })
    }

    fn tick(&self) {
        let now = (self.began.elapsed().as_nanos() as u64).max(1);
        self.read.store(now, Ordering::Relaxed);
        if self.frame_begun.load(Ordering::Relaxed) == 0 {
            self.frame_begun.store(now, Ordering::Relaxed);
        }
    }

    /// A frame was taken; perhaps a part of the next one is here already.
    fn frame_ends(&self, next_begins: bool) {
        let begun = if next_begins {
            self.read.load(Ordering::Relaxed)
        } else {
            0
        };
        self.frame_begun.store(begun, Ordering::Relaxed);
    }
}

/// A socket, or its reading half, with a clock.
struct Clocked<S> {
    socket: S,
    clock: Arc<Clock>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Clocked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, out))?;
        if out.filled().len() > before {
            self.clock.tick();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Clocked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The sending half.
pub(crate) enum Writer {
    Stream(Box<dyn AsyncWrite + Send + Unpin>),
    WebSocket(SplitSink<Ws, WsMessage>),
}

/// Dials. `max_frame_bytes` bounds what the other side may send.
pub(crate) async fn dial(address: &Address, max_frame_bytes: usize) -> Result<(Reader, Writer)> {
    let failed = |error: io::Error| {
        let message = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused: nobody listens there".to_owned(),
            io::ErrorKind::NotFound => "no such socket: nobody listens there".to_owned(),
            _ => format!("cannot connect: {error}"),
        };
        Error::from_origin(Origin::Connect, Code::Unavailable, message).because(error)
    };
    match address {
        Address::Tcp(authority) => Ok(tcp_stream(tcp(authority).await.map_err(failed)?)),
        Address::Unix(path) => Ok(unix_stream(UnixStream::connect(path).await.map_err(failed)?)),
        Address::WebSocket { authority, path } => {
            let (socket, clock) = clocked(tcp(authority).await.map_err(failed)?);
            let refused = |error: tungstenite::Error| {
                let message = format!("the WebSocket handshake failed: {error}");
                Error::from_origin(Origin::Connect, Code::Unavailable, message).because(error)
            };
            let mut request = format!("ws://{authority}{path}")
                .into_client_request()
                .map_err(refused)?;
            request
                .headers_mut()
                .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
            let config = Some(websocket_config(max_frame_bytes));
            let (ws, _) = client_async_with_config(request, socket, config)
                .await
                .map_err(refused)?;
            Ok(websocket(ws, clock))
        }
    }
}

async fn tcp(authority: &str) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(authority).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A connection whose frames have their length in front.
pub(crate) fn tcp_stream(socket: TcpStream) -> (Reader, Writer) {
    let (read, write) = socket.into_split();
    (Reader::stream(read), Writer::Stream(Box::new(write)))
}

/// The same over a Unix socket.
pub(crate) fn unix_stream(socket: UnixStream) -> (Reader, Writer) {
    let (read, write) = socket.into_split();
    (Reader::stream(read), Writer::Stream(Box::new(write)))
}

fn clocked(socket: impl Socket) -> (Box<dyn Socket>, Arc<Clock>) {
    let clock = Clock::new();
    let clocked = Clocked {
        socket,
        clock: clock.clone(),
    };
    (Box::new(clocked), clock)
}

/// Answers a WebSocket handshake. A page that may not connect, and a client that offers other subprotocols only, are
/// refused [P-8.4].
#[allow(clippy::result_large_err)] // the type is tungstenite's
pub(crate) async fn accept_websocket(
    socket: impl Socket,
    max_frame_bytes: usize,
    origins: &Origins,
) -> Result<(Reader, Writer)> {
    let (socket, clock) = clocked(socket);
    let config = Some(websocket_config(max_frame_bytes));
    let ws = accept_hdr_async_with_config(
        socket,
        |asked: &Request, answer| admit(asked, answer, origins),
        config,
    )
    .await
    .map_err(|error| {
        let message = format!("the WebSocket handshake failed: {error}");
        Error::from_origin(Origin::Connect, Code::InvalidArgument, message).because(error)
    })?;
    Ok(websocket(ws, clock))
}

/// Answers a WebSocket handshake, whatever it is, by HTTP's 503 and this reason.
pub(crate) async fn refuse_websocket(mut socket: impl Socket, why: &str) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{why}\n",
        why.len() + 1
    );
    let told = async {
        socket.write_all(answer.as_bytes()).await?;
        socket.shutdown().await?;
        // What was asked is read, so that it does not reset the connection before the answer has arrived.
        let mut unread = [0; 1024];
        while socket.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    drop(tokio::time::timeout(Duration::from_millis(limits::CLOSE_DRAIN_MS.into()), told).await);
}

#[allow(clippy::result_large_err)] // the type is tungstenite's
fn admit(request: &Request, mut response: Response, origins: &Origins) -> Result<Response, ErrorResponse> {
    let refuse = |status: StatusCode, why: String| {
        let mut refusal = ErrorResponse::new(Some(why));
        *refusal.status_mut() = status;
        Err(refusal)
    };
    for origin in request.headers().get_all(ORIGIN) {
        if !origin.to_str().is_ok_and(|origin| origins.allow(origin)) {
            let why = format!(
                "pages from the origin {origin:?} may not connect here; the server's setting `origins` says which may\n"
            );
            return refuse(StatusCode::FORBIDDEN, why);
        }
    }
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut names = offered
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
        .peekable();
    // Hand tools offer none, and speak it all the same.
    if names.peek().is_some() {
        if !names.any(|name| name == SUBPROTOCOL.as_bytes()) {
            let why = format!("none of the offered subprotocols is spoken here; offer {SUBPROTOCOL}\n");
            return refuse(StatusCode::BAD_REQUEST, why);
        }
        response
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(response)
}

fn websocket_config(max_frame_bytes: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(max_frame_bytes))
        .max_frame_size(Some(max_frame_bytes))
        .read_buffer_size(16 * 1024)
}

fn websocket(ws: Ws, clock: Arc<Clock>) -> (Reader, Writer) {
    clock.frame_ends(false); // what has arrived so far was HTTP
    let (write, read) = ws.split();
    let source = Source::WebSocket(read);
    (Reader { source, clock }, Writer::WebSocket(write))
}

impl Reader {
    fn stream(socket: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let clock = Clock::new();
        let socket = Clocked {
            socket,
            clock: clock.clone(),
        };
        Self {
            source: Source::Stream {
                socket: Box::new(socket),
                buffer: BytesMut::new(),
            },
            clock,
        }
    }

    /// When bytes last arrived.
    pub(crate) fn read_at(&self) -> Instant {
        self.clock.began + Duration::from_nanos(self.clock.read.load(Ordering::Relaxed))
    }

    /// When the first byte of the frame arrived that is not complete yet. On WebSocket, a control frame in between ends
    /// that time as well: what stands behind it counts anew.
    pub(crate) fn frame_begun_at(&self) -> Option<Instant> {
        let begun = self.clock.frame_begun.load(Ordering::Relaxed);
        (begun > 0).then(|| self.clock.began + Duration::from_nanos(begun))
    }

    /// The next frame body; `None` when the other side has closed. May be dropped at any await without losing bytes.
    pub(crate) async fn next(&mut self, limit_bytes: usize) -> Result<Option<Bytes>, Broken> {
        let clock = &self.clock;
        match &mut self.source {
            Source::Stream { socket, buffer } => loop {
                if let Some(body) = cut_frame(buffer, limit_bytes).map_err(Broken::Fault)? {
                    clock.frame_ends(!buffer.is_empty());
                    return Ok(Some(body));
                }
                if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
                    buffer.reserve(READ_BYTES);
                }
                match socket.read_buf(buffer).await {
                    Ok(0) if buffer.is_empty() => return Ok(None),
                    Ok(0) => return Err(Broken::Lost(lost("the connection ended within a frame"))),
                    Ok(_) => {}
                    Err(error) => return Err(unreadable(error)),
                }
            },
            Source::WebSocket(ws) => loop {
                let message = ws.next().await;
                clock.frame_ends(false);
                let breach = |code, message: &str| {
                    let error = Error::from_origin(Origin::Connection, Code::InvalidArgument, message);
                    Err(Broken::WebSocket(code, error))
                };
                let too_large =
                    |bytes, limit| Err(Broken::WebSocket(CloseCode::Size, too_large(bytes, limit)));
                return match message {
                    Some(Ok(WsMessage::Binary(body))) if body.len() > limit_bytes => {
                        too_large(body.len(), limit_bytes)
                    }
                    Some(Ok(WsMessage::Binary(body))) => Ok(Some(body)),
                    Some(Ok(WsMessage::Text(_))) => breach(
                        CloseCode::Unsupported,
                        "a WebSocket text message; FLUXAR sends binary ones",
                    ),
                    Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_) | WsMessage::Frame(_))) => continue,
                    Some(Ok(WsMessage::Close(_))) | None => Ok(None),
                    Some(Err(error)) => match error {
                        tungstenite::Error::ConnectionClosed
                        | tungstenite::Error::AlreadyClosed
                        | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                            Ok(None)
                        }
                        tungstenite::Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
                            too_large(size, max_size)
                        }
                        tungstenite::Error::Protocol(fault) => {
                            breach(CloseCode::Protocol, &format!("a breach of RFC 6455: {fault}"))
                        }
                        tungstenite::Error::Utf8(_) => {
                            breach(CloseCode::Invalid, "a WebSocket text that is not UTF-8")
                        }
                        error => Err(unreadable(error)),
                    },
                };
            },
        }
    }
}

/// Cuts the first frame off what was read. Frames share the memory that they were read into.
fn cut_frame(buffer: &mut BytesMut, limit_bytes: usize) -> Result<Option<Bytes>> {
    let Some(prefix) = buffer.first_chunk::<{ frame::PREFIX_BYTES }>() else {
        return Ok(None);
    };
    let body_bytes = u32::from_be_bytes(*prefix) as usize;
    if body_bytes > limit_bytes {
        return Err(too_large(body_bytes, limit_bytes));
    }
    if buffer.len() < frame::PREFIX_BYTES + body_bytes {
        return Ok(None);
    }
    buffer.advance(frame::PREFIX_BYTES);
    Ok(Some(buffer.split_to(body_bytes).freeze()))
}

impl Writer {
    /// Writes all frames and gives the buffers back.
    pub(crate) async fn write(&mut self, batch: Batch) -> Result<Batch> {
        let failed = |cause: String| lost(&format!("cannot write: {cause}"));
        match self {
            Self::Stream(socket) => {
                socket
                    .write_all(&batch.bytes)
                    .await
                    .map_err(|error| failed(error.to_string()).because(error))?;
                socket
                    .flush()
                    .await
                    .map_err(|error| failed(error.to_string()).because(error))?;
                Ok(batch)
            }
            Self::WebSocket(ws) => {
                let bodies: Vec<_> = batch.bodies().collect();
                let bytes = Bytes::from(batch.bytes);
                for body in bodies {
                    let message = WsMessage::Binary(bytes.slice(body));
                    ws.feed(message)
                        .await
                        .map_err(|error| failed(error.to_string()).because(error))?;
                }
                ws.flush()
                    .await
                    .map_err(|error| failed(error.to_string()).because(error))?;
                let bytes = bytes.try_into_mut().map(Vec::from).unwrap_or_default();
                Ok(Batch {
                    bytes,
                    frames: batch.frames,
                    kept_bytes: batch.kept_bytes,
                    resent_bytes: batch.resent_bytes,
                })
            }
        }
    }

    /// Half-closes: nothing more comes from this side.
    pub(crate) async fn finish(&mut self, farewell: Farewell) {
        let done = async {
            match self {
                Self::Stream(socket) => drop(socket.shutdown().await),
                Self::WebSocket(ws) => {
                    let close = CloseFrame {
                        code: farewell.code,
                        reason: farewell.reason.into(),
                    };
                    drop(ws.send(WsMessage::Close(Some(close))).await);
                }
            }
        };
        // The peer may have stopped reading; nothing is owed to it then.
        drop(tokio::time::timeout(Duration::from_secs(1), done).await);
    }
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> Broken {
    Broken::Lost(lost(&format!("cannot read: {error}")).because(error))
}

fn lost(message: &str) -> Error {
    Error::from_origin(Origin::Connection, Code::Unavailable, message)
}

fn too_large(announced_bytes: usize, limit_bytes: usize) -> Error {
    let message = frame::FrameTooLarge {
        announced_bytes,
        limit_bytes,
    }
    .to_string();
    Error::from_origin(Origin::Connection, Code::ResourceExhausted, message)
}
