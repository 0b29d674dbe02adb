//! JSON at the terminal, CBOR on the wire, and nothing lost between them.
//!
//! | CBOR | JSON |
//! |---|---|
//! | null, booleans, texts, arrays, maps with text keys | the same |
//! | integers that fit 64 bits, finite floats | numbers; a float keeps its point (`1.0`) |
//! | byte strings | `{"$bytes": "base64url without padding"}` |
//! | tags | `{"$tag": 1, "value": …}` |
//! | maps with other keys, or that would look like one of these | `{"$map": [[key, value], …]}` |
//! | NaN and the infinities | `{"$float": "NaN"}`, `"Infinity"`, `"-Infinity"` |
//! | integers beyond 64 bits | `{"$int": "18446744073709551616"}` |
//!
//! The encoding's width and indefinite lengths are not kept, nor is `undefined`, which becomes null.

use std::fmt;

use ciborium::{Value, value::Integer};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};

/// Reads one JSON value.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map(|Parsed(value)| value)
        .map_err(|error| error.to_string())
}

/// One line.
pub(crate) fn compact(value: &Value) -> String {
    // Every key is a text and every float finite, so there is nothing to fail.
    serde_json::to_string(&Shown(value)).unwrap_or_default()
}

/// Several lines, for a person.
pub(crate) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(&Shown(value)).unwrap_or_default()
}

/// A CBOR value that serializes as the JSON above.
pub(crate) struct Shown<'a>(pub(crate) &'a Value);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Bool(value) => to.serialize_bool(*value),
            Value::Text(text) => to.serialize_str(text),
            Value::Integer(integer) => match (u64::try_from(*integer), i64::try_from(*integer)) {
                (Ok(value), _) => to.serialize_u64(value),
                (_, Ok(value)) => to.serialize_i64(value),
                _ => one(to, "$int", &i128::from(*integer).to_string()),
            },
            Value::Float(value) if value.is_finite() => to.serialize_f64(*value),
            Value::Float(value) if value.is_nan() => one(to, "$float", "NaN"),
            Value::Float(value) => one(to, "$float", if *value > 0.0 { "Infinity" } else { "-Infinity" }),
            Value::Bytes(bytes) => one(to, "$bytes", &base64url(bytes)),
            Value::Tag(tag, value) => {
                let mut map = to.serialize_map(Some(2))?;
                map.serialize_entry("$tag", tag)?;
                map.serialize_entry("value", &Shown(value))?;
                map.end()
            }
            Value::Array(items) => to.collect_seq(items.iter().map(Shown)),
            Value::Map(entries) if is_object(entries) => {
                let texts = entries
                    .iter()
                    .filter_map(|(key, value)| Some((key.as_text()?, Shown(value))));
                to.collect_map(texts)
            }
            Value::Map(entries) => {
                let pairs: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| [Shown(key), Shown(value)])
                    .collect();
                let mut map = to.serialize_map(Some(1))?;
                map.serialize_entry("$map", &pairs)?;
                map.end()
            }
            _ => to.serialize_unit(), // null, and what ciborium may come to know
        }
    }
}

fn one<S: Serializer>(to: S, key: &str, text: &str) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(1))?;
    map.serialize_entry(key, text)?;
    map.end()
}

/// Whether JSON's objects can say it: distinct text keys, and not what this page uses itself.
fn is_object(entries: &[(Value, Value)]) -> bool {
    let mut keys: Vec<_> = entries.iter().filter_map(|(key, _)| key.as_text()).collect();
    let looks_special = keys.first().is_some_and(|key| key.starts_with('$'));
    keys.sort_unstable();
    keys.len() == entries.len() && keys.windows(2).all(|pair| pair[0] != pair[1]) && !looks_special
}

/// JSON that was read, as the CBOR value that it means.
struct Parsed(Value);

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(JsonVisitor).map(Self)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Parsed(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map: Vec<(Value, Value)> = Vec::new();
        while let Some((key, Parsed(value))) = entries.next_entry::<String, Parsed>()? {
            map.push((Value::Text(key), value));
        }
        special(map).map_err(de::Error::custom)
    }
}

/// Turns an object whose first key begins with `$` into what it stands for.
fn special(map: Vec<(Value, Value)>) -> Result<Value, String> {
    let Some(key) = map
        .first()
        .and_then(|(key, _)| key.as_text())
        .filter(|key| key.starts_with('$'))
    else {
        return Ok(Value::Map(map));
    };
    let bad = || {
        Err(format!(
            "`{}` is not one of the forms with a `$` key; see `fluxar --help`",
            compact_object(&map)
        ))
    };
    match (key, &map[..]) {
        ("$bytes", [(_, Value::Text(text))]) => {
            base64url_decode(text).map_or_else(bad, |bytes| Ok(Value::Bytes(bytes)))
        }
        ("$float", [(_, Value::Text(text))]) => match text.as_str() {
            "NaN" => Ok(Value::Float(f64::NAN)),
            "Infinity" => Ok(Value::Float(f64::INFINITY)),
            "-Infinity" => Ok(Value::Float(f64::NEG_INFINITY)),
            _ => bad(),
        },
        ("$int", [(_, Value::Text(text))]) => {
            let integer = text
                .parse::<i128>()
                .ok()
                .and_then(|integer| Integer::try_from(integer).ok());
            integer.map_or_else(bad, |integer| Ok(Value::Integer(integer)))
        }
        ("$tag", [(_, Value::Integer(tag)), (Value::Text(name), value)]) if name == "value" => {
            u64::try_from(*tag).map_or_else(|_| bad(), |tag| Ok(Value::Tag(tag, Box::new(value.clone()))))
        }
        ("$map", [(_, Value::Array(pairs))]) => {
            let pairs = pairs.iter().map(|pair| match pair.as_array().map(Vec::as_slice) {
                Some([key, value]) => Some((key.clone(), value.clone())),
                _ => None,
            });
            pairs
                .collect::<Option<Vec<_>>>()
                .map_or_else(bad, |pairs| Ok(Value::Map(pairs)))
        }
        _ => bad(),
    }
}

fn compact_object(map: &[(Value, Value)]) -> String {
    let entries: Vec<_> = map
        .iter()
        .filter_map(|(key, value)| Some(format!("{:?}: {}", key.as_text()?, compact(value))))
        .collect();
    format!("{{{}}}", entries.join(", "))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// RFC 4648 §5, without padding.
fn base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * at) & 63) as usize]));
        }
    }
    text
}

fn base64url_decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.chunks(4) {
        let mut word = 0u32;
        for digit in chunk {
            word = word << 6 | ALPHABET.iter().position(|known| known == digit)? as u32;
        }
        word <<= 6 * (4 - chunk.len());
        let count = chunk.len().checked_sub(1).filter(|count| *count > 0)?;
        let [_, decoded @ ..] = word.to_be_bytes();
        if decoded[count..].iter().any(|byte| *byte != 0) {
            return None; // bits that belong to no byte
        }
        bytes.extend_from_slice(&decoded[..count]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Through JSON and back, and through CBOR and back.
    fn round_trip(value: &Value) -> Value {
        let value = parse(&compact(value)).unwrap();
        let mut bytes = Vec::new();
        ciborium::into_writer(&value, &mut bytes).unwrap();
        ciborium::from_reader(&bytes[..]).unwrap()
    }

    #[test]
    fn json_keeps_its_order_and_its_numbers() {
        let text = r#"{"z":1,"a":[1.0,-2,18446744073709551615,1e300,"ü\n",null,true],"":{}}"#;
        assert_eq!(compact(&parse(text).unwrap()), text.replace("1e300", "1e+300"));
        assert!(matches!(parse("1.0").unwrap(), Value::Float(_)));
        assert!(matches!(parse("1").unwrap(), Value::Integer(_)));
    }

    #[test]
    fn what_json_lacks_is_spelled_out_and_comes_back() {
        let text = |text: &str| Value::Text(text.into());
        let below: Value = Value::Integer(Integer::try_from(-(1i128 << 64)).unwrap());
        for (value, json) in [
            (Value::Bytes(vec![0xfb, 0xff, 0x00]), r#"{"$bytes":"-_8A"}"#),
            (Value::Tag(1, Box::new(5.into())), r#"{"$tag":1,"value":5}"#),
            (Value::Map(vec![(1.into(), text("x"))]), r#"{"$map":[[1,"x"]]}"#),
            (
                Value::Map(vec![(text("$bytes"), text("x"))]),
                r#"{"$map":[["$bytes","x"]]}"#,
            ),
            (
                Value::Map(vec![(text("a"), 1.into()), (text("a"), 2.into())]),
                r#"{"$map":[["a",1],["a",2]]}"#,
            ),
            (Value::Float(f64::INFINITY), r#"{"$float":"Infinity"}"#),
            (Value::Float(f64::NEG_INFINITY), r#"{"$float":"-Infinity"}"#),
            (below, r#"{"$int":"-18446744073709551616"}"#),
        ] {
            assert_eq!(compact(&value), json);
            assert_eq!(round_trip(&value), value);
        }
        assert_eq!(compact(&Value::Float(f64::NAN)), r#"{"$float":"NaN"}"#);
        assert!(round_trip(&Value::Float(f64::NAN)).as_float().unwrap().is_nan());
    }

    #[test]
    fn base64url_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64url(bytes.as_bytes()), text);
            assert_eq!(base64url_decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(base64url_decode("Zg=="), Some(b"f".to_vec()));
        for bad in ["Z", "Zh", "Z!", "Zm9vY"] {
            assert_eq!(base64url_decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_only_looks_special_is_refused() {
        for bad in [
            r#"{"$bytes":1}"#,
            r#"{"$bytes":"!"}"#,
            r#"{"$nothing":1}"#,
            r#"{"$tag":-1,"value":1}"#,
            r#"{"$map":[[1]]}"#,
        ] {
            assert!(parse(bad).unwrap_err().contains("`$` key"), "{bad}");
        }
    }
}
