//! A sandbox that forbids io_uring, for real: a seccomp filter on the asking thread, and the line that comes of it.

#![allow(unsafe_code)]

use std::thread;

use fluxar_engine::probe::probe;
use fluxar_engine::uring::UringConfig;

/// These three have the same numbers on every architecture that Rust's Linux targets have.
const IO_URING_SETUP: u32 = 425;
const IO_URING_ENTER: u32 = 426;
const IO_URING_REGISTER: u32 = 427;

/// From now on the calling thread, and only it, gets `error` for the system call `number`.
fn forbid(number: u32, error: i32) {
    let filter = |code: u32, if_true: u8, if_false: u8, operand: u32| libc::sock_filter {
        code: code as u16,
        jt: if_true,
        jf: if_false,
        k: operand,
    };
    let mut program = [
        // The system call's number is the first word of what a filter sees.
        filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        filter(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | error as u32,
        ),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: prctl reads the program, which outlives both calls, and changes nothing but what this thread may do.
    let (privileges, seccomp) = unsafe {
        (
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ),
        )
    };
    assert_eq!(
        (privileges, seccomp),
        (0, 0),
        "{}",
        std::io::Error::last_os_error()
    );
}

/// The one line that a thread gets which may not make this system call.
fn told(number: u32, error: i32) -> String {
    let asking = thread::spawn(move || {
        forbid(number, error);
        probe(1, &UringConfig::default())
    });
    let report = asking.join().expect("no panic");
    let lines: Vec<String> = report.fatal.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.into_iter().next().unwrap_or_default()
}

#[test]
fn a_forbidden_setup_is_told_as_seccomps_doing() {
    let line = told(IO_URING_SETUP, libc::EPERM);
    assert!(
        line.contains("io_uring_setup was refused (EPERM)") && line.contains("seccomp profile"),
        "{line}"
    );
    assert!(line.contains("Allow io_uring_setup"), "{line}");
}

#[test]
fn a_hidden_setup_is_told_as_missing_or_hidden() {
    let line = told(IO_URING_SETUP, libc::ENOSYS);
    assert!(
        line.contains("ENOSYS") && line.contains("seccomp profile hides it"),
        "{line}"
    );
}

#[test]
fn io_uring_by_halves_is_noticed() {
    for number in [IO_URING_REGISTER, IO_URING_ENTER] {
        let line = told(number, libc::EPERM);
        assert!(
            line.contains("seccomp profile allows io_uring by halves"),
            "{line}"
        );
    }
}
