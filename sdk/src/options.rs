//! Every knob of a peer, with its default and its unit. Builders set them; a connection reads them.

use std::time::Duration;

use fluxar_protocol::{Form, limits};

/// How a peer behaves. Shared by all its connections.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) agent: String,
    pub(crate) form: Form,
    pub(crate) max_frame_bytes: usize,
    pub(crate) credit_bytes: u32,
    pub(crate) heartbeat: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) frame_timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) outbox_bytes: usize,
    pub(crate) publish_unacked_bytes: usize,
    pub(crate) open_calls_max: usize,
    pub(crate) open_streams_max: usize,
    pub(crate) handlers_max: usize,
    pub(crate) subscription_queue: usize,
    pub(crate) stall: Duration,
    /// Whether a session is to be resumed when its connection is lost, if the other side can.
    pub(crate) resume: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            agent: concat!("fluxar-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            form: Form::Compact,
            max_frame_bytes: limits::FRAME_BYTES_DEFAULT,
            credit_bytes: limits::CREDIT_BYTES_DEFAULT,
            heartbeat: Duration::from_millis(limits::HEARTBEAT_MS_DEFAULT.into()),
            connect_timeout: Duration::from_secs(10),
            frame_timeout: Duration::from_secs(60),
            call_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(5),
            outbox_bytes: 4 * 1024 * 1024,
            publish_unacked_bytes: 4 * 1024 * 1024,
            open_calls_max: 65_536,
            open_streams_max: 1024,
            handlers_max: 1024,
            subscription_queue: 1024,
            stall: Duration::from_secs(1),
            resume: true,
        }
    }
}

/// The subscriptions of the other side that this side remembers, when no gateway is between them.
pub(crate) const REMOTE_SUBSCRIPTIONS_MAX: usize = 1024;
/// What control messages (answers, cancels, pongs) may hold beyond `outbox_bytes` before the peer is cut off.
pub(crate) const CONTROL_RESERVE_BYTES: usize = 1024 * 1024;
/// Most bytes of envelopes that are put into one frame together, so that every receiver can take it.
pub(crate) const BATCH_BYTES_MAX: usize = limits::RUN_BYTES_MAX;

/// Adds the builder methods that clients and servers have in common. `$options` is the field that holds them.
macro_rules! option_methods {
    () => {
        /// Name and version of this program, told to the other side. Default `fluxar-rust/…`.
        pub fn agent(mut self, agent: impl Into<String>) -> Self {
            self.options.agent = agent.into();
            self
        }

        /// Largest frame that this side takes, in bytes, from 64 KiB to 16 MiB. Default 1 MiB.
        pub fn max_frame_bytes(mut self, bytes: usize) -> Self {
            use fluxar_protocol::limits::{FRAME_BYTES_LEAST, FRAME_BYTES_MOST};
            self.options.max_frame_bytes = bytes.clamp(FRAME_BYTES_LEAST, FRAME_BYTES_MOST);
            self
        }

        /// How many bytes of items the other side may send on each stream ahead of the application. Default 64 KiB.
        pub fn credit_bytes(mut self, bytes: u32) -> Self {
            self.options.credit_bytes = bytes.max(1);
            self
        }

        /// After so long without receiving anything the other side is pinged; after twice that it is lost.
        /// Default 15 s; whole milliseconds, at least 1.
        pub fn heartbeat(mut self, heartbeat: std::time::Duration) -> Self {
            self.options.heartbeat = heartbeat.max(std::time::Duration::from_millis(1));
            self
        }

        /// [`heartbeat`](Self::heartbeat) in milliseconds.
        pub fn heartbeat_ms(self, heartbeat_ms: u32) -> Self {
            self.heartbeat(std::time::Duration::from_millis(heartbeat_ms.into()))
        }

        /// How long a connection and its handshake may take. Default 10 s.
        pub fn connect_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options.connect_timeout = timeout;
            self
        }

        /// How long a frame may take from its first byte to its last; a peer that is slower is closed
        /// `deadline_exceeded`. Default 60 s, at most an hour.
        pub fn frame_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options.frame_timeout = timeout.min(std::time::Duration::from_secs(3600));
            self
        }

        /// How long a call waits for its answer unless it says otherwise itself. Default 30 s.
        pub fn call_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options.call_timeout = timeout;
            self
        }

        /// How long `close` waits for what is queued to be written. Default 5 s.
        pub fn close_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options.close_timeout = timeout;
            self
        }

        /// Most bytes that wait to be written on a connection. When it is full `call` and `publish` wait, and
        /// `try_publish` returns an error that [`is_full`](crate::Error::is_full). Default 4 MiB.
        pub fn outbox_bytes(mut self, bytes: usize) -> Self {
            self.options.outbox_bytes = bytes.max(1);
            self
        }

        /// Most bytes of events that were published with [`Peer::event`](crate::Peer::event) and are not acknowledged
        /// yet; each counts with 256 bytes more than it has. When it is full, further ones wait. Default 4 MiB.
        pub fn publish_unacked_bytes(mut self, bytes: usize) -> Self {
            self.options.publish_unacked_bytes = bytes.max(1);
            self
        }

        /// Most calls of this side that wait for an answer on a connection; beyond it a call fails
        /// `resource_exhausted` at once. Default 65,536.
        pub fn open_calls_max(mut self, calls: usize) -> Self {
            self.options.open_calls_max = calls.max(1);
            self
        }

        /// Most streams that this side has open at once on a connection; beyond it opening one fails
        /// `resource_exhausted` at once. Default 1,024.
        pub fn open_streams_max(mut self, streams: usize) -> Self {
            self.options.open_streams_max = streams.max(1);
            self
        }

        /// Most handlers that run at once for one peer, of calls and of streams together; what comes beyond it is
        /// answered `resource_exhausted`. An offer to serve tells a gateway this number, unless it says another. Default
        /// 1,024.
        pub fn handlers_max(mut self, handlers: usize) -> Self {
            self.options.handlers_max = handlers.max(1);
            self
        }

        /// Most events that wait for the application in each subscription. Default 1,024.
        pub fn subscription_queue(mut self, events: usize) -> Self {
            self.options.subscription_queue = events.max(1);
            self
        }

        /// How long in 10 s (or in ten times itself, if that is longer) reading stops for subscriptions whose queues are
        /// full, all those of a connection together. Beyond it their events are dropped and counted. Default 1 s; see
        /// [`Subscription`](crate::Subscription).
        pub fn stall(mut self, stall: std::time::Duration) -> Self {
            self.options.stall = stall;
            self
        }
    };
}
pub(crate) use option_methods;
