//! Clients that nobody here wrote publish readings, and receive what a continuous query makes of them.

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::harness::clients::{MosquittoSub, mosquitto_pub, script};
use crate::harness::{Server, http};

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
