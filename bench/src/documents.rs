//! CBOR documents for the benches: made from a seed, the same on every machine.
//!
//! A branch predictor learns one document by heart and then shows a speed that no gateway ever sees, so a bench asks
//! for a few hundred different ones of a [`Shape`] and goes through them in turn.

/// Words that keys are made of; services name their fields with one to three of them.
const WORDS: [&str; 40] = [
    "id", "ts", "at", "ok", "host", "user", "name", "kind", "unit", "rate", "size", "temp", "load", "cpu",
    "mem", "net", "disk", "price", "count", "total", "state", "level", "value", "lat", "lon", "city", "zone",
    "order", "items", "email", "phone", "tags", "trace", "span", "error", "region", "status", "created",
    "updated", "amount",
];

/// Pieces of text that are not ASCII, of two, three and four bytes a character.
const FOREIGN: [&str; 8] = [
    "Zürich",
    "naïve",
    "Łódź",
    "Ελλάδα",
    "Москва",
    "東京都",
    "서울",
    "🚀 ok",
];

/// What a document looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Maps with short keys; numbers of all widths, short and some longer texts (one in twelve not ASCII), bools,
    /// floats, timestamps, ids, small arrays and maps in maps: what services send each other.
    Mixed,
    /// One array of integers 0 to 255.
    U8,
    /// One array of 16-bit integers, each written in three bytes.
    U16,
    /// One array of 32-bit integers, each written in five bytes.
    U32,
    /// One array of doubles.
    F64,
    /// One array of integers of all sizes, small ones more often, negative ones too.
    Integers,
    /// An array of ASCII texts of 24 to 400 bytes.
    TextAscii,
    /// An array of texts of 24 to 400 bytes in several scripts.
    TextForeign,
    /// Arrays, maps and tags in each other, up to 30 deep, a third of them of indefinite length.
    Nested,
}

/// Makes `count` different documents of about `bytes` bytes each, the same ones for the same `seed`.
pub fn documents(shape: Shape, bytes: usize, count: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut maker = Maker {
        state: seed ^ 0x9e37_79b9_7f4a_7c15,
        out: Vec::new(),
    };
    (0..count)
        .map(|_| {
            maker.document(shape, bytes);
            std::mem::take(&mut maker.out)
        })
        .collect()
}

/// A source of randomness (SplitMix64) and the document that it is writing.
struct Maker {
    state: u64,
    out: Vec<u8>,
}

impl Maker {
    fn document(&mut self, shape: Shape, bytes: usize) {
        match shape {
            Shape::Mixed => self.sequence(5, bytes, |maker| {
                maker.key();
                maker.mixed(0);
            }),
            Shape::U8 => self.sequence(4, bytes, |maker| {
                let value = maker.below(256);
                maker.head(0, value);
            }),
            Shape::U16 => self.sequence(4, bytes, |maker| {
                let value = 256 + maker.below(65_536 - 256);
                maker.head(0, value);
            }),
            Shape::U32 => self.sequence(4, bytes, |maker| {
                let value = 65_536 + maker.below((1 << 32) - 65_536);
                maker.head(0, value);
            }),
            Shape::F64 => self.sequence(4, bytes, Self::double),
            Shape::Integers => self.sequence(4, bytes, Self::integer),
            Shape::TextAscii => self.sequence(4, bytes, |maker| {
                let len = 24 + maker.below(377) as usize;
                maker.ascii(len);
            }),
            Shape::TextForeign => self.sequence(4, bytes, |maker| {
                let len = 24 + maker.below(377) as usize;
                maker.foreign(len);
            }),
            Shape::Nested => self.sequence(4, bytes, |maker| maker.nested(30)),
        }
    }

    /// Writes a definite array (major 4) or map (major 5) of as many entries as reach `bytes`.
    fn sequence(&mut self, major: u8, bytes: usize, mut entry: impl FnMut(&mut Self)) {
        let before = std::mem::take(&mut self.out);
        let mut count = 0;
        while self.out.len() + 3 < bytes {
            entry(self);
            count += 1;
        }
        let entries = std::mem::replace(&mut self.out, before);
        self.head(major, count);
        self.out.extend_from_slice(&entries);
    }

    fn key(&mut self) {
        let mut key = String::from(self.word());
        for _ in 0..self.below(3) {
            if key.len() < 9 {
                key.push('_');
                key.push_str(self.word());
            }
        }
        self.text(&key);
    }

    fn mixed(&mut self, depth: u32) {
        match self.below(if depth < 4 { 100 } else { 84 }) {
            0..22 => self.integer(),
            22..34 => self.double(),
            34..38 => {
                let bits = self.next() as u32;
                self.out.push(0xfa);
                self.out.extend_from_slice(&bits.to_be_bytes());
            }
            38..48 => {
                let simple = 0xf4 + self.below(3) as u8;
                self.out.push(simple);
            }
            48..70 => {
                let len = self.below(24) as usize;
                if self.below(12) == 0 {
                    self.foreign(len)
                } else {
                    self.ascii(len)
                }
            }
            70..76 => {
                let len = 24 + self.below(57) as usize;
                if self.below(12) == 0 {
                    self.foreign(len)
                } else {
                    self.ascii(len)
                }
            }
            76..80 => {
                self.out.extend_from_slice(&[0xc1, 0x1a]);
                let seconds = self.next() as u32;
                self.out.extend_from_slice(&seconds.to_be_bytes());
            }
            80..84 => {
                self.out.push(0x50);
                let id = [self.next(), self.next()];
                self.out.extend(id.iter().flat_map(|half| half.to_be_bytes()));
            }
            84..92 => {
                let count = self.below(9);
                self.head(5, count);
                for _ in 0..count {
                    self.key();
                    self.mixed(depth + 1);
                }
            }
            _ => {
                let count = self.below(9);
                self.head(4, count);
                for _ in 0..count {
                    self.mixed(depth + 1);
                }
            }
        }
    }

    fn nested(&mut self, depth_left: u32) {
        let (major, indefinite) = (4 + self.below(3) as u8, self.below(3) == 0);
        let count = 1 + self.below(3);
        if major == 6 {
            let tag = self.below(40);
            self.head(6, tag);
        } else if indefinite {
            self.out.push(major << 5 | 31);
        } else {
            self.head(major, count);
        }
        let deeper = if depth_left > 0 {
            self.below(count)
        } else {
            u64::MAX
        };
        for index in 0..if major == 6 { 1 } else { count } {
            if major == 5 {
                self.key();
            }
            if index == deeper || (major == 6 && depth_left > 0) {
                self.nested(depth_left - 1);
            } else {
                self.integer();
            }
        }
        if indefinite && major != 6 {
            self.out.push(0xff);
        }
    }

    fn integer(&mut self) {
        let bits = [4, 4, 7, 8, 8, 10, 14, 16, 20, 30, 32, 40, 63][self.below(13) as usize];
        let value = self.below(1 << bits);
        let major = u8::from(self.below(6) == 0);
        self.head(major, value);
    }

    fn double(&mut self) {
        let value = self.below(2_000_000) as f64 / 1000.0 - 500.0;
        self.out.push(0xfb);
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    fn ascii(&mut self, len: usize) {
        let text: String = (0..len)
            .map(|_| char::from(b' ' + self.below(95) as u8))
            .collect();
        self.text(&text);
    }

    fn foreign(&mut self, len: usize) {
        let mut text = String::new();
        loop {
            let piece = FOREIGN[self.below(FOREIGN.len() as u64) as usize];
            if text.len() + piece.len() > len {
                break;
            }
            text.push_str(piece);
        }
        self.text(&text);
    }

    fn text(&mut self, text: &str) {
        self.head(3, text.len() as u64);
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Writes a head in its shortest form.
    fn head(&mut self, major: u8, argument: u64) {
        let major = major << 5;
        match argument {
            0..=23 => self.out.push(major | argument as u8),
            24..=0xff => self.out.extend_from_slice(&[major | 24, argument as u8]),
            0x100..=0xffff => {
                self.out.push(major | 25);
                self.out.extend_from_slice(&(argument as u16).to_be_bytes());
            }
            0x1_0000..=0xffff_ffff => {
                self.out.push(major | 26);
                self.out.extend_from_slice(&(argument as u32).to_be_bytes());
            }
            _ => {
                self.out.push(major | 27);
                self.out.extend_from_slice(&argument.to_be_bytes());
            }
        }
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.below(WORDS.len() as u64) as usize]
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_sound_different_and_the_same_again() {
        for shape in [
            Shape::Mixed,
            Shape::U8,
            Shape::U16,
            Shape::U32,
            Shape::F64,
            Shape::Integers,
            Shape::TextAscii,
            Shape::TextForeign,
            Shape::Nested,
        ] {
            let made = documents(shape, 1024, 20, 7);
            assert_eq!(made, documents(shape, 1024, 20, 7));
            for (index, document) in made.iter().enumerate() {
                assert_eq!(
                    fluxar_protocol::cbor::walk_scalar(document, 64),
                    Ok(document.len()),
                    "{shape:?}"
                );
                assert!(!made[..index].contains(document), "{shape:?}");
                assert!(document.len() > 1000, "{shape:?}");
            }
        }
    }
}
