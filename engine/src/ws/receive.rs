//! The receiving half of [`WebSocket`]: bytes in, one step at a time, to the next whole thing.

use std::mem;
use std::ops::Range;

use super::close::{self, CLOSE_INVALID, CLOSE_PROTOCOL, CLOSE_TOO_BIG, CLOSE_UNSUPPORTED};
use super::fault::WsFault;
use super::frame::{self, CONTROL_MAX_BYTES, FrameHeader, Opcode, Parsed};
use super::handshake::{self, HEAD_MAX_BYTES};
use super::mask::{mask, rotated};
use super::{Flags, Kind, Phase, Role, Rules, WebSocket, WsConfig, WsEvent};

/// Once so many bytes wait in `reply`, further pings are answered by replacing the last pong, not by adding one:
/// RFC 6455, 5.5.3 asks for a pong to the most recent ping only. So a flood of pings cannot grow the reply.
const REPLY_MAX_BYTES: usize = 4096;

/// The first allocation, if so much can come at all: a small message that straddles two inputs needs no second one.
const HELD_LEAST_BYTES: usize = 512;

/// A whole thing: in the input, or in `held`.
pub(super) enum Whole<'i> {
    Input(&'i [u8]),
    Held(Range<usize>),
}

/// An HTTP head is over its bound.
pub(super) struct TooLong;

/// A [`WsEvent`] before it borrows. Texts were checked to be UTF-8.
pub(super) enum Step<'i> {
    Opened(Whole<'i>),
    Binary(Whole<'i>),
    Text(Whole<'i>),
    Closed(u16, Whole<'i>),
}

/// Takes the first `bytes` of the input.
fn take<'i>(input: &mut &'i mut [u8], bytes: usize) -> &'i mut [u8] {
    let (taken, rest) = mem::take(input).split_at_mut(bytes);
    *input = rest;
    taken
}

impl WebSocket {
    /// The common case, ahead of all others: the input begins with a whole binary message in one frame. It tells the
    /// same as [`advance`](Self::advance) would, in a fraction of the steps.
    #[inline]
    pub(super) fn common_message<'i>(&mut self, input: &mut &'i mut [u8], rules: Rules) -> Option<&'i [u8]> {
        if self.phase != Phase::Header || self.message != Kind::None || !self.held.is_empty() {
            return None;
        }
        let (header_bytes, payload_bytes) = match self.role {
            Role::Server => frame::common_header(input)?,
            Role::Client => frame::common_unmasked_header(input)?,
        };
        if payload_bytes > self.limit_bytes(rules) as usize || input.len() < header_bytes + payload_bytes {
            return None;
        }
        let (header, message) = take(input, header_bytes + payload_bytes).split_at_mut(header_bytes);
        if self.role == Role::Server {
            mask(message, *header.last_chunk()?);
        }
        Some(message)
    }

    /// Reads until there is an event, or no more input.
    pub(super) fn advance<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        rules: Rules,
        reply: &mut Vec<u8>,
    ) -> Result<Option<Step<'i>>, WsFault> {
        loop {
            let step = match self.phase {
                Phase::Header => {
                    let Some(header) = self.read_header(input)? else {
                        return Ok(None);
                    };
                    self.begin_frame(header, rules)?;
                    continue;
                }
                Phase::Payload if self.payload_left_bytes > 0 && input.is_empty() => return Ok(None),
                Phase::Payload if self.frame.is_control() => self.read_control(input, reply)?,
                Phase::Payload => self.read_data(input, rules)?,
                Phase::Request | Phase::Closed => {
                    self.held = Vec::new();
                    take(input, input.len());
                    return Ok(None);
                }
            };
            if step.is_some() {
                return Ok(step);
            }
        }
    }

    /// Lends out what a step found.
    pub(super) fn event<'e, 'i: 'e>(&'e mut self, step: Step<'i>) -> WsEvent<'e> {
        let (Step::Opened(whole) | Step::Binary(whole) | Step::Text(whole) | Step::Closed(_, whole)) = &step;
        let bytes: &'e [u8] = match whole {
            Whole::Input(bytes) => bytes,
            Whole::Held(range) => {
                self.flags.set(Flags::LENT);
                &self.held[range.clone()]
            }
        };
        let text = || simdutf8::basic::from_utf8(bytes).unwrap_or_default();
        match step {
            Step::Binary(_) => WsEvent::Message(bytes),
            Step::Text(_) => WsEvent::MessageText(text()),
            Step::Opened(_) => WsEvent::Opened { path: text() },
            Step::Closed(code, _) => WsEvent::Closed { code, reason: text() },
        }
    }

    /// Ends everything, frees what was held, and gives the fault back as the peer may be told of it.
    pub(super) fn fail(&mut self, fault: WsFault) -> WsFault {
        self.phase = Phase::Closed;
        self.held = Vec::new();
        if self.flags.has(Flags::CLOSE_SENT) {
            fault.without_reply()
        } else {
            fault
        }
    }

    pub(super) fn read_request<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        config: &WsConfig,
        reply: &mut Vec<u8>,
    ) -> Result<Option<Step<'i>>, WsFault> {
        let Some(&first) = input.first() else {
            return Ok(None);
        };
        if self.held.is_empty() {
            handshake::check_first_byte(first)?;
        }
        let Some(head) = self.take_head(input).map_err(|TooLong| {
            WsFault::handshake(431, format!("the request's head is over {HEAD_MAX_BYTES} bytes"))
        })?
        else {
            return Ok(None);
        };
        let path = match head {
            Whole::Input(head) => Whole::Input(&head[handshake::accept(head, config, reply)?]),
            Whole::Held(range) => Whole::Held(handshake::accept(&self.held[range], config, reply)?),
        };
        self.phase = Phase::Header;
        Ok(Some(Step::Opened(path)))
    }

    /// Takes an HTTP head; `None`, and the input is used up, while it is not whole. A held one begins where `held` does.
    pub(super) fn take_head<'i>(&mut self, input: &mut &'i mut [u8]) -> Result<Option<Whole<'i>>, TooLong> {
        let room = HEAD_MAX_BYTES - self.held.len();
        let arrived = &input[..input.len().min(room)];
        if self.held.is_empty()
            && let Some(end) = handshake::end_of_head(arrived, 0)
        {
            return Ok(Some(Whole::Input(take(input, end))));
        }

        let searched = self.held.len();
        let arrived_bytes = arrived.len();
        reserve(&mut self.held, arrived_bytes, HEAD_MAX_BYTES);
        self.held.extend_from_slice(arrived);
        // The line end that an empty line follows may be up to two bytes back.
        if let Some(end) = handshake::end_of_head(&self.held, searched.saturating_sub(2)) {
            take(input, end - searched);
            return Ok(Some(Whole::Held(0..end)));
        }
        take(input, arrived_bytes);
        if arrived_bytes == room {
            return Err(TooLong);
        }
        Ok(None)
    }

    /// The next header, or `None` and the input is used up.
    fn read_header(&mut self, input: &mut &mut [u8]) -> Result<Option<FrameHeader>, WsFault> {
        let begins = self.message_bytes as usize;
        if self.held.len() == begins
            && let Parsed::Whole(header, bytes) = FrameHeader::parse(input, self.role)?
        {
            take(input, bytes);
            return Ok(Some(header));
        }
        // It straddles inputs.
        loop {
            match FrameHeader::parse(&self.held[begins..], self.role)? {
                Parsed::Whole(header, _) => {
                    self.held.truncate(begins);
                    return Ok(Some(header));
                }
                Parsed::Missing(_) if input.is_empty() => return Ok(None),
                Parsed::Missing(bytes) => {
                    let arrived = take(input, bytes.min(input.len()));
                    reserve(&mut self.held, arrived.len(), begins + CONTROL_MAX_BYTES);
                    self.held.extend_from_slice(arrived);
                }
            }
        }
    }

    /// Holds a header against the message under way and the limits.
    fn begin_frame(&mut self, header: FrameHeader, rules: Rules) -> Result<(), WsFault> {
        match (header.opcode, self.message) {
            (Opcode::Binary, Kind::None) => self.message = Kind::Binary,
            (Opcode::Text, Kind::None) if rules.text => self.message = Kind::Text,
            (Opcode::Text, Kind::None) => {
                return Err(WsFault::frame(
                    CLOSE_UNSUPPORTED,
                    "text messages are not taken here: send binary ones",
                ));
            }
            (Opcode::Text | Opcode::Binary, _) => {
                return Err(WsFault::frame(
                    CLOSE_PROTOCOL,
                    "a new message amid the fragments of another",
                ));
            }
            (Opcode::Continuation, Kind::None) => {
                return Err(WsFault::frame(CLOSE_PROTOCOL, "a continuation of no message"));
            }
            (Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong, _) => {}
        }
        if !header.opcode.is_control() {
            // Before a byte of it is kept.
            let room = self.limit_bytes(rules).saturating_sub(self.message_bytes);
            if header.payload_bytes > u64::from(room) {
                return Err(WsFault::frame(
                    CLOSE_TOO_BIG,
                    "the message is over this endpoint's size limit",
                ));
            }
        }
        self.phase = Phase::Payload;
        self.frame = header.opcode;
        self.frame_is_last = header.fin;
        self.mask = header.mask;
        // At most the limit, or 125: it fits.
        self.payload_left_bytes = header.payload_bytes as u32;
        Ok(())
    }

    fn limit_bytes(&self, rules: Rules) -> u32 {
        match self.max_message_bytes {
            0 => rules.max_message_bytes,
            own => own,
        }
    }

    /// Takes what is there of the payload, unmasked. The second value: whether that is the rest of it.
    fn read_payload<'i>(&mut self, input: &mut &'i mut [u8]) -> (&'i mut [u8], bool) {
        let left = self.payload_left_bytes as usize;
        let arrived = take(input, left.min(input.len()));
        if self.role == Role::Server {
            mask(arrived, self.mask);
            self.mask = rotated(self.mask, arrived.len());
        }
        self.payload_left_bytes -= arrived.len() as u32;
        let complete = self.payload_left_bytes == 0;
        if complete {
            self.phase = Phase::Header;
        }
        (arrived, complete)
    }

    fn read_data<'i>(&mut self, input: &mut &'i mut [u8], rules: Rules) -> Result<Option<Step<'i>>, WsFault> {
        let (arrived, complete) = self.read_payload(input);
        let ends = complete && self.frame_is_last;
        let text = self.message == Kind::Text;
        if ends && self.message_bytes == 0 {
            self.message = Kind::None;
            if !text {
                return Ok(Some(Step::Binary(Whole::Input(arrived))));
            }
            return match simdutf8::basic::from_utf8(arrived) {
                Ok(_) => Ok(Some(Step::Text(Whole::Input(arrived)))),
                Err(_) => Err(not_utf8()),
            };
        }

        // The last frame tells where the message ends; before it, only the limit does.
        let most = if self.frame_is_last {
            self.held.len() + arrived.len() + self.payload_left_bytes as usize
        } else {
            self.limit_bytes(rules) as usize
        };
        reserve(&mut self.held, arrived.len(), most);
        self.held.extend_from_slice(arrived);
        self.message_bytes += arrived.len() as u32;
        if text {
            self.check_utf8(arrived.len(), ends)?;
        }
        if !ends {
            return Ok(None);
        }
        let whole = Whole::Held(0..mem::take(&mut self.message_bytes) as usize);
        self.message = Kind::None;
        Ok(Some(if text {
            Step::Text(whole)
        } else {
            Step::Binary(whole)
        }))
    }

    /// Checks the last `arrived` bytes of a text message, as far as they make whole characters.
    fn check_utf8(&mut self, arrived: usize, ends: bool) -> Result<(), WsFault> {
        let open = &self.held[self.held.len() - arrived - usize::from(self.utf8_open_bytes)..];
        self.utf8_open_bytes = match simdutf8::compat::from_utf8(open) {
            Ok(_) => 0,
            Err(error) if error.error_len().is_some() || ends => return Err(not_utf8()),
            Err(error) => (open.len() - error.valid_up_to()) as u8,
        };
        Ok(())
    }

    fn read_control<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        reply: &mut Vec<u8>,
    ) -> Result<Option<Step<'i>>, WsFault> {
        let begins = self.message_bytes as usize;
        let (arrived, complete) = self.read_payload(input);
        let whole = if complete && self.held.len() == begins {
            Whole::Input(arrived)
        } else {
            reserve(&mut self.held, arrived.len(), begins + CONTROL_MAX_BYTES);
            self.held.extend_from_slice(arrived);
            Whole::Held(begins..self.held.len())
        };
        if !complete {
            return Ok(None);
        }
        let payload = match &whole {
            Whole::Input(payload) => payload,
            Whole::Held(range) => &self.held[range.clone()],
        };
        match self.frame {
            Opcode::Close => {
                let (code, reason) = close::parse(payload)?;
                if !self.flags.has(Flags::CLOSE_SENT) {
                    self.flags.set(Flags::CLOSE_SENT);
                    close::append_close_frame(code, "", reply);
                }
                let reason_begins = payload.len() - reason.len();
                let reason = match whole {
                    Whole::Input(payload) => Whole::Input(&payload[reason_begins..]),
                    Whole::Held(range) => Whole::Held(range.start + reason_begins..range.end),
                };
                self.phase = Phase::Closed;
                return Ok(Some(Step::Closed(code, reason)));
            }
            Opcode::Ping if !self.flags.has(Flags::CLOSE_SENT) => {
                self.pong_payload_bytes = answer_ping(payload, self.pong_payload_bytes, reply);
            }
            // A pong answers a ping of ours, or nothing. That bytes arrived is all it tells.
            _ => {}
        }
        self.held.truncate(begins);
        Ok(None)
    }
}

/// Appends a pong, or puts it in the place of the last one, whose payload had `last_bytes` bytes. Returns the length
/// of the payload of the pong that is the last one now.
fn answer_ping(payload: &[u8], last_bytes: u8, reply: &mut Vec<u8>) -> u8 {
    if reply.len() >= REPLY_MAX_BYTES && !frame::remove_pong(last_bytes, reply) {
        return last_bytes;
    }
    frame::append_pong(payload, reply);
    payload.len() as u8
}

fn not_utf8() -> WsFault {
    WsFault::frame(CLOSE_INVALID, "a text message that is not UTF-8")
}

/// Makes room for `more` bytes: at least doubling, so that many small pieces cost no more than their sum, but not
/// beyond `most` bytes in all.
fn reserve(held: &mut Vec<u8>, more: usize, most: usize) {
    let needed = held.len() + more;
    if needed > held.capacity() {
        let target = needed.max(most.min(HELD_LEAST_BYTES.max(held.capacity() * 2)));
        held.reserve_exact(target - held.len());
    }
}
