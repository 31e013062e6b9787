//! The same promise over HTTP: what `:publish` answered with 200 is there after a kill -9, once, under the record id that
//! was answered.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::harness::{Server, wait_for};

const ROUNDS: u64 = 10;
const RECORDS_PER_REQUEST: u64 = 5;
const REQUESTS_MIN: u64 = 30;

#[test]
fn published_over_http() {
    let folder = tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data"));
    server.sql("CREATE STREAM posted;");
    // From number to record id, of everything that was answered with 200.
    let mut answered: BTreeMap<u64, String> = BTreeMap::new();
    let mut next = 0;
    for round in 0..ROUNDS {
        let requests = Arc::new(AtomicU64::new(0));
        let publisher = {
            let (address, requests) = (server.http(), requests.clone());
            std::thread::spawn(move || publish_until_it_dies(address, next, &requests))
        };
        wait_for("answers", || match requests.load(Ordering::Relaxed) {
            enough if enough >= REQUESTS_MIN + round * 7 => Ok(()),
            few => Err(format!("{few} requests answered")),
        });
        server.kill();
        let (more, after) = publisher.join().expect("the publisher ends with the server");
        answered.extend(more);
        next = after;
        server.start_again();
        assert_stored(&server, &answered);
    }
}

/// Posts numbered records on one connection; what was answered, and the next number that was never sent.
fn publish_until_it_dies(server: SocketAddr, first: u64, requests: &AtomicU64) -> (BTreeMap<u64, String>, u64) {
    let mut answered = BTreeMap::new();
    let mut next = first;
    let Ok(mut connection) = TcpStream::connect(server) else {
        return (answered, next);
    };
    loop {
        let numbers = next..next + RECORDS_PER_REQUEST;
        next = numbers.end;
        let records: Vec<_> = numbers
            .clone()
            .map(|n| json!({"payload": json!({"n": n}).to_string(), "flag": 0}))
            .collect();
        let Some(ids) = post(&mut connection, &Value::from(records).to_string()) else {
            return (answered, next);
        };
        assert_eq!(ids.len() as u64, RECORDS_PER_REQUEST, "an id for each record");
        answered.extend(numbers.zip(ids));
        requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// The record ids of the answer; None when the connection broke.
fn post(connection: &mut TcpStream, body: &str) -> Option<Vec<String>> {
    let head = format!(
        "POST /streams/posted:publish HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut reader = BufReader::new(connection);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer: Value = serde_json::from_slice(&body).expect("an answer of JSON");
    let ids = answer["recordIds"]
        .as_array()
        .unwrap_or_else(|| panic!("no record ids: {answer}"));
    Some(ids.iter().map(Value::to_string).collect())
}

fn assert_stored(server: &Server, answered: &BTreeMap<u64, String>) {
    let mut stored: Vec<_> = server
        .sql("SELECT n FROM posted;")
        .iter()
        .map(|row| row["n"].as_u64().expect("a number"))
        .collect();
    assert!(
        stored.is_sorted(),
        "one key, one shard: in the order in which they were posted"
    );
    let count = stored.len();
    stored.dedup();
    assert_eq!(stored.len(), count, "a record is there twice");
    let lost: Vec<_> = answered.keys().filter(|n| stored.binary_search(n).is_err()).collect();
    assert!(
        lost.is_empty(),
        "{} of {} answered records are lost, the first is {:?}",
        lost.len(),
        answered.len(),
        lost.first()
    );
    let mut ids: Vec<_> = answered.values().collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), answered.len(), "two records were given one id");
}
