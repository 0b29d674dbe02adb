//! Reading and writing the two payloads [P-7.2].
//!
//! They are maps: what is absent or null has its default, unknown keys are ignored, a key that stands twice is a
//! fault. Texts and byte strings that are read have to be of definite length, so that they can be borrowed.

use alloc::vec::Vec;

use super::{Auth, Caps, Hello, Resume, Welcome};
use crate::cbor;
use crate::envelope::Id;
use crate::error::Fault;
use crate::head::{self, Head, Items};
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
        whole(payload)?;
        each_key(payload, "payload", KEYS, |key, value| {
            match key {
                "v" => v0 = Some(has_v0(value)?),
                "caps" => hello.caps = caps(value)?,
                "max_frame" => hello.max_frame = max_frame(value)?,
                "heartbeat_ms" => hello.heartbeat_ms = heartbeat_ms(value)?,
                "credit" => hello.credit = credit(value)?,
                "agent" => hello.agent = text(value, "agent")?,
                "auth" => hello.auth = Some(auth(value)?),
                _ => hello.resume = Some(resume(value)?),
            }
            Ok(())
        })?;
        hello.v0 = v0.ok_or(Fault::Hello("v"))?;
        Ok(hello)
    }

    /// Appends the encoded payload. What has its default is left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let default = Self::default();
        let mut map = MapWriter::default();
        map.key("v")
            .extend_from_slice(if self.v0 { &[0x81, 0] } else { &[0x80] });
        if self.caps != default.caps {
            write_caps(self.caps, map.key("caps"));
        }
        for (key, value, default) in [
            ("max_frame", self.max_frame, default.max_frame),
            ("heartbeat_ms", self.heartbeat_ms, default.heartbeat_ms),
            ("credit", self.credit, default.credit),
        ] {
            if value != default {
                Head::write(head::UINT, value.into(), map.key(key));
            }
        }
        if !self.agent.is_empty() {
            Head::write_text(self.agent, map.key("agent"));
        }
        if let Some(auth) = &self.auth {
            write_auth(auth, map.key("auth"));
        }
        if let Some(resume) = &self.resume {
            let mut inner = MapWriter::default();
            Head::write_bytes(&resume.session.0, inner.key("session"));
            Head::write_bytes(resume.token, inner.key("token"));
            Head::write(head::UINT, resume.recv, inner.key("recv"));
            inner.finish(map.key("resume"));
        }
        map.finish(out);
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
        whole(payload)?;
        each_key(payload, "payload", KEYS, |key, value| {
            match key {
                "v" => v = Some(uint(value, "v")?),
                "session" => session = Some(id(value, "session")?),
                "token" => welcome.token = Some(bytes(value, "token")?),
                "caps" => welcome.caps = caps(value)?,
                "max_frame" => welcome.max_frame = max_frame(value)?,
                "heartbeat_ms" => welcome.heartbeat_ms = heartbeat_ms(value)?,
                "credit" => welcome.credit = credit(value)?,
                "resumed" => welcome.resumed = flag(value, "resumed")?,
                "recv" => welcome.recv = uint(value, "recv")?,
                "agent" => welcome.agent = text(value, "agent")?,
                _ if head::is_map(value) => welcome.limits = Some(value),
                _ => return Err(Fault::Hello("limits")),
            }
            Ok(())
        })?;
        welcome.v = v.ok_or(Fault::Hello("v"))?;
        welcome.session = session.ok_or(Fault::Hello("session"))?;
        Ok(welcome)
    }

    /// Appends the encoded payload, all of it: people read it in traces.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut map = MapWriter::default();
        Head::write(head::UINT, self.v, map.key("v"));
        Head::write_bytes(&self.session.0, map.key("session"));
        match self.token {
            Some(token) => Head::write_bytes(token, map.key("token")),
            None => map.key("token").push(head::NULL),
        }
        write_caps(self.caps, map.key("caps"));
        Head::write(head::UINT, self.max_frame.into(), map.key("max_frame"));
        Head::write(head::UINT, self.heartbeat_ms.into(), map.key("heartbeat_ms"));
        Head::write(head::UINT, self.credit.into(), map.key("credit"));
        map.key("resumed")
            .push(if self.resumed { head::TRUE } else { head::FALSE });
        Head::write(head::UINT, self.recv, map.key("recv"));
        if let Some(limits) = self.limits {
            map.key("limits").extend_from_slice(limits);
        }
        Head::write_text(self.agent, map.key("agent"));
        map.finish(out);
    }
}

/// The payload has to be one item, as a decoded envelope's is.
fn whole(payload: &[u8]) -> Result<(), Fault> {
    if cbor::walk(payload, PAYLOAD_DEPTH_MAX) == Ok(payload.len()) {
        Ok(())
    } else {
        Err(Fault::Hello("payload"))
    }
}

/// Calls `read` with the known keys of a map whose value is not null. Faults of the map itself are `part`'s.
fn each_key<'a>(
    item: &'a [u8],
    part: &'static str,
    known: &[&'static str],
    mut read: impl FnMut(&'static str, &'a [u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut items = Items::of_map(item).ok_or(Fault::Hello(part))?;
    let mut seen = 0_u32; // a bit for each known key
    while let Some((key, value)) = items.pair() {
        if !head::is_text(key) {
            return Err(Fault::Hello(part));
        }
        let Some(at) = head::as_text(key).and_then(|key| known.iter().position(|known| *known == key)) else {
            continue;
        };
        if seen & 1 << at != 0 {
            return Err(Fault::Hello(part));
        }
        seen |= 1 << at;
        if value != [head::NULL] {
            read(known[at], value)?;
        }
    }
    Ok(())
}

fn uint(item: &[u8], part: &'static str) -> Result<u64, Fault> {
    head::as_uint(item).ok_or(Fault::Hello(part))
}

fn text<'a>(item: &'a [u8], part: &'static str) -> Result<&'a str, Fault> {
    head::as_text(item).ok_or(Fault::Hello(part))
}

fn bytes<'a>(item: &'a [u8], part: &'static str) -> Result<&'a [u8], Fault> {
    head::as_bytes(item).ok_or(Fault::Hello(part))
}

fn flag(item: &[u8], part: &'static str) -> Result<bool, Fault> {
    head::as_bool(item).ok_or(Fault::Hello(part))
}

fn id(item: &[u8], part: &'static str) -> Result<Id, Fault> {
    let bytes = head::as_bytes(item).and_then(|bytes| bytes.try_into().ok());
    bytes.map(Id).ok_or(Fault::Hello(part))
}

fn has_v0(item: &[u8]) -> Result<bool, Fault> {
    let versions = Items::of_array(item).ok_or(Fault::Hello("v"))?;
    let mut v0 = false;
    for version in versions {
        v0 |= uint(version, "v")? == 0;
    }
    Ok(v0)
}

fn max_frame(item: &[u8]) -> Result<u32, Fault> {
    let announced_bytes = uint(item, "max_frame")?.min(FRAME_BYTES_MOST as u64);
    if announced_bytes < FRAME_BYTES_LEAST as u64 {
        return Err(Fault::Hello("max_frame"));
    }
    Ok(announced_bytes as u32)
}

fn heartbeat_ms(item: &[u8]) -> Result<u32, Fault> {
    let announced_ms = uint(item, "heartbeat_ms")?;
    Ok(announced_ms.clamp(HEARTBEAT_MS_LEAST.into(), HEARTBEAT_MS_MOST.into()) as u32)
}

fn credit(item: &[u8]) -> Result<u32, Fault> {
    Ok(u32::try_from(uint(item, "credit")?).unwrap_or(u32::MAX))
}

fn caps(item: &[u8]) -> Result<Caps, Fault> {
    let mut caps = Caps::default();
    each_key(
        item,
        "caps",
        &["compress", "multi", "datagram", "resume", "seal"],
        |key, value| {
            match key {
                "compress" => {
                    for algorithm in Items::of_array(value).ok_or(Fault::Hello("caps"))? {
                        match text(algorithm, "caps")? {
                            "zstd" => caps.zstd = true,
                            "gzip" => caps.gzip = true,
                            _ => {}
                        }
                    }
                }
                "multi" => caps.multi = flag(value, "caps")?,
                "datagram" => caps.datagram = flag(value, "caps")?,
                "resume" => caps.resume = flag(value, "caps")?,
                _ => {
                    for suite in Items::of_array(value).ok_or(Fault::Hello("caps"))? {
                        text(suite, "caps")?;
                    }
                }
            }
            Ok(())
        },
    )?;
    Ok(caps)
}

fn auth(item: &[u8]) -> Result<Auth<'_>, Fault> {
    let (mut scheme, mut token) = (None, None);
    each_key(item, "auth", &["scheme", "token"], |key, value| {
        let value = text(value, "auth")?;
        *(if key == "scheme" { &mut scheme } else { &mut token }) = Some(value);
        Ok(())
    })?;
    Ok(Auth {
        scheme: scheme.ok_or(Fault::Hello("auth"))?,
        token,
        raw: item,
    })
}

fn resume(item: &[u8]) -> Result<Resume<'_>, Fault> {
    let (mut session, mut token, mut recv) = (None, None, None);
    each_key(item, "resume", &["session", "token", "recv"], |key, value| {
        match key {
            "session" => session = Some(id(value, "resume")?),
            "token" => token = Some(bytes(value, "resume")?),
            _ => recv = Some(uint(value, "resume")?),
        }
        Ok(())
    })?;
    match (session, token, recv) {
        (Some(session), Some(token), Some(recv)) => Ok(Resume { session, token, recv }),
        _ => Err(Fault::Hello("resume")),
    }
}

fn write_caps(caps: Caps, out: &mut Vec<u8>) {
    let mut map = MapWriter::default();
    if caps.zstd || caps.gzip {
        let out = map.key("compress");
        Head::write(head::ARRAY, u64::from(caps.zstd) + u64::from(caps.gzip), out);
        for (name, is_there) in [("zstd", caps.zstd), ("gzip", caps.gzip)] {
            if is_there {
                Head::write_text(name, out);
            }
        }
    }
    for (key, is_there) in [
        ("multi", caps.multi),
        ("datagram", caps.datagram),
        ("resume", caps.resume),
    ] {
        if is_there {
            map.key(key).push(head::TRUE);
        }
    }
    map.finish(out);
}

fn write_auth(auth: &Auth<'_>, out: &mut Vec<u8>) {
    if !auth.raw.is_empty() {
        out.extend_from_slice(auth.raw);
        return;
    }
    let mut map = MapWriter::default();
    Head::write_text(auth.scheme, map.key("scheme"));
    if let Some(token) = auth.token {
        Head::write_text(token, map.key("token"));
    }
    map.finish(out);
}

/// Collects a map whose number of keys is known only at the end.
#[derive(Default)]
struct MapWriter {
    keys: u64,
    entries: Vec<u8>,
}

impl MapWriter {
    /// Writes a key; its value has to be appended to what is returned.
    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        self.keys += 1;
        Head::write_text(key, &mut self.entries);
        &mut self.entries
    }

    fn finish(self, out: &mut Vec<u8>) {
        Head::write(head::MAP, self.keys, out);
        out.extend_from_slice(&self.entries);
    }
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
