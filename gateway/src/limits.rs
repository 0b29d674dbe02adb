//! Every bound that a core of the gateway holds, with the named thing that happens when it is full.
//!
//! The memory that one connection can make a core hold is the sum of its parts:
//! a partial frame (`max_frame_bytes`), what is queued to it (`queue_bytes` for events, `queue_bytes` more for
//! answers, a frame for calls, and what one frame of its own can ask for in replies; beside that one
//! `stream_window_bytes` of payloads for each of its streams that was opened while no more than `queue_bytes` waited, and
//! what is around these payloads: some 45 bytes a chunk, and never more than 128 and the payload once more once twice
//! `queue_bytes` wait), its subscriptions, open calls and streams (bounded in the shard),
//! what the kernel had received when reading stopped and was not handed up yet (the engine's `held_bytes_max`, 4 MiB by default),
//! and, where its session can be resumed, what is kept of what it was sent (`resume_bytes`). A session that is away holds the last
//! and what is open of it; there are as many as `connections` at most.

use fluxar_protocol::limits as wire;
use fluxar_protocol::session::{AWAY_MS_DEFAULT, KEPT_BYTES_DEFAULT};

/// Bounds of one core and of each of its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections that a core holds. One more is told `resource_exhausted` and closed.
    pub connections: u32,
    /// Bytes queued to a connection beyond which at-most-once events to it are dropped, counted and told, and calls to it
    /// are refused, as are streams that it opens. With a quarter more of replies and answers reading from it stops until
    /// half is gone, so that a peer that asks without reading the answers stalls itself. At twice this, what is queued of
    /// streams aside, it is closed with `resource_exhausted`.
    pub queue_bytes: usize,
    /// Largest frame body taken from a client that was greeted. A larger one closes the connection.
    pub max_frame_bytes: u32,
    /// From accept to an accepted hello. Later: closed with `deadline_exceeded`.
    pub handshake_ms: u32,
    /// Silence after which a client is pinged; after twice this it is lost.
    pub heartbeat_ms: u32,
    /// From the first byte of a frame to its last. Later: closed with `deadline_exceeded`.
    pub frame_ms: u32,
    /// How long a client whose queue is over its bound may take nothing. Later: closed with `resource_exhausted`.
    pub stall_ms: u32,
    /// From SIGTERM to the end, however much is still unsent.
    pub drain_ms: u32,
    /// Envelopes a second from one connection; beyond, reading from it pauses. 0: no bound.
    pub messages_per_s: u32,
    /// Bytes a second from one connection; beyond, reading from it pauses. 0: no bound.
    pub bytes_per_s: u32,
    /// Refused envelopes a second from one connection; beyond, it is closed with `resource_exhausted`.
    pub refusals_per_s: u32,
    /// Subscriptions and served patterns of one connection. One more is refused `resource_exhausted`.
    pub subscriptions_per_connection: u32,
    /// Calls and streams in flight of one connection. One more is refused `resource_exhausted`.
    pub calls_per_connection: u32,
    /// Letters waiting for full mailboxes. The connections that caused them are not read meanwhile; at the bound nothing
    /// is, until the other cores have caught up: the pressure reaches the clients' TCP windows, and nothing is lost.
    pub letters_waiting: usize,
    /// Bytes of a stream, each way, that may be under way between its two ends: what its sender may send before its
    /// receiver grants more is capped to this. A sender that sends more ends its stream with `failed_precondition`.
    pub stream_window_bytes: u32,
    /// Calls of one core that wait because all who serve them are at their `in_flight`. One more displaces the newest of
    /// the lowest priority, or is itself refused `resource_exhausted`.
    pub calls_queued: u32,
    /// Bytes of calls that one core keeps: of those that wait, and of idempotent ones that may be sent again. Beyond it a
    /// call that would wait is refused `resource_exhausted`, and one that could be repeated is not.
    pub call_bytes_held: usize,
    /// Bytes of one connection's publishes at qos 1 and 2 that are not acknowledged yet. Beyond it reading from it stops
    /// until half is settled: who publishes faster than the log takes it is slowed down, and nothing is refused.
    pub publish_unacked_bytes: usize,
    /// Bytes of logged events that a subscription was given and has not acknowledged. Beyond it, it gets no more until
    /// it acknowledges; what follows stays in the log.
    pub unacked_bytes: usize,
    /// The same in events.
    pub unacked_events: u32,
    /// Topics whose receivers are remembered, and likewise methods, in each of the few tables of a core that find things by
    /// name; up to twice as many for a while. With more in use than that, each message of one that was forgotten costs a search
    /// among the patterns, and a name's memory.
    pub topics_remembered: usize,
    /// How long a session is kept whose connection was lost; then it is over. 0: sessions cannot be resumed.
    pub resume_ms: u32,
    /// Bytes of counted envelopes that are kept for one session until its peer says that it has them. Beyond it the oldest
    /// are forgotten: only a resume that needs them fails.
    pub resume_bytes: usize,
    /// The same for all sessions of a core. Beyond it those that keep most forget their oldest, all down to one level.
    pub resume_bytes_per_core: usize,
    /// Over how much time those come back that are told to, at least: all connections of a core that stops, and those that it
    /// cannot take. Who comes back to a session is told no more than half of the time that this is kept still.
    pub retry_spread_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 200_000,
            queue_bytes: 1024 * 1024,
            max_frame_bytes: wire::FRAME_BYTES_DEFAULT as u32,
            handshake_ms: wire::HANDSHAKE_MS_MAX,
            heartbeat_ms: wire::HEARTBEAT_MS_DEFAULT,
            frame_ms: 60_000,
            stall_ms: 30_000,
            drain_ms: 5_000,
            messages_per_s: 0,
            bytes_per_s: 0,
            refusals_per_s: 1_000,
            subscriptions_per_connection: 10_000,
            calls_per_connection: 10_000,
            letters_waiting: 16_384,
            stream_window_bytes: 256 * 1024,
            calls_queued: 16_384,
            call_bytes_held: 64 * 1024 * 1024,
            publish_unacked_bytes: 1024 * 1024,
            unacked_bytes: 256 * 1024,
            unacked_events: 4_096,
            topics_remembered: 8 * 1024,
            resume_ms: AWAY_MS_DEFAULT,
            resume_bytes: KEPT_BYTES_DEFAULT,
            resume_bytes_per_core: 256 * 1024 * 1024,
            retry_spread_ms: 5_000,
        }
    }
}

/// How soon drops are told: well within the second that [P-5] promises.
pub const DROP_NOTE_MS: u64 = 500;
/// Refused publishes are told at most this often.
pub const REFUSAL_NOTE_MS: u64 = 1_000;
/// Events of topics that are always logged, which the log did not take, are told at most this often.
pub const UNLOGGED_NOTE_MS: u64 = 1_000;
/// Events that no member of a work queue could handle are told at most this often.
pub const GIVEN_UP_NOTE_MS: u64 = 1_000;
/// Endpoints of all upstreams of a configuration.
pub const ENDPOINTS_MAX: usize = 4_096;
/// Rules of a configuration: each is looked at for each new name of a method.
pub const ROUTES_MAX: usize = 1_024;
/// Rules by topic of a log's configuration: each is looked at for each new topic.
pub const TOPIC_RULES_MAX: usize = 1_024;
