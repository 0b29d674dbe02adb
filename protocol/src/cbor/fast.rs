//! The fast walk: it finds the end of a sound item, or notices that something is wrong.
//!
//! What a plain walk pays for is not work, it is mispredicted branches: which kind of item comes next is not to be
//! foreseen. So the same few steps are made for every common kind, and they are done without a branch:
//!
//! 1. The input is looked at in windows. For each byte of a window SIMD works out how far the next item would be if
//!    an item began there ([`Simd::skips`]). Most results are never used; but going from one item to the next is
//!    then a single load and an addition, and that chain is what bounds the speed.
//! 2. A table over the initial byte ([`STEPS`]) says what the item adds: how many items it brings, whether it opens
//!    a container, how many bytes of short text it is. [`Nesting`] counts all that is still to come in one number.
//! 3. Short text is copied, head and all, into a buffer that is checked for UTF-8 in one go. A head of short text
//!    is an ASCII character itself, so one text cannot complete a broken character of the one before it. Other
//!    items are "copied" too, and overwritten by the next: to copy is cheaper than to ask.
//!
//! Long strings, large containers, indefinite lengths and all that is wrong leave this path for [`Walk::uncommon`].
//! Large arrays are then tried as runs of numbers ([`numbers`](super::numbers)).
//!
//! Whatever is generic over [`Simd`] is inlined to the last call into the function that has the target feature:
//! elsewhere the compiler would have to make a call of each instruction.

use super::nesting::{LOG_WINDOW_ROOM, Nesting};
use super::numbers::{number_run, same_width};
use super::simd::{BLOCK, Scratch, Simd, is_ascii};

/// Bytes that are prepared at once. Each window ends with a mispredicted branch, but what is prepared behind the end
/// of the item is wasted.
const WINDOW: usize = 256;
/// The same for the first window: most payloads end in it.
const FIRST_WINDOW: usize = 128;
/// Bytes behind a window that an item which begins in it may be copied from.
const REACH: usize = 32;
/// Room for text that waits for its UTF-8 check.
const TEXT_BYTES: usize = 2048;
/// Text below this length waits for the common check, longer text is checked where it is.
const TEXT_WAITS_BYTES: usize = 64;
/// What one window can leave in the buffer, its last copy included.
const TEXT_WINDOW_BYTES: usize = WINDOW + 2 * REACH;

const _: () = assert!(TEXT_BYTES > TEXT_WINDOW_BYTES + TEXT_WAITS_BYTES);
// An opening takes a byte at least, so a window cannot overfill the log.
const _: () = assert!(WINDOW <= LOG_WINDOW_ROOM);

/// What an item with a given initial byte adds.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
struct Step {
    /// Items that it brings.
    items: u8,
    /// Bytes of text to check, head included.
    text: u8,
    /// 1 if it opens a container.
    opens: u8,
    /// It is for [`Walk::uncommon`]; the rest says nothing.
    uncommon: bool,
}

static STEPS: [Step; 256] = {
    let mut steps = [Step {
        items: 0,
        text: 0,
        opens: 0,
        uncommon: false,
    }; 256];
    let mut first = 0;
    while first < 256 {
        let (major, info) = (first >> 5, (first & 0x1f) as u8);
        let step = &mut steps[first];
        step.uncommon = match major {
            0 | 1 | 6 => info > 27,
            7 => info == 24 || info > 27,
            _ => info > 23,
        };
        if !step.uncommon {
            match major {
                3 => step.text = 1 + info,
                4 => (step.items, step.opens) = (info, 1),
                5 => (step.items, step.opens) = (2 * info, 1),
                6 => (step.items, step.opens) = (1, 1),
                _ => {}
            }
        }
        first += 1;
    }
    steps
};

/// What a walk knows besides its position.
struct Walk {
    nesting: Nesting,
    texts: Scratch<u8, TEXT_BYTES>,
}

/// Walks one item with the instructions of `simd`: its length, or `None` if anything is wrong with it.
#[inline(always)]
pub(super) fn walk<S: Simd>(simd: S, bytes: &[u8], depth_max: usize) -> Option<usize> {
    let mut walk = Walk {
        nesting: Nesting::new(bytes.len(), depth_max)?,
        texts: Scratch::new(),
    };
    let mut pos = walk.window::<S, FIRST_WINDOW, { FIRST_WINDOW + REACH }, false>(simd, bytes, 0)?;
    while walk.nesting.left() > 0 {
        if STEPS[usize::from(*bytes.get(pos)?)].uncommon {
            pos = walk.uncommon(simd, bytes, pos)?;
        } else {
            pos = walk.window::<S, WINDOW, { WINDOW + REACH }, true>(simd, bytes, pos)?;
        }
    }
    // The last window may have been filled up with zeros, which pass for items.
    if pos > bytes.len() {
        return None;
    }
    walk.nesting.finish()?;
    walk.check_texts()?;
    Some(pos)
}

impl Walk {
    /// Walks the items that begin in the `WIDTH` bytes at `pos`, until they are done or the root has ended; if not
    /// `THROUGH`, until something is uncommon. Returns where it got to.
    ///
    /// `REACHED` are the bytes that are looked at.
    #[inline(always)]
    fn window<S: Simd, const WIDTH: usize, const REACHED: usize, const THROUGH: bool>(
        &mut self,
        simd: S,
        bytes: &[u8],
        pos: usize,
    ) -> Option<usize> {
        const { assert!(REACHED == WIDTH + REACH && WIDTH <= WINDOW && WIDTH.is_multiple_of(BLOCK)) };
        let rest = &bytes[pos..];
        let mut filled_up;
        let window: &[u8; REACHED] = match rest.first_chunk() {
            Some(window) => window,
            None => {
                filled_up = [0; REACHED];
                filled_up[..rest.len()].copy_from_slice(rest);
                &filled_up
            }
        };
        let mut skips = [0; WIDTH];
        for (block, skips) in window
            .as_chunks::<BLOCK>()
            .0
            .iter()
            .zip(skips.as_chunks_mut::<BLOCK>().0)
        {
            simd.skips(block, skips);
        }
        self.nesting.make_room()?;
        let mut at = 0;
        loop {
            if self.texts.len() > TEXT_BYTES - TEXT_WINDOW_BYTES {
                self.check_texts()?;
            }
            let mut nesting = self.nesting.count();
            let mut texts = self.texts.append();
            let mut uncommon = false;
            while at < WIDTH {
                let step = STEPS[usize::from(window[at])];
                if step.uncommon {
                    uncommon = true;
                    break;
                }
                let copied: &[u8; REACH] = window[at..].first_chunk()?;
                texts.put(copied, usize::from(step.text));
                at += usize::from(skips[at]);
                if nesting.item(step.items, step.opens) == 0 {
                    break;
                }
            }
            nesting.commit();
            texts.commit();
            if !uncommon || !THROUGH {
                return Some(pos + at);
            }
            let next = self.uncommon(simd, bytes, pos + at)?;
            at = next - pos;
            if at >= WIDTH || self.nesting.left() == 0 {
                return Some(next);
            }
        }
    }

    /// Walks the item at `pos`, one that [`STEPS`] says nothing of. Returns where the next one begins.
    #[inline(always)]
    fn uncommon<S: Simd>(&mut self, simd: S, bytes: &[u8], pos: usize) -> Option<usize> {
        let (first, head_bytes, argument) = read_head(bytes, pos)?;
        let Some(argument) = argument else {
            let start = self.indefinite(bytes, pos)?;
            if first == 0x9f {
                let run = same_width(simd, &bytes[start..], u64::MAX);
                self.nesting.take(run.items);
                return Some(start + run.bytes);
            }
            return Some(start);
        };
        let start = pos + head_bytes;
        let rest = &bytes[start..];
        let major = first >> 5;
        if major == 7 {
            self.nesting.take(1);
            return (argument >= 32).then_some(start);
        }
        // Every item takes a byte, so a count is as good as a length here; and it cannot overflow afterwards.
        let len = usize::try_from(argument).ok().filter(|&len| len <= rest.len())?;
        match major {
            2 => self.nesting.take(1),
            3 => {
                self.nesting.take(1);
                self.text(rest, len)?;
            }
            4 | 5 => {
                let items = argument << (major - 4);
                self.nesting.open(items)?;
                let run = number_run(simd, rest, items);
                self.nesting.take(run.items);
                return Some(start + run.bytes);
            }
            _ => return None,
        }
        Some(start + len)
    }

    /// Checks `rest[..len]`, or has it wait for the common check.
    #[inline(always)]
    fn text(&mut self, rest: &[u8], len: usize) -> Option<()> {
        match rest.first_chunk::<TEXT_WAITS_BYTES>() {
            Some(copied) if len <= TEXT_WAITS_BYTES => {
                if self.texts.len() > TEXT_BYTES - TEXT_WAITS_BYTES - 1 {
                    self.check_texts()?;
                }
                let mut texts = self.texts.append();
                texts.put(&[0], 1); // Parts it from the text before, as the head of a short text does.
                texts.put(copied, len);
                texts.commit();
                Some(())
            }
            _ => simdutf8::basic::from_utf8(&rest[..len]).ok().map(drop),
        }
    }

    /// Walks what has no length at `pos`: all of a string, the beginning of a container, or a break.
    #[inline(never)]
    fn indefinite(&mut self, bytes: &[u8], pos: usize) -> Option<usize> {
        let start = pos + 1;
        match bytes[pos] {
            0x9f => self.nesting.open_endless(false).map(|()| start),
            0xbf => self.nesting.open_endless(true).map(|()| start),
            0xff => self.nesting.close_endless().map(|()| start),
            string @ (0x5f | 0x7f) => {
                let mut pos = start;
                while *bytes.get(pos)? != 0xff {
                    let (first, head_bytes, argument) = read_head(bytes, pos)?;
                    if first >> 5 != string >> 5 {
                        return None;
                    }
                    let rest = &bytes[pos + head_bytes..];
                    let len = usize::try_from(argument?).ok().filter(|&len| len <= rest.len())?;
                    if string == 0x7f {
                        self.text(rest, len)?;
                    }
                    pos += head_bytes + len;
                }
                self.nesting.take(1);
                Some(pos + 1)
            }
            _ => None,
        }
    }

    /// Checks the text that waits.
    #[inline(always)]
    fn check_texts(&mut self) -> Option<()> {
        let texts = self.texts.filled();
        if !is_ascii(texts) {
            check_utf8(texts)?;
        }
        self.texts.truncate(0);
        Some(())
    }
}

#[inline(never)]
fn check_utf8(texts: &[u8]) -> Option<()> {
    simdutf8::basic::from_utf8(texts).ok().map(drop)
}

/// Reads the head at `pos`: its initial byte, its length and, unless that says 31, its argument.
#[inline(always)]
fn read_head(bytes: &[u8], pos: usize) -> Option<(u8, usize, Option<u64>)> {
    let (&first, rest) = bytes.get(pos..)?.split_first()?;
    let (head_bytes, argument) = match first & 0x1f {
        info @ 0..=23 => (1, u64::from(info)),
        24 => (2, u64::from(*rest.first()?)),
        25 => (3, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
        26 => (5, u64::from(u32::from_be_bytes(*rest.first_chunk()?))),
        27 => (9, u64::from_be_bytes(*rest.first_chunk()?)),
        31 => return Some((first, 1, None)),
        _ => return None,
    };
    Some((first, head_bytes, Some(argument)))
}
