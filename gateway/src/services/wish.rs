//! What an administrator asks for, as it stands in the payload of the call.

use fluxar_shard::PeerId;
use minicbor::Decoder;
use minicbor::data::Type;

use super::Wish;

/// Longest name that is looked for, bytes.
const NAME_BYTES_MAX: usize = 512;

impl Wish {
    /// Reads `{peer: text, on: bool}` of `$services.drain`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read_drain(payload: &[u8]) -> Result<Self, String> {
        const SHAPE: &str = "the payload of $services.drain is {\"peer\": id, name, address or upstream, \"on\": true or false}";
        let wrong = |_: minicbor::decode::Error| SHAPE.to_owned();
        let mut decoder = Decoder::new(payload);
        let mut left = match decoder.datatype() {
            Ok(Type::Map) => decoder.map().map_err(wrong)?.unwrap_or(0),
            _ => return Err(SHAPE.into()),
        };
        let (mut peer, mut on) = (None, true);
        while left > 0 {
            left -= 1;
            match decoder.str().map_err(wrong)? {
                "peer" => peer = Some(decoder.str().map_err(wrong)?),
                "on" => on = decoder.bool().map_err(wrong)?,
                other => return Err(format!("there is no {other:?} here: {SHAPE}")),
            }
        }
        match peer {
            Some(peer) if !peer.is_empty() && peer.len() <= NAME_BYTES_MAX => Ok(Self::Drain {
                peer: peer.into(),
                on,
            }),
            Some(_) => Err(format!("\"peer\" has 1 to {NAME_BYTES_MAX} bytes")),
            None => Err(SHAPE.into()),
        }
    }
}

/// Whether this is what a list calls the peer: `core/slot.generation`.
pub(super) fn is_id(text: &str, peer: PeerId) -> bool {
    let parts = text
        .split_once('/')
        .and_then(|(core, rest)| Some((core, rest.split_once('.')?)));
    let Some((core, (slot, generation))) = parts else {
        return false;
    };
    core.parse() == Ok(peer.core)
        && slot.parse() == Ok(peer.slot)
        && generation.parse() == Ok(peer.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_known_by_the_id_that_lists_give_it() {
        let peer = PeerId {
            core: 1,
            slot: 23,
            generation: 4,
        };
        assert!(is_id(&format!("{peer:?}"), peer));
        for other in [
            "1/23.5", "0/23.4", "1/2.4", "1/23", "23.4", "", "1/23.4x", "users",
        ] {
            assert!(!is_id(other, peer), "{other}");
        }
    }

    #[test]
    fn a_wish_is_read_or_refused_with_its_shape() {
        let read = |payload: &[u8]| Wish::read_drain(payload);
        let drain = |peer: &str, on| {
            Ok(Wish::Drain {
                peer: peer.into(),
                on,
            })
        };
        assert_eq!(read(b"\xa1\x64peer\x61a"), drain("a", true));
        assert_eq!(read(b"\xa2\x62on\xf4\x64peer\x61a"), drain("a", false));
        for payload in [
            &b"\xf6"[..],
            b"\xa0",
            b"\x61a",
            b"\xa1\x62on\xf5",
            b"\xa1\x64peer\x01",
            b"\xa1\x64peer\x60",
            b"\xa2\x64peer\x61a\x62on\x01",
            b"\xa2\x64peer\x61a\x63off\xf5",
            b"\xa2\x64peer",
            b"",
        ] {
            assert!(read(payload).is_err(), "{}", payload.escape_ascii());
        }
    }
}
