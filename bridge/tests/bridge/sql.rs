//! `POST /v1/sql` in its three forms.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::node::{Node, PATIENCE, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn statements_run_in_order_and_answer_together() {
    let node = Node::start(&[]).await;
    let statements = "CREATE STREAM demo WITH (FORMAT = \"JSON\");
        INSERT INTO demo (temperature, humidity) VALUES (22, 80), (15, 20);
        SELECT * FROM demo WHERE humidity > 70;";
    let answer = node.post("/v1/sql", &json!({"sql": statements}).to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let results = answer.json()["results"].as_array().cloned().unwrap();
    assert_eq!(results.len(), 3);
    assert!(
        results[0]["message"]
            .as_str()
            .is_some_and(|message| message.contains("demo")),
        "{}",
        answer.text
    );
    assert_eq!(results[2], json!({"rows": [{"temperature": 22, "humidity": 80}]}));

    let lines = node
        .ask(
            "POST",
            "/v1/sql",
            &[("accept", "application/x-ndjson")],
            "SELECT * FROM demo;",
        )
        .await;
    assert_eq!(lines.headers["content-type"], "application/x-ndjson");
    assert_eq!(
        lines.text,
        "{\"temperature\":22,\"humidity\":80}\n{\"temperature\":15,\"humidity\":20}\n"
    );

    let events = node
        .ask(
            "POST",
            "/v1/sql",
            &[("accept", "text/event-stream")],
            "CREATE STREAM s; SELECT * FROM demo;",
        )
        .await;
    assert_eq!(events.headers["content-type"], "text/event-stream");
    let events: Vec<_> = events.text.split_terminator("\n\n").collect();
    assert!(events[0].starts_with("event: done\ndata: {\"message\":"), "{events:?}");
    assert_eq!(
        events[1..],
        [
            "event: rows\ndata: {}",
            "data: {\"temperature\":22,\"humidity\":80}",
            "data: {\"temperature\":15,\"humidity\":20}",
            "event: end\ndata: {}",
        ]
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_problems_with_a_place() {
    let node = Node::start(&[]).await;
    for accept in ["application/json", "application/x-ndjson", "text/event-stream"] {
        let answer = node
            .ask(
                "POST",
                "/v1/sql",
                &[("accept", accept)],
                "SELECT *\nFROM nowhere EMIT CHANGS;",
            )
            .await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "HW1001"),
            "{}",
            answer.text
        );
        let problem = answer.json();
        assert_eq!(
            (&problem["location"]["line"], &problem["location"]["column"]),
            (&json!(2), &json!(19))
        );
        assert!(
            problem["help"].as_str().is_some_and(|help| help.contains("CHANGES")),
            "{}",
            answer.text
        );
        assert!(
            problem["text"].as_str().is_some_and(|text| text.contains("^^^^^^")),
            "{}",
            answer.text
        );
    }
    let status = async |body: &str| node.ask("POST", "/v1/sql", &[], body).await.status;
    assert_eq!(status("SELECT * FROM nowhere;").await, 404);
    assert_eq!(status("CREATE STREAM mqtt;").await, 409);
    assert_eq!(node.post("/v1/sql", "SELECT 1").await.code(), "HW6006");
    assert_eq!(
        node.post("/v1/sql", "{\"query\": \"SHOW STREAMS;\"}").await.code(),
        "HW6006"
    );
    let ask = async |name, value| node.ask("POST", "/v1/sql", &[(name, value)], "SHOW STREAMS;").await;
    assert_eq!(ask("accept", "text/html").await.code(), "HW6012");
    assert_eq!(ask("content-type", "text/csv").await.code(), "HW6013");
    let pushed = node
        .ask(
            "POST",
            "/v1/sql",
            &[("accept", "application/json")],
            "SELECT * FROM mqtt EMIT CHANGES;",
        )
        .await;
    assert_eq!(pushed.code(), "HW6012");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_as_they_happen_and_end_with_the_server() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM demo;").await;
    let mut changes = listen(&node, "*/*").await;
    let first = next(&mut changes).await.expect("it listens from now on");
    assert!(first.ends_with("\nevent: changes\ndata: {}\n\n"), "{first}");
    let mut lines = listen(&node, "application/x-ndjson").await;
    for (n, row) in [(22, true), (15, false), (31, true)] {
        node.sql(&format!("INSERT INTO demo (t) VALUES ({n});")).await;
        if row {
            let change = next(&mut changes).await.expect("a row");
            assert!(
                change.starts_with("id: ") && change.ends_with(&format!("\ndata: {{\"t\":{n}}}\n\n")),
                "{change}"
            );
            assert_eq!(next(&mut lines).await, Some(format!("{{\"t\":{n}}}\n")));
        }
    }
    let stopped = tokio::spawn(node.stop());
    let last = next(&mut changes).await.expect("a last event");
    assert!(last.starts_with("event: error\n") && last.contains("HW6015"), "{last}");
    assert_eq!(next(&mut changes).await, None);
    let last: Value = serde_json::from_str(&next(&mut lines).await.expect("a last line")).unwrap();
    assert_eq!(last["code"], "HW6015");
    timeout(PATIENCE, stopped).await.expect("it stops").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_ends_its_query() {
    let node = Node::start(&["bridge.connections_max=3"]).await;
    node.sql("CREATE STREAM demo;").await;
    for _ in 0..3 {
        let mut listening = Vec::new();
        while listening.len() < 2 {
            let mut changes = listen(&node, "*/*").await;
            assert!(next(&mut changes).await.is_some());
            listening.push(changes);
        }
        drop(listening);
        // Each open event stream holds one of three places: three rounds of two only fit when the places come back.
        wait_for("the places", async || {
            let raw = node
                .raw(b"GET /health/live HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")
                .await;
            raw.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_not_carried_out() {
    let node = Node::start(&[]).await;
    let statements = "CREATE STREAM t1; INSERT INTO t1 (a) VALUES (77); SELECT * FROM t1 EMIT CHANGES";
    let answer = node
        .ask("POST", "/v1/sql", &[("accept", "application/json")], statements)
        .await;
    assert_eq!((answer.status, answer.code().as_str()), (406, "HW6012"));
    let gone = node.ask("POST", "/v1/sql", &[], "SELECT * FROM t1;").await;
    assert_eq!(gone.status, 404, "nothing was made: {}", gone.text);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_finished_statements_come_before_what_fails() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM demo; INSERT INTO demo (t) VALUES (1);").await;
    let statements = "SELECT * FROM demo; SELECT * FROM nope; INSERT INTO demo (t) VALUES (2);";
    let ask = async |accept| node.ask("POST", "/v1/sql", &[("accept", accept)], statements).await;

    let lines = ask("application/x-ndjson").await;
    assert_eq!(lines.status, 200, "{}", lines.text);
    let lines: Vec<Value> = lines
        .text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((lines.len(), &lines[0]), (2, &json!({"t": 1})), "{lines:?}");
    assert_eq!(
        (&lines[1]["code"], &lines[1]["statement"]),
        (&json!("HW3001"), &json!({"number": 2, "of": 3}))
    );

    let events = ask("text/event-stream").await.text;
    let events: Vec<_> = events.split_terminator("\n\n").collect();
    assert_eq!(events[..2], ["event: rows\ndata: {}", "data: {\"t\":1}"]);
    assert!(
        events[2].starts_with("event: error\n") && events[2].contains("HW3001"),
        "{events:?}"
    );
    assert_eq!(events.len(), 3, "nothing follows: {events:?}");

    assert_eq!(
        ask("application/json").await.code(),
        "HW3001",
        "one document is all or nothing"
    );
    assert_eq!(
        node.sql("SELECT * FROM demo;").await.len(),
        1,
        "what stands behind the mistake is not carried out"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slip_is_told_with_the_rows() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM demo; INSERT INTO demo (a) VALUES ('x');").await;
    let slip = "SELECT a FROM demo WHERE a = \"x\";";
    let ask = async |accept, slip: &str| node.ask("POST", "/v1/sql", &[("accept", accept)], slip).await.text;
    let document: Value = serde_json::from_str(&ask("application/json", slip).await).unwrap();
    let warning = document["results"][0]["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("write 'x'"), "{warning}");
    let events = ask("text/event-stream", slip).await;
    let data = json!({"warnings": [warning]});
    assert!(
        events.starts_with(&format!("event: rows\ndata: {data}\n\n")),
        "{events}"
    );
    let create = "CREATE STREAM s AS SELECT a FROM demo WHERE a = \"x\" EMIT CHANGES;";
    let document: Value = serde_json::from_str(&ask("application/json", create).await).unwrap();
    assert_eq!(document["results"][0]["warnings"], json!([warning]));
    let fine = ask("application/json", "SELECT a FROM demo WHERE a = 'x';").await;
    assert_eq!(fine, "{\"results\":[{\"rows\":[{\"a\":\"x\"}]}]}");
    node.stop().await;
}

async fn listen(node: &Node, accept: &str) -> Incoming {
    let response = node
        .send(
            "POST",
            "/v1/sql",
            &[("accept", accept)],
            "SELECT * FROM demo WHERE t > 20 EMIT CHANGES;",
        )
        .await;
    assert_eq!(response.status(), 200);
    response.into_body()
}

/// The next piece; heartbeats are skipped.
async fn next(body: &mut Incoming) -> Option<String> {
    loop {
        let frame = timeout(PATIENCE, body.frame()).await.expect("something comes")?;
        let data = frame.ok()?.into_data().ok()?;
        let text = String::from_utf8(data.into()).expect("text");
        if text != ": \n\n" && text != "\n" {
            return Some(text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_listed_with_what_they_do_and_streams_without_what_is_theirs() {
    let node = Node::start(&[]).await;
    node.sql(
        "CREATE STREAM s; CREATE STREAM hot AS SELECT n FROM s WHERE n > 1; CREATE STREAM cold AS SELECT n FROM s;",
    )
    .await;
    node.sql("PAUSE QUERY cold;").await;
    let listed = node.get("/queries").await.json();
    let listed = listed["queries"].as_array().unwrap();
    let states: Vec<_> = listed
        .iter()
        .map(|query| (query["id"].clone(), query["status"].clone()))
        .collect();
    assert_eq!(
        states,
        [("cold".into(), "PAUSED".into()), ("hot".into(), "RUNNING".into())]
    );
    let streams = node.get("/streams").await.json();
    let names: Vec<_> = streams["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stream| &stream["streamName"])
        .collect();
    assert_eq!(names, ["cold", "hot", "mqtt", "s"]);
    assert_eq!(
        node.get("/streams/hot$late").await.status,
        200,
        "it is there for who knows its name"
    );
    node.stop().await;
}
