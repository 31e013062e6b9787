//! A hundred clients with ten QoS 1 messages in flight each, and a server that is killed at odd moments, again and again.
//! After each start, from the streams themselves: every acknowledged message is there, each client's messages are in the
//! order in which it sent them, and none is there twice, for no client sends one twice.
//!
//! `HEADWATER_KILLS` is the number of rounds: a few in the ordinary run, hundreds when somebody wants to know.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tempfile::tempdir;

use crate::harness::{PATIENCE, Server, http, wait_for};

const CLIENTS: usize = 100;
const IN_FLIGHT: u64 = 10;
const ROUNDS: u64 = 8;
const PAYLOAD_BYTES: usize = 256;
/// A kill comes when so many messages are acknowledged, and up to so many milliseconds later.
const ACKNOWLEDGED_MIN: usize = 500;
const LATER_MS: u64 = 300;
/// Records of one request.
const PAGE: usize = 10_000;

/// With the sizes of production, where most kills strike between an acknowledgement and a flush.
#[test]
fn killed_under_a_hundred_clients() {
    kill_again_and_again(&[]);
}

/// With flushes, cuts of the log, new slices, merges and drops all the time, so that kills strike in the middle of those.
#[test]
fn killed_while_files_come_and_go() {
    kill_again_and_again(&["store.flush_every=256KiB", "store.slice_size=1MiB"]);
}

fn kill_again_and_again(settings: &[&str]) {
    let rounds = std::env::var("HEADWATER_KILLS").map_or(ROUNDS, |text| text.parse().expect("a number of rounds"));
    let folder = tempdir().unwrap();
    let mut server = Server::with(&folder.path().join("data"), settings);
    server.sql("CREATE STREAM kills FROM TOPIC 'kills/{client}';");
    let mut seen = Seen::default();
    let mut sent = vec![0; CLIENTS];
    for round in 0..rounds {
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| publish(server.mqtt(), client, sent[client], acknowledged.clone()))
            .collect();
        wait_for("acknowledgements", || match acknowledged.load(Ordering::Relaxed) {
            enough if enough >= ACKNOWLEDGED_MIN => Ok(()),
            few => Err(format!("{few} of {ACKNOWLEDGED_MIN}")),
        });
        // Any sequence will do that does not come round.
        std::thread::sleep(Duration::from_millis(round * round * 7919 % LATER_MS));
        server.kill();
        let loads: Vec<Sent> = clients
            .into_iter()
            .map(|client| client.join().expect("a client ends"))
            .collect();
        server.start_again();
        seen.read_on(&server, round);
        for (client, load) in loads.iter().enumerate() {
            seen.assert_has(client, load, round);
            sent[client] = load.next;
        }
    }
    let mut again = Seen::default();
    again.read_on(&server, rounds);
    assert_eq!(again.numbers, seen.numbers, "what was there once is there at the end");
}

/// What one client did in one round.
struct Sent {
    acknowledged: Vec<u64>,
    /// The number after the last one that it sent.
    next: u64,
}

/// Publishes numbers from `next` on until the connection breaks.
fn publish(server: SocketAddr, client: usize, next: u64, count: Arc<AtomicUsize>) -> JoinHandle<Sent> {
    std::thread::spawn(move || {
        let mut sent = Sent {
            acknowledged: Vec::new(),
            next,
        };
        // Ends with the error of the server's death.
        let _ = exchange(server, client, &mut sent, &count);
        sent
    })
}

fn exchange(server: SocketAddr, client: usize, sent: &mut Sent, count: &AtomicUsize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let id = format!("killed-{client}");
    let mut connect = vec![
        0x10,
        12 + id.len() as u8,
        0,
        4,
        b'M',
        b'Q',
        b'T',
        b'T',
        4,
        2,
        0,
        60,
        0,
        id.len() as u8,
    ];
    connect.extend_from_slice(id.as_bytes());
    stream.write_all(&connect)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, [0x20, 2, 0, 0], "CONNACK");
    let first = sent.next;
    let mut acknowledged = first;
    loop {
        let mut packets = Vec::new();
        let until = acknowledged + IN_FLIGHT;
        for number in sent.next..until {
            put_publish(client, number, packet_id(number), &mut packets);
        }
        sent.next = until;
        stream.write_all(&packets)?;
        stream.read_exact(&mut answer)?;
        let [kind, length, high, low] = answer;
        assert_eq!((kind, length), (0x40, 2), "PUBACK");
        // A clean session's acknowledgements come in the order of its messages.
        assert_eq!(u16::from_be_bytes([high, low]), packet_id(acknowledged));
        sent.acknowledged.push(acknowledged);
        acknowledged += 1;
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn packet_id(number: u64) -> u16 {
    (number % 60_000) as u16 + 1
}

fn put_publish(client: usize, number: u64, id: u16, out: &mut Vec<u8>) {
    let topic = format!("kills/{client}");
    let mut payload = format!(r#"{{"c":{client},"n":{number},"fill":""#);
    let mut noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ client as u64;
    while payload.len() < PAYLOAD_BYTES - 2 {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        payload.push(char::from(b'a' + (noise >> 59) as u8 % 26));
    }
    payload.push_str("\"}");
    let length = 2 + topic.len() + 2 + payload.len();
    out.extend_from_slice(&[
        0x32,
        (length % 128) as u8 | 0x80,
        (length / 128) as u8,
        0,
        topic.len() as u8,
    ]);
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload.as_bytes());
}

/// What the stream holds, as far as it was read.
#[derive(Default)]
struct Seen {
    /// The numbers of each client, in the order in which they are stored.
    numbers: Vec<Vec<u64>>,
    /// The offset to go on from, by shard.
    next: Vec<u64>,
}

impl Seen {
    /// Reads what is new in every shard.
    fn read_on(&mut self, server: &Server, round: u64) {
        self.numbers.resize(CLIENTS, Vec::new());
        for shard in 0..4 {
            self.next.resize(4, 0);
            loop {
                let from = self.next[shard];
                let path = format!("/v1/streams/kills/records?shard={shard}&from={from}&limit={PAGE}");
                let answer = http::get(&server.url(&path)).expect("the server answers");
                let records = answer.json()["records"].as_array().cloned().unwrap_or_default();
                if records.is_empty() {
                    break;
                }
                records.iter().for_each(|record| self.take(shard, record, round));
            }
        }
    }

    fn take(&mut self, shard: usize, record: &Value, round: u64) {
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("round {round}: {record}"));
        let (client, n) = (number(&record["value"]["c"]), number(&record["value"]["n"]));
        assert_eq!(
            number(&record["offset"]),
            self.next[shard],
            "round {round}: a gap in shard {shard}"
        );
        self.next[shard] += 1;
        let numbers = &mut self.numbers[client as usize];
        assert!(
            numbers.last().is_none_or(|last| *last < n),
            "round {round}: client {client}: {n} comes after {:?}",
            numbers.last()
        );
        numbers.push(n);
    }

    fn assert_has(&self, client: usize, sent: &Sent, round: u64) {
        let numbers = &self.numbers[client];
        let lost: Vec<_> = sent
            .acknowledged
            .iter()
            .filter(|n| numbers.binary_search(n).is_err())
            .collect();
        assert!(
            lost.is_empty(),
            "round {round}: client {client}: {lost:?} were acknowledged and are gone"
        );
        assert!(
            numbers.last().is_none_or(|last| *last < sent.next),
            "round {round}: client {client} never sent {:?}",
            numbers.last()
        );
    }
}
