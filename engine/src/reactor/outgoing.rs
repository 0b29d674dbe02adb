//! What a connection still has to send, and the lists and queues that wait for reuse.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::gather::Gather;
use crate::limits::{POOLED_BYTES, QUEUE_KEPT_ITEMS};
use crate::ws;

/// A connection's queue. It exists only while it holds something.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    queue: VecDeque<Item>,
    /// Bytes of control frames in the queue.
    control_bytes: usize,
}

#[derive(Debug)]
struct Item {
    bytes: Bytes,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The user's bytes as they are.
    Bytes,
    /// The user's bytes as one binary message: a frame header goes in front.
    Message,
    /// The user's bytes as one binary message of a client, masked with this key: a frame header goes in front.
    MaskedMessage([u8; 4]),
    /// As [`Kind::Message`], but the next item is the rest of the message: the header counts both.
    MessageInTwo,
    /// As [`Kind::MaskedMessage`], but the next item is the rest of the message: the header counts both.
    MaskedMessageInTwo([u8; 4]),
    /// The user's bytes, masked with this key.
    Masked([u8; 4]),
    /// The transport's own bytes, not reported to the user.
    Control,
}

impl Outgoing {
    pub(super) fn push(&mut self, bytes: Bytes, kind: Kind) {
        if kind == Kind::Control {
            self.control_bytes += bytes.len();
        }
        self.queue.push_back(Item { bytes, kind });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    /// Moves as much as one send may carry from the queue to a list. A frame header may exceed the bound.
    pub(super) fn fill(&mut self, gather: &mut Gather, send_bytes_max: usize) {
        loop {
            // Both parts of a message are queued at once, and none of the second leaves before the first.
            let behind_bytes = self.queue.get(1).map_or(0, |item| item.bytes.len());
            let Some(item) = self.queue.front_mut() else {
                break;
            };
            let room = gather.room(send_bytes_max);
            if room == 0 {
                break;
            }
            let message_bytes = match item.kind {
                Kind::MessageInTwo | Kind::MaskedMessageInTwo(_) => item.bytes.len() + behind_bytes,
                _ => item.bytes.len(),
            };
            if let Kind::MaskedMessage(key) | Kind::MaskedMessageInTwo(key) = item.kind {
                let mut header = [0; 14];
                let header_bytes = ws::masked_frame_header(message_bytes, key, &mut header);
                gather.push_overhead(&header[..header_bytes]);
                item.kind = Kind::Masked(key);
            }
            if let Kind::Masked(key) = item.kind
                && item.bytes.len() > room
            {
                gather.push_masked(&item.bytes.split_to(room), key);
                item.kind = Kind::Masked(ws::rotated(key, room));
                break;
            }
            if matches!(item.kind, Kind::Message | Kind::MessageInTwo) {
                let mut header = [0; 10];
                let header_bytes = ws::frame_header(message_bytes, &mut header);
                gather.push_overhead(&header[..header_bytes]);
                item.kind = Kind::Bytes;
            }
            if item.kind == Kind::Bytes && item.bytes.len() > room {
                gather.push(item.bytes.split_to(room));
                break;
            }
            if let Some(item) = self.queue.pop_front() {
                match item.kind {
                    Kind::Control => {
                        self.control_bytes -= item.bytes.len();
                        gather.push_overhead(&item.bytes);
                    }
                    Kind::Masked(key) => gather.push_masked(&item.bytes, key),
                    _ => gather.push(item.bytes),
                }
            }
        }
    }
}

/// Lists and queues that wait for reuse, so that sending allocates nothing once as many exist as are used at a time,
/// unless those take more than [`POOLED_BYTES`].
#[derive(Debug, Default)]
pub(super) struct Pools {
    gathers: Pool<Gather>,
    queues: Pool<Outgoing>,
    /// Lists that drivers have.
    gathers_lent: usize,
}

impl Pools {
    pub(super) fn gather(&mut self) -> Box<Gather> {
        self.gathers_lent += 1;
        self.gathers.take()
    }

    pub(super) fn gather_back(&mut self, gather: Box<Gather>) {
        self.gathers_lent -= 1;
        self.gathers.keep(gather);
    }

    pub(super) fn gathers_lent(&self) -> usize {
        self.gathers_lent
    }

    pub(super) fn queue(&mut self) -> Box<Outgoing> {
        self.queues.take()
    }

    pub(super) fn queue_back(&mut self, queue: Box<Outgoing>) {
        self.queues.keep(queue);
    }
}

/// What waits for reuse; what came last goes first, since its memory is warm.
#[derive(Debug, Default)]
struct Pool<T> {
    #[allow(clippy::vec_box)] // They travel by their box.
    free: Vec<Box<T>>,
    /// What they take together.
    bytes: usize,
}

/// Something that is worth using again.
trait Reused: Default {
    /// Empties it.
    fn clear(&mut self);
    /// What it takes, empty.
    fn kept_bytes(&self) -> usize;
}

impl<T: Reused> Pool<T> {
    fn take(&mut self) -> Box<T> {
        let Some(one) = self.free.pop() else {
            return Box::default();
        };
        self.bytes -= one.kept_bytes();
        one
    }

    fn keep(&mut self, mut one: Box<T>) {
        one.clear();
        let bytes = one.kept_bytes();
        if self.bytes + bytes <= POOLED_BYTES {
            self.bytes += bytes;
            self.free.push(one);
        }
    }
}

impl Reused for Gather {
    fn clear(&mut self) {
        Gather::clear(self);
    }

    fn kept_bytes(&self) -> usize {
        size_of::<Gather>() + self.heap_bytes()
    }
}

impl Reused for Outgoing {
    fn clear(&mut self) {
        self.queue.clear();
        self.queue.shrink_to(QUEUE_KEPT_ITEMS);
        self.control_bytes = 0;
    }

    fn kept_bytes(&self) -> usize {
        size_of::<Outgoing>() + self.queue.capacity() * size_of::<Item>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fan-out: each connection's queue is filled, moved to a list, and both come back.
    fn fan_out(pools: &mut Pools, connections: usize, message: &Bytes) -> Vec<*const Gather> {
        let mut lent = Vec::new();
        for _ in 0..connections {
            let mut queue = pools.queue();
            for _ in 0..2 {
                queue.push(message.clone(), Kind::Message);
            }
            let mut gather = pools.gather();
            queue.fill(&mut gather, usize::MAX);
            pools.queue_back(queue);
            lent.push(gather);
        }
        let mut used: Vec<*const Gather> = lent.iter().map(|gather| &raw const **gather).collect();
        for gather in lent {
            pools.gather_back(gather);
        }
        used.sort();
        used
    }

    #[test]
    fn a_fan_out_uses_the_lists_of_the_one_before() {
        let mut pools = Pools::default();
        let message = Bytes::from_static(&[7; 300]);
        let first = fan_out(&mut pools, 5_000, &message);
        assert_eq!(pools.gathers.free.len(), 5_000);
        assert_eq!(fan_out(&mut pools, 5_000, &message), first);
    }

    #[test]
    fn what_waits_for_reuse_is_bounded_by_bytes() {
        let mut pools = Pools::default();
        let lent: Vec<_> = (0..2_000)
            .map(|_| {
                let mut gather = pools.gather();
                gather.push_overhead(&[7; 10_000]);
                gather
            })
            .collect();
        for gather in lent {
            pools.gather_back(gather);
        }
        let kept_bytes: usize = pools.gathers.free.iter().map(|gather| gather.kept_bytes()).sum();
        assert_eq!(pools.gathers.bytes, kept_bytes);
        assert!((POOLED_BYTES - 20_000..=POOLED_BYTES).contains(&kept_bytes));
    }
}
