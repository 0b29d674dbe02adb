//! Payloads: serde on one side, CBOR on the other. `ciborium` encodes; decoding is [`crate::decode`].

use fluxar_protocol::Code;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Origin, Result, decode::from_slice};

/// Encodes one item.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(128);
    ciborium::into_writer(value, &mut out).map_err(|fault| {
        let message = format!("this value cannot be a payload: {fault}");
        Error::from_origin(Origin::Payload, Code::InvalidArgument, message)
    })?;
    Ok(out)
}

/// Decodes one item.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    from_slice(bytes).map_err(|fault| {
        let message = format!("the payload is not a {}: {fault}", std::any::type_name::<T>());
        Error::from_origin(Origin::Payload, Code::InvalidArgument, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_type_says_so() {
        let error = decode::<u8>(&[0x61, b'x']).unwrap_err();
        assert_eq!(
            (error.code(), error.origin()),
            (Code::InvalidArgument, Origin::Payload)
        );
        assert!(error.message().starts_with("the payload is not a u8"), "{error}");
    }
}
