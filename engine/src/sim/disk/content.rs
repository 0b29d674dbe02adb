//! What a simulated file holds: as it is read now, and as a power cut would leave it.

use bytes::Bytes;

use super::super::Random;

/// What a disk writes whole.
const SECTOR_BYTES: u64 = 512;

/// How often a sector that survives is torn.
const TORN: f64 = 0.02;

/// Bytes up to a length; what was never written reads as zeros.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    bytes: Vec<u8>,
    len: u64,
}

impl Image {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        self.len = len;
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = usize::try_from(at).expect("a simulated file fits into memory");
        let end = start + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(bytes);
        self.len = self.len.max(end as u64);
    }

    /// Fills `out` up to the image's end; how many bytes it was.
    pub(super) fn read(&self, at: u64, out: &mut [u8]) -> usize {
        let wanted = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let out_len = out.len().min(wanted);
        let out = &mut out[..out_len];
        let held = self
            .bytes
            .get(usize::try_from(at).unwrap_or(usize::MAX)..)
            .unwrap_or_default();
        let copied = held.len().min(out.len());
        out[..copied].copy_from_slice(&held[..copied]);
        out[copied..].fill(0);
        out.len()
    }
}

/// Something that was done to a file and may be lost.
#[derive(Debug)]
struct Change {
    /// The operation's.
    number: u64,
    what: What,
    /// Whether its user knows that it is done.
    told: bool,
}

#[derive(Debug)]
enum What {
    Write { at: u64, bytes: Bytes },
    Length(u64),
}

/// A file, by whatever name, or none.
#[derive(Debug, Default)]
pub(super) struct Content {
    now: Image,
    durable: Image,
    /// What makes `now` of `durable`, in order.
    changes: Vec<Change>,
    /// Room that it takes, bytes.
    pub(super) room_bytes: u64,
    /// Names that it has, durable or not.
    pub(super) names: usize,
    /// Names that were taken from it, and may come back.
    pub(super) ghosts: usize,
    /// Cores that have it open.
    pub(super) users: usize,
}

impl Content {
    /// A new file of zeros, whose length is as durable as its name.
    pub(super) fn new(bytes: u64) -> Content {
        let mut content = Content {
            room_bytes: bytes,
            ..Content::default()
        };
        content.now.set_len(bytes);
        content.durable.set_len(bytes);
        content
    }

    /// One that holds these bytes for good.
    pub(super) fn durable(bytes: &[u8]) -> Content {
        let mut content = Content::new(bytes.len() as u64);
        content.now.write(0, bytes);
        content.durable.write(0, bytes);
        content
    }

    /// Whether it takes room: under a name, or with somebody who has it open.
    pub(super) fn is_used(&self) -> bool {
        self.names > 0 || self.users > 0
    }

    pub(super) fn len(&self) -> u64 {
        self.now.len()
    }

    pub(super) fn read(&self, at: u64, out: &mut [u8]) -> usize {
        self.now.read(at, out)
    }

    pub(super) fn write(&mut self, number: u64, at: u64, bytes: Bytes) {
        self.now.write(at, &bytes);
        self.room_bytes = self.room_bytes.max(self.now.len());
        self.changes.push(Change {
            number,
            what: What::Write { at, bytes },
            told: false,
        });
    }

    pub(super) fn set_len(&mut self, number: u64, len: u64) {
        self.now.set_len(len);
        self.room_bytes = len;
        self.changes.push(Change {
            number,
            what: What::Length(len),
            told: false,
        });
    }

    /// Sets the length, and syncs all of it.
    pub(super) fn set_len_for_good(&mut self, len: u64) {
        self.now.set_len(len);
        self.room_bytes = len;
        self.durable = self.now.clone();
        self.changes.clear();
    }

    /// Writes, and syncs all of it.
    pub(super) fn write_for_good(&mut self, at: u64, bytes: &[u8]) {
        self.now.write(at, bytes);
        self.room_bytes = self.room_bytes.max(self.now.len());
        self.durable = self.now.clone();
        self.changes.clear();
    }

    /// The operation's user has been told that it is done.
    pub(super) fn told(&mut self, number: u64) {
        for change in self.changes.iter_mut().filter(|change| change.number == number) {
            change.told = true;
        }
    }

    /// What a sync that is asked for now covers.
    pub(super) fn to_be_synced(&self) -> Vec<u64> {
        let told = self.changes.iter().filter(|change| change.told);
        told.map(|change| change.number).collect()
    }

    /// Makes these durable, and of the others what chance wants.
    pub(super) fn sync(&mut self, covered: &[u64], random: &mut Random) {
        for change in std::mem::take(&mut self.changes) {
            if covered.contains(&change.number) || random.chance(0.5) {
                change.apply(&mut self.durable);
            } else {
                self.changes.push(change);
            }
        }
    }

    /// A sync failed: parts are durable, and nobody knows any more what is not.
    pub(super) fn forget(&mut self, random: &mut Random) {
        let kept = share(random);
        for change in std::mem::take(&mut self.changes) {
            change.survive(&mut self.durable, kept, random);
        }
    }

    /// What is left without power.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        self.forget(random);
        self.now = self.durable.clone();
        self.room_bytes = self.room_bytes.max(self.now.len());
        self.users = 0;
    }

    /// The power goes before its room, or anything in it, was durable.
    pub(super) fn empty(&mut self) {
        let names = self.names;
        *self = Content {
            names,
            ..Content::default()
        };
    }

    /// Changes bits wherever the byte is held.
    pub(super) fn flip(&mut self, at: u64, mask: u8) {
        for change in &mut self.changes {
            change.flip(at, mask);
        }
        for image in [&mut self.now, &mut self.durable] {
            let mut byte = [0];
            if image.read(at, &mut byte) == 1 {
                image.write(at, &[byte[0] ^ mask]);
            }
        }
    }
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match &self.what {
            What::Write { at, bytes } => image.write(*at, bytes),
            What::Length(len) => image.set_len(*len),
        }
    }

    /// Applies what a power cut leaves of it.
    fn survive(&self, image: &mut Image, kept: f64, random: &mut Random) {
        match &self.what {
            What::Write { at, bytes } => {
                for (at, sector) in sectors(*at, bytes) {
                    if random.chance(kept) {
                        image.write(at, &sector[..torn(sector.len(), random)]);
                    }
                }
            }
            What::Length(len) if random.chance(kept) => image.set_len(*len),
            What::Length(_) => {}
        }
    }

    fn flip(&mut self, place: u64, mask: u8) {
        if let What::Write { at, bytes } = &mut self.what
            && let Some(index) = place.checked_sub(*at)
            && index < bytes.len() as u64
        {
            let mut changed = bytes.to_vec();
            changed[index as usize] ^= mask;
            *bytes = changed.into();
        }
    }
}

/// How much of what is not durable survives: nothing, everything, or a share.
pub(super) fn share(random: &mut Random) -> f64 {
    match random.below(4) {
        0 => 0.0,
        1 => 1.0,
        _ => random.below(100) as f64 / 100.0,
    }
}

/// A write by sectors: where each piece goes.
pub(super) fn sectors(at: u64, bytes: &Bytes) -> Vec<(u64, Bytes)> {
    let mut pieces = Vec::new();
    let mut rest = bytes.clone();
    let mut at = at;
    while !rest.is_empty() {
        let left = (SECTOR_BYTES - at % SECTOR_BYTES) as usize;
        let piece = rest.split_to(left.min(rest.len()));
        let next = at + piece.len() as u64;
        pieces.push((at, piece));
        at = next;
    }
    pieces
}

/// How many bytes of a sector that survives are there: seldom not all.
fn torn(len: usize, random: &mut Random) -> usize {
    if random.chance(TORN) {
        random.index(len)
    } else {
        len
    }
}
