//! What the gateway itself answers: calls to `$services.…`.

mod access;

pub use access::AdminFrom;
