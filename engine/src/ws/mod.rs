//! RFC 6455, server side, as a byte layer.
