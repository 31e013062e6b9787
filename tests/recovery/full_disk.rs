//! A disk that fills up under load, below any mark that would refuse writes in time: the node stops by itself, and what
//! it acknowledged is there when there is room again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde_json::Value;
use tempfile::tempdir;

use crate::harness::mqtt::Load;
use crate::harness::{Server, http, wait_for};

/// A file system of its own, in memory; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    /// None, with a word why, where this user may not mount one.
    fn mount(at: &Path, mib: u32) -> Option<Disk> {
        std::fs::create_dir_all(at).expect("a folder can be made");
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Disk(at.to_owned())),
            other => {
                eprintln!("skipped: a small file system cannot be mounted here ({other:?})");
                None
            }
        }
    }

    fn grow(&self, mib: u32) {
        let size = format!("remount,size={mib}m");
        let grown = Command::new("mount").args(["-o", &size]).arg(&self.0).status();
        assert!(grown.expect("mount runs").success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the server may still hold it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_the_node_and_loses_nothing() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(disk) = Disk::mount(&data, 40) else { return };
    let mut server = Server::with(&data, &["store.free_disk_min=0B"]);
    let load = Load::start(&server, "full/disk".to_owned(), Arc::new(AtomicU64::new(0)), payload);
    wait_for("the node to stop", || match http::get(&server.url("/health/live")) {
        Err(_) => Ok(()),
        Ok(_) => Err("it still answers".to_owned()),
    });
    let acknowledged = load.join();
    assert!(
        acknowledged.len() > 100,
        "{} messages were acknowledged",
        acknowledged.len()
    );
    server.kill();
    let log = std::fs::read_to_string(data.with_extension("log")).unwrap();
    let full = |line: &str| line.contains("the raft log cannot be written") || line.contains("No space left on device");
    assert!(log.lines().any(full), "{log}");

    disk.grow(400);
    server.start_again();
    let stored: Vec<u64> = server.sql("SELECT n FROM mqtt;").iter().map(number).collect();
    assert!(stored.is_sorted_by(|a, b| a < b), "in order, none twice");
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|n| stored.binary_search(n).is_err())
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged are lost: {:?}",
        lost.len(),
        acknowledged.len(),
        lost.first()
    );
}

fn number(row: &Value) -> u64 {
    row["n"].as_u64().unwrap_or_else(|| panic!("no number: {row}"))
}

/// About 2 KB that do not compress.
fn payload(n: u64) -> String {
    let mut digits = String::new();
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..128 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        digits.push_str(&format!("{state:016x}"));
    }
    format!(r#"{{"n":{n},"digits":"{digits}"}}"#)
}
