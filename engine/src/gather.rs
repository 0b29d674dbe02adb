//! A gather list: what one send carries, owned by the operation until it completes.

/// Byte slices that leave in one send, in order.
#[derive(Debug, Default)]
pub struct Gather {}
