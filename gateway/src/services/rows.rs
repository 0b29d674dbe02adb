//! The rows of `$services.list`: one for each serving peer and fleet, put together from what all cores see.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use fluxar_shard::{PeerId, ServiceRow, Standing};
use minicbor::Encoder;

use crate::upstreams::pool::Link;

/// Rows that one core tells of.
const ROWS_MAX: usize = 16_384;
/// Methods that a row names; the rest is counted.
const METHODS_MAX: usize = 64;
/// What the answer takes beside its rows: its head, and the totals behind them.
const AROUND_BYTES: usize = 256;

/// By whom, and in which fleet.
pub(super) type Key = (PeerId, Option<String>);

/// One serving peer in one fleet, as one core sees it, or all of them together.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    peer: PeerId,
    name: String,
    fleet: Option<String>,
    methods: Vec<String>,
    methods_left_out: u64,
    weight: u32,
    zone: Option<String>,
    in_flight: u64,
    in_flight_max: u32,
    standing: Standing,
    ejected_ms: u64,
    /// With how many answers it counts in the mean over the cores.
    latency_us: Option<u64>,
    answered: u64,
    failed: u64,
    is_dialled: bool,
    /// It is not connected at the moment, and `peer` names nobody.
    is_down: bool,
}

impl Row {
    /// A link to an endpoint that is not connected.
    pub(super) fn down(core: u16, at: u32, link: &Link) -> Self {
        Self {
            peer: PeerId {
                core,
                slot: u32::MAX - at,
                generation: 0,
            },
            name: link.name().to_string(),
            fleet: Some(link.key.upstream.to_string()),
            methods: link.terms.methods.iter().map(ToString::to_string).collect(),
            methods_left_out: 0,
            weight: link.terms.weight,
            zone: link.terms.zone.as_ref().map(ToString::to_string),
            in_flight: 0,
            in_flight_max: link.terms.in_flight_max,
            standing: Standing::default(),
            ejected_ms: 0,
            latency_us: None,
            answered: 0,
            failed: 0,
            is_dialled: true,
            is_down: true,
        }
    }

    fn begin(seen: &ServiceRow<'_>) -> Self {
        Self {
            peer: seen.peer,
            name: seen.name.into(),
            fleet: seen.fleet.map(Into::into),
            methods: Vec::new(),
            methods_left_out: 0,
            weight: seen.weight,
            zone: seen.zone.map(Into::into),
            in_flight: seen.in_flight as u64,
            in_flight_max: seen.in_flight_max,
            standing: seen.standing,
            ejected_ms: seen.ejected_ms,
            latency_us: seen.latency_us,
            answered: seen.answered,
            failed: seen.failed,
            is_dialled: seen.is_local,
            is_down: false,
        }
    }

    fn serves(&mut self, pattern: &str) {
        if self.methods.len() < METHODS_MAX {
            self.methods.push(pattern.into());
        } else {
            self.methods_left_out += 1;
        }
    }

    /// One word for its standing, the weightiest reason first.
    fn state(&self) -> &'static str {
        let Standing {
            crowded,
            silent,
            draining,
        } = self.standing;
        match () {
            () if self.is_down => "down",
            () if draining => "draining",
            () if silent => "silent",
            () if crowded => "crowded",
            () if self.ejected_ms > 0 => "ejected",
            () => "fit",
        }
    }
}

/// The offers that a core sees, as rows; and how many it leaves out.
pub(super) fn gather<'a>(offers: impl Iterator<Item = ServiceRow<'a>>) -> (Vec<Row>, u64) {
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    let mut left_out = 0;
    for seen in offers {
        let key = (seen.peer, seen.fleet.map(String::from));
        let is_full = rows.len() >= ROWS_MAX;
        let row = match rows.entry(key) {
            Entry::Occupied(row) => row.into_mut(),
            Entry::Vacant(_) if is_full => {
                left_out += 1;
                continue;
            }
            Entry::Vacant(place) => place.insert(Row::begin(&seen)),
        };
        row.serves(seen.pattern);
    }
    // An endpoint offers everything in its upstream's fleet, and some methods outside of any: one row, which names those.
    let unnamed: Vec<Key> = rows
        .iter()
        .filter(|((_, fleet), row)| row.is_dialled && fleet.is_none())
        .map(|(key, _)| key.clone())
        .collect();
    for key in unnamed {
        let in_fleet = rows
            .range((key.0, Some(String::new()))..)
            .next()
            .filter(|((peer, _), _)| *peer == key.0)
            .map(|(key, _)| key.clone());
        if let Some(in_fleet) = in_fleet
            && let Some(outside) = rows.remove(&key)
            && let Some(row) = rows.get_mut(&in_fleet)
        {
            row.methods = outside.methods;
            row.methods_left_out = outside.methods_left_out;
        }
    }
    (rows.into_values().collect(), left_out)
}

/// Adds what core `from` sees. Its own peers' terms and standing are as it says; calls are added up.
pub(super) fn add(rows: &mut BTreeMap<Key, Row>, from: u16, seen: Row) {
    let key = (seen.peer, seen.fleet.clone());
    let row = match rows.entry(key) {
        Entry::Vacant(place) => {
            place.insert(seen);
            return;
        }
        Entry::Occupied(row) => row.into_mut(),
    };
    let latency_us = match (row.latency_us, seen.latency_us) {
        (Some(a), Some(b)) => {
            let (more, less) = (row.answered.max(1), seen.answered.max(1));
            let sum = u128::from(a) * u128::from(more) + u128::from(b) * u128::from(less);
            Some((sum / u128::from(more + less)) as u64)
        }
        (a, b) => a.or(b),
    };
    let sums = Row {
        in_flight: row.in_flight + seen.in_flight,
        ejected_ms: row.ejected_ms.max(seen.ejected_ms),
        latency_us,
        answered: row.answered + seen.answered,
        failed: row.failed + seen.failed,
        ..if seen.peer.core == from { seen } else { row.clone() }
    };
    *row = sums;
}

/// `{services: […], left_out, cores_missing}`, with as many rows as fit.
pub(super) fn encode(rows: BTreeMap<Key, Row>, left_out: u64, missing: u16, bytes_max: usize) -> Vec<u8> {
    let room = bytes_max.saturating_sub(AROUND_BYTES);
    let mut body = Vec::new();
    let (mut count, mut left_out) = (0u64, left_out);
    for row in rows.into_values() {
        let before = body.len();
        encode_row(&row, &mut body);
        if body.len() > room {
            body.truncate(before);
            left_out += 1;
        } else {
            count += 1;
        }
    }
    let mut out = Vec::with_capacity(body.len() + 64);
    write(&mut out, |e| {
        e.map(3)?.str("services")?.array(count)?;
        Ok(())
    });
    out.extend_from_slice(&body);
    write(&mut out, |e| {
        e.str("left_out")?
            .u64(left_out)?
            .str("cores_missing")?
            .u16(missing)?;
        Ok(())
    });
    out
}

fn encode_row(row: &Row, out: &mut Vec<u8>) {
    write(out, |e| {
        let more = u64::from(row.methods_left_out > 0);
        e.map(15 + more)?;
        let id = (!row.is_down).then(|| format!("{:?}", row.peer));
        e.str("id")?.encode(id.as_deref())?;
        e.str("name")?.str(&row.name)?;
        e.str("kind")?
            .str(if row.is_dialled { "upstream" } else { "dialled in" })?;
        e.str("fleet")?.encode(row.fleet.as_deref())?;
        e.str("methods")?.array(row.methods.len() as u64)?;
        for method in &row.methods {
            e.str(method)?;
        }
        e.str("weight")?.u32(row.weight)?;
        e.str("zone")?.encode(row.zone.as_deref())?;
        e.str("in_flight")?.u64(row.in_flight)?;
        let most = Some(row.in_flight_max).filter(|most| *most != u32::MAX);
        e.str("in_flight_max")?.encode(most)?;
        e.str("state")?.str(row.state())?;
        e.str("ejected_ms")?.u64(row.ejected_ms)?;
        e.str("latency_us")?.encode(row.latency_us)?;
        e.str("answered")?.u64(row.answered)?;
        e.str("failed")?.u64(row.failed)?;
        e.str("core")?.u16(row.peer.core)?;
        if more > 0 {
            e.str("methods_left_out")?.u64(row.methods_left_out)?;
        }
        Ok(())
    });
}

pub(super) type Written = Result<(), minicbor::encode::Error<core::convert::Infallible>>;

/// Writes to a `Vec`, which cannot fail.
pub(super) fn write(out: &mut Vec<u8>, write: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> Written) {
    let written = write(&mut Encoder::new(out));
    debug_assert!(written.is_ok(), "a Vec takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(core: u16, slot: u32, fleet: Option<&'static str>, pattern: &'static str) -> ServiceRow<'static> {
        ServiceRow {
            peer: PeerId {
                core,
                slot,
                generation: 1,
            },
            name: "echo/1",
            fleet,
            pattern,
            weight: 1,
            zone: None,
            in_flight: 2,
            in_flight_max: u32::MAX,
            standing: Standing::default(),
            ejected_ms: 0,
            latency_us: Some(100),
            answered: 10,
            failed: 1,
            is_local: false,
        }
    }

    #[test]
    fn offers_of_a_peer_are_one_row_a_fleet() {
        let offers = [
            seen(0, 1, None, "a.b"),
            seen(0, 1, None, "a.>"),
            seen(0, 1, Some("canary"), "a.b"),
            seen(0, 2, None, "a.b"),
        ];
        let (rows, left_out) = gather(offers.into_iter());
        assert_eq!(left_out, 0);
        let told: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    row.peer.slot,
                    row.fleet.as_deref(),
                    row.methods.len(),
                    row.in_flight,
                )
            })
            .collect();
        assert_eq!(
            told,
            [(1, None, 2, 2), (1, Some("canary"), 1, 2), (2, None, 1, 2)]
        );
    }

    #[test]
    fn an_endpoint_is_one_row_with_the_methods_that_need_no_rule() {
        let dialled = |fleet, pattern| ServiceRow {
            is_local: true,
            ..seen(0, 1, fleet, pattern)
        };
        let (rows, _) = gather(
            [
                dialled(Some("users"), ">"),
                dialled(None, "users.>"),
                ServiceRow {
                    is_local: true,
                    ..seen(0, 2, Some("users"), ">")
                },
                seen(0, 3, None, "x"),
            ]
            .into_iter(),
        );
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row.peer.slot, row.fleet.as_deref(), row.methods.join(" ")))
            .collect();
        assert_eq!(
            told,
            [
                (1, Some("users"), "users.>".to_owned()),
                (2, Some("users"), ">".to_owned()),
                (3, None, "x".to_owned()),
            ]
        );
    }

    #[test]
    fn cores_are_added_up_and_the_home_core_is_believed() {
        let mut rows = BTreeMap::new();
        let gathered = |row| gather(std::iter::once(row)).0.remove(0);
        // The other core does not know yet that the peer drains.
        let elsewhere = ServiceRow {
            latency_us: Some(400),
            answered: 20,
            ejected_ms: 5,
            ..seen(1, 7, None, "a")
        };
        let mut home = seen(1, 7, None, "a");
        home.standing.draining = true;
        for order in [[(0, elsewhere), (1, home)], [(1, home), (0, elsewhere)]] {
            rows.clear();
            for (from, row) in order {
                add(&mut rows, from, gathered(row));
            }
            let row = rows.values().next().unwrap();
            assert_eq!((row.in_flight, row.answered, row.failed), (4, 30, 2));
            assert_eq!((row.latency_us, row.ejected_ms), (Some(300), 5));
            assert_eq!(row.state(), "draining");
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let (gathered, _) = gather((0..100).map(|slot| seen(0, slot, None, "a.method")));
        let mut rows = BTreeMap::new();
        for row in gathered {
            add(&mut rows, 0, row);
        }
        for bytes_max in [0, 300, 2_000, 10_000, 1 << 20] {
            let payload = encode(rows.clone(), 3, 0, bytes_max);
            assert!(payload.len() <= bytes_max.max(AROUND_BYTES), "{bytes_max}");
            let mut decoder = minicbor::Decoder::new(&payload);
            assert_eq!(decoder.map().unwrap(), Some(3));
            assert_eq!(decoder.str().unwrap(), "services");
            let count = decoder.array().unwrap().unwrap();
            for _ in 0..count {
                decoder.skip().unwrap();
            }
            assert_eq!(decoder.str().unwrap(), "left_out");
            assert_eq!(decoder.u64().unwrap() + count, 103);
            assert_eq!(count == 100, bytes_max == 1 << 20);
        }
    }
}
