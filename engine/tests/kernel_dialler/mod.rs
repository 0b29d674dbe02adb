//! A reactor on the real kernel that only dials, and the events that come of it.

#![allow(dead_code)] // Each test binary uses a part.

use std::time::{Duration, Instant};

use fluxar_engine::dial::Dial;
use fluxar_engine::driver::Driver;
use fluxar_engine::listener::Address;
use fluxar_engine::mail;
use fluxar_engine::reactor::{Board, Cause, Conn, Event, Piece, Reactor, ReactorConfig};
use fluxar_engine::uring::{UringConfig, UringDriver, UringHub};

/// Far longer than anything here takes; reaching it is the failure.
pub(crate) const STALLED: Duration = Duration::from_secs(60);

/// A reactor without listeners, and what its connections received.
pub(crate) struct Dialler {
    pub(crate) reactor: Reactor<UringDriver, ()>,
    pub(crate) board: Board,
    /// Byte streams and messages, one behind the other.
    pub(crate) received: Vec<u8>,
    /// The same, piece by piece.
    pub(crate) pieces: Vec<(Conn, Vec<u8>)>,
    /// How many bytes were reported as sent.
    pub(crate) sent_bytes: usize,
}

/// An event, its bytes taken.
#[derive(Debug)]
pub(crate) enum Seen {
    Connected(Conn),
    Received(Conn),
    Ending(Conn),
    Closed(Conn, Cause),
}

impl Dialler {
    pub(crate) fn new(config: ReactorConfig) -> Dialler {
        let hub = UringHub::new(1).expect("hub");
        let driver = UringDriver::new(&hub, 0, &UringConfig::default()).expect("this kernel has io_uring");
        let (_, mut endpoints) = mail::mesh(1, 1);
        let board = Board::new(1);
        let endpoint = endpoints.pop().expect("one core");
        Dialler {
            reactor: Reactor::new(driver, endpoint, board.clone(), Vec::new(), config),
            board,
            received: Vec::new(),
            pieces: Vec::new(),
            sent_bytes: 0,
        }
    }

    pub(crate) fn dial(&mut self, to: &Address) -> Conn {
        self.dial_with(to, &Dial::default())
    }

    pub(crate) fn dial_with(&mut self, to: &Address, dial: &Dial) -> Conn {
        self.reactor.dial(to, dial).expect("nothing is wrong so far")
    }

    pub(crate) fn next(&mut self) -> Seen {
        let begun = Instant::now();
        loop {
            while let Some(event) = self.reactor.poll() {
                match event {
                    Event::Connected { conn } => return Seen::Connected(conn),
                    Event::Received { conn, chunk } => {
                        let mut input = self.reactor.input(conn, chunk);
                        while let Some(Piece::Stream(bytes) | Piece::Message(bytes)) = input.next() {
                            self.received.extend_from_slice(bytes);
                            self.pieces.push((conn, bytes.to_vec()));
                        }
                        return Seen::Received(conn);
                    }
                    Event::Ending { conn, .. } => return Seen::Ending(conn),
                    Event::Closed { conn, cause } => return Seen::Closed(conn, cause),
                    Event::Sent { bytes, .. } => self.sent_bytes += bytes,
                    Event::Opened { .. }
                    | Event::Letter { .. }
                    | Event::HandedOver { .. }
                    | Event::Disk(_) => panic!("{event:?}"),
                }
            }
            assert!(begun.elapsed() < STALLED, "no event came");
            let until_ns = self.reactor.now_ns() + 100_000_000;
            self.reactor.turn(Some(until_ns)).expect("turn");
        }
    }

    /// Nothing may be left.
    pub(crate) fn assert_clean(mut self) {
        self.reactor.turn(Some(0)).expect("turn");
        assert!(self.reactor.poll().is_none());
        assert_eq!((self.reactor.connections(), self.board.connections(0)), (0, 0));
        let free = self.reactor.driver().free_buffers();
        assert_eq!(free, usize::from(UringConfig::default().buffers));
    }
}
