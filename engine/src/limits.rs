//! Every bound of this crate that is not a setting, and the defaults of those that are.
//!
//! The heap of a core is bounded by the sum of
//! - connections × (a slot of at most 128 bytes + what the user queues for each, which the user bounds by
//!   [`crate::reactor::Event::Sent`] + one WebSocket message under way, bounded by its limit +
//!   [`CONTROL_BYTES_MAX`] + what had arrived when it was paused, at most [`HELD_BYTES_MAX`]),
//! - dialled connections × (200 bytes while it connects + for a WebSocket 64 bytes, and its request until it is
//!   answered); they count among the connections, so `connections_max` bounds them too,
//! - [`POOLED_BYTES`] each of gather lists and of queues that wait for reuse,
//! - the receive buffers, a setting of the driver, and its table of sends: 128 bytes for each of the most that were ever in
//!   flight at a time, 1 KiB for each that is, and 1 MiB that waits for reuse,
//! - cores × the letters that [`crate::mail::mesh`] was told.

/// Most bytes that one send carries. 64 KiB costs 20% more a byte (measured), more than this pins memory for nothing.
pub const SEND_BYTES_MAX: usize = 256 * 1024;
/// Most slices that one send carries, well below the kernel's 1,024.
pub const SLICES_MAX: usize = 64;
/// A piece below this size is copied into a gather list's coalescing buffer if it has neighbours.
pub const COPY_BELOW_BYTES: usize = 512;
/// What a gather list that waits for reuse keeps of its coalescing buffer.
pub const COALESCED_KEPT_BYTES: usize = 16 * 1024;
/// Bytes of gather lists, and as many of queues, that a core keeps for reuse: enough for those of 10,000 connections that
/// are sent something small in one turn.
pub const POOLED_BYTES: usize = 8 * 1024 * 1024;
/// What a queue that waits for reuse may hold room for, in items.
pub const QUEUE_KEPT_ITEMS: usize = 256;

/// Most bytes of pongs and other control frames that wait to be sent to one peer. One that makes the reactor answer
/// and does not read the answers is closed.
pub const CONTROL_BYTES_MAX: usize = 16 * 1024;
/// Most bytes that are held for one paused connection: what the kernel had received in the turn in which it was
/// paused, and was not handed up yet. Beyond, it is closed. With a ring of 1,024 buffers of the default size Linux 6.18 filled
/// 98 for one connection in one turn, 1.6 MB (measured), and now it holds fewer, so this happens to nobody who has not tried hard.
pub const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Connections that a core takes, unless configured. Beyond it new ones are closed as they come.
pub const CONNECTIONS_MAX: usize = 1 << 20;

/// A dialled connection that takes longer to be established is given up.
pub const CONNECT_MS: u64 = 10_000;
/// A WebSocket handshake that takes longer is closed.
pub const HANDSHAKE_MS: u64 = 5_000;
/// How long a closing connection may take to send what is queued.
pub const FLUSH_MS: u64 = 5_000;
/// How long the peer's last bytes are read and discarded after the half-close; also how long a connection that the
/// peer ended may take to send what is queued.
pub const LINGER_MS: u64 = 1_000;
/// How long a core watches its mailboxes and its ring before it parks. A wake through the kernel takes 32 to 47 µs one way, a
/// letter that is seen while spinning 0.55 µs (measured); but spinning costs CPU on every turn, so it is asked for.
pub const SPIN_US: u32 = 0;
