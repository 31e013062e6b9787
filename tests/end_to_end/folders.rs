//! A server that cannot serve says why, and leaves what it found as it was.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

use tempfile::tempdir;

use crate::harness::Server;
use crate::harness::clients::mosquitto_pub;
use crate::harness::server::{Addresses, refusal};

#[test]
fn a_second_server_on_a_data_folder_is_refused() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    mosquitto_pub(&server, "a/b", "1", &[]);
    let said = refusal(&data, Addresses::free(), &[]);
    assert!(said.contains("in use") && said.contains("--data"), "{said}");
    server.assert_alive();
    mosquitto_pub(&server, "a/b", "2", &[]);
    assert_eq!(server.number("SELECT COUNT(*) AS n FROM mqtt;"), 2);
}

#[test]
fn a_taken_port_is_named() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data);
    mosquitto_pub(&server, "a/b", "1", &[]);
    let taken = Addresses {
        mqtt: server.mqtt(),
        ..Addresses::free()
    };
    let said = refusal(&folder.path().join("other"), taken, &[]);
    assert!(
        said.contains(&server.mqtt().to_string()) && said.contains("in use"),
        "{said}"
    );

    assert!(server.stop().success(), "SIGTERM ends cleanly");
    let addresses = Addresses::free();
    let _listener = TcpListener::bind(addresses.http).unwrap();
    let said = refusal(&data, addresses, &[]);
    assert!(
        said.contains(&addresses.http.to_string()) && said.contains("in use"),
        "{said}"
    );
    assert_eq!(
        Server::start(&data).number("SELECT COUNT(*) AS n FROM mqtt;"),
        1,
        "the refusal cost nothing"
    );
}

#[test]
fn a_folder_of_another_version_is_refused_and_left_alone() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data);
    mosquitto_pub(&server, "a/b", "1", &[]);
    assert!(server.stop().success());

    let format = data.join("FORMAT");
    let ours = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, "headwater data folder\nformat = 99\n").unwrap();
    let before = files(&data);
    let said = refusal(&data, Addresses::free(), &[]);
    assert!(said.contains("99") && said.contains("--data"), "{said}");
    assert_eq!(files(&data), before, "not a byte was changed");

    std::fs::write(&format, ours).unwrap();
    assert_eq!(Server::start(&data).number("SELECT COUNT(*) AS n FROM mqtt;"), 1);
}

#[test]
fn a_folder_that_is_not_ours_is_refused_and_left_alone() {
    let folder = tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.txt"), "the only copy").unwrap();
    let before = files(folder.path());
    let said = refusal(folder.path(), Addresses::free(), &[]);
    assert!(said.contains("not a headwater data folder"), "{said}");
    assert_eq!(files(folder.path()), before);
}

#[test]
fn settings_are_checked_before_anything_is_touched() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    for (setting, named) in [
        ("store.groop=4", "groop"),
        ("store.groups=0", "store.groups"),
        ("sql.idle=10", "unit"),
    ] {
        let said = refusal(&data, Addresses::free(), &[setting]);
        assert!(said.contains(named), "{setting}: {said}");
    }
    assert!(!data.exists());
    assert!(Server::start(&data).stop().success());
    let said = refusal(&data, Addresses::free(), &["store.groups=8"]);
    assert!(
        said.contains("store.groups = 4"),
        "the number of groups is fixed: {said}"
    );
}

/// Every file and what is in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = std::fs::read(&path).unwrap();
                found.insert(path.display().to_string(), content);
            }
        }
    }
    found
}
