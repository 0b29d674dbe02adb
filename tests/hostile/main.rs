//! Bad input on real sockets: none of it crashes the gateway, leaks, grows without bound or disturbs a neighbour, and
//! each peer is told why. One file a subject.
#![forbid(unsafe_code)]

mod churn;
mod floods;
mod limits;
mod measure;
mod neighbours;
mod noise;
mod random;
mod raw;
mod slow;
mod smuggling;
mod streams;
mod vectors;

use fluxar_engine::listener::Address;
use fluxar_gateway::config::Config;
use fluxar_gateway::counters::Counters;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Code, Kind};
use fluxar_tests::{Client, End, Received, Running};

/// No meta.
fn none() -> MetaWriter {
    MetaWriter::new()
}

/// The addresses of a gateway, each transport once.
fn transports(gateway: &Running) -> [Address; 3] {
    [
        gateway.tcp().clone(),
        gateway.unix().clone(),
        gateway.ws().clone(),
    ]
}

/// How a connection that was told why ends on this transport [P-8.4].
fn closed(address: &Address, ws_code: u16) -> End {
    End::Closed(matches!(address, Address::WebSocket { .. }).then_some(ws_code))
}

/// Reads to the end of the connection, which must be a closing cancel with `code` and then the end of the stream.
/// Returns what came before.
#[track_caller]
fn expect_told(client: &mut Client, address: &Address, code: Code) -> Vec<Received> {
    let (mut rest, end) = client.rest();
    let last = rest.pop().expect("a closing cancel");
    assert_eq!(
        (last.kind, last.reference, last.code()),
        (Kind::Cancel, None, Some(code)),
        "{address}: {last:?}"
    );
    assert_eq!(end, closed(address, 1008), "{address}: {last:?}");
    rest
}

/// Few receive buffers, which a gateway maps as it first uses them: what a test measures is then what peers made it
/// hold.
fn lean(config: &mut Config) {
    config.engine.buffers = 64;
}

/// Stops a gateway; nobody had to be cut off, and every connection that was opened was closed. Returns the sum of its
/// counters.
#[track_caller]
fn stop(gateway: Running) -> Counters {
    let mut sum = Counters::default();
    for end in gateway.stop() {
        let one = end.counters;
        assert_eq!(end.cut_off, 0, "connections were cut off: {one:?}");
        assert_eq!(one.opened, one.closed, "{one:?}");
        // What is known of other cores may be late by a letter; of its own connections nothing is left.
        let held = end.held;
        assert_eq!(
            (
                held.subscribers,
                held.subscriptions,
                held.pattern_bytes,
                held.askers,
                held.open_calls + held.open_streams,
                held.queued,
                held.held_bytes
            ),
            (0, 0, 0, 0, 0, 0, 0),
            "{held:?}"
        );
        sum.opened += one.opened;
        sum.closed += one.closed;
        sum.received += one.received;
        sum.delivered += one.delivered;
        sum.dropped += one.dropped;
        sum.rejected += one.rejected;
        sum.refused += one.refused;
        sum.calls += one.calls;
        sum.late_answers += one.late_answers;
        sum.overrun += one.overrun;
        sum.timed_out += one.timed_out;
        sum.lost += one.lost;
        sum.silent += one.silent;
        sum.rate_pauses += one.rate_pauses;
    }
    sum
}
