//! What SQL keeps, over plain MQTT: the rows of a view are retained messages, their changes come live, a request is answered.

use std::process::Command;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::harness::clients::{MosquittoSub, mosquitto_pub};
use crate::harness::{Server, wait_for};

/// `topic payload` of a message, the payload as JSON.
fn row(line: &str) -> (String, Value) {
    let (topic, payload) = line
        .split_once(' ')
        .unwrap_or_else(|| panic!("no topic and payload: {line}"));
    (topic.to_owned(), serde_json::from_str(payload).unwrap_or(Value::Null))
}

#[test]
fn a_view_is_retained_messages_and_answers_requests() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    server.sql(
        "CREATE STREAM readings FROM TOPIC 'plant/{device}';
         CREATE VIEW devices AS SELECT device, COUNT(*) AS n, LAST(temp) AS temp FROM readings GROUP BY device;",
    );
    for (device, temp) in [("d1", 20), ("d2", 30), ("d1", 21)] {
        mosquitto_pub(
            &server,
            &format!("plant/{device}"),
            &json!({ "temp": temp }).to_string(),
            &["-q", "1"],
        );
    }
    wait_for("three readings in the view", || {
        let rows = server.sql("SELECT * FROM devices WHERE device = 'd1';");
        match rows.first() {
            Some(row) if row["n"] == 2 => Ok(()),
            _ => Err(format!("{rows:?}")),
        }
    });

    let all = MosquittoSub::with(&server, &["$view/devices/#"], &["-F", "%t %p"]);
    let mut rows = [row(&all.message("a row")), row(&all.message("another row"))];
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        rows[0],
        ("$view/devices/d1".into(), json!({ "device": "d1", "n": 2, "temp": 21 }))
    );
    assert_eq!(
        rows[1],
        ("$view/devices/d2".into(), json!({ "device": "d2", "n": 1, "temp": 30 }))
    );
    let one = MosquittoSub::with(&server, &["$view/devices/d2"], &["-F", "%t %p %r"]);
    assert_eq!(
        one.message("the row of a device"),
        r#"$view/devices/d2 {"device":"d2","n":1,"temp":30} 1"#
    );
    mosquitto_pub(&server, "plant/d2", "{\"temp\":31}", &["-q", "1"]);
    assert_eq!(
        one.message("its change"),
        r#"$view/devices/d2 {"device":"d2","n":2,"temp":31} 0"#
    );

    assert_eq!(
        ask(&server, "$view/devices/d1"),
        json!({ "device": "d1", "n": 2, "temp": 21 })
    );
    assert_eq!(ask(&server, "$view/devices/none"), Value::Null);
    let Value::Array(rows) = ask(&server, "$view/devices") else {
        panic!("all rows are an array")
    };
    assert_eq!(rows.len(), 2);
}

/// mosquitto_rr publishes a request with a response topic and prints the answer.
fn ask(server: &Server, topic: &str) -> Value {
    let output = Command::new("mosquitto_rr")
        .args([
            "-V",
            "5",
            "-h",
            &server.mqtt().ip().to_string(),
            "-p",
            &server.mqtt().port().to_string(),
        ])
        .args(["-t", topic, "-e", "answers/1", "-n", "-q", "1", "-W", "10"])
        .output()
        .expect("mosquitto_rr runs");
    assert!(
        output.status.success(),
        "{topic}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}
