//! Webhooks: order, retry, dead letters, cursors, and where they may not go.

use std::time::Duration;

use serde_json::{Value, json};

use crate::node::{Node, wait_for};
use crate::target::Target;

const ALLOW: &str = r#"bridge.webhook.allow_private=["127.0.0.1"]"#;
const QUICK: [&str; 4] = [
    ALLOW,
    "bridge.webhook.retry_min=20ms",
    "bridge.webhook.retry_max=80ms",
    "bridge.webhook.attempts_max=4",
];

async fn create(node: &Node, target: &Target, options: &str) {
    node.sql("CREATE STREAM hot; INSERT INTO hot VALUES '{\"n\":-1}';")
        .await;
    next_millisecond().await;
    node.sql(&format!(
        "CREATE SINK CONNECTOR w TO WEBHOOK WITH (STREAM = 'hot', URL = '{}'{options});",
        target.url()
    ))
    .await;
}

/// A connector begins with the millisecond that it was made in.
async fn next_millisecond() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

async fn publish(node: &Node, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let answer = node
            .post(
                "/streams/hot:publish",
                &json!({"payload": {"n": n}, "key": "k"}).to_string(),
            )
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

async fn connector(node: &Node) -> Value {
    node.get("/connectors").await.json()["connectors"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moves_a_watermark_is_not_delivered() {
    let node = Node::start(&[ALLOW]).await;
    let mut target = Target::start().await;
    create(&node, &target, "").await;
    publish(&node, 0..1).await;
    node.sql("ADVANCE WATERMARK OF hot TO TIMESTAMP '2030-01-01';").await;
    publish(&node, 1..2).await;
    node.sql("ADVANCE WATERMARK OF hot TO TIMESTAMP '2030-01-02';").await;
    for n in 0..2 {
        assert_eq!(target.next().await.body, format!("{{\"n\":{n}}}"));
    }
    // The last marker is passed as well.
    wait_for("the connector to be at the end", async || {
        (connector(&node).await["lag"] == 0).then_some(())
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_order_signed_and_with_their_record_id() {
    let node = Node::start(&[ALLOW]).await;
    let mut target = Target::start().await;
    let options =
        r#", SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', METHOD = 'PUT', HEADERS = '{"x-site": "berlin"}'"#;
    create(&node, &target, options).await;
    publish(&node, 0..20).await;
    for n in 0..20 {
        let delivery = target.next().await;
        assert_eq!(
            delivery.body,
            format!("{{\"n\":{n}}}"),
            "what was there before the connector is not sent"
        );
        assert_eq!(delivery.id(), format!("hot:0:{}", n + 1));
        assert_eq!(
            (delivery.method.as_str(), delivery.path.as_str()),
            ("PUT", "/hook?token=secret")
        );
        assert_eq!(delivery.headers["content-type"], "application/json");
        assert_eq!(delivery.headers["x-site"], "berlin");
        assert!(
            delivery.headers["user-agent"]
                .to_str()
                .unwrap()
                .starts_with("headwater/")
        );
        assert!(
            delivery.headers["webhook-signature"]
                .to_str()
                .unwrap()
                .starts_with("v1,")
        );
        assert!(
            delivery.headers["webhook-timestamp"]
                .to_str()
                .unwrap()
                .parse::<u64>()
                .is_ok()
        );
    }
    let status = wait_for("the status", async || {
        Some(connector(&node).await).filter(|c| c["lag"] == 0)
    })
    .await;
    assert_eq!(
        (&status["state"], &status["delivered"], &status["failedAttempts"]),
        (&json!("running"), &json!(20), &json!(0))
    );
    assert_eq!(
        status["url"],
        format!("http://{}/hook", target.address),
        "no token, no secret"
    );
    assert!(
        !status.to_string().contains("whsec_") && !status.to_string().contains("berlin"),
        "{status}"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_tried_again_before_the_next_row() {
    let node = Node::start(&QUICK).await;
    let mut target = Target::start().await;
    target.answer(500, &[], 2);
    target.answer(302, &[("location", "http://127.0.0.1:9/")], 1);
    create(&node, &target, "").await;
    publish(&node, 0..3).await;
    let mut bodies = Vec::new();
    for _ in 0..6 {
        bodies.push(target.next().await.body);
    }
    assert_eq!(
        bodies,
        [
            r#"{"n":0}"#,
            r#"{"n":0}"#,
            r#"{"n":0}"#,
            r#"{"n":0}"#,
            r#"{"n":1}"#,
            r#"{"n":2}"#
        ]
    );
    let status = wait_for("the status", async || {
        Some(connector(&node).await).filter(|c| c["lag"] == 0)
    })
    .await;
    assert_eq!(
        (&status["state"], &status["failedAttempts"]),
        (&json!("running"), &json!(3))
    );
    let error = status["lastError"]["message"].as_str().unwrap();
    assert!(
        error.contains("302") && error.contains("redirects are not followed"),
        "{error}"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_waited_for() {
    let node = Node::start(&QUICK).await;
    let mut target = Target::start().await;
    target.answer(429, &[("retry-after", "1")], 1);
    create(&node, &target, "").await;
    publish(&node, 0..1).await;
    let (first, second) = (target.next().await, target.next().await);
    assert_eq!(first.id(), second.id());
    // A lower bound, which no slow machine can break.
    assert!(
        second.at - first.at >= Duration::from_secs(1),
        "{:?}",
        second.at - first.at
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_delivered_goes_to_the_dead_letters_and_the_rest_goes_on() {
    let node = Node::start(&QUICK).await;
    let mut target = Target::start().await;
    target.answer(500, &[], 4);
    create(&node, &target, "").await;
    publish(&node, 0..2).await;
    for _ in 0..4 {
        assert_eq!(target.next().await.body, r#"{"n":0}"#);
    }
    assert_eq!(target.next().await.body, r#"{"n":1}"#);
    let dead = node.records("w$dead").await;
    assert_eq!(dead.len(), 1);
    assert_eq!((&dead[0]["value"], &dead[0]["key"]), (&json!({"n": 0}), &json!("k")));
    let why = json!([
        ["webhook-id", "hot:0:1"],
        ["webhook-error", "500 Internal Server Error: no thanks"],
        ["webhook-attempts", "4"],
    ]);
    assert_eq!(dead[0]["headers"]["userProperties"], why);
    assert_eq!(connector(&node).await["deadLetters"], 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_stops_the_connector_until_it_is_resumed() {
    let node = Node::start(&QUICK).await;
    let mut target = Target::start().await;
    target.answer(410, &[], 1);
    create(&node, &target, "").await;
    publish(&node, 0..2).await;
    assert_eq!(target.next().await.body, r#"{"n":0}"#);
    wait_for("the connector to stop", async || {
        (connector(&node).await["state"] == "stopped").then_some(())
    })
    .await;
    assert!(target.come().is_empty(), "nothing after 410");
    let seen = connector(&node).await;
    let error = seen["lastError"]["message"].as_str().expect("why it stopped");
    assert!(error.contains("410 Gone") && error.contains("RESUME"), "{seen}");
    assert!(
        seen["shards"]
            .as_array()
            .unwrap()
            .iter()
            .all(|shard| shard["state"] == "stopped"),
        "{seen}"
    );
    let shown = &node.sql("SHOW CONNECTORS;").await[0];
    assert_eq!(
        (&shown["state"], shown["last_error"].as_str()),
        (&json!("stopped"), Some(error)),
        "both say the same"
    );
    node.sql("RESUME CONNECTOR w;").await;
    assert_eq!(target.next().await.body, r#"{"n":0}"#, "nothing was skipped");
    assert_eq!(target.next().await.body, r#"{"n":1}"#);
    node.sql("PAUSE CONNECTOR w;").await;
    wait_for("the pause", async || {
        (connector(&node).await["state"] == "stopped").then_some(())
    })
    .await;
    publish(&node, 2..3).await;
    node.sql("RESUME CONNECTOR w;").await;
    assert_eq!(target.next().await.body, r#"{"n":2}"#);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_survives_a_restart() {
    let node = Node::start(&QUICK).await;
    let mut target = Target::start().await;
    create(&node, &target, "").await;
    publish(&node, 0..3).await;
    for n in 0..3 {
        assert_eq!(target.next().await.body, format!("{{\"n\":{n}}}"));
    }
    let node = node.restart(&QUICK).await;
    publish(&node, 3..5).await;
    for n in 3..5 {
        assert_eq!(
            target.next().await.body,
            format!("{{\"n\":{n}}}"),
            "nothing twice, nothing missed"
        );
    }
    // A new connector of the same name begins anew.
    node.sql("DROP CONNECTOR w;").await;
    publish(&node, 5..6).await;
    next_millisecond().await;
    node.sql(&format!(
        "CREATE SINK CONNECTOR w TO WEBHOOK WITH (STREAM = 'hot', URL = '{}');",
        target.url()
    ))
    .await;
    publish(&node, 6..7).await;
    assert_eq!(target.next().await.body, r#"{"n":6}"#);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cursor_outlives_its_connector() {
    let node = Node::start(&QUICK).await;
    let mut target = Target::start().await;
    create(&node, &target, "").await;
    node.sql(&format!(
        "CREATE STREAM other; CREATE SINK CONNECTOR stays TO WEBHOOK WITH (STREAM = 'other', URL = '{}');",
        target.url()
    ))
    .await;
    publish(&node, 0..1).await;
    node.post("/streams/other:publish", r#"{"payload": {"n": 0}}"#).await;
    target.next().await;
    target.next().await;
    let both = wait_for("both cursors", async || {
        Some(node.connectors_with_cursors()).filter(|found| found.len() == 2)
    })
    .await;
    // The stream goes with the connector: its shards cannot be asked for any more.
    node.sql("PAUSE CONNECTOR w;").await;
    let node = node.restart(&QUICK).await;
    node.sql("DROP STREAM hot FORCE;").await;
    let left = wait_for("the end of one", async || {
        Some(node.connectors_with_cursors()).filter(|found| found.len() == 1)
    })
    .await;
    assert!(left.is_subset(&both));
    node.leave_cursors(1_000_000).await;
    assert_eq!(node.connectors_with_cursors().len(), 2);
    let node = node.restart(&QUICK).await;
    wait_for("the sweep", async || {
        Some(()).filter(|()| node.connectors_with_cursors() == left)
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_an_array() {
    let node = Node::start(&QUICK).await;
    let mut target = Target::start().await;
    create(&node, &target, ", BATCH = 10").await;
    let records: Vec<_> = (0..25).map(|n| json!({"payload": {"n": n}})).collect();
    assert_eq!(
        node.post("/streams/hot:publish", &Value::Array(records).to_string())
            .await
            .status,
        200
    );
    let mut numbers = Vec::new();
    while numbers.len() < 25 {
        let delivery = target.next().await;
        let rows: Vec<Value> = serde_json::from_str(&delivery.body).unwrap();
        assert!(rows.len() <= 10);
        let first = numbers.len() + 1;
        assert_eq!(delivery.id(), format!("hot:0:{first}-{}", first + rows.len() - 1));
        numbers.extend(rows.iter().map(|row| row["n"].as_u64().unwrap()));
    }
    assert_eq!(numbers, (0..25).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_targets_are_refused_at_create_and_again_when_they_are_resolved() {
    let mut target = Target::start().await;
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM hot;").await;
    let statement = format!(
        "CREATE SINK CONNECTOR w TO WEBHOOK WITH (STREAM = 'hot', URL = '{}');",
        target.url()
    );
    let refused = node.ask("POST", "/v1/sql", &[], &statement).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert!(
        refused.text.contains("bridge.webhook.allow_private"),
        "{}",
        refused.text
    );
    let node = node.restart(&QUICK).await;
    node.sql(&statement).await;
    // The exception is taken back: the row waits, and goes out when the exception is there again.
    let node = node.restart(&QUICK[1..]).await;
    publish(&node, 0..1).await;
    let status = wait_for("the refusal", async || {
        let shown = node.sql("SHOW CONNECTORS;").await.remove(0);
        Some(connector(&node).await).filter(|c| c["state"] == "refused" && shown["state"] == "refused")
    })
    .await;
    assert!(
        status["lastError"]["message"].as_str().unwrap().contains("127.0.0.1"),
        "{status}"
    );
    assert!(target.come().is_empty());
    let node = node.restart(&QUICK).await;
    assert_eq!(target.next().await.body, r#"{"n":0}"#);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_side_that_is_down_is_waited_for() {
    let node = Node::start(&[
        ALLOW,
        "bridge.webhook.retry_min=20ms",
        "bridge.webhook.retry_max=100ms",
        "bridge.webhook.attempts_max=1000",
    ])
    .await;
    let target = Target::start().await;
    let address = target.address;
    create(&node, &target, "").await;
    drop(target);
    publish(&node, 0..2).await;
    let status = wait_for("a failure", async || {
        Some(connector(&node).await).filter(|c| c["state"] == "retrying")
    })
    .await;
    assert_eq!(status["lag"], 2);
    let error = status["lastError"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains(&address.to_string()), "{error}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_with_wrong_options_is_not_made() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM hot;").await;
    for (options, code, help) in [
        ("STREAM = 'hot'", "HW2009", "write URL = 'https://example.com/hook'"),
        (
            "STREAM = 'hot', URI = 'https://example.com/'",
            "HW2008",
            "did you mean `URL`?",
        ),
        (
            "STREAM = 'hot', URL = 'ftp://example.com/'",
            "HW2009",
            "use https or http",
        ),
        (
            "STREAM = 'hot', URL = 'http://localhost/'",
            "HW2009",
            "add \"localhost\" to bridge.webhook.allow_private",
        ),
    ] {
        let statement = format!("CREATE SINK CONNECTOR w TO WEBHOOK WITH ({options});");
        let refused = node.ask("POST", "/v1/sql", &[], &statement).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
        assert_eq!(refused.code(), code, "{}", refused.text);
        let said = refused.json()["help"].to_string();
        assert!(
            said.contains(&help.replace('"', "\\\"")),
            "{help} is not in {}",
            refused.text
        );
    }
    assert_eq!(node.get("/connectors").await.json(), json!({"connectors": []}));
    node.stop().await;
}
