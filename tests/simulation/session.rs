//! The client's end of a session that outlives its connections [P-7.6, P-7.7]: what it counts, what it keeps to say again, and
//! the token with which it comes back.

use fluxar_protocol::envelope::Decoded;
use fluxar_protocol::hello::{Resume, Welcome};
use fluxar_protocol::session::{Kept, Received, is_counted};
use fluxar_protocol::{Batch, Id};

/// A session, over all its connections; of one that was never greeted nothing is known.
pub(crate) struct Session {
    id: Id,
    /// Empty: there is nothing to come back to.
    token: Vec<u8>,
    kept: Kept<Vec<u8>>,
    count: Received,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            id: Id([0; 16]),
            token: Vec::new(),
            kept: Kept::new(usize::MAX),
            count: Received::default(),
        }
    }

    /// What a hello says that goes on with it.
    pub(crate) fn resume(&self) -> Option<Resume<'_>> {
        (!self.token.is_empty()).then_some(Resume {
            session: self.id,
            token: &self.token,
            recv: self.count.count(),
        })
    }

    /// Whether it has a token.
    pub(crate) fn can_resume(&self) -> bool {
        !self.token.is_empty()
    }

    /// A new session was opened, or this one goes on: then what is to be said again is the answer.
    pub(crate) fn greeted(&mut self, welcome: &Welcome<'_>) -> Vec<Vec<u8>> {
        if !welcome.resumed {
            *self = Self::new();
        }
        self.id = welcome.session;
        self.token = welcome.token.unwrap_or_default().to_vec();
        if !welcome.resumed {
            return Vec::new();
        }
        let again = self
            .kept
            .resume(welcome.recv)
            .expect("nothing is forgotten, and the gateway counts as this side does");
        again.map(|(body, from)| body[from..].to_vec()).collect()
    }

    /// Keeps what is counted of a body that is sent, or would be if there were a connection.
    pub(crate) fn says(&mut self, body: &[u8]) {
        for said in Batch::new(body) {
            let said = said.expect("it was made here");
            if is_counted(&said.envelope) {
                self.kept.keep(said.bytes.to_vec(), 1);
            }
        }
    }

    /// How many counted envelopes were said.
    pub(crate) fn said(&self) -> u64 {
        self.kept.sent()
    }

    /// Takes what came.
    pub(crate) fn hears(&mut self, heard: &Decoded<'_>) {
        if is_counted(&heard.envelope) {
            self.count.take(heard.bytes.len());
        }
        if let Some(recv) = heard
            .envelope
            .meta
            .and_then(|meta| meta.uint("recv").expect("a count"))
        {
            self.kept.covered(recv).expect("no more than was said");
        }
    }

    /// How many counted envelopes came, to be told in a ping or its answer.
    pub(crate) fn tell(&mut self) -> u64 {
        self.count.tell()
    }
}
