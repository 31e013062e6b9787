//! Sessions of clients that nobody here wrote, over kill -9: what they missed is there, and QoS 2 means once.

use std::time::Duration;

use tempfile::tempdir;

use crate::harness::clients::{MosquittoSub, mosquitto_publish_lines, mosquitto_sub_session, running_script};
use crate::harness::{Server, http, wait_for};

/// Rounds of kill -9; more with `HEADWATER_TEST_ROUNDS`.
fn rounds() -> u32 {
    let rounds = std::env::var("HEADWATER_TEST_ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(8)
}

fn exactly_once(version: &str) {
    let folder = tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data"));
    let script = running_script(&server, "paho_exactly_once.py", &[version]);
    for round in 0..rounds() {
        // At another moment each time, in whatever flow there is.
        std::thread::sleep(Duration::from_millis(150 + u64::from(round * 37 % 200)));
        server.kill();
        server.start_again();
    }
    std::thread::sleep(Duration::from_millis(300));
    let report = script.finish();
    println!("{report}");
}

/// Shows 3.1.1: 4.3.3-1 4.3.3-2 4.4.0-1
#[test]
fn qos_2_is_exactly_once_over_kills_3_1_1() {
    exactly_once("3.1.1");
}

/// Shows 5.0: 4.3.3-3 4.3.3-5 4.3.3-10 4.4.0-1
#[test]
fn qos_2_is_exactly_once_over_kills_5() {
    exactly_once("5");
}

/// Waits until the server has taken what the client sent last, acknowledgements and goodbye, and saved it: before that, a kill
/// may bring messages of QoS 1 again, and without DUP where the server does not know any more that it had sent them. The client
/// is no longer among the connected once it is saved.
fn wait_until_saved(server: &Server, client_id: &str) {
    wait_for("the session to be saved", || {
        let clients = http::get(&server.url("/v1/clients"))?;
        match clients.body.contains(&format!("{client_id:?}")) {
            true => Err(clients.body),
            false => Ok(()),
        }
    });
}

#[test]
fn a_subscriber_that_was_away_gets_everything_in_order_and_once() {
    let folder = tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data"));
    let shared = |version| (version, "$share/crew/");
    let alone = ["mqttv31", "mqttv311", "mqttv5"].map(|version| (version, ""));
    for (version, share) in alone.into_iter().chain([shared("mqttv311"), shared("mqttv5")]) {
        let name = if share.is_empty() { "alone" } else { "shared" };
        let (client_id, topic) = (format!("{name}-{version}"), format!("{name}/{version}"));
        let filter = format!("{share}{topic}");
        // It subscribes and leaves.
        mosquitto_sub_session(&server, version, &client_id, &filter, &["-E"]);
        let lines = |from: u32| (from..from + 200).map(|n| n.to_string()).collect::<Vec<_>>();
        mosquitto_publish_lines(&server, &topic, &lines(0));
        server.kill();
        server.start_again();
        mosquitto_publish_lines(&server, &topic, &lines(200));
        let got = mosquitto_sub_session(&server, version, &client_id, &filter, &["-C", "400"]);
        let wanted: Vec<String> = (0..400).map(|n| n.to_string()).collect();
        assert_eq!(got, wanted, "{version} {name}");
        wait_until_saved(&server, &client_id);
        server.kill();
        server.start_again();
        // What was taken and saved does not come again; what is new does, behind it.
        mosquitto_publish_lines(&server, &topic, &["last".to_owned()]);
        let got = mosquitto_sub_session(&server, version, &client_id, &filter, &["-C", "1"]);
        assert_eq!(got, ["last"], "{version} {name}");
    }
}

#[test]
fn the_wills_of_those_who_were_connected_to_a_killed_server_are_said_once() {
    let folder = tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data"));
    mosquitto_sub_session(&server, "mqttv311", "observer", "will/+", &["-E"]);
    for (version, id) in [("mqttv311", "old"), ("mqttv5", "new")] {
        let (topic, will) = (
            format!("will/{id}"),
            ["--will-payload", "gone", "--will-qos", "1", "--will-topic"],
        );
        let more = [&["-V", version, "-i", id][..], &will, &[&topic]].concat();
        let device = MosquittoSub::with(&server, &["x"], &more);
        server.kill();
        // It is gone too, so nobody takes its place.
        drop(device);
        server.start_again();
    }
    mosquitto_publish_lines(&server, "will/last", &["end".to_owned()]);
    let mut got = mosquitto_sub_session(&server, "mqttv311", "observer", "will/+", &["-C", "3"]);
    // Three topics may lie in three groups, which come in no order.
    got.sort();
    assert_eq!(got, ["end", "gone", "gone"]);
}
