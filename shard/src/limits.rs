//! Every bound of a shard in one place. What is refused at a bound is refused with `resource_exhausted` and the
//! number; nothing that exists already is taken away.
//!
//! Sum of the defaults on one core, in the worst case of nothing but distinct patterns of the longest kind:
//! subscriptions 2^20 x ~0.2 KiB, pattern texts 64 MiB (held again by each other core that is told of them), open
//! calls and streams 2^17 x ~0.3 KiB, calls held 64 MiB, remembered topics and methods 6 x 2 x 8,192 x ~0.2 KiB, places of
//! logged subscriptions 2^22 x ~0.12 KiB.

/// Longest name of a group, in bytes.
pub const GROUP_BYTES_MAX: usize = 255;
/// Heaviest weight of a serving peer.
pub const WEIGHT_MAX: u32 = 1 << 16;
/// How many serving peers are looked at, at most, to give one call away; of a larger set a sample is drawn.
pub const PICK_SCAN_MAX: usize = 64;
/// Places in partitions of all logged subscriptions of one core: a subscription has one, or with a wildcard one in each
/// partition, of about 0.12 KiB each. One more subscription is refused.
pub const LOGGED_PLACES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that the logged subscriptions of one core that are behind read at a time, all together: what was asked for, and what
/// came and was not taken by its connections yet. Beyond it they wait for one another.
pub const LOGGED_FETCHES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Durable cursors that one connection may make: a name that is new takes one, or with a wildcard one in each partition. It
/// keeps counting what it made until it is gone. A subscription that would need one more is refused.
pub const CURSORS_PER_PEER_MAX: u32 = 16 * 1024;
/// Most cores of a gateway.
pub const CORES_MAX: u16 = 1024;

/// How many events a member of a work queue takes at a time if it does not say; at most [`QUEUE_ENTRIES_MAX`].
pub const IN_FLIGHT_DEFAULT: u32 = 256;
/// Events of one partition that a work queue has given out, or that are done behind one that is not; up to twice as many
/// if the others have expired. At the bound nothing new is given until the first is acknowledged or set aside: an event that
/// nobody handles holds its queue up, it does not let the memory grow. About 50 bytes each.
pub const QUEUE_ENTRIES_MAX: usize = 8_192;
/// Bytes that all work queues of a core keep of what was read and cannot be given yet. At the bound a queue lets go of it,
/// and reads it again when somebody has room.
pub const QUEUE_AHEAD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Work queues without members that a core remembers. Of one more, the one that has been without for longest is forgotten:
/// its cursor stays, and what it had given out comes again with a `dup` that says less.
pub const QUEUES_RESTING_MAX: usize = 16 * 1024;
/// Events given out and not acknowledged by members that are gone, of all queues without members of a core. Likewise.
pub const QUEUE_RESTING_ENTRIES_MAX: usize = 512 * 1024;

/// The bounds that a configuration may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Subscriptions, served patterns included, of one connection. One more is refused.
    pub subscriptions_per_peer: u32,
    /// Subscriptions with a group of one connection: each gets events of its own, so they multiply what one event
    /// costs. One more is refused.
    pub members_per_peer: u32,
    /// Subscriptions, served patterns included, of all connections of one core. One more is refused.
    pub subscriptions_per_core: u32,
    /// Bytes of pattern and group texts of one core's connections together. Beyond it a subscription is refused.
    pub pattern_bytes_per_core: usize,
    /// Calls and streams that one connection has open at a time. One more is refused.
    pub calls_per_peer: u32,
    /// Calls and streams that the connections of one core have open at a time. One more is refused.
    pub calls_per_core: u32,
    /// Calls and opens of one core that wait for a serving peer to have room. One more takes the place of the newest one
    /// of the lowest `prio`, which is refused, or is refused itself.
    pub calls_queued_per_core: u32,
    /// Bytes of calls and opens that one core holds: of those that wait, as above; of idempotent ones, which are not
    /// sent a second time if there is no room for their bytes.
    pub call_bytes_held_per_core: usize,
    /// Bytes of chunks that may be under way to one side of a stream.
    pub stream_window_bytes: u32,
    /// Bytes of events that a subscription at qos 1 or 2 may have unacknowledged; one larger event may be alone. Beyond it
    /// the subscription waits, and reads on from the log.
    pub unacked_bytes_per_subscription: usize,
    /// Likewise the number of events.
    pub unacked_events_per_subscription: u32,
    /// Topics, and likewise methods, whose receivers are remembered, in each of the tables that find by name; up to twice as many for a while. The ones
    /// unused for longest are forgotten and found again when they are needed.
    pub names_remembered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            subscriptions_per_peer: 10_000,
            members_per_peer: 256,
            subscriptions_per_core: 1024 * 1024,
            pattern_bytes_per_core: 64 * 1024 * 1024,
            calls_per_peer: 10_000,
            calls_per_core: 128 * 1024,
            calls_queued_per_core: 16 * 1024,
            call_bytes_held_per_core: 64 * 1024 * 1024,
            stream_window_bytes: 256 * 1024,
            unacked_bytes_per_subscription: 256 * 1024,
            unacked_events_per_subscription: 4_096,
            names_remembered: 8 * 1024,
        }
    }
}
