//! What the kernel offers, asked at start, and said in words that name the remedy.
//!
//! ```text
//!   kernel ── ask ──> Findings (plain outcomes) ── judge ──> Report: fatal (cannot run), missing (runs with less)
//! ```
//!
//! What matters is tried, not looked up by version: distributions carry features back, and sandboxes take them away.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use io_uring::opcode;

use crate::driver::{Completion, Driver, ReceiveEnd, Token};
use crate::rlimit;
use crate::uring::{Setup, Socket, UringConfig, UringDriver, UringHub, set_up_best};

/// What the kernel offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// As `uname -r` has it.
    pub kernel: String,
    /// Why the engine cannot run here. Empty: it can.
    pub fatal: Vec<Fatal>,
    /// What it has to do without.
    pub missing: Vec<Missing>,
}

/// A reason why the engine cannot run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal {
    /// What happened.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

/// Something that the engine does without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What, and since which kernel it is there.
    pub feature: &'static str,
    /// What that means here.
    pub consequence: &'static str,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}", self.cause, self.remedy)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this kernel lacks {}: {}", self.feature, self.consequence)
    }
}

impl std::error::Error for Fatal {}

/// What was found, before anything is made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Findings {
    kernel: String,
    /// `kernel.io_uring_disabled`, where there is such a setting.
    disabled: Option<u8>,
    /// `RLIMIT_MEMLOCK`; `None` is no limit.
    lockable_bytes: Option<u64>,
    /// The system's answer to making one core's ring, by its error number.
    ring: Result<Offer, i32>,
}

/// What a ring that could be made can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Offer {
    setup: Setup,
    never_drops: bool,
    timed_waits: bool,
    no_iowait: bool,
    ring_messages: bool,
    truncates: bool,
    /// The answer to registering receive buffers.
    buffers: Result<(), i32>,
    /// What a multishot receive came to: bytes, or an error. Not tried if there are no buffers.
    receive: Result<(), i32>,
}

/// Asks the kernel for what `cores` cores with rings of this size need. It makes a ring of that size and takes it
/// down again.
#[must_use]
pub fn probe(cores: usize, config: &UringConfig) -> Report {
    judge(&ask(config), cores, config)
}

/// Explains why [`UringDriver::new`] failed on one of `cores` cores: the first rings may fit where the last does not.
#[must_use]
pub fn explain(error: &io::Error, cores: usize, config: &UringConfig) -> Fatal {
    match error.raw_os_error() {
        Some(number) => refused_ring(number, &circumstances(Err(number)), cores, config),
        // The engine's own refusal, which says what is wrong.
        None => Fatal {
            cause: error.to_string(),
            remedy: "Correct the configuration".to_owned(),
        },
    }
}

fn ask(config: &UringConfig) -> Findings {
    circumstances(ask_for_ring(config).map_err(error_number))
}

fn circumstances(ring: Result<Offer, i32>) -> Findings {
    let read = |path: &str| fs::read_to_string(path).ok();
    Findings {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        disabled: read("/proc/sys/kernel/io_uring_disabled").and_then(|text| text.trim().parse().ok()),
        lockable_bytes: rlimit::locked_memory_bytes(),
        ring,
    }
}

fn ask_for_ring(config: &UringConfig) -> io::Result<Offer> {
    let (ring, setup) = set_up_best(config)?;
    let params = ring.params();
    let mut operations = io_uring::Probe::new();
    let known = ring.submitter().register_probe(&mut operations).is_ok();
    let offer = Offer {
        setup,
        never_drops: params.is_feature_nodrop(),
        timed_waits: params.is_feature_ext_arg(),
        no_iowait: params.is_feature_no_iowait(),
        ring_messages: known && operations.is_supported(opcode::MsgRingData::CODE),
        truncates: known && operations.is_supported(opcode::Ftruncate::CODE),
        buffers: Ok(()),
        receive: Ok(()),
    };
    // The trial makes a ring of its own; both at once might not fit.
    drop(ring);
    Ok(match try_receive(config) {
        Ok(()) => offer,
        Err(Trial::Buffers(error)) => Offer {
            buffers: Err(error),
            ..offer
        },
        Err(Trial::Receive(error)) => Offer {
            receive: Err(error),
            ..offer
        },
    })
}

/// Where the trial failed, with the error number.
enum Trial {
    Buffers(i32),
    Receive(i32),
}

/// Receives a byte as the engine does: multishot, into a provided buffer. Only doing it shows whether the kernel can.
fn try_receive(config: &UringConfig) -> Result<(), Trial> {
    let buffers = |error: io::Error| Trial::Buffers(error_number(error));
    let receive = |error: io::Error| Trial::Receive(error_number(error));
    let hub = UringHub::new(1).map_err(buffers)?;
    let mut driver = UringDriver::new(&hub, 0, config).map_err(buffers)?;
    let (ours, mut theirs) = UnixStream::pair().map_err(receive)?;
    theirs.write_all(b"?").map_err(receive)?;
    let socket = Socket::from(OwnedFd::from(ours));
    let token = Token {
        slot: 0,
        generation: 0,
    };
    driver.receive(token, &socket);
    let give_up_at_ns = driver.now_ns() + 1_000_000_000;
    let outcome = loop {
        driver.turn(Some(give_up_at_ns)).map_err(receive)?;
        match driver.poll() {
            Some(Completion::Received { .. }) => break Ok(()),
            Some(Completion::ReceiveEnded {
                end: ReceiveEnd::Failed(error),
                ..
            }) => break Err(receive(error)),
            Some(_) => break Err(Trial::Receive(libc::EIO)),
            None if driver.now_ns() >= give_up_at_ns => break Err(Trial::Receive(libc::ETIME)),
            None => {}
        }
    };
    driver.close(token, socket);
    outcome
}

fn error_number(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// How the system calls an error: `EPERM`, or its number.
fn name(error: i32) -> String {
    match error {
        libc::EPERM => "EPERM".to_owned(),
        libc::EACCES => "EACCES".to_owned(),
        libc::ENOSYS => "ENOSYS".to_owned(),
        libc::ENOMEM => "ENOMEM".to_owned(),
        libc::EMFILE => "EMFILE".to_owned(),
        libc::ENFILE => "ENFILE".to_owned(),
        libc::EINVAL => "EINVAL".to_owned(),
        _ => io::Error::from_raw_os_error(error).to_string(),
    }
}

fn judge(findings: &Findings, cores: usize, config: &UringConfig) -> Report {
    let mut report = Report {
        kernel: findings.kernel.clone(),
        fatal: Vec::new(),
        missing: Vec::new(),
    };
    match findings.ring {
        Err(error) => report.fatal.push(refused_ring(error, findings, cores, config)),
        Ok(offer) => {
            report.fatal.extend(shortcomings(offer, findings, cores, config));
            if report.fatal.is_empty() {
                report.missing = omissions(offer);
            }
        }
    }
    report
}

/// What a refusal of `io_uring_setup` means.
fn refused_ring(error: i32, findings: &Findings, cores: usize, config: &UringConfig) -> Fatal {
    let fatal = |cause: String, remedy: &str| Fatal {
        cause,
        remedy: remedy.to_owned(),
    };
    let refused = format!("io_uring_setup was refused ({})", name(error));
    match error {
        libc::EPERM | libc::EACCES => match findings.disabled {
            Some(2) => fatal(
                format!("{refused}: kernel.io_uring_disabled is 2, io_uring is off for everybody"),
                "Set it to 0: sysctl -w kernel.io_uring_disabled=0",
            ),
            Some(1) => fatal(
                format!(
                    "{refused}: kernel.io_uring_disabled is 1, io_uring is off for unprivileged processes"
                ),
                "Set it to 0, or add this user's group to kernel.io_uring_group",
            ),
            _ => fatal(
                format!("{refused}: the container's or service's seccomp profile forbids it"),
                "Allow io_uring_setup, io_uring_enter and io_uring_register in that profile",
            ),
        },
        libc::ENOSYS => fatal(
            format!(
                "{refused}: Linux {} does not have it, or a seccomp profile hides it",
                findings.kernel
            ),
            "Use Linux 6.0 or later; in a container, allow io_uring_setup, io_uring_enter and io_uring_register",
        ),
        libc::ENOMEM => out_of_memory(&refused, findings, cores, config),
        libc::EMFILE | libc::ENFILE => fatal(
            format!("{refused}: out of file descriptors"),
            "Raise the limit: ulimit -n, or LimitNOFILE= in the service's unit",
        ),
        libc::EINVAL => fatal(
            format!(
                "{refused}: Linux {} is too old, or does not take rings of this size",
                findings.kernel
            ),
            "Use Linux 6.0 or later, or smaller rings",
        ),
        _ => fatal(refused, "See the kernel's log (dmesg)"),
    }
}

fn out_of_memory(what: &str, findings: &Findings, cores: usize, config: &UringConfig) -> Fatal {
    let needed_kib = (config.locked_bytes() * cores as u64).div_ceil(1024);
    match findings.lockable_bytes {
        Some(limit) => Fatal {
            cause: format!(
                "{what}: the rings of {cores} core(s) need about {needed_kib} KiB of locked memory, RLIMIT_MEMLOCK \
                 allows {} KiB, of which other processes of this user may hold a part",
                limit / 1024
            ),
            remedy: "Raise it (ulimit -l, or LimitMEMLOCK= in the service's unit), or use fewer cores or smaller rings"
                .to_owned(),
        },
        None => Fatal {
            cause: format!("{what}: the kernel has no memory for it"),
            remedy: "Free some, or raise the container's memory limit".to_owned(),
        },
    }
}

/// What a ring that was granted lacks and the engine cannot do without.
fn shortcomings(offer: Offer, findings: &Findings, cores: usize, config: &UringConfig) -> Option<Fatal> {
    let too_old = |feature: &str| Fatal {
        cause: format!("Linux {} lacks {feature}", findings.kernel),
        remedy: "Use Linux 6.0 or later".to_owned(),
    };
    if !offer.never_drops || !offer.timed_waits {
        return Some(too_old(
            "completions that are never dropped and waits that end in time (5.11)",
        ));
    }
    match (offer.buffers, offer.receive) {
        (Ok(()), Ok(())) => None,
        (Err(libc::ENOMEM), _) => {
            Some(out_of_memory("registering receive buffers was refused (ENOMEM)", findings, cores, config))
        }
        (Err(libc::EINVAL), _) => Some(too_old("provided-buffer rings (5.19)")),
        (_, Err(libc::EINVAL)) => Some(too_old("multishot receive (6.0)")),
        (Err(libc::EPERM | libc::EACCES | libc::ENOSYS), _) => Some(Fatal {
            cause: "io_uring_setup is allowed, but io_uring_register or io_uring_enter is not: a seccomp profile \
                    allows io_uring by halves"
                .to_owned(),
            remedy: "Allow all three system calls in that profile".to_owned(),
        }),
        (Err(error), _) => Some(Fatal {
            cause: format!("receive buffers cannot be set up ({})", name(error)),
            remedy: "See the kernel's log (dmesg)".to_owned(),
        }),
        (_, Err(error)) => Some(Fatal {
            cause: format!("a trial receive through io_uring failed ({})", name(error)),
            remedy: "Allow io_uring_enter if a seccomp profile is in force; see the kernel's log (dmesg)".to_owned(),
        }),
    }
}

fn omissions(offer: Offer) -> Vec<Missing> {
    let table = [
        (
            offer.setup != Setup::Deferred,
            Missing {
                feature: "deferred task runs (6.1)",
                consequence: "call traffic costs some more processor time",
            },
        ),
        (
            !offer.ring_messages,
            Missing {
                feature: "messages between rings (5.18)",
                consequence: "cores wake each other by eventfd, which costs some µs more",
            },
        ),
        (
            !offer.truncates,
            Missing {
                feature: "cutting files through the ring (6.9)",
                consequence: "a core waits some µs when it cuts a segment of a log to its length",
            },
        ),
        (
            !offer.no_iowait,
            Missing {
                feature: "waits that do not count as I/O wait (6.15)",
                consequence: "an idle gateway shows up as I/O wait in top and vmstat; it is harmless",
            },
        ),
    ];
    table
        .into_iter()
        .filter(|(lacks, _)| *lacks)
        .map(|(_, missing)| missing)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Offer = Offer {
        setup: Setup::Deferred,
        never_drops: true,
        timed_waits: true,
        no_iowait: true,
        ring_messages: true,
        truncates: true,
        buffers: Ok(()),
        receive: Ok(()),
    };

    fn report(ring: Result<Offer, i32>, disabled: Option<u8>) -> Report {
        let findings = Findings {
            kernel: "5.15.0".to_owned(),
            disabled,
            lockable_bytes: Some(64 * 1024),
            ring,
        };
        judge(&findings, 4, &UringConfig::default())
    }

    fn fatal(ring: Result<Offer, i32>, disabled: Option<u8>) -> String {
        let report = report(ring, disabled);
        assert_eq!(report.fatal.len(), 1, "one clear line: {report:?}");
        let line = report.fatal[0].to_string();
        assert!(!line.contains('\n') && report.missing.is_empty());
        line
    }

    fn has(line: &str, words: &[&str]) {
        for word in words {
            assert!(line.contains(word), "{word:?} is not in {line:?}");
        }
    }

    #[test]
    fn this_kernel_runs_the_engine() {
        let report = probe(2, &UringConfig::default());
        assert_eq!(report.fatal, []);
        assert!(!report.kernel.is_empty());
    }

    #[test]
    fn a_refused_setup_names_its_cause_and_its_remedy() {
        has(
            &fatal(Err(libc::EPERM), Some(2)),
            &["EPERM", "io_uring_disabled is 2", "sysctl"],
        );
        has(
            &fatal(Err(libc::EPERM), Some(1)),
            &["io_uring_disabled is 1", "io_uring_group"],
        );
        has(
            &fatal(Err(libc::EPERM), Some(0)),
            &["seccomp", "Allow io_uring_setup"],
        );
        has(&fatal(Err(libc::EPERM), None), &["seccomp"]);
        has(
            &fatal(Err(libc::ENOSYS), None),
            &["ENOSYS", "5.15.0", "6.0 or later"],
        );
        has(&fatal(Err(libc::EINVAL), None), &["too old", "6.0 or later"]);
        has(&fatal(Err(libc::EMFILE), None), &["descriptors", "ulimit -n"]);
        has(&fatal(Err(libc::EIO), None), &["refused", "dmesg"]);
    }

    #[test]
    fn too_little_lockable_memory_is_said_in_numbers() {
        let kib = 4 * UringConfig::default().locked_bytes() / 1024;
        let line = fatal(Err(libc::ENOMEM), None);
        has(
            &line,
            &[
                &format!("{kib} KiB"),
                "4 core(s)",
                "allows 64 KiB",
                "ulimit -l",
                "LimitMEMLOCK",
            ],
        );
        has(
            &fatal(
                Ok(Offer {
                    buffers: Err(libc::ENOMEM),
                    ..FULL
                }),
                None,
            ),
            &["receive buffers", "ulimit -l"],
        );
    }

    #[test]
    fn a_core_that_cannot_start_is_explained() {
        let config = UringConfig::default();
        let hub = UringHub::new(1).expect("hub");
        let error = UringDriver::new(&hub, 1, &config).expect_err("beyond the hub");
        has(
            &explain(&error, 1, &config).to_string(),
            &["core 1", "configuration"],
        );
        has(
            &explain(&io::Error::from_raw_os_error(libc::ENOMEM), 64, &config).to_string(),
            &["ENOMEM"],
        );
    }

    #[test]
    fn old_kernels_are_told_what_they_lack() {
        has(
            &fatal(
                Ok(Offer {
                    timed_waits: false,
                    ..FULL
                }),
                None,
            ),
            &["5.15.0", "5.11"],
        );
        has(
            &fatal(
                Ok(Offer {
                    buffers: Err(libc::EINVAL),
                    ..FULL
                }),
                None,
            ),
            &["buffer rings (5.19)"],
        );
        has(
            &fatal(
                Ok(Offer {
                    receive: Err(libc::EINVAL),
                    ..FULL
                }),
                None,
            ),
            &["multishot receive (6.0)"],
        );
        has(
            &fatal(
                Ok(Offer {
                    buffers: Err(libc::EPERM),
                    ..FULL
                }),
                None,
            ),
            &["by halves"],
        );
        has(
            &fatal(
                Ok(Offer {
                    receive: Err(libc::ETIME),
                    ..FULL
                }),
                None,
            ),
            &["trial receive"],
        );
    }

    #[test]
    fn what_is_only_missed_is_told_with_its_consequence() {
        assert_eq!(report(Ok(FULL), None).missing, []);
        let less = Offer {
            setup: Setup::Cooperative,
            no_iowait: false,
            ring_messages: false,
            truncates: false,
            ..FULL
        };
        let report = report(Ok(less), None);
        assert_eq!(report.fatal, []);
        let lines: Vec<String> = report.missing.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 4);
        has(
            &lines[1],
            &["this kernel lacks messages between rings", "eventfd"],
        );
    }
}
