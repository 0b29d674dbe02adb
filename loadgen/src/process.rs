//! What processes use, as the kernel accounts for it: CPU time, resident memory, context switches.
//!
//! CPU time comes from each thread's `schedstat`, which is exact to the nanosecond; where the kernel has none, from
//! `stat`, which counts ticks. Figures of several processes are summed.

use std::fs;
use std::io;
use std::path::PathBuf;

/// What a set of processes used since they began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Use {
    /// CPU time of all threads that live, ns.
    pub cpu_ns: u64,
    /// CPU time of all threads, those that have ended too, ns; counted in ticks (see [`tick_ns`]).
    pub ticks_ns: u64,
    /// Time in which a thread of them could have run and waited for a processor, the sum of all that live, ns. What
    /// others take from a server shows here.
    pub waited_ns: u64,
    /// CPU time of each thread that lives, by its id, ns.
    pub threads_ns: Vec<(u32, u64)>,
    /// Voluntary context switches of all threads that live.
    pub switches_voluntary: u64,
    /// Involuntary ones.
    pub switches_involuntary: u64,
}

/// What these processes used.
///
/// # Errors
/// One of them is gone, or may not be looked at.
pub fn used(pids: &[u32]) -> io::Result<Use> {
    let mut sum = Use::default();
    for &pid in pids {
        sum.cpu_ns += cpu_ns(pid)?;
        sum.ticks_ns += ticks_ns(pid)?;
        for task in tasks(pid)? {
            // A thread may have ended since it was listed.
            if let Ok(schedstat) = fs::read_to_string(task.join("schedstat")) {
                sum.waited_ns += number(&schedstat, 1).unwrap_or(0);
                let thread = task.file_name().and_then(|name| name.to_str()?.parse().ok());
                let thread_ns = number(&schedstat, 0).unwrap_or(0);
                sum.threads_ns
                    .extend(thread.map(|thread: u32| (thread, thread_ns)));
            }
            let Ok(status) = fs::read_to_string(task.join("status")) else {
                continue;
            };
            sum.switches_voluntary += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            sum.switches_involuntary += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
    }
    Ok(sum)
}

impl Use {
    /// CPU time since another look, ns; and whether it had to be taken from ticks, since threads that have ended in between
    /// took theirs with them.
    #[must_use]
    pub fn cpu_since(&self, before: &Use) -> (u64, bool) {
        let cpu_ns = self.cpu_ns.saturating_sub(before.cpu_ns);
        let whole_ns = self.ticks_ns.saturating_sub(before.ticks_ns);
        // User and system time are rounded apart, at both ends.
        let slack_ns = 2 * tick_ns() + cpu_ns / 50;
        if whole_ns > cpu_ns.saturating_add(slack_ns) {
            (whole_ns, true)
        } else {
            (cpu_ns, false)
        }
    }

    /// CPU time since another look of the thread that used most, ns.
    #[must_use]
    pub fn busiest_since(&self, before: &Use) -> u64 {
        let was = |thread: u32| before.threads_ns.iter().find(|(other, _)| *other == thread);
        let spent = self.threads_ns.iter().map(|&(thread, now_ns)| {
            let was_ns = was(thread).map_or(0, |&(_, was_ns)| was_ns);
            now_ns.saturating_sub(was_ns)
        });
        spent.max().unwrap_or(0)
    }
}

/// How many processors these processes may use; at least one.
#[must_use]
pub fn processors(pids: &[u32]) -> u32 {
    let mut most = 1;
    for &pid in pids {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let allowed = pid.and_then(|pid| rustix::thread::sched_getaffinity(Some(pid)).ok());
        most = most.max(allowed.map_or(1, |allowed| allowed.count()));
    }
    most
}

/// A tick of the kernel's accounts, ns.
#[must_use]
pub fn tick_ns() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)
}

/// CPU time of a process, ns.
///
/// # Errors
/// It is gone, or may not be looked at.
pub fn cpu_ns(pid: u32) -> io::Result<u64> {
    let mut sum_ns = 0;
    for task in tasks(pid)? {
        match fs::read_to_string(task.join("schedstat")) {
            Ok(schedstat) => sum_ns += number(&schedstat, 0).unwrap_or(0),
            // A thread may have ended since it was listed; only a kernel without the file has it nowhere.
            Err(_) if fs::exists("/proc/self/schedstat").unwrap_or(false) => {}
            Err(_) => return ticks_ns(pid),
        }
    }
    Ok(sum_ns)
}

/// CPU time of one thread of this process, and the time in which it could have run and waited for a processor, ns.
///
/// # Errors
/// It has ended.
pub fn of_thread(thread: u32) -> io::Result<(u64, u64)> {
    let schedstat = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
    let number = |index| number(&schedstat, index).unwrap_or(0);
    Ok((number(0), number(1)))
}

/// Resident memory of these processes, bytes; counted page by page, which takes the kernel a moment.
///
/// # Errors
/// One of them is gone, or may not be looked at.
pub fn rss_exact_bytes(pids: &[u32]) -> io::Result<u64> {
    let mut sum_bytes = 0;
    for pid in pids {
        sum_bytes += match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            Ok(rollup) => field(&rollup, "Rss:").unwrap_or(0) * 1024,
            // Not ours to look into, or a kernel without it: the running count is public.
            Err(_) => rss_bytes(&[*pid])?,
        };
    }
    Ok(sum_bytes)
}

/// Resident memory of these processes by the kernel's running count, bytes: cheap, and a few hundred KiB off at most.
///
/// # Errors
/// One of them is gone.
pub fn rss_bytes(pids: &[u32]) -> io::Result<u64> {
    let mut sum_bytes = 0;
    for pid in pids {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
        let pages: u64 = statm
            .split_ascii_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .unwrap_or(0);
        sum_bytes += pages * rustix::param::page_size() as u64;
    }
    Ok(sum_bytes)
}

/// Sockets on a local TCP port that have a process at their end: what a server has not closed. `None` if the kernel's
/// tables cannot be read.
#[must_use]
pub fn sockets_held(port: u16) -> Option<usize> {
    let mut held = 0;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(table) = fs::read_to_string(table) else {
            continue;
        };
        held += table.lines().skip(1).filter(|line| is_held(line, port)).count();
    }
    (held > 0).then_some(held)
}

/// Whether a line of the table is a connection on the port (state 0A listens) that still has an inode.
fn is_held(line: &str, port: u16) -> bool {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1).and_then(|address| address.rsplit_once(':'));
    let on_port = local.is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port));
    let state = words.nth(1);
    let inode = words.nth(5);
    on_port && state != Some("0A") && inode.is_some_and(|inode| inode != "0")
}

fn tasks(pid: u32) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(format!("/proc/{pid}/task"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect()
}

fn ticks_ns(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name stands in parentheses and may hold anything; the fields behind it are numbered from 3.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let ticks: u64 = behind
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    Ok(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

/// The number at a place in a row of words.
fn number(text: &str, index: usize) -> Option<u64> {
    text.split_ascii_whitespace().nth(index)?.parse().ok()
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    number(text.lines().find_map(|line| line.strip_prefix(name))?, 0)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn own() -> u32 {
        std::process::id()
    }

    #[test]
    fn work_is_seen_as_cpu_time() {
        let before = used(&[own()]).expect("own figures");
        let mut sum = 0u64;
        while used(&[own()]).expect("own figures").cpu_ns < before.cpu_ns + 5_000_000 {
            sum = (0..100_000u64).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
        }
        let own_thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let (thread, _) = of_thread(own_thread).expect("this thread");
        assert!(thread > 0 && thread <= cpu_ns(own()).expect("own figures"));
        assert!(ticks_ns(own()).expect("own figures") < 3_600_000_000_000);
        let after = used(&[own()]).expect("own figures");
        assert!(after.busiest_since(&before) > 0);
        assert!(after.cpu_since(&before).0 > 0);
        assert!(processors(&[own()]) >= 1);
    }

    #[test]
    fn threads_that_ended_are_not_forgotten() {
        let mut before = Use {
            cpu_ns: 500_000_000,
            ticks_ns: 500_000_000,
            threads_ns: vec![(1, 100), (2, 400)],
            ..Use::default()
        };
        let mut after = Use {
            cpu_ns: 1_500_000_000,
            ticks_ns: 1_520_000_000,
            threads_ns: vec![(1, 300), (2, 450), (3, 150)],
            ..Use::default()
        };
        assert_eq!(
            after.cpu_since(&before),
            (1_000_000_000, false),
            "within the rounding"
        );
        assert_eq!(after.busiest_since(&before), 200);
        after.ticks_ns = 1_800_000_000;
        assert_eq!(after.cpu_since(&before), (1_300_000_000, true));
        before.cpu_ns = 2_000_000_000;
        assert_eq!(
            after.cpu_since(&before),
            (1_300_000_000, true),
            "they took more than came"
        );
    }

    #[test]
    fn memory_that_is_touched_is_seen() {
        let before = rss_exact_bytes(&[own()]).expect("own figures");
        let touched = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = rss_exact_bytes(&[own()]).expect("own figures");
        assert!(after > before + (32 << 20), "{before} {after}");
        assert!(rss_bytes(&[own()]).expect("own figures") > before + (16 << 20));
        drop(touched);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(used(&[u32::MAX - 1]).is_err());
        assert!(rss_exact_bytes(&[u32::MAX - 1]).is_err());
    }

    #[test]
    fn a_server_that_closes_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let clients: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(("127.0.0.1", port)).expect("a connection"))
            .collect();
        let mut served: Vec<_> = (0..3).map(|_| listener.accept().expect("a connection")).collect();
        assert_eq!(sockets_held(port), Some(3));
        served.pop();
        assert_eq!(sockets_held(port), Some(2));
        drop(clients);
    }
}
