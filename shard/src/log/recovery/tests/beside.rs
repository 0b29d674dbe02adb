//! What is read back beside events: cursors, rows of tables, ids of qos 2.

use super::*;

#[test]
fn the_newest_cursor_counts_across_segments_and_streams() {
    for is_sealed in [true, false] {
        let mut log = Written::new(2, 2);
        log.core(1);
        log.segment(&[base(1, 0, 1)], 0);
        log.append(1, 1, 9);
        log.write(|writer| vec![writer.cursors(1, &[cursor("a", 3), cursor("b", 2), cursor("c", 1)])]);
        log.write(|writer| vec![writer.cursors(1, &[cursor("a", 5)])]);
        if is_sealed {
            log.seal(true);
        }
        log.core(0);
        recover(&mut log.files, 1);
        log.started();
        log.segment(&[base(0, 0, 1), base(1, 9, 10)], 0);
        let forgotten = CursorEntry {
            state: None,
            ..cursor("b", 0)
        };
        log.write(|writer| vec![writer.cursors(1, &[forgotten, cursor("c", 7)])]);
        log.write(|writer| vec![writer.cursors(0, &[cursor("a", 1)])]);
        if is_sealed {
            log.seal(true);
        }
        let shares = recover(&mut log.files, 1);
        let of = |number| {
            let cursors = partition(&shares, number).cursors.iter();
            cursors
                .map(|found| (found.entry.clone(), found.segment))
                .collect::<Vec<_>>()
        };
        let (old, new) = (SegmentId { core: 1, number: 1 }, SegmentId { core: 0, number: 1 });
        assert_eq!(of(1), [(cursor("a", 5), old), (cursor("c", 7), new)]);
        assert_eq!(of(0), [(cursor("a", 1), new)]);
    }
}

#[test]
fn retained_rows_are_the_newest_of_their_keys() {
    let table = Class {
        retain: true,
        ..Class::default()
    };
    let set = |key: &str, number, payload| event("t.a", number, Some(key), &[payload]);
    for is_sealed in [true, false] {
        let mut log = Written::new(1, 1);
        log.segment(&[base(0, 0, 1)], 0);
        log.append_as(
            0,
            table,
            1,
            &run([set("x", 1, 1), set("y", 2, 1), set("z", 3, 1)]),
        );
        log.append_as(
            0,
            table,
            4,
            &run([event("t.b", 4, None, &[1]), set("x", 5, 0xf6)]),
        );
        if is_sealed {
            log.seal(false);
        }
        log.segment(&[base(0, 5, 6)], 0);
        log.append_as(0, table, 6, &run([set("z", 6, 2), set("x", 7, 2)]));
        log.append_as(0, table, 8, &run([set("x", 8, 0xf6)]));
        // Carried on from a segment that is removed.
        let old = event("t.c", 0, None, &[5]);
        let kept = Kept {
            offset: 2,
            time_ms: 77,
            event: set("y", 2, 1).into(),
        };
        let gone = Kept {
            offset: 3,
            time_ms: 78,
            event: old.into(),
        };
        log.write(|writer| vec![writer.kept(0, table, &[kept, gone])]);
        let shares = recover(&mut log.files, 1);
        let rows = &partition(&shares, 0).rows;
        let found: Vec<_> = rows
            .iter()
            .map(|row| (&*row.topic, &*row.key, row.offset, row.segment.number))
            .collect();
        let expected = [
            ("t.a", &b"\x61y"[..], 2, 2),
            ("t.c", &b""[..], 3, 2),
            ("t.b", &b""[..], 4, 1),
            ("t.a", &b"\x61z"[..], 6, 2),
        ];
        assert_eq!(found, expected, "sealed: {is_sealed}");
        assert_eq!(rows[0].time_ms, 77);
        // Where it says, the row is.
        let row = &rows[3];
        let file = bytes::Bytes::from(log.files.0[&row.segment.name()].clone());
        let salt = crate::log::format::salt_of(SECRET, row.segment);
        let head = crate::log::format::BatchHead::decode(&file[row.at as usize..], salt, row.at).unwrap();
        let body = crate::log::format::Body::check(head, &file.slice(row.at as usize + BATCH_HEAD_BYTES..));
        let stored = body.unwrap().events().unwrap().unwrap();
        let event = row_of(stored.events.get(row.index as usize)).unwrap();
        assert_eq!(
            (event.topic, event.key, event.is_removal),
            ("t.a", &b"\x61z"[..], false)
        );
    }
}

#[test]
fn young_ids_are_read_back_and_old_ones_are_not() {
    let once = Class {
        once: true,
        ..Class::default()
    };
    let settings = Settings::default();
    let old_ms = NOW_MS - u64::from(settings.once_ms) - 1;
    for is_sealed in [true, false] {
        let mut log = Written::new(1, 1);
        log.segment(&[base(0, 0, 1)], 0);
        for (first, class, time_ms) in [
            (1, once, old_ms),
            (3, Class::default(), NOW_MS),
            (5, once, NOW_MS),
        ] {
            log.write(|writer| vec![writer.events(0, class, first, time_ms, [&events("x", first, 2)])]);
        }
        if is_sealed {
            log.seal(true);
        }
        let shares = recover_with(&mut log.files, 1, &settings);
        let found: Vec<_> = shares[0]
            .once
            .iter()
            .map(|once| (once.id, once.offset, once.time_ms))
            .collect();
        let id = |number: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            Id(id)
        };
        assert_eq!(found, [(id(5), 5, NOW_MS), (id(6), 6, NOW_MS)]);
    }
}
