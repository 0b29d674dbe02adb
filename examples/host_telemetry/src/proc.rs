//! What Linux tells of itself under /proc: text in, numbers out. Nothing here opens a file, so the tests run on
//! captured texts.

use std::time::Duration;

/// Time of one processor since boot, in clock ticks (1/100 s).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CpuTicks {
    busy: u64,
    total: u64,
}

impl CpuTicks {
    /// The share of time that it was busy since an earlier reading, in percent. 0 if no time has passed.
    pub(crate) fn busy_percent_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total);
        if total == 0 {
            return 0.0;
        }
        // Idle time may run a tick backwards between two readings (proc(5) says so of iowait).
        let busy = self.busy.saturating_sub(earlier.busy).min(total);
        round(100.0 * busy as f64 / total as f64)
    }
}

/// /proc/stat: all processors together, and each of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) all: CpuTicks,
    pub(crate) cores: Vec<CpuTicks>,
}

impl Stat {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut stat = Self {
            all: CpuTicks::default(),
            cores: Vec::new(),
        };
        let mut has_all = false;
        for line in text.lines() {
            let Some((name, ticks)) = line.split_once(' ').filter(|(name, _)| name.starts_with("cpu")) else {
                continue;
            };
            // user nice system idle iowait irq softirq steal; guest time is in user already
            let ticks: Vec<u64> = ticks
                .split_whitespace()
                .take(8)
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            let total: u64 = ticks.iter().sum();
            let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
            let ticks = CpuTicks {
                busy: total - idle,
                total,
            };
            if name == "cpu" {
                stat.all = ticks;
                has_all = true;
            } else {
                stat.cores.push(ticks);
            }
        }
        has_all.then_some(stat)
    }
}

/// /proc/meminfo, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total_bytes: u64,
    pub(crate) available_bytes: u64,
}

impl Memory {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
                .map(|kib| kib * 1024)
        };
        Some(Self {
            total_bytes: bytes("MemTotal")?,
            available_bytes: bytes("MemAvailable")?,
        })
    }

    pub(crate) fn used_percent(self) -> f64 {
        let used = self.total_bytes.saturating_sub(self.available_bytes);
        round(100.0 * used as f64 / self.total_bytes.max(1) as f64)
    }
}

/// /proc/net/dev: bytes since boot over all interfaces but loopback.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Net {
    rx_bytes: u64,
    tx_bytes: u64,
}

impl Net {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut net = Self::default();
        for line in text.lines().skip(2) {
            let (name, counters) = line.split_once(':')?;
            if name.trim() == "lo" {
                continue;
            }
            let mut counters = counters.split_whitespace();
            net.rx_bytes += counters.next()?.parse::<u64>().ok()?;
            net.tx_bytes += counters.nth(7)?.parse::<u64>().ok()?;
        }
        Some(net)
    }

    /// Bytes a second received and sent since an earlier reading.
    pub(crate) fn rates_since(self, earlier: Self, elapsed: Duration) -> (f64, f64) {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        // An interface that went away takes its counters along.
        let rate = |now: u64, then: u64| round(now.saturating_sub(then) as f64 / seconds);
        (
            rate(self.rx_bytes, earlier.rx_bytes),
            rate(self.tx_bytes, earlier.tx_bytes),
        )
    }
}

/// /proc/loadavg.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    pub(crate) load_1m: f64,
    pub(crate) load_5m: f64,
    pub(crate) load_15m: f64,
    pub(crate) tasks_running: u32,
}

impl Load {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let mut load = || words.next()?.parse().ok();
        let (load_1m, load_5m, load_15m) = (load()?, load()?, load()?);
        let tasks_running = words.next()?.split_once('/')?.0.parse().ok()?;
        Some(Self {
            load_1m,
            load_5m,
            load_15m,
            tasks_running,
        })
    }
}

/// The processor's name from /proc/cpuinfo; Arm kernels do not tell one.
pub(crate) fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let (_, name) = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?
        .split_once(':')?;
    Some(name.trim())
}

/// Seconds since boot from /proc/uptime.
pub(crate) fn uptime_s(uptime: &str) -> Option<f64> {
    uptime.split_whitespace().next()?.parse().ok()
}

/// To two decimals, which is more than the counters know.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "\
cpu  10132153 290696 3084719 46828483 16683 0 25195 0 0 0
cpu0 5066076 145348 1542359 23414241 8341 0 12597 0 0 0
cpu1 5066077 145348 1542360 23414242 8342 0 12598 0 0 0
intr 199292 0 9 0
ctxt 1990473
procs_running 2
";

    #[test]
    fn stat_gives_the_busy_share_between_two_readings() {
        let earlier = Stat::parse(STAT).unwrap();
        assert_eq!(earlier.cores.len(), 2);
        assert_eq!(earlier.all.total - earlier.all.busy, 46_828_483 + 16_683);
        // 30 ticks of user, 60 of idle and 10 of iowait later:
        let later = STAT
            .replace("10132153", "10132183")
            .replace("46828483 16683", "46828543 16693");
        let later = Stat::parse(&later).unwrap();
        assert_eq!(later.all.busy_percent_since(earlier.all), 30.0);
        assert_eq!(
            later.cores[0].busy_percent_since(earlier.cores[0]),
            0.0,
            "no time has passed"
        );
        assert_eq!(earlier.all.busy_percent_since(later.all), 0.0, "backwards");
    }

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:        8000000 kB\nMemFree:          123456 kB\nMemAvailable:    6000000 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(
            (memory.total_bytes, memory.available_bytes),
            (8_192_000_000, 6_144_000_000)
        );
        assert_eq!(memory.used_percent(), 25.0);
        assert_eq!(Memory::parse("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn net_sums_all_interfaces_but_loopback() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 9999999   65181    0    0    0     0          0         0  9999999   65181    0    0    0     0       0          0
  eth0: 1000      4000    0    0    0     0          0         0  200       3000    0    0    0     0       0          0
 wlan0:7 1 0 0 0 0 0 0 30 1 0 0 0 0 0 0
";
        let net = Net::parse(text).unwrap();
        assert_eq!(
            net,
            Net {
                rx_bytes: 1007,
                tx_bytes: 230
            }
        );
        let earlier = Net {
            rx_bytes: 7,
            tx_bytes: 1000,
        };
        assert_eq!(
            net.rates_since(earlier, Duration::from_millis(500)),
            (2000.0, 0.0)
        );
    }

    #[test]
    fn load_uptime_and_model_are_read() {
        let load = Load::parse("0.20 0.18 0.12 3/80 11206\n").unwrap();
        assert_eq!(
            load,
            Load {
                load_1m: 0.20,
                load_5m: 0.18,
                load_15m: 0.12,
                tasks_running: 3
            }
        );
        assert_eq!(uptime_s("350735.47 234388.90\n"), Some(350_735.47));
        assert_eq!(
            cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\n"),
            Some("Some CPU @ 2.00GHz")
        );
        assert_eq!(cpu_model("processor\t: 0\nBogoMIPS\t: 100.00\n"), None);
    }

    #[test]
    fn what_is_something_else_is_none() {
        for text in ["", "nonsense", "cpu x", "cpu 1 2"] {
            assert_eq!(Stat::parse(text), None);
            assert_eq!(Memory::parse(text), None);
            assert_eq!(Load::parse(text), None);
            assert_eq!(uptime_s(text), None);
        }
    }
}
