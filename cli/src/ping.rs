//! `fluxar ping`: round trips to the peer at the other end of the connection, one after the other.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    args::{Args, Ping},
    failure::{Failure, Result},
    output::print,
};

/// Times in microseconds.
#[derive(Debug, Serialize)]
struct Report<'a> {
    url: &'a str,
    count: u64,
    min_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    max_us: f64,
}

pub(crate) async fn run(args: &Args, command: &Ping) -> Result<()> {
    let client = args.client().build().await?;
    // Nanoseconds to a minute, to three digits.
    let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)
        .map_err(|error| Failure::here(error.to_string()))?;
    for number in 0..command.count {
        if number > 0 {
            tokio::time::sleep(command.interval).await;
        }
        let time = client.ping().await?;
        times.saturating_record(time.as_nanos() as u64);
    }
    let us = |nanos: u64| nanos as f64 / 1e3;
    let report = Report {
        url: client.address(),
        count: command.count,
        min_us: us(times.min()),
        p50_us: us(times.value_at_quantile(0.5)),
        p90_us: us(times.value_at_quantile(0.9)),
        p99_us: us(times.value_at_quantile(0.99)),
        max_us: us(times.max()),
    };
    if command.json {
        print(&serde_json::to_string(&report).map_err(|error| Failure::here(error.to_string()))?)?;
    } else {
        print(&format!("{} round trips to {}", report.count, report.url))?;
        for (name, us) in [
            ("min", report.min_us),
            ("p50", report.p50_us),
            ("p90", report.p90_us),
            ("p99", report.p99_us),
            ("max", report.max_us),
        ] {
            print(&format!("  {name}  {}", shown(Duration::from_secs_f64(us / 1e6))))?;
        }
    }
    client.close().await;
    Ok(())
}

/// With the unit that fits.
fn shown(time: Duration) -> String {
    let us = time.as_secs_f64() * 1e6;
    if us < 1000.0 {
        format!("{us:.1} µs")
    } else {
        format!("{:.2} ms", us / 1e3)
    }
}
