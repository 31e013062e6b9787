//! `POST /streams/{name}:publish`, and what becomes of it.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::node::{Node, read_all};

const ARTICLE: &str = r#"{"location":{"lng":116.296011,"lat":40.005091},"speed":32.12,"tachometer":9001.0,"ts":1563268202,"direction":198.33212,"id":"NXP-058659730253-963945118132721-22","dynamical":8.93}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_is_answered_with_its_record_id_and_stored_as_it_was_written() {
    let node = Node::start(&[]).await;
    let created = node
        .post(
            "/streams",
            r#"{"name":"emqx_rule_engine_output","replicationFactor":3}"#,
        )
        .await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(
        node.post("/streams", r#"{"name":"emqx_rule_engine_output"}"#)
            .await
            .code(),
        "HW3101"
    );

    let body = json!({ "payload": ARTICLE, "flag": 0 }).to_string();
    let answer = node.post("/streams/emqx_rule_engine_output:publish", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let wanted = json!({
        "streamName": "emqx_rule_engine_output",
        "recordIds": [
            {"shardId": "0", "batchId": "0", "batchIndex": 0, "recordId": "emqx_rule_engine_output:0:0"},
        ],
    });
    assert_eq!(answer.json(), wanted);
    let read = node.get("/v1/streams/emqx_rule_engine_output/records").await;
    assert!(
        read.text.contains(&format!("\"value\":{ARTICLE}")),
        "spelling included: {}",
        read.text
    );

    let listed = node.get("/streams").await.json();
    let names: Vec<_> = listed["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stream| &stream["streamName"])
        .collect();
    assert_eq!(names, ["emqx_rule_engine_output", "mqtt"]);
    assert_eq!(
        node.ask("DELETE", "/streams/emqx_rule_engine_output", &[], "")
            .await
            .status,
        200
    );
    assert_eq!(
        node.ask("DELETE", "/streams/emqx_rule_engine_output", &[], "")
            .await
            .code(),
        "HW3001"
    );
    assert_eq!(
        node.ask("DELETE", "/streams/gone?ignoreNonExist=true", &[], "")
            .await
            .status,
        200
    );
    assert_eq!(node.get("/streams/emqx_rule_engine_output").await.code(), "HW3001");
    assert_eq!(
        node.post("/streams/emqx_rule_engine_output:publish", &body)
            .await
            .code(),
        "HW3001"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_emqx_sends_by_itself_is_taken_as_it_is() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM s;").await;
    for body in [
        include_str!("../data/emqx_rule_default.json"),
        include_str!("../data/emqx_4_3_webhook.json"),
    ] {
        let answer = node.post("/streams/s%3Apublish", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let wanted = json!({
        "clientId": "truck-7",
        "username": "fleet",
        "publishedAtMs": 1_563_268_202_000_i64,
        "userProperties": [["topic", "fleet/7"]],
    });
    for record in node.records("s").await {
        assert_eq!(record["headers"], wanted);
        assert_eq!(record["value"], json!({"speed": 32.12}));
        assert_eq!(record["topic"], Value::Null, "without `_topic` nothing is published");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_answered_in_its_order_whatever_shards_it_falls_into() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM s WITH (SHARDS = 4);").await;
    let records: Vec<_> = (0..100)
        .map(|n| json!({"payload": {"n": n}, "key": format!("k{}", n % 10)}))
        .collect();
    let answer = node
        .post("/streams/s:publish", &Value::Array(records).to_string())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let ids: Vec<String> = answer.json()["recordIds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| text(&id["recordId"]))
        .collect();
    assert_eq!(ids.len(), 100);
    let stored = node.records("s").await;
    for (n, id) in ids.iter().enumerate() {
        let record = stored
            .iter()
            .find(|record| record["id"] == **id)
            .unwrap_or_else(|| panic!("no record {id}"));
        assert_eq!(
            (&record["value"]["n"], &record["key"]),
            (&json!(n), &json!(format!("k{}", n % 10)))
        );
    }
    let shards: std::collections::BTreeSet<_> = stored.iter().map(|record| record["shard"].as_u64()).collect();
    assert!(shards.len() > 1, "ten keys fall into more than one shard");
    assert_eq!(
        node.post("/streams/s:publish", "[]").await.json()["recordIds"],
        json!([])
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_is_written_once() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM s WITH (SHARDS = 4); CREATE STREAM plant FROM TOPIC 'plant/{device}';")
        .await;
    let send = async |path: &str, key: &str, body: &Value| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let answer = node.ask("POST", path, &headers, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let records: Vec<_> = (0..10)
        .map(|n| json!({"payload": {"n": n}, "key": format!("k{n}")}))
        .collect();
    let body = Value::Array(records);
    let first = send("/streams/s:publish", "4711", &body).await;
    assert_eq!(first["recordIds"].as_array().map(Vec::len), Some(10));
    let again = send("/streams/s:publish", "4711", &body).await;
    assert_eq!(again["recordIds"], json!([]));
    assert_eq!(again["repeated"], json!((0..10).collect::<Vec<_>>()));
    assert_eq!(node.records("s").await.len(), 10);
    send("/streams/s:publish", "4712", &body).await;
    assert_eq!(node.records("s").await.len(), 20, "another request");
    let published = json!({"payload": {"t": 1}, "_topic": "plant/a"});
    send("/streams/plant:publish", "4711", &published).await;
    assert_eq!(
        send("/streams/plant:publish", "4711", &published).await["repeated"],
        json!([0])
    );
    assert_eq!(
        node.records("plant").await[0]["topic"],
        "plant/a",
        "streams do not share names"
    );
    assert_eq!(node.records("plant").await.len(), 1);
    let long = "x".repeat(500);
    let answer = node
        .ask(
            "POST",
            "/streams/s:publish",
            &[("idempotency-key", &long)],
            "{\"payload\":1}",
        )
        .await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "HW6009"),
        "{}",
        answer.text
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_one_key_are_found() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM s WITH (SHARDS = 2); CREATE STREAM plant FROM TOPIC 'plant/{device}';")
        .await;
    for n in 0..9 {
        let body = json!({"payload": {"n": n}, "key": format!("k{}", n % 3)});
        node.post("/streams/s:publish", &body.to_string()).await;
    }
    let body = json!({"payload": {"t": 1}, "_topic": "plant/a"});
    node.post("/streams/plant:publish", &body.to_string()).await;
    let found = async |path: &str| {
        let answer = node.get(path).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let records = answer.json()["records"].as_array().cloned().unwrap_or_default();
        records.iter().map(|record| record["value"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        found("/v1/streams/s/records?key=k1").await,
        [json!({"n": 1}), json!({"n": 4}), json!({"n": 7})]
    );
    assert_eq!(found("/v1/streams/s/records?key=k1&limit=2").await.len(), 2);
    assert_eq!(found("/v1/streams/s/records?key=k9").await, [] as [Value; 0]);
    assert_eq!(
        found("/v1/streams/plant/records?key=plant%2Fa").await,
        [json!({"t": 1})]
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_published_where_the_stream_captures_it() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM plant FROM TOPIC 'plant/{device}/temp'; CREATE STREAM s;")
        .await;
    let publish = async |stream: &str, topic: &str| {
        node.post(
            &format!("/streams/{stream}:publish"),
            &json!({"payload": {"t": 1}, "_topic": topic}).to_string(),
        )
        .await
    };
    let answer = publish("plant", "plant/a/temp").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let stored = node.records("plant").await;
    assert_eq!(stored[0]["topic"], "plant/a/temp");
    assert_eq!(stored[0]["id"], answer.json()["recordIds"][0]["recordId"]);
    assert_eq!(publish("plant", "plant/a/speed").await.code(), "HW6011");
    assert_eq!(publish("s", "plant/a/temp").await.code(), "HW6011");
    assert_eq!(
        publish("mqtt", "plant/a/temp").await.code(),
        "HW6011",
        "the default stream takes only what is left over"
    );
    assert_eq!(publish("mqtt", "other").await.status, 200);
    assert_eq!(
        publish("mqtt", "$SYS/x").await.code(),
        "HW6010",
        "nobody publishes there"
    );
    node.sql("CREATE STREAM hot AS SELECT * FROM plant EMIT CHANGES;").await;
    assert_eq!(
        node.post("/streams/hot:publish", r#"{"payload":"{}"}"#).await.code(),
        "HW3103",
        "a query writes it"
    );
    assert_eq!(node.records("plant").await.len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_part_is_committed_the_answer_says_which_and_is_not_one_that_emqx_repeats() {
    let node = Node::start(&[]).await;
    let record = |topic: &str| json!({"payload": {"t": topic}, "_topic": topic});
    let body = json!([record("a"), record("$SYS/x"), record("b"), {"payload": {"t": "last"}}]);
    let answer = node.post("/streams/mqtt:publish", &body.to_string()).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (409, "HW6017"),
        "{}",
        answer.text
    );
    let problem = answer.json();
    assert_eq!(
        (&problem["notCommitted"], &problem["unknown"]),
        (&json!([1, 3]), &json!([]))
    );
    let told: Vec<_> = problem["recordIds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| (&id["index"], text(&id["recordId"])))
        .collect();
    assert_eq!((told[0].0, told[1].0, told.len()), (&json!(0), &json!(2), 2));
    let stored = node.records("mqtt").await;
    assert_eq!(stored.len(), 2);
    for (index, id) in told {
        let record = stored
            .iter()
            .find(|record| record["id"] == *id)
            .expect("what is told is there");
        assert_eq!(record["topic"], body[index.as_u64().unwrap() as usize]["_topic"]);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_and_topic_of_the_streams_options_are_those_of_an_insert() {
    let node = Node::start(&[]).await;
    node.sql(
        "CREATE STREAM k (device STRING KEY, temp FLOAT NOT NULL) WITH (TOPIC = 'k/{device}', QOS = 1, SHARDS = 4);",
    )
    .await;
    node.sql("INSERT INTO k VALUES ('a', 1);").await;
    let answer = node
        .post("/streams/k:publish", r#"{"payload": {"device": "a", "temp": 2}}"#)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let own_key = r#"[{"payload": {"device": "a"}, "key": "own"}, {"payload": {"device": "a/b", "temp": 3}}]"#;
    assert_eq!(node.post("/streams/k:publish", own_key).await.status, 200);
    let mut found: Vec<_> = node
        .records("k")
        .await
        .iter()
        .map(|record| {
            (
                record["value"]["temp"].to_string(),
                text(&record["key"]),
                text(&record["topic"]),
                record["shard"].clone(),
            )
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let by_insert = found[0].3.clone();
    assert_eq!(found[1], ("2".to_owned(), "a".to_owned(), "k/a".to_owned(), by_insert));
    assert_eq!((found[2].1.as_str(), found[2].2.as_str()), ("a/b", "k/a%2Fb"));
    assert_eq!(
        (found[3].1.as_str(), found[3].2.as_str()),
        ("own", "k/a"),
        "what a record brings goes first"
    );
    let broken = r#"[{"payload": {"device": "a"}}, {"payload": "no JSON", "flag": 1}]"#;
    let answer = node.post("/streams/k:publish", broken).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (422, "HW2004"),
        "{}",
        answer.text
    );
    assert!(text(&answer.json()["detail"]).contains("record 1"), "{}", answer.text);
    assert_eq!(node.records("k").await.len(), 4, "nothing of it was written");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pipelined_publishes_are_answered_in_order() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM s;").await;
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    let mut requests = String::new();
    for n in 0..100 {
        let body = json!({"payload": n.to_string()}).to_string();
        let close = if n == 99 { "connection: close\r\n" } else { "" };
        requests.push_str(&format!(
            "POST /streams/s:publish HTTP/1.1\r\nhost: node\r\n{close}content-length: {}\r\n\r\n{body}",
            body.len()
        ));
    }
    stream.write_all(requests.as_bytes()).await.unwrap();
    let answers = read_all(&mut stream).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 100, "{answers}");
    let ids: Vec<_> = answers
        .split("\"recordId\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert_eq!(ids, (0..100).map(|n| format!("s:0:{n}")).collect::<Vec<_>>());
    let stored: Vec<_> = node
        .records("s")
        .await
        .iter()
        .map(|record| record["value"].as_u64().unwrap())
        .collect();
    assert_eq!(stored, (0..100).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_503_with_retry_after_and_reads_go_on() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM s; INSERT INTO s VALUES '{\"a\":1}';").await;
    let node = node.restart(&["store.free_disk_min=4096TiB"]).await;
    let answer = crate::node::wait_for("the refusal", async || {
        let answer = node.post("/streams/s:publish", r#"{"payload":"{}"}"#).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "HW4002"),
        "{}",
        answer.text
    );
    assert_eq!(answer.headers["retry-after"], "30");
    assert_eq!(node.records("s").await[0]["value"], json!({"a": 1}));
    node.stop().await;
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no string"))
        .to_owned()
}
