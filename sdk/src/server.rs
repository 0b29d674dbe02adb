//! The peer that is dialled: accepts connections itself, without a gateway in between.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fluxar_protocol::{Code, Form, limits};
use futures_util::future::join_all;
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, mpsc, watch},
    time::{Instant, timeout_at},
};

use crate::{
    Auth, Error, ItemSink, Message, Origin, Origins, Peer, Request, Result, State, Transport,
    address::Address,
    drive::{Ended, drive},
    handlers::{self, Handlers, Serves},
    handshake::{self, Authenticate, Opened},
    ids::Ids,
    link::{Link, Role},
    options::{Options, option_methods},
    shared::Shared,
    streams,
    subscribe::handle_events,
    subscriptions::{Entry, Sink, Sub, Wish},
    wire::{self, Reader, Writer},
};

/// Connections over the bound that are told so at a time; those beyond are closed without a word.
const REFUSALS_MAX: usize = 64;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type EventHandler = Arc<dyn Fn(Message) -> Boxed<Result<()>> + Send + Sync>;
type OnConnect = Arc<dyn Fn(Peer) -> Boxed<()> + Send + Sync>;

/// Accepts peers and answers their calls, directly: no gateway is between them. A clone is the same server.
///
/// ```
/// # #[tokio::main] async fn main() -> fluxar::Result<()> {
/// use fluxar::{Client, Code, Error, Request, Server, Transport};
///
/// let server = Server::bind("127.0.0.1:0").transport(Transport::WebSocket).build().await?;
/// server.handle("users.get", |req: Request| async move {
///     match req.payload::<u64>()? {
///         42 => Ok("Ada".to_owned()),
///         id => Err(Error::new(Code::NotFound, format!("there is no user {id}"))),
///     }
/// })?;
/// let url = server.url().to_owned(); // ws://127.0.0.1:…
/// tokio::spawn(async move { server.run().await });
///
/// let client = Client::connect(url).build().await?;
/// assert_eq!(client.call::<_, String>("users.get", &42).await?, "Ada");
/// let error = client.call::<_, String>("users.get", &7).await.unwrap_err();
/// assert_eq!((error.code(), error.message()), (Code::NotFound, "there is no user 7"));
/// # Ok(()) }
/// ```
///
/// A server is no broker. Events that a peer publishes go to the handlers of [`Server::on_event`] and nowhere else;
/// [`Server::publish`] and [`Peer::publish`] send an event to the peers that subscribed to its topic. Groups, and
/// delivery beyond at most once, need a gateway and are refused `unimplemented`.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    url: Arc<str>,
    options: Arc<Options>,
    handlers: Arc<Handlers>,
    events: Mutex<Vec<(String, EventHandler)>>,
    on_connect: Mutex<Option<OnConnect>>,
    authenticate: Option<Authenticate>,
    origins: Origins,
    connections_max: usize,
    listener: Mutex<Option<Listener>>,
    peers: Mutex<HashMap<u64, Peer>>,
    connections: AtomicU64,
    close_requested: watch::Sender<bool>,
}

impl Server {
    /// A server at this address: `host:port` (then [`ServerBuilder::transport`] says which), or a URL such as
    /// `tcp://0.0.0.0:9000`, `ws://0.0.0.0:9001`, `unix:///run/app.sock`. Port 0 lets the system choose.
    pub fn bind(address: impl Into<String>) -> ServerBuilder {
        ServerBuilder {
            address: address.into(),
            transport: None,
            options: Options::default(),
            authenticate: None,
            origins: Origins::default(),
            connections_max: 10_000,
        }
    }

    /// Its address as a client dials it.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Answers a method, or the methods that match a pattern. Handlers run as tasks, each its own; one that panics is
    /// answered `internal`; one whose caller cancels or goes away is dropped where it awaits.
    ///
    /// # Errors
    /// If the pattern is none.
    pub fn handle<F, Fut, T>(&self, pattern: &str, handler: F) -> Result<()>
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
        T: Serialize,
    {
        self.0
            .handlers
            .add(pattern, Serves::Calls(handlers::erased(handler)))
    }

    /// Answers the streams that are opened to a method, or to the methods that match a pattern. The handler is given the
    /// request, from which it takes the opener's items if there are any ([`Request::items`]), and the sink for its own.
    ///
    /// When it returns `Ok` its direction has ended, and what the opener still sends is cancelled; an `Err` ends the
    /// stream with that error, behind the items sent before. One that panics ends it `internal`. When the opener cancels
    /// or goes away, or its time is over, the handler is dropped where it awaits. An error that the opener sends comes to
    /// the handler behind its items, and fails what the handler sends; a handler that has no items to come is dropped, and
    /// so is one that has not ended 5 s later (250 ms, if it has not asked for an item).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> fluxar::Result<()> {
    /// use fluxar::{Client, ItemSink, Request, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").build().await?;
    /// // An upload: items one way, and one answer when they have all come.
    /// server.handle_stream("upload", |req: Request, out: ItemSink<usize>| async move {
    ///     let (mut parts, mut bytes) = (req.items::<String>(), 0);
    ///     while let Some(part) = parts.next().await {
    ///         bytes += part?.len();
    ///     }
    ///     out.send(&bytes).await
    /// })?;
    /// # let url = server.url().to_owned();
    /// # tokio::spawn(async move { server.run().await });
    /// # let client = Client::connect(url).build().await?;
    /// let (parts, mut answer) = client.duplex::<str, usize>("upload", "report.txt").await?;
    /// for part in ["one ", "two ", "three"] {
    ///     parts.send(part).await?;
    /// }
    /// parts.finish().await?;
    /// assert_eq!(answer.next().await.transpose()?, Some(13));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the pattern is none.
    pub fn handle_stream<F, Fut, T>(&self, pattern: &str, handler: F) -> Result<()>
    where
        F: Fn(Request, ItemSink<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
        T: Serialize + ?Sized,
    {
        let handler = Serves::Streams(streams::erased(handler));
        self.0.handlers.add(pattern, handler)
    }

    /// Is called with the events that peers publish to topics that match, those of one peer one after the other.
    /// It holds for peers that connect afterwards.
    ///
    /// # Errors
    /// If the pattern is none.
    pub fn on_event<F, Fut>(&self, pattern: &str, handler: F) -> Result<()>
    where
        F: Fn(Message) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        handlers::check_pattern(pattern)?;
        let handler: EventHandler = Arc::new(move |message| Box::pin(handler(message)));
        lock(&self.0.events).push((pattern.to_owned(), handler));
        Ok(())
    }

    /// Is called with each peer after its handshake. The peer can be kept, and called.
    pub fn on_connect<F, Fut>(&self, hook: F)
    where
        F: Fn(Peer) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        *lock(&self.0.on_connect) = Some(Arc::new(move |peer| Box::pin(hook(peer))));
    }

    /// The peers that are connected now.
    pub fn peers(&self) -> Vec<Peer> {
        lock(&self.0.peers).values().cloned().collect()
    }

    /// Sends an event to every connected peer that subscribed to its topic, at most once. Those whose outbox is full
    /// are left out. Returns how many it was queued for.
    ///
    /// # Errors
    /// If the topic is none or the value cannot be encoded.
    pub fn publish<T: Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<usize> {
        handlers::check_name(topic, false)?;
        let payload = crate::codec::encode(value)?;
        Ok(self
            .peers()
            .iter()
            .filter(|peer| peer.try_publish_encoded(topic, &payload))
            .count())
    }

    /// Accepts peers until [`Server::close`].
    ///
    /// # Errors
    /// If it is run already.
    pub async fn run(&self) -> Result<()> {
        let Some(mut listener) = lock(&self.0.listener).take() else {
            let message = "the server is run already, or was closed";
            return Err(Error::from_origin(Origin::Input, Code::FailedPrecondition, message).at(&self.0.url));
        };
        let mut close = self.0.close_requested.subscribe();
        let max = self.0.connections_max.min(Semaphore::MAX_PERMITS);
        let (places, refusals) = (
            Arc::new(Semaphore::new(max)),
            Arc::new(Semaphore::new(REFUSALS_MAX)),
        );
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = close.wait_for(|requested| *requested) => return Ok(()),
            };
            match accepted {
                // A place is taken before the handshake, which costs memory and a descriptor as well.
                Ok((incoming, address)) => match places.clone().try_acquire_owned() {
                    Ok(place) => {
                        let server = self.0.clone();
                        tokio::spawn(async move {
                            server.serve(incoming, address).await;
                            drop(place);
                        });
                    }
                    Err(_) => {
                        tracing::warn!(url = %self.0.url, max, "too many connections: one was turned away");
                        if let Ok(turn) = refusals.clone().try_acquire_owned() {
                            tokio::spawn(async move {
                                incoming.turn_away(max).await;
                                drop(turn);
                            });
                        }
                    }
                },
                Err(error) => {
                    // Out of descriptors, mostly: what is open goes on, and closes some day.
                    tracing::warn!(url = %self.0.url, %error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Stops accepting, sends what is queued and a goodbye to every peer, and waits until they are gone.
    pub async fn close(&self) {
        self.0.close_requested.send_replace(true);
        drop(lock(&self.0.listener).take());
        join_all(self.peers().iter().map(Peer::close)).await;
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// One connection, from its first byte to its end.
    async fn serve(self: Arc<Self>, incoming: Incoming, address: String) {
        let shared = match Shared::new(self.options.clone(), address.into(), self.handlers.clone()) {
            Ok(shared) => shared,
            Err(error) => return tracing::error!(%error, "cannot take a connection"),
        };
        let (opened, reader, writer) = match self.shake_hands(incoming, &shared).await {
            Ok(opened) => opened,
            Err(error) => {
                return tracing::info!(address = %shared.address, cause = error.message(), "a handshake failed");
            }
        };
        let link = Arc::new(Link::new(&shared, Role::Answerer, opened.form, &opened));
        for (pattern, handler) in lock(&self.events).iter() {
            let sub = Sub::new(shared.ids.next(), pattern, Wish::Unasked);
            let (queue, events) = mpsc::channel(shared.options.subscription_queue);
            shared.subscriptions.add(Entry {
                sub,
                sink: Sink::Events(queue),
            });
            let handler = handler.clone();
            tokio::spawn(handle_events(pattern.clone(), events, move |message| {
                handler(message)
            }));
        }
        let peer = Peer::new(shared.clone());
        shared.connected(&link);
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        lock(&self.peers).insert(number, peer.clone());
        if *self.close_requested.borrow() {
            link.close(None); // it came while the server was closing
        }
        let hook = lock(&self.on_connect).clone();
        if let Some(hook) = hook {
            tokio::spawn(hook(peer.clone()));
        }
        let why = match drive(&shared, &link, reader, writer, opened.rest).await {
            Ended::Over(why) => why,
            Ended::Lost(why) | Ended::Away(why) => Some(why),
        };
        tracing::debug!(address = %shared.address, ?why, "a peer has gone");
        shared.lost(why, State::Closed);
        lock(&self.peers).remove(&number);
        drop(peer);
    }

    async fn shake_hands(&self, incoming: Incoming, shared: &Shared) -> Result<(Opened, Reader, Writer)> {
        let options = &shared.options;
        let limit = Duration::from_millis(limits::HANDSHAKE_MS_MAX.into()).min(options.connect_timeout);
        let late = || {
            let message = format!("no hello within {} ms", limit.as_millis());
            Error::from_origin(Origin::Connect, Code::DeadlineExceeded, message)
        };
        let until = Instant::now() + limit;
        let opening = incoming.open(options.max_frame_bytes, &self.origins);
        let (mut reader, mut writer) = timeout_at(until, opening).await.map_err(|_| late())??;
        let authenticate = self.authenticate.as_ref();
        let hello = handshake::accept(&mut reader, &mut writer, options, &shared.ids, authenticate);
        match timeout_at(until, hello).await {
            Ok(opened) => Ok((opened?, reader, writer)),
            Err(_) => {
                let error = late();
                handshake::turn_away(&mut reader, &mut writer, &shared.ids, Form::Compact, None, &error)
                    .await;
                Err(error)
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a server together. From [`Server::bind`].
#[must_use = "nothing is bound until it is built"]
#[derive(Clone)]
pub struct ServerBuilder {
    address: String,
    transport: Option<Transport>,
    options: Options,
    authenticate: Option<Authenticate>,
    origins: Origins,
    connections_max: usize,
}

impl ServerBuilder {
    option_methods!();

    /// How frames are carried, when the address does not say it. Default TCP.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Decides about each peer by the credentials of its hello; `None` if it sent none. What it returns as an error
    /// (`unauthenticated`, say) is told to the peer, and the connection is closed. Without this everyone is let in.
    pub fn authenticate<F>(mut self, decide: F) -> Self
    where
        F: Fn(Option<&Auth>) -> Result<()> + Send + Sync + 'static,
    {
        self.authenticate = Some(Arc::new(decide));
        self
    }

    /// Which web pages may connect, on WebSocket. By default those of this machine.
    pub fn origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    /// Most connections at a time, those in their handshakes included. Further ones are told `resource_exhausted` (on
    /// WebSocket by HTTP's 503) and closed. Default 10,000.
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.connections_max = connections;
        self
    }

    /// Binds. From here on peers can connect; they are served once the server is [run](Server::run).
    ///
    /// # Errors
    /// If the address is none or cannot be bound: the error names it and the cause.
    pub async fn build(self) -> Result<Server> {
        let address = Address::parse(&self.address, self.transport)?;
        let (listener, address) = Listener::bind(&address).await.map_err(|cause| {
            let message = format!("cannot listen: {cause}");
            Error::from_origin(Origin::Input, Code::Unavailable, message)
                .at(&address.name())
                .because(cause)
        })?;
        Ok(Server(Arc::new(Inner {
            url: address.name(),
            options: Arc::new(self.options),
            handlers: Arc::default(),
            events: Mutex::default(),
            on_connect: Mutex::default(),
            authenticate: self.authenticate,
            origins: self.origins,
            connections_max: self.connections_max,
            listener: Mutex::new(Some(listener)),
            peers: Mutex::default(),
            connections: AtomicU64::new(0),
            close_requested: watch::Sender::new(false),
        })))
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("address", &self.address)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

enum Listener {
    Tcp {
        listener: TcpListener,
        is_websocket: bool,
    },
    Unix {
        listener: UnixListener,
        path: PathBuf,
    },
}

enum Incoming {
    Tcp(TcpStream),
    Unix(UnixStream),
    Ws(TcpStream),
}

impl Listener {
    /// Binds, and says where: port 0 has become a port.
    async fn bind(address: &Address) -> io::Result<(Self, Address)> {
        match address {
            Address::Tcp(authority) => {
                let listener = TcpListener::bind(authority).await?;
                let bound = Address::Tcp(listener.local_addr()?.to_string());
                Ok((
                    Self::Tcp {
                        listener,
                        is_websocket: false,
                    },
                    bound,
                ))
            }
            Address::WebSocket { authority, path } => {
                let listener = TcpListener::bind(authority).await?;
                let authority = listener.local_addr()?.to_string();
                let bound = Address::WebSocket {
                    authority,
                    path: path.clone(),
                };
                Ok((
                    Self::Tcp {
                        listener,
                        is_websocket: true,
                    },
                    bound,
                ))
            }
            Address::Unix(path) => {
                let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
                if UnixStream::connect(path).await.as_ref().is_err_and(refused) {
                    std::fs::remove_file(path)?; // left behind by a process that is gone
                }
                let listener = UnixListener::bind(path)?;
                Ok((
                    Self::Unix {
                        listener,
                        path: path.clone(),
                    },
                    address.clone(),
                ))
            }
        }
    }

    /// The next connection, and the address of the peer.
    async fn accept(&mut self) -> io::Result<(Incoming, String)> {
        match self {
            Self::Tcp {
                listener,
                is_websocket,
            } => {
                let (socket, address) = listener.accept().await?;
                socket.set_nodelay(true)?;
                if *is_websocket {
                    return Ok((Incoming::Ws(socket), format!("ws://{address}")));
                }
                Ok((Incoming::Tcp(socket), format!("tcp://{address}")))
            }
            Self::Unix { listener, path } => {
                let (socket, _) = listener.accept().await?;
                Ok((Incoming::Unix(socket), format!("unix://{}", path.display())))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self {
            drop(std::fs::remove_file(path));
        }
    }
}

impl Incoming {
    /// Says that there is no room, and closes.
    async fn turn_away(self, max: usize) {
        let message = format!("this server takes {max} connections at a time; try again later");
        let error = Error::from_origin(Origin::Connect, Code::ResourceExhausted, message);
        let (mut reader, mut writer) = match self {
            Self::Tcp(socket) => wire::tcp_stream(socket),
            Self::Unix(socket) => wire::unix_stream(socket),
            Self::Ws(socket) => return wire::refuse_websocket(socket, error.message()).await,
        };
        // Without randomness it is closed without a word.
        if let Ok(ids) = Ids::new() {
            handshake::turn_away(&mut reader, &mut writer, &ids, Form::Compact, None, &error).await;
        }
    }

    async fn open(self, max_frame_bytes: usize, origins: &Origins) -> Result<(Reader, Writer)> {
        match self {
            Self::Tcp(socket) => Ok(wire::tcp_stream(socket)),
            Self::Unix(socket) => Ok(wire::unix_stream(socket)),
            Self::Ws(socket) => wire::accept_websocket(socket, max_frame_bytes, origins).await,
        }
    }
}
