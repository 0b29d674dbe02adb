//! Where it listens, what it says of it, and what it says where it cannot.

use std::process::Command;

use crate::process::{Process, command, complaint, run, unix_client};

#[test]
fn it_says_where_it_listens_with_the_real_ports() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("unix://{}", folder.path().join("fluxar.sock").display());
    let mut gateway = Process::start(&["--listen", &url, "--cores", "1"]);
    assert!(
        gateway.banner[1].contains("cores    1 on processor "),
        "{:?}",
        gateway.banner
    );
    let port: u16 = gateway.address("tcp://127.0.0.1:").parse().expect("a port");
    assert_ne!(port, 0);
    let port: u16 = gateway.address("ws://127.0.0.1:").parse().expect("a port");
    assert_ne!(port, 0);
    let _ = (gateway.client(), unix_client(gateway.address("unix://")));
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn an_address_in_use_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("unix://{}", folder.path().join("fluxar.sock").display());
    let gateway = Process::start(&["--listen", &url]);
    let tcp = format!("tcp://{}", gateway.address("tcp://"));
    let ws = format!("ws://{}", gateway.address("ws://"));
    // All of them at once, each with its line.
    let output = run(&["--listen", &tcp, "--listen", &url, "--listen", &ws]);
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty());
    for address in [
        gateway.address("tcp://"),
        gateway.address("ws://"),
        gateway.address("unix://"),
    ] {
        let line = said.lines().find(|line| line.contains(address));
        let line = line.unwrap_or_else(|| panic!("{address} is not named: {said}"));
        assert!(line.contains("in use by another process"), "{line}");
        assert!(line.contains("choose another"), "{line}");
    }
    // And the first one is not harmed by that.
    let _ = (gateway.client(), unix_client(gateway.address("unix://")));
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let output = run(&["--listen", "unix:///no/such/directory/fluxar.sock"]);
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the directory /no/such/directory does not exist"),
        "{said}"
    );
}

#[test]
fn a_file_in_the_way_of_a_socket_is_not_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("precious");
    std::fs::write(&path, "data").expect("a file");
    let output = run(&["--listen", &format!("unix://{}", path.display())]);
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("precious"), "{said}");
    assert_eq!(std::fs::read(&path).expect("still there"), b"data");
}

#[test]
fn an_address_of_another_machine_is_refused() {
    // TEST-NET-1: nobody's.
    let output = run(&["--listen", "tcp://192.0.2.1:9000"]);
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("192.0.2.1"), "{said}");
}

#[test]
fn a_privileged_port_is_explained() {
    // Where the limit is lowered, or where this process could not give up its privileges, there is nothing to test.
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    let mut unprivileged = Command::new("setpriv");
    unprivileged.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    unprivileged.arg(command().get_program());
    let runs = unprivileged
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !runs || first.trim().parse::<u16>().unwrap_or(1024) <= 81 {
        println!("not tested here: no way to be unprivileged");
        return;
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(command().get_program())
        .args(["--listen", "tcp://127.0.0.1:81"])
        .output()
        .expect("it runs");
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("127.0.0.1:81") && said.contains("1024"), "{said}");
}
