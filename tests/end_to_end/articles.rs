//! The sessions of the two articles that introduced this kind of system, statements and rows verbatim.

use serde_json::json;
use tempfile::tempdir;

use crate::harness::cli::{self, Session};
use crate::harness::{Server, http, wait_for};

/// HStreamDB overview, "quick start": two sessions of the command line, one selects, the other inserts.
#[test]
fn the_quick_start_of_the_overview() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let output = cli::execute(&server, r#"CREATE STREAM demo WITH (FORMAT = "JSON");"#);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut selecting = Session::open(&server);
    selecting.type_line("SELECT * FROM demo WHERE humidity > 70 EMIT CHANGES;");
    let mut inserting = Session::open(&server);
    let sentinel = until_it_listens(&selecting, || {
        inserting.type_line("INSERT INTO demo (temperature, humidity) VALUES (0, 99);");
        r#"{"temperature":0,"humidity":99}"#.to_owned()
    });
    for statement in [
        "INSERT INTO demo (temperature, humidity) VALUES (22, 80);",
        "INSERT INTO demo (temperature, humidity) VALUES (15, 20);",
        "INSERT INTO demo (temperature, humidity) VALUES (31, 76);",
        "INSERT INTO demo (temperature, humidity) VALUES ( 5, 45);",
        "INSERT INTO demo (temperature, humidity) VALUES (27, 82);",
        "INSERT INTO demo (temperature, humidity) VALUES (28, 86);",
    ] {
        inserting.type_line(statement);
    }
    assert_eq!(
        rows(&selecting, 4, &sentinel),
        [
            r#"{"temperature":22,"humidity":80}"#,
            r#"{"temperature":31,"humidity":76}"#,
            r#"{"temperature":27,"humidity":82}"#,
            r#"{"temperature":28,"humidity":86}"#,
        ]
    );
}

/// EMQX and HStreamDB: a rule of EMQX posts each message as a JSON string; the row comes out as it went in.
#[test]
fn the_session_of_the_bridge_from_emqx() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let output = cli::execute(&server, "CREATE STREAM emqx_rule_engine_output ;");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = cli::execute(&server, "SHOW STREAMS;");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("emqx_rule_engine_output"), "{shown}");

    let publish = |payload: &str| {
        let url = server.url("/streams/emqx_rule_engine_output:publish");
        let answer = http::post_json(&url, &json!({"payload": payload, "flag": 0}).to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.json()["streamName"], "emqx_rule_engine_output");
        assert_eq!(
            answer.json()["recordIds"].as_array().map(Vec::len),
            Some(1),
            "{}",
            answer.body
        );
    };
    let mut session = Session::open(&server);
    session.type_line("SELECT * FROM emqx_rule_engine_output EMIT CHANGES;");
    let sentinel = until_it_listens(&session, || {
        publish(r#"{"sentinel":1}"#);
        r#"{"sentinel":1}"#.to_owned()
    });
    // `test connection` of EMQX opens a connection and closes it without a byte.
    drop(std::net::TcpStream::connect(server.http()).unwrap());
    let row = r#"{"location":{"lng":116.296011,"lat":40.005091},"speed":32.12,"tachometer":9001.0,"ts":1563268202,"direction":198.33212,"id":"NXP-058659730253-963945118132721-22","dynamical":8.93}"#;
    publish(row);
    assert_eq!(rows(&session, 1, &sentinel), [row]);
}

/// A continuous query sees what comes after it was made, and only rows tell that it was: sends sentinels until one
/// comes out; gives the sentinel's row.
fn until_it_listens(session: &Session, mut send: impl FnMut() -> String) -> String {
    wait_for("the first row of a continuous query", || {
        let row = send();
        session
            .row_soon()
            .filter(|got| *got == row)
            .ok_or_else(|| "no sentinel came out".to_owned())
    })
}

/// The next rows that are no sentinels.
fn rows(session: &Session, count: usize, sentinel: &str) -> Vec<String> {
    let lines = std::iter::repeat_with(|| session.row("a row of the article"));
    lines.filter(|line| line != sentinel).take(count).collect()
}
