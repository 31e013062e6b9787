//! Results at a webhook.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::harness::clients::mosquitto_pub;
use crate::harness::http::{Delivery, Hook};
use crate::harness::{PATIENCE, Server, http};

const ALLOW: &str = r#"bridge.webhook.allow_private=["127.0.0.1"]"#;

#[test]
fn rows_are_posted_in_order_with_their_record_id() {
    let folder = tempdir().unwrap();
    let server = Server::with(&folder.path().join("data"), &[ALLOW]);
    let hook = Hook::listen();
    create(&server, &hook);
    for n in 0..5 {
        mosquitto_pub(
            &server,
            "plant/a/temp",
            &json!({"n": n, "temp": 50 + n}).to_string(),
            &[],
        );
    }
    let mut ids = BTreeSet::new();
    for n in 0..5 {
        let delivery = next(&hook);
        assert_eq!(row(&delivery), json!({"device": "a", "n": n, "temp": 50 + n}));
        let id = delivery
            .header("webhook-id")
            .expect("the record id travels along")
            .to_owned();
        assert!(id.starts_with("hot:"), "stream:shard:offset, not {id}");
        assert!(ids.insert(id), "one id for two records");
        assert!(delivery.header("webhook-timestamp").is_some());
        assert_eq!(delivery.header("content-type"), Some("application/json"));
    }
}

/// At least once: whatever was acknowledged to its publisher comes, in order, though the server is killed while rows are
/// on their way to a far side that does not answer; what comes twice carries the same id.
#[test]
fn every_row_comes_across_kill_9() {
    let folder = tempdir().unwrap();
    let mut server = Server::with(&folder.path().join("data"), &[ALLOW]);
    let hook = Hook::listen();
    create(&server, &hook);
    let publish = |server: &Server, n: u64| {
        let reading = json!({"n": n, "temp": 99}).to_string();
        let body = json!({"payload": reading, "flag": 0, "_topic": "plant/a/temp"});
        let answer = http::post_json(&server.url("/streams/plant:publish"), &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    let mut deliveries = Vec::new();
    for round in 0..4 {
        (round * 25..round * 25 + 20).for_each(|n| publish(&server, n));
        deliveries.push(next(&hook));
        // Every other time a row is on its way, and known to be, when the server dies.
        if round % 2 == 0 {
            hook.go_down();
        }
        (round * 25 + 20..round * 25 + 25).for_each(|n| publish(&server, n));
        if round % 2 == 0 {
            hook.wait_for_unanswered();
        }
        server.kill();
        hook.come_up();
        server.start_again();
    }
    let mut seen = BTreeSet::new();
    let mut in_order = Vec::new();
    let mut deliveries = deliveries.into_iter();
    while seen.len() < 100 {
        let delivery = deliveries.next().unwrap_or_else(|| next(&hook));
        let n = row(&delivery)["n"].as_u64().expect("a number");
        let id = delivery
            .header("webhook-id")
            .expect("the record id travels along")
            .to_owned();
        if seen.insert((n, id)) {
            in_order.push(n);
        }
    }
    assert_eq!(
        in_order,
        (0..100).collect::<Vec<_>>(),
        "each row first comes in order, and with one id only"
    );
}

#[test]
fn a_private_target_that_is_not_allowed_is_refused_by_name() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    server.sql("CREATE STREAM s;");
    let statement = "CREATE SINK CONNECTOR w TO WEBHOOK WITH (STREAM = 's', URL = 'http://127.0.0.1:1/hook');";
    let answer = http::sql(&server, statement);
    assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.body);
    assert!(answer.body.contains("allow_private"), "{}", answer.body);
}

fn create(server: &Server, hook: &Hook) {
    server.sql("CREATE STREAM plant FROM TOPIC 'plant/{device}/temp' WITH (FORMAT = 'JSON');");
    server.sql("CREATE STREAM hot AS SELECT device, n, temp FROM plant WHERE temp > 30 EMIT CHANGES;");
    server.sql(&format!(
        "CREATE SINK CONNECTOR w TO WEBHOOK WITH (STREAM = 'hot', URL = 'http://{}/hook');",
        hook.address
    ));
}

fn next(hook: &Hook) -> Delivery {
    hook.deliveries.recv_timeout(PATIENCE).expect("a row at the webhook")
}

fn row(delivery: &Delivery) -> Value {
    let body = String::from_utf8_lossy(&delivery.body);
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: the body is not a row: {body}"))
}
