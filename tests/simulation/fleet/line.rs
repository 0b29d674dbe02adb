//! A connection of somebody in the fleet's life: framing, ids, the hello, pings.

use fluxar_engine::sim::{ClientSocket, ClientState, Random};
use fluxar_protocol::hello::Hello;
use fluxar_protocol::{Batch, Id, Kind};
use fluxar_tests::message::{Received, encoded};

use crate::wire::Wire;

/// One connection.
pub(crate) struct Line {
    wire: Wire,
    /// No two lines of a life have the same.
    name: u64,
    ids: u64,
    /// What is said in this turn: it leaves as one frame.
    body: Vec<u8>,
    said_goodbye: bool,
    pub(crate) is_greeted: bool,
    /// What the gateway's hello announced.
    pub(crate) credit_bytes: u64,
}

impl Line {
    pub(crate) fn new(
        socket: ClientSocket,
        is_websocket: bool,
        name: u64,
        credit_bytes: u32,
        random: &mut Random,
    ) -> Self {
        let mut line = Self {
            wire: Wire::new(socket, is_websocket),
            name,
            ids: 0,
            body: Vec::new(),
            said_goodbye: false,
            is_greeted: false,
            credit_bytes: 0,
        };
        let mut hello = Vec::new();
        Hello {
            agent: "fleet",
            credit: credit_bytes,
            ..Hello::default()
        }
        .encode(&mut hello);
        let id = line.id();
        line.say(Kind::Hello, id, None, None, None, &hello);
        line.flush(random);
        line
    }

    pub(crate) fn id(&mut self) -> Id {
        self.ids += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.name.to_be_bytes());
        id[8..].copy_from_slice(&self.ids.to_be_bytes());
        Id(id)
    }

    /// Says something at the end of the turn.
    pub(crate) fn say(
        &mut self,
        kind: Kind,
        id: Id,
        reference: Option<Id>,
        target: Option<&str>,
        meta: Option<&[u8]>,
        payload: &[u8],
    ) {
        self.body
            .extend(encoded(kind, id, reference, target, meta, payload));
    }

    /// About something that is open; `payload` empty is null.
    pub(crate) fn say_about(&mut self, kind: Kind, reference: Id, meta: Option<&[u8]>, payload: &[u8]) {
        let id = self.id();
        self.say(kind, id, Some(reference), None, meta, payload);
    }

    pub(crate) fn say_goodbye(&mut self) {
        let id = self.id();
        self.say(Kind::Cancel, id, None, None, None, &[]);
        self.said_goodbye = true;
    }

    /// What has arrived and is not this line's own business.
    pub(crate) fn hear(&mut self) -> Vec<Received> {
        let mut heard = Vec::new();
        for body in self.wire.turn() {
            for decoded in Batch::new(&body) {
                let one = Received::from_decoded(&decoded.expect("a gateway sends what can be read"));
                match (one.kind, one.reference) {
                    (Kind::Hello, Some(_)) => {
                        assert_eq!(one.error, None);
                        let welcome =
                            fluxar_protocol::hello::Welcome::decode(&one.payload).expect("a welcome");
                        self.credit_bytes = welcome.credit.into();
                        self.is_greeted = true;
                    }
                    (Kind::Ping, None) => self.say_about(Kind::Ping, one.id, None, &[]),
                    (Kind::Ping, Some(_)) => {}
                    (Kind::Cancel, None) => {
                        assert!(
                            self.said_goodbye,
                            "the gateway closed a connection: {:?}",
                            one.error
                        );
                    }
                    _ => heard.push(one),
                }
            }
        }
        heard
    }

    /// What was said leaves.
    pub(crate) fn flush(&mut self, random: &mut Random) {
        if !self.body.is_empty() {
            let body = std::mem::take(&mut self.body);
            self.wire.send(&body, random);
        }
        // What arrives meanwhile is heard next time.
        self.wire.push();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.wire.state() == ClientState::Open
    }

    pub(crate) fn stop_reading(&mut self) {
        self.wire.stop_reading();
    }

    pub(crate) fn read_on(&mut self) {
        self.wire.read_on();
    }

    pub(crate) fn die(&mut self, reset: bool) {
        self.wire.die(reset);
    }
}
