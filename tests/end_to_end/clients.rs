//! Clients that nobody here wrote publish readings, and receive what a continuous query makes of them.

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::harness::clients::{
    MosquittoSub, mosquitto_pub, mosquitto_publish_lines, mosquitto_rr, mosquitto_sub_session, script,
};
use crate::harness::{Server, cli, http, wait_for};

/// A server with the streams that the scripts in `tests/clients` speak of.
fn plant() -> (TempDir, Server) {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    server.sql("CREATE STREAM plant FROM TOPIC 'plant/{device}/temp' WITH (FORMAT = 'JSON');");
    server.sql(
        "CREATE STREAM hot WITH (TOPIC = 'hot/{device}') AS
           SELECT device, n, temp FROM plant WHERE temp > 30 EMIT CHANGES;",
    );
    (folder, server)
}

#[test]
fn mosquitto() {
    let (_folder, server) = plant();
    let subscriber = MosquittoSub::start(&server, &["hot/#"]);
    for (n, temp) in [(1, 20.5), (2, 31.5), (3, 30.0), (4, 99.0)] {
        mosquitto_pub(
            &server,
            "plant/m1/temp",
            &json!({"n": n, "temp": temp}).to_string(),
            &[],
        );
    }
    mosquitto_pub(&server, "plant/m2/temp", r#"{"n":5,"temp":40}"#, &["-V", "mqttv5"]);
    let mut messages: Vec<_> = (0..3).map(|_| subscriber.message("a hot reading")).collect();
    // The two devices may be placed in two groups, and only one topic has an order.
    messages.sort();
    assert_eq!(
        messages,
        [
            r#"hot/m1 {"device":"m1","n":2,"temp":31.5}"#,
            r#"hot/m1 {"device":"m1","n":4,"temp":99.0}"#,
            r#"hot/m2 {"device":"m2","n":5,"temp":40}"#,
        ]
    );
}

#[test]
fn paho_over_mqtt_3_1_1() {
    let (_folder, server) = plant();
    let said = script(&server, "paho_clients.py", &["3.1.1"]);
    assert!(said.contains("ok"), "{said}");
}

#[test]
fn paho_over_mqtt_5() {
    let (_folder, server) = plant();
    let said = script(&server, "paho_clients.py", &["5"]);
    assert!(said.contains("ok"), "{said}");
}

#[test]
fn mqtt_js_over_mqtt_3_1_1() {
    let (_folder, server) = plant();
    let said = script(&server, "mqttjs_clients.js", &["4"]);
    assert!(said.contains("ok"), "{said}");
}

#[test]
fn mqtt_js_over_mqtt_5() {
    let (_folder, server) = plant();
    let said = script(&server, "mqttjs_clients.js", &["5"]);
    assert!(said.contains("ok"), "{said}");
}

/// The default of `broker.packet_max`.
const PACKET_MAX: &str = "1048576";

/// Shows 3.1.1: 7.0.0-2
#[test]
fn paho_features_over_mqtt_3_1_1() {
    let (_folder, server) = plant();
    let said = script(&server, "paho_features.py", &["3.1.1", PACKET_MAX]);
    assert!(said.contains("ok"), "{said}");
}

#[test]
fn paho_features_over_mqtt_5() {
    let (_folder, server) = plant();
    let said = script(&server, "paho_features.py", &["5", PACKET_MAX]);
    assert!(said.contains("ok"), "{said}");
}

#[test]
fn mqtt_js_features_over_mqtt_3_1_1() {
    let (_folder, server) = plant();
    let said = script(&server, "mqttjs_features.js", &["4"]);
    assert!(said.contains("ok"), "{said}");
}

#[test]
fn mqtt_js_features_over_mqtt_5() {
    let (_folder, server) = plant();
    let said = script(&server, "mqttjs_features.js", &["5"]);
    assert!(said.contains("ok"), "{said}");
}

/// Retained messages, sessions that stay, wills, and a request with its answer.
#[test]
fn mosquitto_features() {
    let (_folder, server) = plant();
    for version in ["mqttv311", "mqttv5"] {
        let spoken = ["-V", version];
        mosquitto_pub(&server, "kept/x", version, &["-V", version, "-r", "-q", "2"]);
        let late = MosquittoSub::with(&server, &["kept/#"], &spoken);
        assert_eq!(late.message("what was retained"), format!("kept/x {version}"));

        let client_id = format!("away-{version}");
        let session = |more: &[&str]| mosquitto_sub_session(&server, version, &client_id, "away/#", more);
        session(&["-E"]);
        let numbers: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        mosquitto_publish_lines(&server, "away/x", &numbers);
        assert_eq!(session(&["-C", "50"]), numbers);

        let watcher = MosquittoSub::with(&server, &["will/#"], &spoken);
        let will = ["--will-topic", "will/x", "--will-payload", "gone", "--will-qos", "2"];
        drop(MosquittoSub::with(
            &server,
            &["nothing"],
            &[&spoken[..], &will].concat(),
        ));
        assert_eq!(watcher.message("the will"), "will/x gone");
    }
    let responder = MosquittoSub::start(&server, &["ask/#"]);
    let answer = mosquitto_rr(&server, "ask/x", "answer/x", "the question", || {
        assert_eq!(responder.message("the request"), "ask/x the question");
        mosquitto_pub(&server, "answer/x", "the answer", &[]);
    });
    assert_eq!(answer.trim(), "the answer");
}

/// curl and mosquitto meet: what goes in on one side is seen from the other.
#[test]
fn curl_sees_what_mosquitto_published_and_the_other_way_round() {
    let (_folder, server) = plant();
    mosquitto_pub(&server, "plant/m1/temp", r#"{"n":1,"temp":50}"#, &[]);
    let rows = server.sql("SELECT device, n, temp FROM plant;");
    assert_eq!(rows, [json!({"device": "m1", "n": 1, "temp": 50})]);

    let listed = http::get(&server.url("/streams")).unwrap().json();
    let streams = listed["streams"]
        .as_array()
        .unwrap_or_else(|| panic!("no list: {listed}"));
    for name in ["plant", "hot", "mqtt"] {
        assert!(
            streams.iter().any(|stream| stream["streamName"] == name),
            "{name}: {listed}"
        );
    }

    let made = http::post_json(
        &server.url("/streams"),
        r#"{"streamName": "made_over_http", "replicationFactor": 1}"#,
    );
    assert_eq!(made.status, 201, "{}", made.body);
    let answer = http::post_json(
        &server.url("/streams/made_over_http:publish"),
        &json!({"payload": r#"{"a":1}"#, "flag": 0}).to_string(),
    );
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(server.sql("SELECT * FROM made_over_http;"), [json!({"a": 1})]);
    // A stream without a capture has no topics: nothing of it is an MQTT message.
    let answer = http::sql(&server, "SELECT _topic FROM made_over_http;");
    assert_eq!(answer.rows(), [json!({"_topic": Value::Null})]);

    let metrics = http::get(&server.url("/metrics")).unwrap();
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.contains("headwater_"), "{}", metrics.body);
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(http::get(&server.url(path)).unwrap().status, 200, "{path}");
    }
}

#[test]
fn sql_shows_who_is_connected_and_where_messages_go() {
    let (_folder, server) = plant();
    server.sql(
        "CREATE STREAM states WITH (TOPIC = 'states/{device}', QOS = 2, RETAIN = TRUE) AS
           SELECT device, LAST(temp) AS temp FROM plant GROUP BY device EMIT CHANGES;",
    );
    let who = ["-i", "watcher", "-u", "ann", "-V", "mqttv5"];
    let subscriber = MosquittoSub::with(&server, &["states/#", "hot/#"], &who);
    for device in ["m1", "m2", "m1"] {
        let topic = format!("plant/{device}/temp");
        mosquitto_pub(&server, &topic, r#"{"temp":20}"#, &["-q", "1"]);
    }
    mosquitto_pub(&server, "plant/m1/temp", r#"{"temp":21}"#, &["-q", "1", "-r"]);
    mosquitto_pub(&server, "elsewhere", "x", &["-q", "1", "-r"]);
    (0..3).for_each(|_| drop(subscriber.message("a state")));

    let clients = wait_for("the publishers to be gone", || match server.sql("SHOW CLIENTS;") {
        clients if clients.len() == 1 => Ok(clients),
        clients => Err(format!("{clients:?}")),
    });
    let client = &clients[0];
    assert_eq!(
        (
            &client["client_id"],
            &client["username"],
            &client["protocol"],
            &client["subscriptions"]
        ),
        (&json!("watcher"), &json!("ann"), &json!("5.0"), &json!(2)),
    );
    assert!(client["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{client}");
    assert!(client["connected"].as_str().unwrap().ends_with('Z'), "{client}");
    assert_eq!(client["outbox_bytes"], 0);

    let topics = server.sql("SHOW TOPICS;");
    let topic = |topic: &str| topics.iter().find(|row| row["topic"] == topic).cloned();
    assert_eq!(
        topic("plant/{device}/temp"),
        Some(json!({
            "topic": "plant/{device}/temp", "kind": "capture", "stream": "plant",
            "qos": null, "retain": null, "retained": 1,
        }))
    );
    assert_eq!(
        topic("states/{device}"),
        Some(json!({
            "topic": "states/{device}", "kind": "result", "stream": "states",
            "qos": 2, "retain": true, "retained": 2,
        }))
    );
    assert_eq!(topic("#").map(|row| row["retained"].clone()), Some(json!(1)));
    assert_eq!(topic("hot/{device}").map(|row| row["retained"].clone()), Some(json!(0)));

    let nodes = server.sql("SHOW NODES;");
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(nodes[0]["leads"], json!([0, 1, 2, 3, 4]));
    assert_eq!(nodes[0]["addresses"]["mqtt"], server.mqtt().to_string());
    assert_eq!(nodes[0]["addresses"]["http"], server.http().to_string());

    // Over HTTP the same.
    let listed = http::get(&server.url("/v1/clients")).unwrap();
    assert_eq!(listed.status, 200);
    assert_eq!(
        serde_json::from_str::<Value>(&listed.body).unwrap()["clients"],
        json!(clients)
    );

    // At the command line, as a table.
    let shown = cli::execute(&server, "SHOW CLIENTS;");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("watcher") && shown.contains("ann"), "{shown}");
}

#[test]
fn results_say_what_they_change_and_where_they_are() {
    let (_folder, server) = plant();
    server.sql(
        "CREATE STREAM sums WITH (TOPIC = 'sums/{device}') AS
           SELECT device, SUM(temp) AS total FROM plant GROUP BY device HAVING total > 0 EMIT CHANGES;",
    );
    let format = ["-V", "mqttv5", "-q", "1", "-F", "%t %P %p"];
    let session = |more: &[&str]| mosquitto_sub_session(&server, "mqttv5", "back", "sums/#", more);
    session(&["-E"]);
    let live = MosquittoSub::with(&server, &["sums/#", "plant/#"], &format);
    let mut told = Vec::new();
    for temp in [20, 5, -100] {
        let payload = json!({ "temp": temp }).to_string();
        mosquitto_pub(&server, "plant/m1/temp", &payload, &["-q", "1"]);
        let mut messages = [live.message("the reading"), live.message("the sum")];
        messages.sort();
        assert_eq!(
            messages[0],
            format!("plant/m1/temp  {payload}"),
            "what clients publish says nothing"
        );
        told.push(messages[1].clone());
    }
    let shard = told[0].split(':').nth(3).unwrap();
    let wanted = [
        format!("sums/m1 op:insert seq:sums:{shard}:0 {{\"device\":\"m1\",\"total\":20}}"),
        format!("sums/m1 op:update seq:sums:{shard}:1 {{\"device\":\"m1\",\"total\":25}}"),
        format!("sums/m1 op:delete seq:sums:{shard}:2 "),
    ];
    assert_eq!(told, wanted);

    // From the log, to a session that was away.
    assert_eq!(session(&["-F", "%t %P %p", "-C", "3"]), wanted);

    // In a replay, behind where it was found.
    let replay = MosquittoSub::with(&server, &["$stream/sums@earliest"], &format);
    let replayed = replay.message("the first sum");
    assert!(
        replayed.starts_with(&format!("sums/m1 stream:sums shard:{shard} offset:0 timestamp:")),
        "{replayed}"
    );
    assert!(
        replayed.contains(&format!(" op:insert seq:sums:{shard}:0 {{")),
        "{replayed}"
    );
}
