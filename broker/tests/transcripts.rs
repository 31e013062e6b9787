//! Conversations with a broker over TCP, byte by byte: `transcripts/*.txt`.
//!
//! ```text
//! case NAME               a new case; its clients are closed at its end
//! shows VERSION: NUMBERS  the numbered statements of the specification that it shows, see conformance.rs
//! a connect5 ID           client a connects with MQTT 5 (or connect4, connect3), clean, and is accepted; it wants no
//!                         reason strings, so that what it gets is short
//! a open                  client a opens a socket and sends nothing
//! a > HEX                 client a sends; "text" in quotes is itself, [] has its length as a variable byte integer before
//!                         it, {} as two bytes
//! a < HEX                 client a receives exactly this next
//! a x                     the broker closed a's connection
//! a silent                nothing arrives for a moment
//! a closes                a closes its socket without a word
//! ```

use std::collections::HashMap;
use std::time::Duration;

use headwater_broker::packet::{Packet, Property, Version};

use crate::support::{Client, Server, connect, parse_bytes};

const SETTINGS: [&str; 4] = [
    "broker.packet_max=4KiB",
    "broker.receive_max=4",
    "broker.connect_timeout=300ms",
    "broker.subscriptions_max=3",
];

#[tokio::test(flavor = "multi_thread")]
async fn conversations() {
    let server = Server::start(&SETTINGS).await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let (mut cases, mut failures) = (0, Vec::new());
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let mut clients = HashMap::new();
        let (mut case, mut failed) = ("", false);
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{} ({case})", file.display(), number + 1);
            match line.split_once(' ') {
                Some(("case", name)) => {
                    cases += 1;
                    (case, failed) = (name, false);
                    clients.clear();
                }
                Some(("shows", _)) => {}
                Some((name, step)) if !name.starts_with('#') => {
                    if failed {
                        continue;
                    }
                    if let Err(failure) = play(&server, &mut clients, name, step).await {
                        failures.push(format!("{place}: {failure}"));
                        failed = true;
                    }
                }
                _ => assert!(line.is_empty() || line.starts_with('#'), "{place}: {line}"),
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {cases} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(cases > 50, "only {cases} cases were found");
    // Whatever the clients did, the broker is well.
    Client::connect(server.address(), Version::V5, "after").await;
    server.stop().await;
}

async fn play(server: &Server, clients: &mut HashMap<String, Client>, name: &str, step: &str) -> Result<(), String> {
    let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
    let version = match verb {
        "connect3" => Version::V3_1,
        "connect4" => Version::V3_1_1,
        _ => Version::V5,
    };
    if matches!(verb, "open" | "connect3" | "connect4" | "connect5") {
        let mut client = Client::open(server.address(), version).await;
        if verb != "open" {
            let quiet = Property::RequestProblemInformation(false);
            client
                .send(&Packet::Connect(Box::new(connect(
                    version,
                    rest,
                    [quiet].into_iter().collect(),
                ))))
                .await;
            let answer = client.receive().await;
            if !matches!(&answer, Some(Packet::ConnAck(connack)) if !connack.reason.is_error()) {
                return Err(format!("no CONNACK: {answer:?}"));
            }
        }
        clients.insert(name.to_owned(), client);
        return Ok(());
    }
    let client = clients.get_mut(name).ok_or(format!("no client {name}"))?;
    match verb {
        "closes" => drop(clients.remove(name)),
        ">" => client.send_bytes(&parse_bytes(rest)).await,
        "<" => {
            let expected = parse_bytes(rest);
            let received = client.receive_bytes(expected.len()).await;
            if received != expected {
                return Err(format!(
                    "\n  expected {}\n  received {}",
                    hex(&expected),
                    hex(&received)
                ));
            }
        }
        "x" => {
            if let Some(instead) = client.receive_end().await {
                return Err(format!("the end did not come, but {instead}"));
            }
        }
        "silent" => {
            let packet = client.receive_within(Duration::from_millis(200)).await;
            if packet.is_some() {
                return Err(format!("received {packet:?}"));
            }
        }
        _ => return Err(format!("`{step}`?")),
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
}
