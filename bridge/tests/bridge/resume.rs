//! Changes over server-sent events whose connection broke.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::node::{Node, PATIENCE};

const SELECT: &str = "SELECT n FROM demo EMIT CHANGES;";
const GET: &str = "/v1/sql?sql=SELECT+n+FROM+demo+EMIT+CHANGES%3B";

/// One event, as the HTML standard reads it.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

impl Event {
    fn parse(text: &str) -> Event {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
        };
        Event {
            id: field("id: ").to_owned(),
            name: field("event: ").to_owned(),
            data: serde_json::from_str(field("data: ")).unwrap_or_else(|error| panic!("{error}: {text}")),
        }
    }

    fn n(&self) -> u64 {
        assert_eq!(self.name, "", "{self:?}");
        self.data["n"].as_u64().expect("a number")
    }
}

/// A client that remembers what it got last.
struct Listener {
    body: Incoming,
    text: String,
    last_id: String,
}

impl Listener {
    async fn connect(node: &Node, last_id: &str) -> Listener {
        let headers = [("accept", "text/event-stream"), ("last-event-id", last_id)];
        let response = node.send("GET", GET, &headers, "").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Listener {
            body: response.into_body(),
            text: String::new(),
            last_id: last_id.to_owned(),
        }
    }

    /// A new one, which listens.
    async fn begin(node: &Node) -> Listener {
        let mut listener = Listener::connect(node, "").await;
        let first = listener.next().await.expect("it begins");
        assert_eq!((first.name.as_str(), &first.data), ("changes", &json!({})));
        listener
    }

    /// The next event; heartbeats are skipped.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if event.starts_with(':') {
                    continue;
                }
                let event = Event::parse(&event);
                if !event.id.is_empty() {
                    self.last_id.clone_from(&event.id);
                }
                return Some(event);
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("something comes")?;
            let data = frame.ok()?.into_data().ok()?;
            self.text.push_str(std::str::from_utf8(&data).expect("text"));
        }
    }

    async fn numbers(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            numbers.push(self.next().await.expect("a row").n());
        }
        numbers
    }
}

async fn insert(node: &Node, numbers: std::ops::Range<u64>) {
    let rows: Vec<_> = numbers.map(|n| format!("({n})")).collect();
    node.sql(&format!("INSERT INTO demo (n) VALUES {};", rows.join(", ")))
        .await;
}

async fn demo() -> Node {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM demo;").await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_misses_nothing_and_gets_nothing_twice() {
    let node = demo().await;
    let mut listener = Listener::begin(&node).await;
    let mut got = Vec::new();
    // More than a piece each time; what the client takes of it ends in the middle of one.
    for round in 0..8 {
        insert(&node, round * 3000..round * 3000 + 1500).await;
        got.extend(listener.numbers(700 + 37 * round as usize).await);
        let last_id = listener.last_id.clone();
        drop(listener);
        insert(&node, round * 3000 + 1500..(round + 1) * 3000).await;
        listener = Listener::connect(&node, &last_id).await;
    }
    let left = 24_000 - got.len();
    got.extend(listener.numbers(left).await);
    assert_eq!(got, (0..24_000).collect::<Vec<_>>());
    insert(&node, 24_000..24_001).await;
    assert_eq!(listener.next().await.map(|event| event.n()), Some(24_000), "it goes on");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_and_did_not_arrive_comes_again_as_it_was() {
    let node = demo().await;
    let mut listener = Listener::begin(&node).await;
    let changes = listener.last_id.clone();
    insert(&node, 0..3).await;
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(listener.next().await.expect("a row"));
    }
    // By POST as well, as clients do that send the statements again, and without a body.
    for (method, path, body) in [
        ("GET", GET, ""),
        ("POST", "/v1/sql", SELECT),
        ("POST", "/v1/sql", ""),
        ("GET", "/v1/sql", ""),
    ] {
        for (got, last_id) in [&changes, &first[0].id, &first[1].id].into_iter().enumerate() {
            let response = node.send(method, path, &[("last-event-id", last_id)], body).await;
            assert_eq!(response.status(), 200, "{method} {path}");
            let (body, text, last_id) = (response.into_body(), String::new(), last_id.clone());
            let mut again = Listener { body, text, last_id };
            for event in &first[got..] {
                assert_eq!(again.next().await.as_ref(), Some(event));
            }
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_connection_with_an_id_has_it() {
    let node = demo().await;
    let mut first = Listener::begin(&node).await;
    insert(&node, 0..2).await;
    assert_eq!(first.numbers(2).await, [0, 1]);
    let mut second = Listener::connect(&node, &first.last_id).await;
    let last = first.next().await.expect("an error");
    assert_eq!((last.name.as_str(), &last.data["code"]), ("error", &json!("HW6018")));
    assert_eq!(last.id, "", "what it had stays the last that it had");
    assert_eq!(first.next().await, None);
    insert(&node, 2..4).await;
    assert_eq!(second.numbers(2).await, [2, 3]);
    // It takes it back, with what it had: the other's events are among those that it misses.
    let mut third = Listener::connect(&node, &first.last_id).await;
    assert_eq!(third.numbers(2).await, [2, 3]);
    assert_eq!(second.next().await.map(|event| event.name), Some("error".to_owned()));
    drop((first, second));
    insert(&node, 4..5).await;
    assert_eq!(third.numbers(1).await, [4], "those that lost it do not end it");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_under_way_than_is_kept_is_told_and_not_skipped() {
    let node = demo().await;
    let mut listener = Listener::begin(&node).await;
    insert(&node, 0..1).await;
    assert_eq!(listener.numbers(1).await, [0]);
    let early = listener.last_id.clone();
    let filler = "x".repeat(1 << 20);
    node.sql("CREATE STREAM large; INSERT INTO large VALUES '{\"n\":1}';")
        .await;
    for _ in 0..6 {
        node.sql(&format!("INSERT INTO demo (n) VALUES ('{filler}');")).await;
        assert!(listener.next().await.is_some());
    }
    let headers = [("last-event-id", listener.last_id.as_str())];
    drop(node.send("GET", GET, &headers, "").await);
    let ask = async || node.ask("GET", GET, &[("last-event-id", &early)], "").await;
    let answer = ask().await;
    assert_eq!((answer.status, answer.code().as_str()), (410, "HW6018"));
    assert!(answer.text.contains("under way"), "{}", answer.text);
    assert!(ask().await.text.contains("no such query"), "it has ended");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_end_there_is_nothing_to_come_back_to() {
    let node = demo().await;
    let statements = "SELECT n FROM demo EMIT CHANGES FROM BEGINNING LIMIT 2;";
    insert(&node, 0..5).await;
    let answer = node.ask("POST", "/v1/sql", &[], statements).await;
    let events: Vec<_> = answer.text.split_terminator("\n\n").map(Event::parse).collect();
    let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["changes", "", "", "end"]);
    assert!(answer.text.starts_with("retry: "), "{}", answer.text);
    for _ in 0..2 {
        let again = node
            .ask("POST", "/v1/sql", &[("last-event-id", &events[3].id)], statements)
            .await;
        assert_eq!((again.status, again.text.as_str()), (204, ""));
    }
    let again = node
        .ask("POST", "/v1/sql", &[("last-event-id", &events[1].id)], statements)
        .await;
    let rest: Vec<_> = again.text.split_terminator("\n\n").map(Event::parse).collect();
    assert_eq!(rest, events[2..]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_nothing_goes_on_from_are_refused() {
    let node = demo().await;
    let listener = Listener::begin(&node).await;
    let (name, _) = listener.last_id.split_once('.').expect("a name and a number");
    assert_eq!(name.len(), 22, "128 bits");
    let ask = async |id: &str, path: &str| {
        let answer = node.ask("GET", path, &[("last-event-id", id)], "").await;
        (answer.status, answer.code())
    };
    let refused = |status, code: &str| (status, code.to_owned());
    assert_eq!(ask("AAAAAAAAAAAAAAAAAAAAAA.0", GET).await, refused(410, "HW6018"));
    for id in [
        "7",
        "x.y",
        ".",
        &format!("{name}.1"),
        &format!("{name}.18446744073709551615"),
    ] {
        assert_eq!(ask(id, GET).await, refused(400, "HW6009"), "{id}");
    }
    let other = "/v1/sql?sql=SELECT+m+FROM+demo+EMIT+CHANGES";
    assert_eq!(ask(&listener.last_id, other).await, refused(400, "HW6009"));
    let lines = [
        ("last-event-id", listener.last_id.as_str()),
        ("accept", "application/x-ndjson"),
    ];
    assert_eq!(node.ask("GET", GET, &lines, "").await.code(), "HW6012");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_only_listens() {
    let node = demo().await;
    for statements in [
        "DROP%20STREAM%20demo",
        "SELECT%20n%20FROM%20demo",
        "DROP+STREAM+demo;+SELECT+n+FROM+demo+EMIT+CHANGES",
        "",
    ] {
        let answer = node.get(&format!("/v1/sql?sql={statements}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "HW6009"), "{statements}");
    }
    assert_eq!(node.get("/v1/sql").await.code(), "HW6009");
    assert_eq!(node.ask("HEAD", GET, &[], "").await.status, 405);
    assert_eq!(node.ask("POST", GET, &[], SELECT).await.code(), "HW6009");
    assert_eq!(
        node.get("/v1/sql?sql=SELECT+%2B1+FROM+nowhere+EMIT+CHANGES")
            .await
            .code(),
        "HW3001"
    );
    let path = "/v1/sql?sql=SET+idle='off';SELECT+n%2B1+AS+n+FROM+demo+EMIT+CHANGES+FROM+BEGINNING+LIMIT+1";
    insert(&node, 0..1).await;
    let answer = node.get(path).await;
    assert!(answer.text.contains("data: {\"n\":1}"), "{}", answer.text);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_held_back_holds_up_nobody() {
    let node = demo().await;
    let listener = Listener::begin(&node).await;
    drop(listener);
    // More than its channel takes.
    insert(&node, 0..5000).await;
    timeout(PATIENCE, node.stop()).await.expect("it stops");
}
