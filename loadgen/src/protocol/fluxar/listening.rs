//! The answering side of the hello: a service to which the gateway connects, by its `[[upstream]]` [P-7.2].

use fluxar_protocol::Envelope;
use fluxar_protocol::Kind;
use fluxar_protocol::hello::{Caps, Hello, Welcome};
use fluxar_protocol::limits::{FRAME_BYTES_DEFAULT, HEARTBEAT_MS_DEFAULT};

use super::super::{Fault, Incoming, Outgoing};
use super::{AGENT, Talk};

impl Talk {
    /// The gateway said hello to us.
    pub(super) fn welcome(
        &mut self,
        envelope: &Envelope<'_>,
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        if self.is_open {
            return Err(Fault("the gateway said hello twice".into()));
        }
        let hello = Hello::decode(envelope.payload)
            .map_err(|fault| Fault(format!("the gateway's hello: {fault}")))?;
        if !hello.v0 {
            return Err(Fault(
                "the gateway does not speak version 0, and we speak no other".into(),
            ));
        }
        let session = self.ids.next();
        let mut payload = Vec::new();
        Welcome {
            v: 0,
            session,
            token: None,
            caps: Caps::default(),
            max_frame: FRAME_BYTES_DEFAULT as u32,
            heartbeat_ms: HEARTBEAT_MS_DEFAULT,
            credit: self.credit_bytes,
            resumed: false,
            recv: 0,
            limits: None,
            agent: AGENT,
        }
        .encode(&mut payload);
        self.is_open = true;
        self.peer_credit_bytes = hello.credit;
        self.say(Kind::Hello, Some(envelope.id), None, None, &payload, out);
        self.frames.seal(out);
        self.frames.peer_takes(hello.max_frame as usize);
        on(Incoming::Ready);
        Ok(())
    }
}
