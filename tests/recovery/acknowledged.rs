//! Whatever was answered with yes is there after a kill -9 in the next moment: retained messages, streams, queries.

use serde_json::json;
use tempfile::tempdir;

use crate::harness::clients::{MosquittoSub, mosquitto_pub};
use crate::harness::{Server, wait_for};

#[test]
fn retained_messages() {
    let folder = tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data"));
    for round in 0..5 {
        mosquitto_pub(&server, "state/door", &format!("open {round}"), &["-r"]);
        mosquitto_pub(&server, &format!("state/window{round}"), "shut", &["-r"]);
        mosquitto_pub(&server, "state/gone", "soon", &["-r"]);
        mosquitto_pub(&server, "state/gone", "", &["-r"]);
        server.kill();
        server.start_again();
        let subscriber = MosquittoSub::start(&server, &["state/#"]);
        let mut messages: Vec<_> = (0..round + 2)
            .map(|_| subscriber.message("a retained message"))
            .collect();
        messages.sort();
        let mut wanted = vec![format!("state/door open {round}")];
        wanted.extend((0..=round).map(|round| format!("state/window{round} shut")));
        assert_eq!(messages, wanted, "the last of each topic, and nothing that was removed");
    }
}

#[test]
fn streams_and_queries() {
    let folder = tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data"));
    for round in 0..8_usize {
        server.sql(&format!(
            "CREATE STREAM s{round} FROM TOPIC 's{round}/{{device}}' WITH (FORMAT = 'JSON');"
        ));
        server.kill();
        server.start_again();
        let (stream, query) = (format!("s{round}"), format!("q{round}"));
        server.sql(&format!(
            "CREATE STREAM {query} AS SELECT device, n FROM {stream} WHERE n > 0 EMIT CHANGES;"
        ));
        server.kill();
        server.start_again();
        mosquitto_pub(&server, &format!("{stream}/a"), r#"{"n":1}"#, &[]);
        server.kill();
        server.start_again();
        wait_for("the row of a query made before the kill", || {
            let rows = server.sql(&format!("SELECT * FROM {query};"));
            if rows == [json!({"device": "a", "n": 1})] {
                Ok(())
            } else {
                Err(format!("{rows:?}"))
            }
        });
        // What was dropped stays dropped.
        if round % 2 == 1 {
            server.sql(&format!("DROP QUERY {query};"));
            server.sql(&format!("DROP STREAM {query};"));
            server.kill();
            server.start_again();
        }
        let streams = server.sql("SHOW STREAMS;");
        let there = |name: &str| streams.iter().any(|stream| stream["name"] == name);
        assert!(there(&stream), "{streams:?}");
        assert_eq!(there(&query), round % 2 == 0, "{streams:?}");
    }
}
