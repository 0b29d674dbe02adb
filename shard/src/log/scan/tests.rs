//! Torn, flipped, zeroed: what a scan makes of it.
