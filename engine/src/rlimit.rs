//! The process's limits that the engine cares about: how many descriptors, how much locked memory.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the number of descriptors that the process may have to what an unprivileged process may raise it to (the
/// hard limit), because each connection is one. Returns the limit before and after; `u64::MAX` is "no limit".
///
/// # Errors
/// The system's refusal, which leaves the limit as it was.
pub fn raise_descriptor_limit() -> io::Result<(u64, u64)> {
    let limit = getrlimit(Resource::Nofile);
    let old = limit.current.unwrap_or(u64::MAX);
    let new = limit.maximum.unwrap_or(u64::MAX);
    if new > old {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )?;
    }
    Ok((old, new.max(old)))
}

/// How many bytes of locked memory the process may have; `None` is "no limit". A privileged process is not bound
/// by it.
pub(crate) fn locked_memory_bytes() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one_and_stays() {
        let (old, new) = raise_descriptor_limit().expect("raise");
        assert!(new >= old);
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(raise_descriptor_limit().expect("again"), (new, new));
    }
}
