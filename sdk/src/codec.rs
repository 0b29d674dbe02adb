//! Payloads: serde on one side, CBOR on the other, by `ciborium`.
//!
//! It was chosen for what it accepts. A payload comes from any language, so strings and arrays of indefinite length,
//! half floats and tags around a value must all decode; stricter decoders refuse what others send.

use fluxar_protocol::Code;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Origin, Result};

/// Encodes one item.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(128);
    ciborium::into_writer(value, &mut out).map_err(|fault| {
        let message = format!("this value cannot be a payload: {fault}");
        Error::from_origin(Origin::Payload, Code::InvalidArgument, message)
    })?;
    Ok(out)
}

/// Decodes one item; bytes behind it are an error.
pub(crate) fn decode<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<T> {
    let value = ciborium::from_reader(&mut bytes).map_err(|fault| {
        let message = format!("the payload is not a {}: {fault}", std::any::type_name::<T>());
        Error::from_origin(Origin::Payload, Code::InvalidArgument, message)
    })?;
    if bytes.is_empty() {
        return Ok(value);
    }
    Err(Error::from_origin(
        Origin::Payload,
        Code::InvalidArgument,
        "bytes behind the payload's end",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_languages_send_decodes() {
        assert_eq!(
            decode::<String>(&[0x7f, 0x61, b'a', 0x61, b'b', 0xff]).unwrap(),
            "ab"
        );
        assert_eq!(decode::<Vec<u8>>(&[0x9f, 1, 2, 0xff]).unwrap(), [1, 2]);
        assert_eq!(decode::<f32>(&[0xf9, 0x3c, 0x00]).unwrap(), 1.0, "a half float");
        assert_eq!(decode::<u64>(&[0xc1, 0x0a]).unwrap(), 10, "a tag around a number");
    }

    #[test]
    fn what_is_not_the_type_says_so() {
        let error = decode::<u8>(&[0x61, b'x']).unwrap_err();
        assert_eq!(
            (error.code(), error.origin()),
            (Code::InvalidArgument, Origin::Payload)
        );
        assert!(error.message().starts_with("the payload is not a u8"), "{error}");
        assert!(decode::<u8>(&[1, 2]).is_err(), "two items");
    }
}
