//! The fast walk and the plain one: the same answer for every input, whatever stands behind the item.
#![no_main]

use fluxar_protocol::cbor::{walk, walk_scalar};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((depth, item)) = input.split_first() else {
        return;
    };
    // Mostly as payloads are walked; sometimes at other depths.
    let depth_max = if *depth < 0x80 { usize::from(*depth) } else { 64 };
    let walked = walk(item, depth_max);
    assert_eq!(walked, walk_scalar(item, depth_max));
    if let Ok(len) = walked {
        assert!((1..=item.len()).contains(&len));
        assert_eq!(walk(&item[..len], depth_max), Ok(len));
        assert!(walk(&item[..len - 1], depth_max).is_err());
    }
});
