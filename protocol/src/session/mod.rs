//! What a session needs to go on over another connection [P-7.6, P-7.7]: counts, and what may have to be sent again.
//!
//! Nothing on the wire is numbered. Each side counts the envelopes that it takes in, of those kinds that a resumed
//! session must neither lose nor repeat ([`is_counted`]), and tells its count by `recv`. The other side keeps what it
//! sent beyond that count, and on a new connection sends it again. Gateway and SDK use the same parts:
//!
//! ```text
//!   what is sent ──▶ Kept ─────────── the counted part, by reference, until the peer's `recv` covers it
//!                     ▲   └─ resume ─▶ the rest, in order, on the new connection; or it was forgotten
//!         peer's recv ┘
//!   what arrives ──▶ is_counted ──▶ Received ──▶ own `recv`, in pings (due at least every 64 KiB) and in the hello
//!   a hello that resumes ──▶ Tokens ──▶ whose session it is
//! ```
//!
//! Why this is exact: a connection delivers a beginning of what was sent on it, in order, and a side counts an envelope
//! in the step that carries it out. So of the counted envelopes the peer has carried out the first `recv` and no others,
//! whatever was under way when the connection was lost; what is sent again begins behind them.

mod counted;
mod kept;
mod received;
mod tokens;

pub use counted::{is_counted, is_counted_refused};
pub use kept::{Again, Kept, NotKept};
pub use received::{RECV_DUE_BYTES, Received};
pub use tokens::{TOKEN_BYTES, Tokens};

/// Most bytes that a side keeps of a session for its peer, unless configured otherwise.
pub const KEPT_BYTES_DEFAULT: usize = 4 * 1024 * 1024;
/// How long a session is kept for a peer that is away, unless configured otherwise.
pub const AWAY_MS_DEFAULT: u32 = 60_000;
