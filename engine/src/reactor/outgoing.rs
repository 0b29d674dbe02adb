//! What a connection still has to send, and the lists and queues that wait for reuse.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::gather::Gather;
use crate::limits::{POOLED, QUEUE_KEPT_ITEMS};
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
        while let Some(item) = self.queue.front_mut() {
            let room = gather.room(send_bytes_max);
            if room == 0 {
                break;
            }
            if item.kind == Kind::Message {
                let mut header = [0; 10];
                let header_bytes = ws::frame_header(item.bytes.len(), &mut header);
                gather.push_overhead(&header[..header_bytes]);
                item.kind = Kind::Bytes;
            }
            if item.kind == Kind::Bytes && item.bytes.len() > room {
                gather.push(item.bytes.split_to(room));
                break;
            }
            if let Some(item) = self.queue.pop_front() {
                if item.kind == Kind::Control {
                    self.control_bytes -= item.bytes.len();
                    gather.push_overhead(&item.bytes);
                } else {
                    gather.push(item.bytes);
                }
            }
        }
    }
}

/// Lists and queues that wait for reuse, so that sending allocates nothing once as many exist as are used at a time.
#[derive(Debug, Default)]
pub(super) struct Pools {
    #[allow(clippy::vec_box)] // They travel by their box.
    gathers: Vec<Box<Gather>>,
    #[allow(clippy::vec_box)] // Likewise.
    queues: Vec<Box<Outgoing>>,
    /// Lists that drivers have.
    gathers_lent: usize,
}

impl Pools {
    pub(super) fn gather(&mut self) -> Box<Gather> {
        self.gathers_lent += 1;
        self.gathers.pop().unwrap_or_default()
    }

    pub(super) fn gather_back(&mut self, mut gather: Box<Gather>) {
        self.gathers_lent -= 1;
        if self.gathers.len() < POOLED {
            gather.clear();
            self.gathers.push(gather);
        }
    }

    pub(super) fn gathers_lent(&self) -> usize {
        self.gathers_lent
    }

    pub(super) fn queue(&mut self) -> Box<Outgoing> {
        self.queues.pop().unwrap_or_default()
    }

    pub(super) fn queue_back(&mut self, mut queue: Box<Outgoing>) {
        if self.queues.len() < POOLED {
            queue.queue.clear();
            queue.queue.shrink_to(QUEUE_KEPT_ITEMS);
            queue.control_bytes = 0;
            self.queues.push(queue);
        }
    }
}
