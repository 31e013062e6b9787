//! Bad input gets a clear answer, costs only its sender, and loses nothing.

use serde_json::json;
use tempfile::tempdir;

use crate::harness::clients::mosquitto_pub;
use crate::harness::mqtt::{CONNECT_V4, CONNECT_V5, answer_until_closed};
use crate::harness::{Server, cli, http, wait_for};

/// What a broken client sends after its CONNECT (empty: instead of it).
const MALFORMED: &[(&str, &[u8])] = &[
    ("a second CONNECT", CONNECT_V4),
    ("PUBLISH with QoS 3", &[0x36, 7, 0, 1, b'a', 0, 1, b'x', b'y']),
    ("PUBLISH to a wildcard", &[0x30, 4, 0, 1, b'#', b'x']),
    ("PUBLISH to an empty topic", &[0x30, 3, 0, 0, b'x']),
    (
        "PUBLISH to a topic that is not UTF-8",
        &[0x30, 5, 0, 2, 0xc3, 0x28, b'x'],
    ),
    ("PUBLISH to a topic with a NUL", &[0x30, 5, 0, 2, b'a', 0, b'x']),
    ("PUBLISH with packet id 0", &[0x32, 6, 0, 1, b'a', 0, 0, b'x']),
    ("PUBLISH with DUP and QoS 0", &[0x38, 4, 0, 1, b'a', b'x']),
    (
        "PUBLISH whose topic is longer than the packet",
        &[0x30, 4, 0, 200, b'a', b'x'],
    ),
    ("SUBSCRIBE with reserved bits", &[0x80, 6, 0, 1, 0, 1, b'a', 0]),
    ("SUBSCRIBE without a filter", &[0x82, 2, 0, 1]),
    ("PINGREQ with a body", &[0xc0, 1, 0]),
    ("packet type 0", &[0x00, 0]),
    ("a length of five bytes", &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01]),
    ("a packet of 256 MiB", &[0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, b'a']),
];

#[test]
fn malformed_packets_end_their_own_connection_only() {
    let folder = tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data"));
    mosquitto_pub(&server, "kept/a", "before", &[]);
    for (what, packet) in MALFORMED {
        let answer = answer_until_closed(&server, &[CONNECT_V4, packet].concat());
        assert_eq!(
            answer.get(..4),
            Some(&[0x20, 2, 0, 0][..]),
            "{what}: CONNACK and nothing else: {answer:02x?}"
        );
        assert_eq!(
            answer.len(),
            4,
            "{what}: MQTT 3.1.1 has no packet to say why: {answer:02x?}"
        );
    }
    for first in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &[0x30, 4, 0, 1, b'a', b'x'],
        &[0x10, 2, 0, 4],
    ] {
        let answer = answer_until_closed(&server, first);
        assert!(
            answer.is_empty() || answer[0] == 0x20,
            "nothing or a CONNACK that refuses: {answer:02x?}"
        );
        assert!(
            answer.get(3).is_none_or(|code| *code != 0),
            "it was refused: {answer:02x?}"
        );
    }
    server.assert_alive();
    mosquitto_pub(&server, "kept/a", "after", &[]);
    assert_eq!(
        server.number("SELECT COUNT(*) AS n FROM mqtt;"),
        2,
        "all that was valid is there, nothing else is"
    );
}

/// In MQTT 5 the server says why before it closes: DISCONNECT with a reason code.
#[test]
fn mqtt_5_says_why() {
    let folder = tempdir().unwrap();
    let server = Server::with(&folder.path().join("data"), &["broker.packet_max=4KiB"]);
    let reason = |packet: &[u8]| {
        let answer = answer_until_closed(&server, &[CONNECT_V5, packet].concat());
        assert_eq!(answer[0], 0x20, "{answer:02x?}");
        let disconnect = &answer[2 + answer[1] as usize..];
        assert_eq!(
            disconnect.first(),
            Some(&0xe0),
            "DISCONNECT after CONNACK: {answer:02x?}"
        );
        disconnect[2]
    };
    assert_eq!(
        reason(&[0x36, 8, 0, 1, b'a', 0, 1, 0, b'x', b'y']),
        0x81,
        "QoS 3: malformed packet"
    );
    assert_eq!(reason(CONNECT_V5), 0x82, "a second CONNECT: protocol error");
    assert_eq!(
        reason(&[0x34, 8, 0, 1, b'a', 0, 1, 0, b'x', b'y', 0x62, 2, 0, 1]),
        0x82,
        "PUBREL before PUBREC: protocol error"
    );
    assert_eq!(
        reason(&[0x30, 5, 0, 1, b'#', 0, b'x']),
        0x90,
        "a wildcard: topic name invalid"
    );
    assert_eq!(
        reason(&[0x30, 6, 0, 0, 3, 0x23, 0, 0]),
        0x94,
        "topic alias 0: topic alias invalid"
    );
    let mut large = vec![0x30, 0x88, 0x27, 0, 1, b'a', 0];
    large.resize(3 + 5000, b'x');
    assert_eq!(reason(&large), 0x95, "5 000 bytes: packet too large");
    // Clients of 3.1.1 cannot be told, so the operator is, and not in colours.
    answer_until_closed(&server, b"GET / HTTP/1.1\r\n\r\n");
    let log = server.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("turned away")).collect();
    assert_eq!(told.len(), 7, "{log}");
    assert!(
        told[5].contains("0x95 packet too large") && told[5].contains("peer=127.0.0.1:"),
        "{told:?}"
    );
    assert!(!log.contains('\u{1b}'), "{log}");
}

/// A payload that is no JSON is a record all the same: stored as it came, its fields are NULL, the query goes on.
#[test]
fn payloads_that_are_not_json_stop_no_query() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    server.sql("CREATE STREAM readings FROM TOPIC 'readings/{device}' WITH (FORMAT = 'JSON');");
    server.sql("CREATE STREAM warm AS SELECT device, temp FROM readings WHERE temp > 20 EMIT CHANGES;");
    let payloads = [
        "{\"temp\":21}",
        "{\"temp\":",
        "",
        "null",
        "[1,2]",
        "\u{0}\u{1}",
        "{\"temp\":\"hot\"}",
        "{\"temp\":1e999}",
        "{\"temp\":23}",
    ];
    for payload in payloads {
        if payload.contains('\0') {
            continue; // no command line can hold a NUL
        }
        mosquitto_pub(&server, "readings/a", payload, &[]);
    }
    wait_for("both warm readings", || {
        let rows = server.sql("SELECT device, temp FROM warm;");
        let wanted = [json!({"device": "a", "temp": 21}), json!({"device": "a", "temp": 23})];
        if rows.iter().filter(|row| wanted.contains(row)).count() == 2 {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    });
    assert_eq!(
        server.number("SELECT COUNT(*) AS n FROM readings;"),
        8,
        "every payload is stored"
    );
}

#[test]
fn wrong_statements_say_where_and_what_was_expected() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    server.sql("CREATE STREAM s;");

    let output = cli::execute(&server, "SELECT * FROM s GROUP BY device EMIT CHANGS;");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        said.contains("error[HW") && said.contains("^^^^^^") && said.contains("CHANGES"),
        "{said}"
    );
    assert!(output.stdout.is_empty(), "results on stdout, everything else on stderr");

    for (statement, statuses) in [
        ("SELEKT 1;", &[400][..]),
        ("SELECT * FROM nowhere;", &[404][..]),
        ("CREATE STREAM s;", &[409][..]),
        ("DROP STREAM nowhere;", &[404][..]),
        ("SELECT COUNT(*) FROM s EMIT FINAL;", &[400, 422][..]),
        ("\u{0}", &[400][..]),
    ] {
        let answer = http::sql(&server, statement);
        assert!(
            statuses.contains(&answer.status),
            "{statement:?}: {} {}",
            answer.status,
            answer.body
        );
        assert!(
            answer.json()["code"].is_string(),
            "{statement:?}: a stable code: {}",
            answer.body
        );
    }
    let deep = format!("SELECT {}1{} FROM s;", "(".repeat(20_000), ")".repeat(20_000));
    assert_eq!(
        http::sql(&server, &deep).status,
        400,
        "a depth limit, not a stack overflow"
    );
    server.sql("SHOW STREAMS;");
}

#[test]
fn wrong_requests_get_the_right_status() {
    let folder = tempdir().unwrap();
    let mut server = Server::with(&folder.path().join("data"), &["bridge.body_max=64KiB"]);
    server.sql("CREATE STREAM s;");
    let publish = server.url("/streams/s:publish");
    let large = json!({"payload": "x".repeat(100_000), "flag": 0}).to_string();
    for (what, answer, status) in [
        ("an oversize body", http::post_json(&publish, &large), 413),
        ("no JSON", http::post_json(&publish, "{\"payload\":"), 400),
        ("no payload", http::post_json(&publish, "{\"flag\":0}"), 400),
        (
            "a payload that is no JSON under flag 0",
            http::post_json(&publish, r#"{"payload":"{","flag":0}"#),
            400,
        ),
        (
            "no such stream",
            http::post_json(&server.url("/streams/t:publish"), r#"{"payload":"{}","flag":0}"#),
            404,
        ),
        ("no such path", http::get(&server.url("/nothing/here")).unwrap(), 404),
        ("a wrong method", http::post_json(&server.url("/metrics"), ""), 405),
    ] {
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
        assert!(
            answer.json()["code"].is_string(),
            "{what}: a stable code: {}",
            answer.body
        );
    }
    server.assert_alive();
    let answer = http::post_json(&publish, r#"{"payload":"{\"fine\":true}","flag":0}"#);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        server.sql("SELECT * FROM s;"),
        [json!({"fine": true})],
        "what was refused is not there"
    );
}
