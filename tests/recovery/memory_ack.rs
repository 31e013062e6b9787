//! `ACK = 'memory'`: a kill -9 may take the end of what was acknowledged and nothing out of its middle; a stop in order
//! takes nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tempfile::tempdir;

use crate::harness::Server;
use crate::harness::mqtt::Load;

const DEVICES: u64 = 3;
const KILLS: u64 = 6;

fn payload(n: u64) -> String {
    format!(r#"{{"n":{n}}}"#)
}

/// Each device counts for itself, from 0.
fn loads(server: &Server, round: u64) -> Vec<Load> {
    let topic = |device| format!("fast/{round}/{device}");
    (0..DEVICES)
        .map(|device| Load::start(server, topic(device), Arc::new(AtomicU64::new(0)), payload))
        .collect()
}

/// The numbers that a device has in the stream, in the order of the stream.
fn stored(server: &Server, round: u64, device: u64) -> Vec<u64> {
    let rows = server.sql(&format!(
        "SELECT n FROM fast WHERE round = '{round}' AND device = '{device}';"
    ));
    rows.iter().map(|row| row["n"].as_u64().expect("a number")).collect()
}

#[test]
fn a_kill_takes_the_end_at_most_and_a_stop_nothing() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.sql("CREATE STREAM fast FROM TOPIC 'fast/{round}/{device}' WITH (ACK = 'memory');");
    let mut lost = 0;
    for round in 0..KILLS {
        let loads = loads(&server, round);
        loads
            .iter()
            .for_each(|load| load.wait_for_acknowledged(400 + round as usize * 37));
        server.kill();
        let acknowledged: Vec<Vec<u64>> = loads.into_iter().map(Load::join).collect();
        server.start_again();
        for (device, acknowledged) in (0..).zip(acknowledged) {
            assert!(
                acknowledged.iter().copied().eq(0..acknowledged.len() as u64),
                "acknowledged in order"
            );
            let stored = stored(&server, round, device);
            assert!(
                stored.iter().copied().eq(0..stored.len() as u64),
                "a prefix, once and in order: {stored:?}"
            );
            lost += acknowledged.len().saturating_sub(stored.len());
        }
    }
    println!("{lost} messages that were acknowledged from memory went with {KILLS} kills");

    let loads = loads(&server, KILLS);
    loads.iter().for_each(|load| load.wait_for_acknowledged(400));
    assert!(server.stop().success());
    let server = Server::start(&data);
    for (device, load) in (0..).zip(loads) {
        let acknowledged = load.join().len();
        let stored = stored(&server, KILLS, device);
        assert!(
            stored.iter().copied().eq(0..stored.len() as u64),
            "once and in order: {stored:?}"
        );
        assert!(
            stored.len() >= acknowledged,
            "{} stored, {acknowledged} acknowledged",
            stored.len()
        );
    }
}
