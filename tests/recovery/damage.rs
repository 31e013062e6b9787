//! A disk that alters data: whatever file it is in, the server refuses to start or says what it cannot read, changes
//! nothing, and names `headwater store check`, which finds the place.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::tempdir;

use crate::harness::cli::finish;
use crate::harness::clients::mosquitto_pub;
use crate::harness::mqtt::Load;
use crate::harness::server::{Addresses, HEADWATER, refusal};
use crate::harness::{Server, http, wait_for};

const MESSAGES: usize = 60;
/// Flushes often, so that every kind of file is there.
const FLUSHING: &[&str] = &["store.flush_every=64KiB"];

/// `headwater store ...` on a folder.
fn store(data: &Path, arguments: &[&str]) -> Output {
    let child = Command::new(HEADWATER)
        .arg("store")
        .args(arguments)
        .arg("--data")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("headwater can be started");
    finish(child, "headwater store")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with some messages in it, of a server that was stopped or killed.
fn filled(data: &Path, stop: bool) {
    let mut server = Server::with(data, FLUSHING);
    server.sql("CREATE STREAM kept FROM TOPIC 'kept/{device}';");
    for number in 0..MESSAGES {
        // Digits of large numbers: they do not compress to nothing.
        let digits: String = (1..=60)
            .map(|factor| ((number * 60 + factor) as u128).pow(10).to_string())
            .collect();
        let payload = format!(r#"{{"n":{number},"digits":"{digits}"}}"#);
        mosquitto_pub(&server, &format!("kept/{}", number % 4), &payload, &[]);
    }
    if stop {
        assert!(server.stop().success());
    } else {
        server.kill();
    }
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

fn named(data: &Path, folder: &str, belongs: fn(&str) -> bool) -> Vec<PathBuf> {
    let all = files(&data.join(folder)).into_keys();
    all.filter(|path| belongs(&path.file_name().unwrap().to_string_lossy()))
        .collect()
}

fn flip(path: &Path, at: usize) -> Vec<u8> {
    let whole = fs::read(path).unwrap();
    let mut damaged = whole.clone();
    damaged[at] ^= 0x20;
    fs::write(path, damaged).unwrap();
    whole
}

#[test]
fn a_sound_folder_is_checked_and_dumped() {
    for stop in [true, false] {
        let folder = tempdir().unwrap();
        let data = folder.path().join("data");
        filled(&data, stop);
        let before = files(&data);
        for arguments in [&["check"][..], &["check", "--full"]] {
            let output = store(&data, arguments);
            let said = text(&output.stdout);
            assert!(output.status.success(), "{said}\n{}", text(&output.stderr));
            assert!(
                said.contains("5 groups; raft log: ") && said.lines().count() == 1,
                "{said}"
            );
        }
        let raft = store(&data, &["dump", "--what", "raft"]);
        let in_log = text(&raft.stdout)
            .lines()
            .filter(|line| line.contains(r#""records":1"#))
            .count();
        assert!(in_log > 0, "{}", text(&raft.stderr));
        let dumped = store(&data, &["dump", "--stream", "kept", "--limit", "3"]);
        assert!(dumped.status.success(), "{}", text(&dumped.stderr));
        for line in text(&dumped.stdout).lines() {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            assert!(
                line["stream"] == "kept" && line["topic"].as_str().unwrap().starts_with("kept/"),
                "{line}"
            );
        }
        assert!(files(&data) == before, "not a byte was changed");
    }
}

#[test]
fn a_folder_in_use_is_not_looked_at() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let _server = Server::start(&data);
    for arguments in ["check", "dump"] {
        let output = store(&data, &[arguments]);
        assert!(
            !output.status.success() && text(&output.stderr).contains("in use"),
            "{output:?}"
        );
    }
    let output = store(&folder.path().join("nowhere"), &["check"]);
    assert!(!output.status.success(), "{output:?}");
    assert!(!folder.path().join("nowhere").exists());
}

#[test]
fn a_flipped_bit_is_refused_and_named() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    filled(&data, true);
    let log = named(&data, "raft", |name| name.ends_with(".raftlog"));
    let manifest = named(&data, "state", |name| name.starts_with("MANIFEST"));
    let cases = [
        (log[0].clone(), 2_000, "is damaged at byte"),
        (manifest[0].clone(), 40, "cannot open the records and tables"),
        (data.join("state/CURRENT"), 9, "cannot open the records and tables"),
        (data.join("FORMAT"), 42, "does not match its checksum"),
    ];
    for (path, at, expected) in cases {
        let whole = flip(&path, at);
        let before = files(&data);
        let said = refusal(&data, Addresses::free(), FLUSHING);
        assert!(
            said.contains(expected) && said.contains("headwater store check"),
            "{}: {said}",
            path.display()
        );
        let after = files(&data);
        let changed: Vec<_> = before
            .iter()
            .filter(|(path, bytes)| after.get(*path) != Some(bytes))
            .collect();
        // RocksDB keeps a log of its own for people.
        let ours = |path: &Path| !path.file_name().unwrap().to_string_lossy().starts_with("LOG");
        assert!(
            changed.iter().all(|(path, _)| !ours(path)),
            "{:?} changed",
            changed[0].0
        );

        let checked = store(&data, &["check"]);
        let found = text(&checked.stdout) + &text(&checked.stderr);
        assert!(!checked.status.success(), "{}: {found}", path.display());
        fs::write(&path, whole).unwrap();
    }
    let server = Server::with(&data, FLUSHING);
    assert_eq!(
        server.number("SELECT COUNT(*) AS n FROM kept;"),
        MESSAGES as u64,
        "nothing was lost"
    );
}

#[test]
fn a_database_without_its_beginning_is_not_begun_anew() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    filled(&data, true);
    let current = data.join("state/CURRENT");
    let whole = fs::read(&current).unwrap();
    fs::remove_file(&current).unwrap();
    let said = refusal(&data, Addresses::free(), FLUSHING);
    assert!(
        said.contains("CURRENT is missing") && said.contains("headwater store check"),
        "{said}"
    );
    assert!(!store(&data, &["check"]).status.success());
    fs::write(&current, whole).unwrap();
    let server = Server::with(&data, FLUSHING);
    assert_eq!(server.number("SELECT COUNT(*) AS n FROM kept;"), MESSAGES as u64);
}

/// Records are read when somebody asks for them: never fewer rows than there were, and a reason.
#[test]
fn records_that_do_not_match_their_checksum_are_an_error() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    filled(&data, true);
    let tables = named(&data, "state", |name| name.ends_with(".sst"));
    let largest = tables
        .iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let middle = fs::metadata(largest).unwrap().len() as usize / 3;
    let whole = flip(largest, middle);

    let checked = store(&data, &["check", "--full"]);
    let found = text(&checked.stdout);
    let name = largest.file_name().unwrap().to_string_lossy().into_owned();
    assert!(!checked.status.success() && found.contains(&name), "{found}");

    let server = Server::with(&data, FLUSHING);
    let answer = http::sql(&server, "SELECT COUNT(*) AS n FROM kept;");
    assert!(
        answer.status >= 500 && answer.body.contains("headwater store check"),
        "{answer:?}"
    );
    drop(server);
    // A merge that meets the damage gives up, and the server goes on.
    let mut server = Server::with(&data, &["store.flush_every=64KiB", "store.slice_size=64KiB"]);
    server.sql("CREATE STREAM other FROM TOPIC 'other';");
    mosquitto_pub(&server, "kept/0", r#"{"n":-1}"#, &[]);
    wait_for("the damaged slice is through with its merge", || {
        let metrics = http::get(&server.url("/metrics"))?.body;
        let counts = |name: &str| {
            metrics
                .lines()
                .any(|line| line.starts_with(name) && !line.ends_with(" 0"))
        };
        // Which of them is decided by what the damage strikes.
        if counts("headwater_store_slices_damaged ") || counts("headwater_store_slices_sealed_total ") {
            Ok(())
        } else {
            Err("no slice was looked at".to_owned())
        }
    });
    server.assert_alive();
    mosquitto_pub(&server, "other", r#"{"n":1}"#, &[]);
    assert_eq!(server.number("SELECT COUNT(*) AS n FROM other;"), 1);
    assert!(http::sql(&server, "SELECT COUNT(*) AS n FROM kept;").status >= 500);
    drop(server);
    // A merge may have tried and left the file behind: put back only what is still there.
    if largest.exists() {
        fs::write(largest, whole).unwrap();
        let server = Server::with(&data, FLUSHING);
        assert_eq!(server.number("SELECT COUNT(*) AS n FROM kept;"), MESSAGES as u64 + 1);
    }
}

/// RocksDB joins files of an open slice by itself; one that it cannot read is no reason to take no more writes.
#[test]
fn a_damaged_file_does_not_stop_those_that_write() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut number = 0_u128;
    let mut publish = |server: &Server| {
        let record = |_| {
            number += 1;
            let digits: String = (1..=40)
                .map(|factor| (number * 40 + factor).pow(7).to_string())
                .collect();
            serde_json::json!({ "payload": { "digits": digits } })
        };
        let body = Value::Array((0..50).map(record).collect()).to_string();
        let answer = http::post_json(&server.url("/streams/many:publish"), &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    let server = Server::with(&data, FLUSHING);
    server.sql("CREATE STREAM many;");
    (0..20).for_each(|_| publish(&server));
    assert!(server.stop().success());
    let tables = named(&data, "state", |name| name.ends_with(".sst"));
    assert!(tables.len() > 10, "{}", tables.len());
    for path in &tables {
        let length = fs::metadata(path).unwrap().len() as usize;
        if length > 20_000 {
            flip(path, length / 3);
        }
    }
    let mut server = Server::with(&data, FLUSHING);
    (0..40).for_each(|_| publish(&server));
    std::thread::sleep(Duration::from_secs(3));
    publish(&server);
    server.assert_alive();
}

#[test]
fn a_folder_that_is_gone_ends_the_process() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut server = Server::with(&data, &["store.flush_every=2MiB"]);
    let load = Load::start(&server, "gone/folder".to_owned(), Arc::default(), |n| {
        format!("{n:0>2000}")
    });
    load.wait_for_acknowledged(50);
    fs::remove_dir_all(&data).unwrap();
    let status = server.wait();
    load.join();
    assert_eq!(status.code(), Some(1), "{}", server.log());
    assert!(server.log().contains("headwater: stopped: "), "{}", server.log());
}
