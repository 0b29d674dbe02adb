//! From a CBOR item to any type that serde can deserialize, straight off the bytes.
//!
//! It takes what the type can mean, not one way of writing it: a whole number where a float is expected (JavaScript
//! has no other way to send 3.0), strings, arrays and maps of indefinite length, a byte string as a sequence of
//! numbers, and any tag in front of a value. The decoders at hand refuse the first of these, some the others too.
//!
//! Nesting is bounded: the receiver has refused payloads deeper than 64 before they come here.

use std::fmt;

use minicbor::{
    Decoder,
    data::{IanaTag, Type},
    decode,
};
use serde::de::{
    self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
    value::SeqDeserializer,
};

/// Why bytes are not the type that was asked for.
#[derive(Debug)]
pub(crate) struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl From<decode::Error> for Fault {
    fn from(error: decode::Error) -> Self {
        Self(error.to_string())
    }
}

/// Decodes exactly one item.
pub(crate) fn from_slice<'de, T: de::Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Fault> {
    let mut items = Items(Decoder::new(bytes));
    let value = T::deserialize(&mut items)?;
    match items.0.position() {
        end if end == bytes.len() => Ok(value),
        end => Err(Fault(format!("{} bytes stand behind its end", bytes.len() - end))),
    }
}

/// Items to come.
struct Items<'de>(Decoder<'de>);

impl<'de> Items<'de> {
    /// Skips tags, but for those of big numbers, and says what comes.
    fn next_type(&mut self) -> Result<Type, Fault> {
        loop {
            match self.0.datatype()? {
                Type::Tag => {
                    let tag = self.0.probe().tag()?;
                    if [IanaTag::PosBignum.tag(), IanaTag::NegBignum.tag()].contains(&tag) {
                        return Ok(Type::Tag);
                    }
                    self.0.tag()?;
                }
                other => return Ok(other),
            }
        }
    }

    fn bytes(&mut self) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        for chunk in self.0.bytes_iter()? {
            bytes.extend_from_slice(chunk?);
        }
        Ok(bytes)
    }

    fn big_number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
        let is_negative = self.0.tag()? == IanaTag::NegBignum.tag();
        let bytes = self.bytes()?;
        let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
        if significant.len() > 16 {
            return Err(Fault("a number of more than 128 bits".to_owned()));
        }
        let number = significant
            .iter()
            .fold(0u128, |number, byte| number << 8 | u128::from(*byte));
        match (is_negative, i128::try_from(number)) {
            (false, _) => visitor.visit_u128(number),
            (true, Ok(number)) => visitor.visit_i128(-1 - number),
            (true, Err(_)) => Err(Fault("a number of more than 128 bits".to_owned())),
        }
    }
}

impl<'de> de::Deserializer<'de> for &mut Items<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.next_type()? {
            Type::Bool => visitor.visit_bool(self.0.bool()?),
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => visitor.visit_u64(self.0.u64()?),
            Type::I8 | Type::I16 | Type::I32 | Type::I64 => visitor.visit_i64(self.0.i64()?),
            Type::Int => visitor.visit_i128(self.0.int()?.into()),
            Type::F16 => visitor.visit_f64(self.0.f16()?.into()),
            Type::F32 => visitor.visit_f64(self.0.f32()?.into()),
            Type::F64 => visitor.visit_f64(self.0.f64()?),
            Type::Bytes => visitor.visit_borrowed_bytes(self.0.bytes()?),
            Type::BytesIndef => visitor.visit_byte_buf(self.bytes()?),
            Type::String => visitor.visit_borrowed_str(self.0.str()?),
            Type::StringIndef => {
                let mut text = String::new();
                for chunk in self.0.str_iter()? {
                    text.push_str(chunk?);
                }
                visitor.visit_string(text)
            }
            Type::Null | Type::Undefined => {
                self.0.skip()?;
                visitor.visit_unit()
            }
            Type::Array | Type::ArrayIndef => {
                let left = self.0.array()?;
                let mut inside = Inside { items: self, left };
                let value = visitor.visit_seq(&mut inside)?;
                inside.finish()?;
                Ok(value)
            }
            Type::Map | Type::MapIndef => {
                let left = self.0.map()?;
                let mut inside = Inside { items: self, left };
                let value = visitor.visit_map(&mut inside)?;
                inside.finish()?;
                Ok(value)
            }
            Type::Tag => self.big_number(visitor),
            other => Err(Fault(format!("{other} has no counterpart in serde"))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.next_type()? {
            Type::Null | Type::Undefined => {
                self.0.skip()?;
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.next_type()? {
            Type::Bytes | Type::BytesIndef => {
                visitor.visit_seq(SeqDeserializer::new(self.bytes()?.into_iter()))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.next_type()? {
            Type::Map | Type::MapIndef => {
                let left = self.0.map()?;
                if left.is_some_and(|entries| entries != 1) {
                    return Err(Fault("an enum is a text, or a map with one entry".to_owned()));
                }
                let mut inside = Inside { items: self, left };
                let value = visitor.visit_enum(&mut inside)?;
                inside.left = left.map(|_| 0);
                inside.finish()?;
                Ok(value)
            }
            Type::String => visitor.visit_enum(self.0.str()?.into_deserializer()),
            other => Err(Fault(format!(
                "an enum is a text, or a map with one entry, not {other}"
            ))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.0.skip()?;
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple_struct map struct identifier
    }
}

/// Inside an array or map: its items, or a break where their number is not known.
struct Inside<'a, 'de> {
    items: &'a mut Items<'de>,
    left: Option<u64>,
}

impl Inside<'_, '_> {
    fn has_more(&mut self) -> Result<bool, Fault> {
        match &mut self.left {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None => Ok(self.items.0.datatype()? != Type::Break),
        }
    }

    /// Behind the last item. What a visitor has left over is an error: the value was not what it expects.
    fn finish(&mut self) -> Result<(), Fault> {
        if self.has_more()? {
            return Err(Fault("more items than expected".to_owned()));
        }
        if self.left.is_none() {
            self.items.0.skip()?; // the break
        }
        Ok(())
    }
}

impl<'de> SeqAccess<'de> for &mut Inside<'_, 'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        if !self.has_more()? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.items).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        None // what an array claims to hold is not to be allocated for
    }
}

impl<'de> MapAccess<'de> for &mut Inside<'_, 'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        if !self.has_more()? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.items).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(&mut *self.items)
    }
}

/// `{"variant": content}`.
impl<'de> EnumAccess<'de> for &mut Inside<'_, 'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Fault> {
        Ok((seed.deserialize(&mut *self.items)?, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Inside<'_, 'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        de::Deserialize::deserialize(&mut *self.items)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(&mut *self.items)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        de::Deserializer::deserialize_tuple(&mut *self.items, len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        de::Deserializer::deserialize_any(&mut *self.items, visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Point,
        Circle(f64),
        Line(i8, i8),
        Box { width: u32, height: Option<u32> },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Everything {
        unit: (),
        flag: bool,
        numbers: (u8, i64, u64, f32, f64),
        large: (u128, i128, i128),
        text: String,
        letter: char,
        list: Vec<Option<i16>>,
        map: BTreeMap<i32, String>,
        shapes: Vec<Shape>,
        wrapped: Wrapped,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Wrapped(u64);

    #[test]
    fn what_the_encoder_writes_comes_back() {
        let everything = Everything {
            unit: (),
            flag: true,
            numbers: (255, i64::MIN, u64::MAX, 1.5, std::f64::consts::PI),
            large: (u128::MAX, i128::MIN, -(1 << 64)),
            text: "ü".repeat(100),
            letter: '✓',
            list: vec![None, Some(-1)],
            map: [(1, "x".to_owned()), (-1, String::new())].into(),
            shapes: vec![
                Shape::Point,
                Shape::Circle(2.0),
                Shape::Line(1, -1),
                Shape::Box {
                    width: 3,
                    height: None,
                },
            ],
            wrapped: Wrapped(7),
        };
        let bytes = crate::codec::encode(&everything).unwrap();
        assert_eq!(from_slice::<Everything>(&bytes).unwrap(), everything);
        for cut in 0..bytes.len() {
            assert!(from_slice::<Everything>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_other_languages_send_decodes() {
        assert_eq!(
            from_slice::<f64>(&[0x03]).unwrap(),
            3.0,
            "a whole number for a float"
        );
        assert_eq!(from_slice::<f32>(&[0x22]).unwrap(), -3.0);
        assert_eq!(
            from_slice::<f32>(&[0xf9, 0x3c, 0x00]).unwrap(),
            1.0,
            "a half float"
        );
        assert_eq!(
            from_slice::<String>(&[0x7f, 0x61, b'a', 0x61, b'b', 0xff]).unwrap(),
            "ab"
        );
        assert_eq!(from_slice::<Vec<u8>>(&[0x9f, 1, 2, 0xff]).unwrap(), [1, 2]);
        assert_eq!(from_slice::<(u8, u8)>(&[0x9f, 1, 2, 0xff]).unwrap(), (1, 2));
        assert_eq!(
            from_slice::<Vec<u8>>(&[0x42, 1, 2]).unwrap(),
            [1, 2],
            "bytes for a sequence"
        );
        assert_eq!(
            from_slice::<u64>(&[0xc1, 0x0a]).unwrap(),
            10,
            "a tag around a number"
        );
        assert_eq!(from_slice::<Option<u8>>(&[0xf7]).unwrap(), None, "undefined");
        let circle = [0xbf, 0x66, b'C', b'i', b'r', b'c', b'l', b'e', 0x02, 0xff];
        assert_eq!(
            from_slice::<Shape>(&circle).unwrap(),
            Shape::Circle(2.0),
            "an indefinite map"
        );
        assert_eq!(
            from_slice::<BTreeMap<String, u8>>(&[0xbf, 0x61, b'a', 1, 0xff]).unwrap()["a"],
            1
        );
    }

    #[test]
    fn what_is_not_the_type_is_refused() {
        for bad in [
            &[0x83, 1, 2, 3][..],
            &[0x81, 1],
            &[0x9f, 1, 2, 3, 0xff],
            &[0x82, 1],
            &[0x02],
        ] {
            assert!(from_slice::<(u8, u8)>(bad).is_err(), "{bad:x?}");
        }
        assert!(from_slice::<Vec<u8>>(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
        assert!(from_slice::<u8>(&[0x19, 1, 0]).is_err(), "too large a number");
        assert!(
            from_slice::<u8>(&[0xf9, 0x3c, 0x00]).is_err(),
            "a float for a number"
        );
        assert!(from_slice::<u8>(&[1, 2]).is_err(), "two items");
        assert!(from_slice::<Shape>(&[0xa2, 0x61, b'x', 1, 0x61, b'y', 1]).is_err());
    }
}
