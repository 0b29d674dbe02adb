//! Connections that move to another core, with what their peers have sent and nobody has taken.
//!
//! A protocol may learn only from a connection's first bytes which core it belongs to. [`Reactor::hand_over`] takes it
//! from the user at once and sends it there as soon as the driver has let go of it:
//!
//! ```text
//!   this core    hand_over ─▶ Leaving: what is queued is sent, the receive is stopped, what still arrives is held
//!                                │ all is sent, the receive has ended       │ the socket failed, out of time
//!                                ▼                                          ▼
//!                       socket, layer, held bytes, letter           the cause and the letter
//!                                └──────────────── one parcel ──────────────┘
//!                                                      │ waits here while the mailbox is full
//!   other core                                         ▼
//!                HandedOver, then the held bytes, then what comes          HandedOver, Closed
//! ```
//!
//! No byte is lost, repeated or overtaken in either direction: what is queued leaves before the connection does, and a
//! receive is armed on the other side only when the one on this side has told its last byte. The letter arrives
//! whatever happens to the connection.

use std::io;

use crate::driver::{Driver, Token};

use super::connection::{Connection, Flags, Layer, State};
use super::placement::Content;
use super::{Cause, Conn, Event, Parcel, Reactor, Transport, Upcoming};

/// Where a leaving connection goes, and what the user says about it.
#[derive(Debug)]
pub(super) struct Leaving<L> {
    pub(super) core: usize,
    pub(super) letter: L,
}

/// A connection between two cores.
#[derive(Debug)]
pub(super) struct Traveller<S, L> {
    letter: L,
    /// Why there is none any more.
    connection: Result<Baggage<S>, Cause>,
}

/// What is left of a connection with which nothing is under way.
#[derive(Debug)]
struct Baggage<S> {
    socket: S,
    layer: Layer,
    #[allow(clippy::box_collection)] // As the table has it.
    held: Option<Box<Vec<u8>>>,
    /// The peer's direction ended behind what is held.
    peer_ended: bool,
}

impl<D: Driver, L: Send> Reactor<D, L> {
    /// Moves an open connection to another core (or, by the same way, to this one), where it comes out under a new name
    /// as [`Event::HandedOver`] with the letter. What was queued is sent first, within
    /// [`flush_ms`](super::ReactorConfig::flush_ms); what arrives meanwhile, and what was held ([`super::Input::hold`]), travels
    /// along. This side hears nothing more of it: from now on the old name is stale.
    ///
    /// If it dies on the way, it is `HandedOver` and then `Closed` there. A full mailbox is tried again in each turn.
    ///
    /// # Errors
    /// The letter, if the connection is not open, or a dialled WebSocket, whose masks stay here: nothing has changed, and
    /// its [`Event::Closed`] has come or will.
    ///
    /// # Panics
    /// If there is no such core.
    pub fn hand_over(&mut self, conn: Conn, core: usize, letter: L) -> Result<(), L> {
        assert!(core < self.cores(), "there is no core {core}");
        let token = conn.0;
        let Some(connection) = self.table.get(token) else {
            return Err(letter);
        };
        let movable = match &connection.layer {
            Layer::Stream => true,
            // One whose peer has said goodbye, or broken the rules, is about to end.
            Layer::WebSocket { ws, .. } => ws.is_open(),
            Layer::Client(_) => false,
        };
        if !movable || !matches!(connection.state, State::Open) {
            return Err(letter);
        }
        connection.state = State::Leaving(Box::new(Leaving { core, letter }));
        connection.flags.clear(Flags::OPENED);
        // What still arrives is held, as for a connection that does not want bytes.
        connection.flags.set(Flags::PAUSED);
        if connection.flags.has(Flags::RECEIVING) && !connection.flags.has(Flags::STOPPING) {
            connection.flags.set(Flags::STOPPING);
            self.driver.stop_receive(token);
        }
        self.set_deadline(token, self.config.flush_ms);
        self.leave_if_idle(token);
        Ok(())
    }

    /// Sends a leaving connection on its way once the driver has nothing of it any more.
    pub(super) fn leave_if_idle(&mut self, token: Token) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        if !matches!(connection.state, State::Leaving(_))
            || connection.flags.has(Flags::RECEIVING)
            || !connection.is_flushed()
        {
            return;
        }
        let Some(Connection {
            socket,
            flags,
            state: State::Leaving(leaving),
            layer,
            held,
            deadline,
            ..
        }) = self.table.remove(token)
        else {
            return;
        };
        if let Some(timer) = deadline {
            self.timers.cancel(timer);
        }
        self.held_bytes -= held.as_ref().map_or(0, |held| held.len());
        self.board.move_to(self.mail.core(), leaving.core);
        self.counters.handed_over += 1;
        let baggage = Baggage {
            socket,
            layer,
            held,
            peer_ended: flags.has(Flags::PEER_ENDED),
        };
        self.send_off(*leaving, Ok(baggage));
    }

    /// A connection ended before it could leave: its letter leaves without it.
    pub(super) fn lost_while_leaving(&mut self, leaving: Leaving<L>, cause: Cause) {
        self.send_off(leaving, Err(cause));
    }

    fn send_off(&mut self, leaving: Leaving<L>, connection: Result<Baggage<D::Socket>, Cause>) {
        let Leaving { core, letter } = leaving;
        let traveller = Box::new(Traveller { letter, connection });
        if let Err(Parcel(content)) = self.mail.post(core, Parcel(Content::Traveller(traveller))) {
            self.departing.push_back((core, Parcel(content)));
        }
    }

    /// Tries the mailboxes again that were full.
    pub(super) fn post_departing(&mut self) {
        for _ in 0..self.departing.len() {
            if let Some((core, parcel)) = self.departing.pop_front()
                && let Err(parcel) = self.mail.post(core, parcel)
            {
                self.departing.push_back((core, parcel));
            }
        }
    }

    /// Takes in what another core handed over; it is counted on the board already.
    pub(super) fn take_over(&mut self, from: usize, traveller: Traveller<D::Socket, L>) {
        let Traveller { letter, connection } = traveller;
        let baggage = match connection {
            Ok(baggage) => baggage,
            Err(cause) => {
                let conn = Conn(self.table.pass());
                self.tell(Event::HandedOver { conn, from, letter });
                self.tell(Event::Closed { conn, cause });
                return;
            }
        };
        let refusal = if self.connections() >= self.config.connections_max {
            Some("the core that it was handed over to has as many connections as it may have")
        } else if !self.reads(&baggage.layer) {
            Some("the core that it was handed over to does not know its listener")
        } else {
            None
        };
        self.counters.taken_over += 1;
        self.held_bytes += baggage.held.as_ref().map_or(0, |held| held.len());
        let mut flags = Flags::default();
        flags.set(Flags::OPENED);
        if baggage.peer_ended {
            flags.set(Flags::PEER_ENDED);
        }
        let token = self.table.insert(Connection {
            socket: baggage.socket,
            flags,
            state: State::Open,
            layer: baggage.layer,
            outgoing: None,
            held: baggage.held,
            deadline: None,
        });
        let conn = Conn(token);
        self.tell(Event::HandedOver { conn, from, letter });
        if let Some(refusal) = refusal {
            return self.finish(token, Cause::Failed(io::Error::other(refusal)));
        }
        self.upcoming.push_back(Upcoming::Held(token));
        if baggage.peer_ended {
            self.upcoming.push_back(Upcoming::PeerEnded(token));
        }
        self.arm_receive(token);
    }

    /// Whether this core knows how the bytes of a layer are read.
    fn reads(&self, layer: &Layer) -> bool {
        match layer {
            Layer::Stream | Layer::Client(_) => true,
            Layer::WebSocket { listener, .. } => matches!(
                self.transports.get(usize::from(listener.0)),
                Some(Some(Transport::WebSocket(_)))
            ),
        }
    }

    fn tell(&mut self, event: Event<D::Lease, L>) {
        self.upcoming.push_back(Upcoming::Event(event));
    }
}
