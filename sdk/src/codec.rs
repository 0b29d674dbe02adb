//! Payloads: serde on one side, CBOR on the other. `ciborium` encodes; decoding is [`crate::decode`].

use fluxar_protocol::{
    Code,
    cbor::{self, WalkFaultKind},
    limits::PAYLOAD_DEPTH_MAX,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Origin, Result, decode::from_slice};

/// Encodes one item, not nested deeper than a peer takes: it would close the connection over it [P-3.5].
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(128);
    ciborium::into_writer(value, &mut out).map_err(|fault| {
        let message = format!("this value cannot be a payload: {fault}");
        Error::from_origin(Origin::Payload, Code::InvalidArgument, message)
    })?;
    // Each level takes a byte, so most payloads are too short to be nested too deep.
    if out.len() > PAYLOAD_DEPTH_MAX
        && let Err(fault) = cbor::walk(&out, PAYLOAD_DEPTH_MAX)
    {
        let what = match fault.kind {
            WalkFaultKind::Depth => {
                format!("it is nested deeper than {PAYLOAD_DEPTH_MAX} arrays, maps and tags")
            }
            _ => format!("it is encoded as no CBOR, at byte {}", fault.at),
        };
        let message = format!("this value cannot be a payload: {what}");
        return Err(Error::from_origin(
            Origin::Payload,
            Code::InvalidArgument,
            message,
        ));
    }
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
    use ciborium::Value;

    use super::*;

    #[test]
    fn what_is_nested_too_deep_is_no_payload() {
        let nested = |depth| (1..depth).fold(Value::Array(Vec::new()), |value, _| Value::Array(vec![value]));
        assert_eq!(
            encode(&nested(PAYLOAD_DEPTH_MAX)).unwrap().len(),
            PAYLOAD_DEPTH_MAX
        );
        let error = encode(&nested(PAYLOAD_DEPTH_MAX + 1)).unwrap_err();
        assert_eq!(
            (error.code(), error.origin()),
            (Code::InvalidArgument, Origin::Payload)
        );
        assert!(error.message().contains("deeper than 64"), "{error}");
    }

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
