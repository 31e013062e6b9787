//! Twenty times: two devices publish with hundreds of QoS 1 messages in flight, the server is killed in the middle and
//! started again. Then, from the streams themselves:
//!
//! - every acknowledged message is stored once, and each device's messages are in the order in which they were sent;
//! - the output of a filter query has each row that it must have once, in order;
//! - the output of an EMIT FINAL query has each window once, and its counts are those of the stored messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tempfile::tempdir;

use crate::harness::clients::mosquitto_pub;
use crate::harness::mqtt::Load;
use crate::harness::{Server, wait_for};

const ROUNDS: usize = 20;
const DEVICES: [&str; 2] = ["left", "right"];
/// Messages that must be acknowledged, by each device, before a kill; varied, so that it strikes at different points.
const ACKNOWLEDGED_MIN: usize = 50;
/// One message is one second of event time, one window is this many. All of it lies in a month of the past: event time
/// that runs ahead of the clock does not advance the watermark.
const WINDOW_SECONDS: u64 = 50;
const FILTER_EVERY: u64 = 7;

#[test]
fn twenty_kills_with_the_default_groups() {
    twenty_kills(4);
}

#[test]
fn twenty_kills_with_one_group() {
    twenty_kills(1);
}

fn twenty_kills(groups: u16) {
    let folder = tempdir().unwrap();
    let mut server = Server::with(&folder.path().join("data"), &[&format!("store.groups={groups}")]);
    // Both devices draw from one counter, so their event times differ by what is in flight, far below the DELAY.
    server.sql(
        "CREATE STREAM load FROM TOPIC 'load/{device}'
           WITH (FORMAT = 'JSON', TIMESTAMP = at, DELAY = INTERVAL '2000' SECOND, IDLE = INTERVAL '1' SECOND);",
    );
    server.sql("CREATE STREAM sevenths AS SELECT device, n FROM load WHERE n % 7 = 0 EMIT CHANGES;");
    server.sql(&format!(
        "CREATE STREAM windows AS SELECT device, window_start AS start, COUNT(*) AS messages, MIN(n) AS first, MAX(n) AS last
           FROM load GROUP BY device, TUMBLING (INTERVAL '{WINDOW_SECONDS}' SECOND) EMIT FINAL;"
    ));

    let numbers = Arc::new(AtomicU64::new(0));
    let mut acknowledged: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let loads = DEVICES.map(|device| Load::start(&server, format!("load/{device}"), numbers.clone(), payload));
        for load in &loads {
            load.wait_for_acknowledged(ACKNOWLEDGED_MIN + round * 13);
        }
        server.kill();
        for (device, load) in DEVICES.into_iter().zip(loads) {
            acknowledged.entry(device).or_default().extend(load.join());
        }
        server.start_again();
        assert_stored(&server, round, &acknowledged);
    }
    // A late enough message of each device closes every window.
    let last = numbers.load(Ordering::Relaxed) + 1_000_000;
    for device in DEVICES {
        mosquitto_pub(&server, &format!("load/{device}"), &payload(last), &[]);
    }
    assert_filtered(&server);
    assert_windows(&server, last);
}

fn payload(n: u64) -> String {
    let (day, hour, minute, second) = (n / 86_400 + 1, n / 3600 % 24, n / 60 % 60, n % 60);
    assert!(day <= 31, "message {n} does not fit the month");
    format!(r#"{{"n":{n},"at":"2020-01-{day:02}T{hour:02}:{minute:02}:{second:02}Z"}}"#)
}

fn assert_stored(server: &Server, round: usize, acknowledged: &BTreeMap<&str, Vec<u64>>) {
    let stored = numbers_of(&server.sql("SELECT device, n FROM load;"));
    for (device, acknowledged) in acknowledged {
        let stored = stored.get(*device).cloned().unwrap_or_default();
        assert!(
            stored.is_sorted_by(|a, b| a < b),
            "round {round}: {device} is out of order or has a message twice: {:?}",
            stored.windows(2).find(|pair| pair[0] >= pair[1])
        );
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|n| stored.binary_search(n).is_err())
            .collect();
        assert!(
            lost.is_empty(),
            "round {round}: {device} lost {} of {} acknowledged, from {:?} to {:?}",
            lost.len(),
            acknowledged.len(),
            lost.first(),
            lost.last()
        );
        assert!(
            acknowledged.is_sorted_by(|a, b| a < b),
            "round {round}: {device} was acknowledged out of order"
        );
    }
}

fn assert_filtered(server: &Server) {
    let mut wanted = numbers_of(&server.sql("SELECT device, n FROM load;"));
    for numbers in wanted.values_mut() {
        numbers.retain(|n| n % FILTER_EVERY == 0);
    }
    let got = settled(
        server,
        "the filter query",
        "SELECT device, n FROM sevenths;",
        wanted.values().map(Vec::len).sum(),
    );
    assert_eq!(numbers_of(&got), wanted, "each row once, in order");
}

fn assert_windows(server: &Server, last: u64) {
    let stored = numbers_of(&server.sql("SELECT device, n FROM load;"));
    let mut wanted = BTreeMap::new();
    for (device, numbers) in &stored {
        for n in numbers.iter().filter(|n| **n != last) {
            let (count, first, end) = wanted
                .entry((device.clone(), n / WINDOW_SECONDS))
                .or_insert((0, *n, *n));
            (*count, *first, *end) = (*count + 1, *n.min(first), *n.max(end));
        }
    }
    let rows = settled(
        server,
        "the windows",
        "SELECT device, messages, first, last FROM windows;",
        wanted.len(),
    );
    let mut got = BTreeMap::new();
    for row in &rows {
        let number = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("{name} of {row}"));
        let key = (
            row["device"].as_str().expect("a device").to_owned(),
            number("first") / WINDOW_SECONDS,
        );
        let earlier = got.insert(key, (number("messages"), number("first"), number("last")));
        assert!(earlier.is_none(), "a window came twice: {row} and {earlier:?}");
    }
    assert_eq!(got, wanted, "each window once, and what it counts is what is stored");
}

/// Rows of a query's output once it has as many as it must; more is for the caller to find.
fn settled(server: &Server, what: &str, statement: &str, count: usize) -> Vec<Value> {
    wait_for(what, || {
        let rows = server.sql(statement);
        if rows.len() >= count {
            Ok(rows)
        } else {
            Err(format!("{} rows of {count}", rows.len()))
        }
    })
}

fn numbers_of(rows: &[Value]) -> BTreeMap<String, Vec<u64>> {
    let mut numbers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for row in rows {
        let device = row["device"].as_str().unwrap_or_else(|| panic!("no device: {row}"));
        let n = row["n"].as_u64().unwrap_or_else(|| panic!("no number: {row}"));
        numbers.entry(device.to_owned()).or_default().push(n);
    }
    numbers
}
