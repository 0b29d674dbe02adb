//! Every bound of the wire, in one place [P-6]. Both sides of a connection hold these; what a peer may choose
//! itself stands here as a range.

/// Longest target, in bytes of UTF-8.
pub const TARGET_BYTES_MAX: usize = 255;
/// Most tokens in a topic, method or pattern.
pub const TARGET_TOKENS_MAX: usize = 16;
/// Longest `group` or `durable`, in bytes of UTF-8.
pub const NAME_TEXT_BYTES_MAX: usize = 255;
/// Most keys in `meta`.
pub const META_KEYS_MAX: usize = 32;
/// Longest encoded `meta`, in bytes.
pub const META_BYTES_MAX: usize = 2 * 1024;
/// Longest encoded list of positions in a run's header or an acknowledgement, in bytes: it leaves room in `meta` for
/// the other keys of such a message.
pub const POSITIONS_BYTES_MAX: usize = META_BYTES_MAX - 128;
/// Most keys in an `error`, those that are ignored included.
pub const ERROR_KEYS_MAX: usize = 32;
/// Deepest nesting of a payload; its root is depth 1.
pub const PAYLOAD_DEPTH_MAX: usize = 64;

/// Frame limit before the hello was answered, in bytes of body.
pub const FRAME_BYTES_BEFORE_HELLO: usize = 16 * 1024;
/// Frame limit that a peer announces when it says nothing.
pub const FRAME_BYTES_DEFAULT: usize = 1024 * 1024;
/// Smallest frame limit that a peer may announce.
pub const FRAME_BYTES_LEAST: usize = 64 * 1024;
/// Largest frame limit that a peer may announce.
pub const FRAME_BYTES_MOST: usize = 16 * 1024 * 1024;
/// What an envelope must leave free below the receiver's frame limit.
pub const FRAME_RESERVE_BYTES: usize = 1024;
/// Largest run of events that is shared between receivers: every receiver can take it.
pub const RUN_BYTES_MAX: usize = 64 * 1024;

/// Heartbeat that a peer announces when it says nothing.
pub const HEARTBEAT_MS_DEFAULT: u32 = 15_000;
/// Shortest heartbeat that is kept; what a peer announces below it is read as this, in ms.
pub const HEARTBEAT_MS_LEAST: u32 = 100;
/// Longest heartbeat that is kept; what a peer announces above it is read as this, in ms.
pub const HEARTBEAT_MS_MOST: u32 = 3_600_000;
/// Stream credit that a peer announces when it says nothing.
pub const CREDIT_BYTES_DEFAULT: u32 = 64 * 1024;
/// A handshake that takes longer is closed.
pub const HANDSHAKE_MS_MAX: u32 = 5_000;
/// How long a closed connection is drained so that the last `cancel` arrives.
pub const CLOSE_DRAIN_MS: u32 = 1_000;

/// Largest envelope that a receiver with this frame limit takes, in bytes.
#[must_use]
pub const fn envelope_bytes_max(max_frame_bytes: usize) -> usize {
    max_frame_bytes.saturating_sub(FRAME_RESERVE_BYTES)
}

const _: () = assert!(FRAME_BYTES_BEFORE_HELLO < FRAME_BYTES_LEAST);
const _: () = assert!(RUN_BYTES_MAX <= FRAME_BYTES_LEAST);
const _: () = assert!(META_BYTES_MAX + TARGET_BYTES_MAX + FRAME_RESERVE_BYTES < FRAME_BYTES_BEFORE_HELLO);
