//! What drivers ask for.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::dial::Remote;
use crate::disk::DiskOp;
use crate::driver::Token;
use crate::gather::Gather;
use crate::listener::ListenerId;

use super::super::link::{End, Link};
use super::operations::Operation;
use super::{Core, FIRST_PORT, LinkId, Moment, Network};

impl Network {
    pub(in crate::sim) fn accept(&mut self, core: usize, listener: ListenerId) {
        self.asked(core).accepting.push((listener, 0));
    }

    pub(in crate::sim) fn stop_accept(&mut self, core: usize, listener: ListenerId) {
        self.asked(core)
            .accepting
            .retain(|(accepting, _)| *accepting != listener);
    }

    /// Makes a socket that is not connected.
    pub(in crate::sim) fn open(&mut self) -> LinkId {
        let id = self.next_link;
        self.next_link += 1;
        let link = Link {
            dialled: true,
            // Nobody is there yet.
            core_closed: true,
            ..Link::default()
        };
        self.links.insert(id, link);
        self.sockets_open += 1;
        id
    }

    pub(in crate::sim) fn dial(&mut self, core: usize, token: Token, link: LinkId, remote: Remote<'_>) {
        let listener = match remote {
            Remote::Ip(address) => address.port().checked_sub(FIRST_PORT).map(ListenerId),
            Remote::Unix(_) => None,
        };
        let answered_at_ns = if self.random.chance(self.faults.silence) {
            None
        } else {
            // There and back.
            let there_ns = self.arrival_ns() - self.now_ns;
            let at_ns = self.arrival_ns() + there_ns;
            self.moments.push(Reverse((at_ns, Moment::Operation)));
            Some(at_ns)
        };
        self.asked(core).operations.push(Operation::Connect {
            token,
            link,
            listener,
            answered_at_ns,
            cancelled: false,
        });
    }

    pub(in crate::sim) fn receive(&mut self, core: usize, token: Token, end: (LinkId, End)) {
        let armed = |operation: &Operation| matches!(operation, Operation::Receive { token: other, .. } if *other == token);
        assert!(
            !self.cores[core].operations.iter().any(armed),
            "{token:?} has two receives"
        );
        self.asked(core).operations.push(Operation::Receive {
            token,
            end,
            ready_at_ns: 0,
            stop: false,
        });
    }

    pub(in crate::sim) fn stop_receive(&mut self, core: usize, of: Token) {
        for operation in &mut self.asked(core).operations {
            if let Operation::Receive { token, stop, .. } = operation
                && *token == of
            {
                *stop = true;
            }
        }
    }

    pub(in crate::sim) fn send(
        &mut self,
        core: usize,
        token: Token,
        end: (LinkId, End),
        gather: Box<Gather>,
    ) {
        let sending = |operation: &Operation| {
            operation.token() == token && !matches!(operation, Operation::Receive { .. })
        };
        assert!(
            !self.cores[core].operations.iter().any(sending),
            "{token:?} has two sends in flight"
        );
        assert!(!gather.is_empty(), "{token:?} sends nothing");
        self.asked(core)
            .operations
            .push(Operation::Send { token, end, gather });
    }

    pub(in crate::sim) fn disk(&mut self, core: usize, op: DiskOp) {
        let now_ns = self.now_ns;
        let told_at_ns = self.disk_now().begin(core, op, now_ns);
        self.moments.push(Reverse((told_at_ns, Moment::Operation)));
        self.note(7, told_at_ns);
        self.asked(core);
    }

    pub(in crate::sim) fn shutdown_write(&mut self, id: LinkId, end: End) {
        let arrives_ns = self.arrival_ns();
        if let Some(link) = self.links.get_mut(&id) {
            link.outgoing_mut(end).end(arrives_ns);
            self.expect(id);
        }
    }

    /// Ends a socket's operations. One that can send still does; their completions come as any other.
    pub(in crate::sim) fn end_operations(&mut self, core: usize, of: Token) {
        self.stop_receive(core, of);
        let operations = std::mem::take(&mut self.cores[core].operations);
        for operation in operations {
            let operation = match operation {
                Operation::Connect {
                    token,
                    link,
                    listener,
                    answered_at_ns,
                    ..
                } if token == of => Operation::Connect {
                    token,
                    link,
                    listener,
                    answered_at_ns,
                    cancelled: true,
                },
                Operation::Send {
                    token,
                    end: (link, end),
                    mut gather,
                } if token == of => {
                    let ready = self.links.get(&link).is_some_and(|link| {
                        !link.reset && link.outgoing(end).room(self.faults.socket_buffer_bytes) > 0
                    });
                    let result = if ready && self.random.chance(0.5) {
                        self.transmit(link, end, &mut gather)
                    } else {
                        Err(io::ErrorKind::ConnectionAborted.into())
                    };
                    let ready_at_ns = self.late().unwrap_or(0);
                    Operation::Done {
                        token,
                        result,
                        gather,
                        ready_at_ns,
                    }
                }
                other => other,
            };
            self.cores[core].operations.push(operation);
        }
    }

    /// A core lets its socket go.
    pub(in crate::sim) fn core_closes(&mut self, id: LinkId, end: End) {
        let arrives_ns = self.arrival_ns();
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        self.sockets_open -= 1;
        link.leave(end);
        if link.incoming(end).has_bytes() {
            // As TCP does: closing over unread bytes resets, and what is under way is lost.
            link.reset();
            self.clients_due = true;
        } else {
            link.outgoing_mut(end).end(arrives_ns);
            self.expect(id);
        }
        self.forget_if_over(id);
    }

    pub(in crate::sim) fn buffers(&self, core: usize) -> (usize, Arc<AtomicUsize>) {
        (
            self.cores[core].buffers,
            Arc::clone(&self.cores[core].buffers_lent),
        )
    }

    pub(in crate::sim) fn wake(&mut self, core: usize) {
        self.cores[core].woken = true;
    }

    /// The core, which is not parked any more, since it asks for something.
    fn asked(&mut self, core: usize) -> &mut Core {
        let core = &mut self.cores[core];
        core.parked = false;
        core
    }
}
