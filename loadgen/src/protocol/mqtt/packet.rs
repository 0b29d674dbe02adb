//! Packets of MQTT: the fixed header, and the parts that bodies are made of (OASIS MQTT 3.1.1 §2, 5.0 §2).

use super::super::text::MESSAGE_BYTES_MAX;
use super::Fault;

// First bytes: the type, and the flags that it must have.
pub(super) const CONNECT: u8 = 0x10;
pub(super) const CONNACK: u8 = 0x20;
pub(super) const PUBLISH: u8 = 0x30;
pub(super) const PUBACK: u8 = 0x40;
pub(super) const SUBSCRIBE: u8 = 0x82;
pub(super) const SUBACK: u8 = 0x90;
pub(super) const UNSUBSCRIBE: u8 = 0xa2;
pub(super) const UNSUBACK: u8 = 0xb0;
pub(super) const PINGREQ: u8 = 0xc0;
pub(super) const PINGRESP: u8 = 0xd0;
pub(super) const DISCONNECT: u8 = 0xe0;

/// Connect flag: nothing of an earlier session is kept (3.1.1: clean session, 5: clean start).
pub(super) const CLEAN_SESSION: u8 = 0x02;

/// Properties of a CONNECT of MQTT 5 whose session never expires: their length, the session expiry interval and its value.
pub(super) const STAYS: [u8; 6] = [5, 0x11, 0xff, 0xff, 0xff, 0xff];

/// Most bytes of a length.
const LENGTH_BYTES_MAX: usize = 4;

/// Appends a packet.
pub(super) fn write(first: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    write_length(body.len(), out);
    out.extend_from_slice(body);
}

/// Appends a length: seven bits a byte, the lowest first.
#[inline]
pub(super) fn write_length(mut bytes: usize, out: &mut Vec<u8>) {
    loop {
        let low = (bytes & 0x7f) as u8;
        bytes >>= 7;
        if bytes == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// Appends a text with its length. Topics are at most 65,535 bytes: what is beyond is cut off.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    let bytes = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The fixed header of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// Type and flags.
    pub(super) first: u8,
    /// Where the body begins, and where the packet ends.
    pub(super) body_at: usize,
    pub(super) end: usize,
}

impl Header {
    /// Reads it; the inner error says how many bytes it needs at least.
    #[inline]
    pub(super) fn read(input: &[u8]) -> Result<Result<Self, usize>, Fault> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(Err(2));
        };
        let Some((body_bytes, length_bytes)) = length(rest)? else {
            return Ok(Err(input.len() + 1));
        };
        if body_bytes > MESSAGE_BYTES_MAX {
            return Err(Fault(format!(
                "the server announced a packet of {body_bytes} bytes, and {MESSAGE_BYTES_MAX} are the limit"
            )));
        }
        let body_at = 1 + length_bytes;
        Ok(Ok(Self {
            first,
            body_at,
            end: body_at + body_bytes,
        }))
    }
}

/// A length and how many bytes it took; `None` if its end has not arrived.
#[inline]
fn length(input: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    let mut length = 0;
    for (at, byte) in input.iter().take(LENGTH_BYTES_MAX).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((length, at + 1)));
        }
    }
    if input.len() >= LENGTH_BYTES_MAX {
        return Err(Fault(
            "the server sent a length of more than four bytes: is it an MQTT server?".into(),
        ));
    }
    Ok(None)
}

/// What a CONNACK of MQTT 5 says that matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Properties {
    /// Publishes at qos 1 that the server takes at a time.
    pub(super) receive_maximum: u16,
    /// Highest qos that it takes.
    pub(super) qos_max: u8,
}

/// Reads the parts of a body.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    #[inline]
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Fault> {
        let Some((taken, rest)) = self.0.split_at_checked(bytes) else {
            return Err(too_short());
        };
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        let taken = self.take(2)?;
        Ok(u16::from_be_bytes([taken[0], taken[1]]))
    }

    /// A text, or bytes, with two bytes of length.
    #[inline]
    pub(super) fn text(&mut self) -> Result<&'a [u8], Fault> {
        let bytes = self.u16()?;
        self.take(bytes.into())
    }

    #[inline]
    pub(super) fn skip_properties(&mut self) -> Result<(), Fault> {
        self.properties_bytes().map(|_| ())
    }

    #[inline]
    fn properties_bytes(&mut self) -> Result<&'a [u8], Fault> {
        let (bytes, length_bytes) = length(self.0)?.ok_or_else(too_short)?;
        self.take(length_bytes)?;
        self.take(bytes)
    }

    /// Properties of a CONNACK (5.0 §3.2.2.3).
    pub(super) fn properties(&mut self) -> Result<Properties, Fault> {
        let mut properties = Properties {
            receive_maximum: u16::MAX,
            qos_max: 2,
        };
        let mut reader = Reader(self.properties_bytes()?);
        while !reader.0.is_empty() {
            match reader.u8()? {
                0x21 => properties.receive_maximum = reader.u16()?.max(1),
                0x24 => properties.qos_max = reader.u8()?,
                // Maximum topic alias, server keep alive.
                0x22 | 0x13 => drop(reader.take(2)?),
                // Retain, wildcards, subscription identifiers, shared subscriptions: available or not.
                0x25 | 0x28 | 0x29 | 0x2a => drop(reader.take(1)?),
                // Session expiry interval, maximum packet size.
                0x11 | 0x27 => drop(reader.take(4)?),
                // Assigned client identifier, reason, response information, server reference, authentication.
                0x12 | 0x1f | 0x1a | 0x1c | 0x15 | 0x16 => drop(reader.text()?),
                // User property: a name and a value.
                0x26 => {
                    reader.text()?;
                    reader.text()?;
                }
                other => {
                    return Err(Fault(format!(
                        "the server's CONNACK has a property {other:#04x}, which is none of a CONNACK's"
                    )));
                }
            }
        }
        Ok(properties)
    }
}

#[cold]
fn too_short() -> Fault {
    Fault("the server sent a packet that ends before its parts do".into())
}

/// What a reason code says, for those that a run may meet; with ": " in front.
pub(super) fn reason(code: u8) -> &'static str {
    match code {
        0x01 | 0x84 => ": this version of MQTT is not spoken there",
        0x02 | 0x85 => ": the client id is not taken",
        0x03 | 0x88 => ": the server is not available",
        0x04 | 0x86 => ": user name or password are wrong",
        0x05 | 0x87 => ": not authorized",
        0x81 => ": malformed packet",
        0x82 => ": protocol error",
        0x89 => ": the server is busy",
        0x8b => ": the server is shutting down",
        0x8d => ": keep-alive time is over",
        0x8e => ": another client has the same client id",
        0x90 => ": the topic name is not taken",
        0x93 => ": more publishes in flight than the server takes",
        0x95 => ": the packet is too large",
        0x97 => ": a quota is exceeded",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_round_trip() {
        for (bytes, encoded) in [
            (0, &[0_u8][..]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 1]),
            (268_435_455, &[0xff, 0xff, 0xff, 0x7f]),
        ] {
            let mut out = Vec::new();
            write_length(bytes, &mut out);
            assert_eq!(out, encoded);
            assert_eq!(length(&out), Ok(Some((bytes, out.len()))));
            (0..out.len()).for_each(|cut| assert_eq!(length(&out[..cut]), Ok(None)));
        }
        assert!(length(&[0x80; 4]).is_err());
        assert!(Header::read(&[PUBLISH, 0xff, 0xff, 0xff, 0x7f]).is_err());
    }
}
