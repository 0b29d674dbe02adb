//! Too little lockable memory, for real: the line says how much there is and how much it takes. Alone in its process,
//! whose limit it lowers.

use fluxar_engine::probe::{explain, probe};
use fluxar_engine::uring::{UringConfig, UringDriver, UringHub};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

#[test]
fn rings_that_do_not_fit_are_explained_in_numbers() {
    // A process that may lock what it likes is not bound by the limit.
    let mut sets = capabilities(None).expect("capabilities");
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).expect("drop one");
    let hard = getrlimit(Resource::Memlock).maximum;
    setrlimit(
        Resource::Memlock,
        Rlimit {
            current: Some(16 * 1024),
            maximum: hard,
        },
    )
    .expect("lower");
    let config = UringConfig::default();
    let report = probe(4, &config);
    let line = report.fatal.first().expect("16 KiB are not enough").to_string();
    let needed = format!("{} KiB", 4 * config.locked_bytes() / 1024);
    for words in ["ENOMEM", "allows 16 KiB", "4 core(s)", &needed, "ulimit -l"] {
        assert!(line.contains(words), "{words:?} is not in {line:?}");
    }
    let error = UringDriver::new(&UringHub::new(1).expect("hub"), 0, &config).expect_err("does not fit");
    assert_eq!(explain(&error, 4, &config).to_string(), line);
}
