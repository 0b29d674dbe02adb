//! Reading and writing the two payloads [P-7.2].
//!
//! They are maps: what is absent or null has its default, unknown keys are ignored, a key that stands twice is a
//! fault. Texts and byte strings that are read have to be of definite length, so that they can be borrowed.
//!
//! One hello a connection: this is a cold path, and `minicbor` does the work.

use alloc::vec::Vec;
use core::convert::Infallible;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder, encode};

use super::{Auth, Caps, Hello, Resume, Welcome};
use crate::cbor;
use crate::envelope::Id;
use crate::error::Fault;
use crate::limits::{
    FRAME_BYTES_LEAST, FRAME_BYTES_MOST, HEARTBEAT_MS_LEAST, HEARTBEAT_MS_MOST, PAYLOAD_DEPTH_MAX,
};

impl<'a> Hello<'a> {
    /// Reads the payload; what is absent has its default, unknown keys are ignored, ranges are clamped or refused
    /// as [P-7] says.
    ///
    /// # Errors
    /// [`Fault::Hello`] names the part.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Fault> {
        const KEYS: &[&str] = &[
            "v",
            "caps",
            "max_frame",
            "heartbeat_ms",
            "credit",
            "agent",
            "auth",
            "resume",
        ];
        let mut hello = Self::default();
        let mut v0 = None;
        read_payload(payload, KEYS, |key, decoder| {
            match key {
                "v" => v0 = Some(has_v0(decoder)?),
                "caps" => hello.caps = caps(decoder)?,
                "max_frame" => hello.max_frame = max_frame(decoder)?,
                "heartbeat_ms" => hello.heartbeat_ms = heartbeat_ms(decoder)?,
                "credit" => hello.credit = credit(decoder)?,
                "agent" => hello.agent = decoder.str().ok()?,
                "auth" => hello.auth = Some(auth(decoder)?),
                _ => hello.resume = Some(resume(decoder)?),
            }
            Some(())
        })?;
        hello.v0 = v0.ok_or(Fault::Hello("v"))?;
        Ok(hello)
    }

    /// Appends the encoded payload. What has its default is left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.write(&mut Encoder::new(out)).expect(VEC_TAKES_ALL);
    }

    fn write(&self, encoder: &mut VecEncoder<'_>) -> Written {
        let default = Self::default();
        let numbers = [
            ("max_frame", self.max_frame, default.max_frame),
            ("heartbeat_ms", self.heartbeat_ms, default.heartbeat_ms),
            ("credit", self.credit, default.credit),
        ];
        let numbers = numbers.iter().filter(|(_, value, default)| value != default);
        let has_caps = self.caps != default.caps;
        let has_agent = self.agent != default.agent;
        let others = [has_caps, has_agent, self.auth.is_some(), self.resume.is_some()];
        encoder.map(1 + numbers.clone().count() as u64 + count(&others))?;
        encoder.str("v")?.array(self.v0.into())?;
        if self.v0 {
            encoder.u8(0)?;
        }
        if has_caps {
            write_caps(self.caps, encoder.str("caps")?)?;
        }
        for (key, value, _) in numbers {
            encoder.str(key)?.u32(*value)?;
        }
        if has_agent {
            encoder.str("agent")?.str(self.agent)?;
        }
        if let Some(auth) = &self.auth {
            write_auth(auth, encoder.str("auth")?)?;
        }
        if let Some(resume) = &self.resume {
            encoder.str("resume")?.map(3)?;
            encoder.str("session")?.bytes(&resume.session.0)?;
            encoder.str("token")?.bytes(resume.token)?;
            encoder.str("recv")?.u64(resume.recv)?;
        }
        Ok(())
    }
}

impl<'a> Welcome<'a> {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Fault::Hello`] names the part.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Fault> {
        const KEYS: &[&str] = &[
            "v",
            "session",
            "token",
            "caps",
            "max_frame",
            "heartbeat_ms",
            "credit",
            "resumed",
            "recv",
            "agent",
            "limits",
        ];
        let default = Hello::default();
        let (mut v, mut session) = (None, None);
        let mut welcome = Self {
            v: 0,
            session: Id([0; 16]),
            token: None,
            caps: default.caps,
            max_frame: default.max_frame,
            heartbeat_ms: default.heartbeat_ms,
            credit: default.credit,
            resumed: false,
            recv: 0,
            limits: None,
            agent: default.agent,
        };
        read_payload(payload, KEYS, |key, decoder| {
            match key {
                "v" => v = Some(decoder.u64().ok()?),
                "session" => session = Some(id(decoder)?),
                "token" => welcome.token = Some(decoder.bytes().ok()?),
                "caps" => welcome.caps = caps(decoder)?,
                "max_frame" => welcome.max_frame = max_frame(decoder)?,
                "heartbeat_ms" => welcome.heartbeat_ms = heartbeat_ms(decoder)?,
                "credit" => welcome.credit = credit(decoder)?,
                "resumed" => welcome.resumed = decoder.bool().ok()?,
                "recv" => welcome.recv = decoder.u64().ok()?,
                "agent" => welcome.agent = decoder.str().ok()?,
                _ => welcome.limits = Some(raw_map(decoder)?),
            }
            Some(())
        })?;
        welcome.v = v.ok_or(Fault::Hello("v"))?;
        welcome.session = session.ok_or(Fault::Hello("session"))?;
        Ok(welcome)
    }

    /// Appends the encoded payload, all of it: people read it in traces.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.write(&mut Encoder::new(out)).expect(VEC_TAKES_ALL);
    }

    fn write(&self, encoder: &mut VecEncoder<'_>) -> Written {
        encoder.map(10 + u64::from(self.limits.is_some()))?;
        encoder.str("v")?.u64(self.v)?;
        encoder.str("session")?.bytes(&self.session.0)?;
        encoder.str("token")?;
        match self.token {
            Some(token) => encoder.bytes(token)?,
            None => encoder.null()?,
        };
        write_caps(self.caps, encoder.str("caps")?)?;
        encoder.str("max_frame")?.u32(self.max_frame)?;
        encoder.str("heartbeat_ms")?.u32(self.heartbeat_ms)?;
        encoder.str("credit")?.u32(self.credit)?;
        encoder.str("resumed")?.bool(self.resumed)?;
        encoder.str("recv")?.u64(self.recv)?;
        if let Some(limits) = self.limits {
            encoder.str("limits")?.writer_mut().extend_from_slice(limits);
        }
        encoder.str("agent")?.str(self.agent)?;
        Ok(())
    }
}

/// Reads a payload's known keys. `read` takes the value of one; `None` says that it is not what the key needs.
fn read_payload<'a>(
    payload: &'a [u8],
    known: &[&'static str],
    read: impl FnMut(&'static str, &mut Decoder<'a>) -> Option<()>,
) -> Result<(), Fault> {
    // A decoded envelope's payload is one well-formed item; this holds it for every caller.
    if cbor::walk(payload, PAYLOAD_DEPTH_MAX) != Ok(payload.len()) {
        return Err(Fault::Hello("payload"));
    }
    each_key(&mut Decoder::new(payload), known, read).map_err(Fault::Hello)
}

/// Calls `read` for the known keys of a map whose value is not null. The error names the key, or `payload` if the map
/// itself is at fault.
fn each_key<'a>(
    decoder: &mut Decoder<'a>,
    known: &[&'static str],
    mut read: impl FnMut(&'static str, &mut Decoder<'a>) -> Option<()>,
) -> Result<(), &'static str> {
    const NO_MAP: &str = "payload";
    let mut left = decoder.map().map_err(|_| NO_MAP)?;
    let mut seen = 0_u32; // a bit for each known key
    loop {
        match &mut left {
            Some(0) => return Ok(()),
            Some(left) => *left -= 1,
            None if is_next(decoder, Type::Break) => {
                decoder.set_position(decoder.position() + 1);
                return Ok(());
            }
            None => {}
        }
        let key = decoder.str().map_err(|_| NO_MAP)?;
        let Some(at) = known.iter().position(|known| *known == key) else {
            decoder.skip().map_err(|_| NO_MAP)?;
            continue;
        };
        if seen & 1 << at != 0 {
            return Err(NO_MAP);
        }
        seen |= 1 << at;
        if is_next(decoder, Type::Null) {
            decoder.null().map_err(|_| known[at])?;
        } else {
            read(known[at], decoder).ok_or(known[at])?;
        }
    }
}

fn is_next(decoder: &Decoder<'_>, expected: Type) -> bool {
    decoder.datatype().is_ok_and(|found| found == expected)
}

fn id(decoder: &mut Decoder<'_>) -> Option<Id> {
    decoder.bytes().ok()?.try_into().ok().map(Id)
}

fn has_v0(decoder: &mut Decoder<'_>) -> Option<bool> {
    let mut v0 = false;
    for version in decoder.array_iter::<u64>().ok()? {
        v0 |= version.ok()? == 0;
    }
    Some(v0)
}

fn max_frame(decoder: &mut Decoder<'_>) -> Option<u32> {
    let announced_bytes = decoder.u64().ok()?.min(FRAME_BYTES_MOST as u64);
    (announced_bytes >= FRAME_BYTES_LEAST as u64).then_some(announced_bytes as u32)
}

fn heartbeat_ms(decoder: &mut Decoder<'_>) -> Option<u32> {
    let announced_ms = decoder.u64().ok()?;
    Some(announced_ms.clamp(HEARTBEAT_MS_LEAST.into(), HEARTBEAT_MS_MOST.into()) as u32)
}

fn credit(decoder: &mut Decoder<'_>) -> Option<u32> {
    Some(u32::try_from(decoder.u64().ok()?).unwrap_or(u32::MAX))
}

fn caps(decoder: &mut Decoder<'_>) -> Option<Caps> {
    let mut caps = Caps::default();
    each_key(
        decoder,
        &["compress", "multi", "datagram", "resume", "seal"],
        |key, decoder| {
            match key {
                "multi" => caps.multi = decoder.bool().ok()?,
                "datagram" => caps.datagram = decoder.bool().ok()?,
                "resume" => caps.resume = decoder.bool().ok()?,
                _ => {
                    for name in decoder.array_iter::<&str>().ok()? {
                        match (key, name.ok()?) {
                            ("compress", "zstd") => caps.zstd = true,
                            ("compress", "gzip") => caps.gzip = true,
                            _ => {}
                        }
                    }
                }
            }
            Some(())
        },
    )
    .ok()?;
    Some(caps)
}

fn auth<'a>(decoder: &mut Decoder<'a>) -> Option<Auth<'a>> {
    let (mut scheme, mut token) = (None, None);
    let start = decoder.position();
    each_key(decoder, &["scheme", "token"], |key, decoder| {
        let value = decoder.str().ok()?;
        *(if key == "scheme" { &mut scheme } else { &mut token }) = Some(value);
        Some(())
    })
    .ok()?;
    Some(Auth {
        scheme: scheme?,
        token,
        raw: &decoder.input()[start..decoder.position()],
    })
}

fn resume<'a>(decoder: &mut Decoder<'a>) -> Option<Resume<'a>> {
    let (mut session, mut token, mut recv) = (None, None, None);
    each_key(decoder, &["session", "token", "recv"], |key, decoder| {
        match key {
            "session" => session = Some(id(decoder)?),
            "token" => token = Some(decoder.bytes().ok()?),
            _ => recv = Some(decoder.u64().ok()?),
        }
        Some(())
    })
    .ok()?;
    Some(Resume {
        session: session?,
        token: token?,
        recv: recv?,
    })
}

/// The bytes of a map.
fn raw_map<'a>(decoder: &mut Decoder<'a>) -> Option<&'a [u8]> {
    let start = decoder.position();
    if !matches!(decoder.datatype().ok()?, Type::Map | Type::MapIndef) {
        return None;
    }
    decoder.skip().ok()?;
    Some(&decoder.input()[start..decoder.position()])
}

type VecEncoder<'v> = Encoder<&'v mut Vec<u8>>;
type Written = Result<(), encode::Error<Infallible>>;

const VEC_TAKES_ALL: &str = "a Vec takes all that is written to it";

fn count(conditions: &[bool]) -> u64 {
    conditions.iter().filter(|condition| **condition).count() as u64
}

fn write_caps(caps: Caps, encoder: &mut VecEncoder<'_>) -> Written {
    let algorithms = [("zstd", caps.zstd), ("gzip", caps.gzip)];
    let flags = [
        ("multi", caps.multi),
        ("datagram", caps.datagram),
        ("resume", caps.resume),
    ];
    let has_algorithm = caps.zstd || caps.gzip;
    encoder.map(count(&[has_algorithm, caps.multi, caps.datagram, caps.resume]))?;
    if has_algorithm {
        encoder.str("compress")?.array(count(&[caps.zstd, caps.gzip]))?;
        for (name, _) in algorithms.iter().filter(|(_, is_there)| *is_there) {
            encoder.str(name)?;
        }
    }
    for (key, _) in flags.iter().filter(|(_, is_there)| *is_there) {
        encoder.str(key)?.bool(true)?;
    }
    Ok(())
}

fn write_auth(auth: &Auth<'_>, encoder: &mut VecEncoder<'_>) -> Written {
    if !auth.raw.is_empty() {
        encoder.writer_mut().extend_from_slice(auth.raw);
        return Ok(());
    }
    encoder
        .map(1 + u64::from(auth.token.is_some()))?
        .str("scheme")?
        .str(auth.scheme)?;
    if let Some(token) = auth.token {
        encoder.str("token")?.str(token)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(hello: &Hello<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        hello.encode(&mut out);
        out
    }

    #[test]
    fn a_hello_says_what_differs_from_the_defaults() {
        assert_eq!(encoded(&Hello::default()), b"\xa1\x61v\x81\x00");
        assert_eq!(
            encoded(&Hello {
                agent: "tour/1",
                ..Hello::default()
            }),
            b"\xa2\x61v\x81\x00\x65agent\x66tour/1"
        );
        assert_eq!(
            encoded(&Hello {
                v0: false,
                ..Hello::default()
            }),
            b"\xa1\x61v\x80"
        );
    }

    #[test]
    fn hellos_round_trip() {
        let raw = b"\xa2\x66scheme\x66bearer\x65token\x62hi";
        for number in 0..64_u32 {
            let has = |bit: u32| number & 1 << bit != 0;
            let hello = Hello {
                v0: has(0),
                caps: Caps {
                    zstd: has(0),
                    gzip: has(1),
                    multi: has(2),
                    datagram: has(3),
                    resume: has(4),
                },
                max_frame: 65_536 + number,
                heartbeat_ms: 100 + number,
                credit: number,
                agent: if has(5) { "a/1" } else { "" },
                auth: has(1).then_some(Auth {
                    scheme: "bearer",
                    token: Some("hi"),
                    raw,
                }),
                resume: has(2).then_some(Resume {
                    session: Id([7; 16]),
                    token: b"t",
                    recv: 1 << number,
                }),
            };
            assert_eq!(Hello::decode(&encoded(&hello)).as_ref(), Ok(&hello));
        }
        let made = Hello {
            auth: Some(Auth {
                scheme: "bearer",
                token: Some("hi"),
                raw: &[],
            }),
            ..Hello::default()
        };
        assert_eq!(Hello::decode(&encoded(&made)).unwrap().auth.unwrap().raw, raw);
    }

    #[test]
    fn welcomes_round_trip() {
        for token in [None, Some(&b"0123456789abcdef"[..])] {
            let welcome = Welcome {
                v: 0,
                session: Id([9; 16]),
                token,
                caps: Caps {
                    resume: true,
                    zstd: true,
                    ..Caps::default()
                },
                max_frame: 1 << 24,
                heartbeat_ms: 15_000,
                credit: u32::MAX,
                resumed: token.is_some(),
                recv: u64::MAX,
                limits: token.map(|_| &b"\xa1\x61a\x01"[..]),
                agent: "gw/1",
            };
            let mut out = Vec::new();
            welcome.encode(&mut out);
            assert_eq!(Welcome::decode(&out).as_ref(), Ok(&welcome));
            for cut in 0..out.len() {
                assert!(Welcome::decode(&out[..cut]).is_err());
            }
        }
    }

    #[test]
    fn faults_name_the_part() {
        for (payload, part) in [
            (&b""[..], "payload"),
            (b"\xf6", "payload"),
            (b"\xa1\x61v\x81\x00\x00", "payload"),
            (b"\xa2\x61v\x81\x00\x61v\xf6", "payload"),
            (b"\xa1\x01\x02", "payload"),
            (b"\xa0", "v"),
            (b"\xa1\x61v\x00", "v"),
            (b"\xa2\x61v\x80\x64caps\x80", "caps"),
            (b"\xa2\x61v\x80\x69max_frame\x19\xff\xff", "max_frame"),
            (b"\xa2\x61v\x80\x64auth\xa0", "auth"),
            (b"\xa2\x61v\x80\x66resume\xa1\x64recv\x00", "resume"),
        ] {
            assert_eq!(Hello::decode(payload), Err(Fault::Hello(part)), "{payload:x?}");
        }
    }
}
