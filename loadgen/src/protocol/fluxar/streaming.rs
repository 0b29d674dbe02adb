//! What a session says and hears of streams. The rules are [`fluxar_protocol::stream::Stream`]'s.

use fluxar_protocol::meta::{Asked, Meta, MetaWriter};
use fluxar_protocol::stream::{Heard, Part, Stream};
use fluxar_protocol::{Code, Envelope, ErrorBody, Id, Kind};

use super::super::{Fault, Incoming, Opening, Outgoing};
use super::{Talk, said, streams, templates};

impl Talk {
    pub(super) fn open_stream(
        &mut self,
        number: u32,
        method: usize,
        opening: Opening,
        payload: &[u8],
        out: &mut Outgoing,
    ) {
        let Opening { ends, credit_bytes } = opening;
        let mut meta = MetaWriter::new().uint("credit", credit_bytes.into());
        if ends {
            meta = meta.flag("end", true);
        }
        let names = self.names.clone();
        let target = Some(names.methods[method].as_str());
        let id = self.say(Kind::Stream, None, target, meta.finish().as_deref(), payload, out);
        let stream = Stream::opened_here(ends, credit_bytes.into(), self.peer_credit_bytes.into());
        self.streams.opened_here(number, id, stream);
    }

    #[inline]
    pub(super) fn send_chunk(&mut self, number: u32, payload: &[u8], is_last: bool, out: &mut Outgoing) {
        let Some((id, stream)) = self.streams.get(number) else {
            return;
        };
        if stream.send_chunk(payload.len() as u64, is_last).is_err() {
            return;
        }
        if is_last {
            let meta = MetaWriter::new().flag("end", true).finish();
            self.say(Kind::Stream, Some(id), None, meta.as_deref(), payload, out);
            self.streams.settle(number);
        } else {
            templates::chunk(self.ids.next(), id, payload, &mut self.frames, out);
        }
    }

    pub(super) fn end_stream(&mut self, number: u32, out: &mut Outgoing) {
        if let Some((id, stream)) = self.streams.get(number)
            && stream.send_end()
        {
            self.say_end(id, out);
            self.streams.settle(number);
        }
    }

    pub(super) fn grant(&mut self, number: u32, bytes: u32, out: &mut Outgoing) {
        if let Some((id, stream)) = self.streams.get(number)
            && stream.send_grant(bytes.into())
        {
            let meta = MetaWriter::new().uint("credit", bytes.into()).finish();
            self.say(Kind::Stream, Some(id), None, meta.as_deref(), &[], out);
        }
    }

    pub(super) fn cancel_stream(&mut self, number: u32, out: &mut Outgoing) {
        if let Some((id, stream)) = self.streams.get(number)
            && stream.send_cancel()
        {
            self.say(Kind::Cancel, Some(id), None, None, &[], out);
            self.streams.settle(number);
        }
    }

    fn say_end(&mut self, stream: Id, out: &mut Outgoing) {
        let meta = MetaWriter::new().flag("end", true).finish();
        self.say(Kind::Stream, Some(stream), None, meta.as_deref(), &[], out);
    }

    /// The gateway opens a stream of somebody's to us.
    pub(super) fn hear_open(
        &mut self,
        envelope: &Envelope<'_>,
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        let asked = Asked::read(envelope.meta.as_ref()).map_err(|fault| {
            Fault(format!(
                "the gateway opened a stream by a faulty envelope: {fault}"
            ))
        })?;
        let credit_bytes = asked.credit_bytes.unwrap_or(self.peer_credit_bytes.into());
        let stream = Stream::opened_there(asked.end, self.credit_bytes.into(), credit_bytes);
        match self.streams.opened_there(envelope.id, stream) {
            Some(number) => on(Incoming::StreamOpened {
                stream: number,
                payload: envelope.payload,
                has_ended: asked.end,
            }),
            None => self.fail(
                envelope.id,
                Code::AlreadyExists,
                "a stream of that id is open",
                out,
            ),
        }
        Ok(())
    }

    /// A part of an open stream. `error` is that of the envelope.
    #[inline]
    pub(super) fn hear_part(
        &mut self,
        id: Id,
        part: Part,
        payload: &[u8],
        error: Option<&[u8]>,
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) {
        let Some(number) = self.streams.find(id) else {
            return; // it ended a moment ago
        };
        let Some((_, stream)) = self.streams.get(number) else {
            return;
        };
        match stream.handle(part) {
            Ok(Heard::Chunk { is_last: false }) => {
                return on(Incoming::Chunk {
                    stream: number,
                    payload,
                    is_last: false,
                });
            }
            Ok(Heard::Granted) => return on(Incoming::StreamGranted { stream: number }),
            Ok(Heard::Chunk { is_last: true }) => on(Incoming::Chunk {
                stream: number,
                payload,
                is_last: true,
            }),
            Ok(Heard::Ended) => on(Incoming::StreamEnded { stream: number }),
            Ok(Heard::Failed) => on(Incoming::StreamFailed {
                stream: number,
                message: error.map_or_else(|| "without a reason".to_owned(), said),
            }),
            Ok(Heard::Cancelled | Heard::Ignored) => {}
            Err(breach) => {
                let message = streams::words(breach);
                self.fail(id, Code::FailedPrecondition, &message, out);
                on(Incoming::StreamFailed {
                    stream: number,
                    message,
                });
            }
        }
        self.streams.settle(number);
    }

    /// A cancel of something: a stream is ended by us at once; a call was answered on arrival.
    pub(super) fn hear_cancel(&mut self, id: Id, out: &mut Outgoing, on: &mut impl FnMut(Incoming<'_>)) {
        let Some(number) = self.streams.find(id) else {
            return;
        };
        let Some((_, stream)) = self.streams.get(number) else {
            return;
        };
        match stream.handle_cancel() {
            Heard::Ignored => return,
            Heard::Cancelled if stream.send_end() => self.say_end(id, out),
            _ => {}
        }
        on(Incoming::StreamCancelled { stream: number });
        self.streams.settle(number);
    }

    /// Ends a stream by an error.
    fn fail(&mut self, id: Id, code: Code, message: &str, out: &mut Outgoing) {
        let mut error = Vec::new();
        ErrorBody {
            code,
            message,
            details: None,
            retry_after_ms: None,
        }
        .encode(&mut error);
        let envelope = Envelope {
            kind: Kind::Stream,
            id: self.ids.next(),
            reference: Some(id),
            target: None,
            meta: None::<Meta<'_>>,
            payload: &[],
            error: Some(&error),
        };
        templates::other(&envelope, &mut self.frames, out);
    }
}
