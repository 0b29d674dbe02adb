//! Sockets: how frame bodies get in and out, over each transport. Above this file nobody knows which one it is.

use std::{io, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use fluxar_protocol::{Code, frame};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config, client_async_with_config,
    tungstenite::{
        self, Message as WsMessage,
        client::IntoClientRequest,
        error::CapacityError,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::{Error, Origin, Result, address::Address, outbox::Batch};

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
    /// When something was last received.
    pub(crate) read_at: Instant,
}

enum Source {
    Stream {
        socket: Box<dyn AsyncRead + Send + Unpin>,
        buffer: BytesMut,
    },
    WebSocket(SplitStream<Ws>),
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
            let socket: Box<dyn Socket> = Box::new(tcp(authority).await.map_err(failed)?);
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
            Ok(websocket(ws))
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
    (Reader::stream(Box::new(read)), Writer::Stream(Box::new(write)))
}

/// The same over a Unix socket.
pub(crate) fn unix_stream(socket: UnixStream) -> (Reader, Writer) {
    let (read, write) = socket.into_split();
    (Reader::stream(Box::new(read)), Writer::Stream(Box::new(write)))
}

/// Answers a WebSocket handshake. A client that does not offer the subprotocol is refused.
pub(crate) async fn accept_websocket(
    socket: impl Socket,
    max_frame_bytes: usize,
) -> Result<(Reader, Writer)> {
    let socket: Box<dyn Socket> = Box::new(socket);
    let config = Some(websocket_config(max_frame_bytes));
    let ws = accept_hdr_async_with_config(socket, choose_subprotocol, config)
        .await
        .map_err(|error| {
            let message = format!("the WebSocket handshake failed: {error}");
            Error::from_origin(Origin::Connect, Code::InvalidArgument, message).because(error)
        })?;
    Ok(websocket(ws))
}

#[allow(clippy::result_large_err)] // the type is tungstenite's
fn choose_subprotocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut names = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    if names.any(|name| name.trim() == SUBPROTOCOL) {
        response
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        return Ok(response);
    }
    let mut refusal = ErrorResponse::new(Some(format!("the subprotocol {SUBPROTOCOL} is needed\n")));
    *refusal.status_mut() = StatusCode::BAD_REQUEST;
    Err(refusal)
}

fn websocket_config(max_frame_bytes: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(max_frame_bytes))
        .max_frame_size(Some(max_frame_bytes))
        .read_buffer_size(16 * 1024)
}

fn websocket(ws: Ws) -> (Reader, Writer) {
    let (write, read) = ws.split();
    (
        Reader {
            source: Source::WebSocket(read),
            read_at: Instant::now(),
        },
        Writer::WebSocket(write),
    )
}

impl Reader {
    fn stream(socket: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        Self {
            source: Source::Stream {
                socket,
                buffer: BytesMut::new(),
            },
            read_at: Instant::now(),
        }
    }

    /// The next frame body; `None` when the other side has closed. May be dropped at any await without losing bytes.
    pub(crate) async fn next(&mut self, limit_bytes: usize) -> Result<Option<Bytes>> {
        match &mut self.source {
            Source::Stream { socket, buffer } => loop {
                if let Some(body) = cut_frame(buffer, limit_bytes)? {
                    return Ok(Some(body));
                }
                if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
                    buffer.reserve(READ_BYTES);
                }
                match socket.read_buf(buffer).await {
                    Ok(0) if buffer.is_empty() => return Ok(None),
                    Ok(0) => return Err(lost("the connection ended within a frame")),
                    Ok(_) => self.read_at = Instant::now(),
                    Err(error) => return Err(lost(&format!("cannot read: {error}")).because(error)),
                }
            },
            Source::WebSocket(ws) => loop {
                let message = ws.next().await;
                self.read_at = Instant::now();
                match message {
                    Some(Ok(WsMessage::Binary(body))) if body.len() > limit_bytes => {
                        return Err(too_large(body.len(), limit_bytes));
                    }
                    Some(Ok(WsMessage::Binary(body))) => return Ok(Some(body)),
                    Some(Ok(WsMessage::Text(_))) => {
                        let message = "a WebSocket text message; FLUXAR sends binary ones";
                        return Err(Error::from_origin(
                            Origin::Connection,
                            Code::InvalidArgument,
                            message,
                        ));
                    }
                    // As good as an empty body: it shows that the peer lives.
                    Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_))) => return Ok(Some(Bytes::new())),
                    Some(Ok(WsMessage::Frame(_))) => {}
                    Some(Ok(WsMessage::Close(_))) | None => return Ok(None),
                    Some(Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed)) => {
                        return Ok(None);
                    }
                    Some(Err(tungstenite::Error::Capacity(CapacityError::MessageTooLong {
                        size,
                        max_size,
                    }))) => {
                        return Err(too_large(size, max_size));
                    }
                    Some(Err(error)) => return Err(lost(&format!("cannot read: {error}")).because(error)),
                }
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
                })
            }
        }
    }

    /// Half-closes: nothing more comes from this side.
    pub(crate) async fn finish(&mut self, code: Option<Code>) {
        let done = async {
            match self {
                Self::Stream(socket) => drop(socket.shutdown().await),
                Self::WebSocket(ws) => {
                    let code = match code {
                        None => CloseCode::Normal,
                        Some(Code::ResourceExhausted) => CloseCode::Size,
                        Some(Code::InvalidArgument | Code::FailedPrecondition) => CloseCode::Protocol,
                        Some(Code::Unavailable) => CloseCode::Away,
                        Some(_) => CloseCode::Policy,
                    };
                    drop(
                        ws.send(WsMessage::Close(Some(CloseFrame {
                            code,
                            reason: "".into(),
                        })))
                        .await,
                    );
                }
            }
        };
        // The peer may have stopped reading; nothing is owed to it then.
        drop(tokio::time::timeout(Duration::from_secs(1), done).await);
    }
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
