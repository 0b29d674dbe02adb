//! What clients do.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::listener::ListenerId;

use super::super::link::Link;
use super::{LinkId, Moment, Network};

/// Connections that wait to be accepted on a listener.
pub(super) const BACKLOG_MAX: usize = 1024;

impl Network {
    pub(in crate::sim) fn listen(&mut self) -> ListenerId {
        self.backlogs.push(VecDeque::new());
        ListenerId((self.backlogs.len() - 1) as u16)
    }

    pub(in crate::sim) fn connect(&mut self, listener: ListenerId) -> LinkId {
        let id = self.next_link;
        self.next_link += 1;
        let mut link = Link::default();
        let arrives_ns = self.arrival_ns();
        let backlog = &mut self.backlogs[usize::from(listener.0)];
        if backlog.len() < BACKLOG_MAX {
            let arrives_ns = backlog
                .back()
                .map_or(arrives_ns, |(last_ns, _)| arrives_ns.max(*last_ns));
            backlog.push_back((arrives_ns, id));
            self.moments.push(Reverse((arrives_ns, Moment::Operation)));
        } else {
            link.reset();
            link.core_closed = true;
        }
        self.links.insert(id, link);
        id
    }

    pub(in crate::sim) fn client_writes(&mut self, id: LinkId, bytes: &[u8]) -> usize {
        let arrives_ns = self.arrival_ns();
        let Some(link) = self.links.get_mut(&id) else {
            return 0;
        };
        if link.core_closed && !bytes.is_empty() {
            link.reset();
        }
        if link.reset || link.to_core.is_ended_by_writer() {
            return 0;
        }
        let taken = bytes
            .len()
            .min(link.to_core.room(self.faults.socket_buffer_bytes));
        link.client_blocked = taken < bytes.len();
        if taken > 0 {
            link.to_core.push(arrives_ns, bytes[..taken].to_vec());
            self.expect(id);
        }
        taken
    }

    pub(in crate::sim) fn client_reads(&mut self, id: LinkId) -> Vec<u8> {
        match self.links.get_mut(&id) {
            Some(link) if !link.client_deaf => link.to_client.read(link.to_client.readable_bytes()),
            _ => Vec::new(),
        }
    }

    pub(in crate::sim) fn client_shuts_down(&mut self, id: LinkId) {
        let arrives_ns = self.arrival_ns();
        if let Some(link) = self.links.get_mut(&id) {
            link.to_core.end(arrives_ns);
            self.expect(id);
        }
    }

    pub(in crate::sim) fn client_closes(&mut self, id: LinkId, abort: bool) {
        let arrives_ns = self.arrival_ns();
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.client_closed = true;
        if abort || link.to_client.has_bytes() {
            link.reset();
        } else {
            link.to_core.end(arrives_ns);
            self.expect(id);
        }
        self.forget_if_over(id);
    }

    pub(in crate::sim) fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }
}
