//! What clients get wrong, and what the network does to them.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::node::{Node, PATIENCE, config, read_all, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_status_and_code() {
    let node = Node::start(&["bridge.body_max=64KiB"]).await;
    node.sql("CREATE STREAM s;").await;
    let publish = "/streams/s:publish";
    for (method, path, body, status, code) in [
        ("GET", "/nothing/here", "", 404, "HW6001"),
        ("GET", "/", "", 404, "HW6001"),
        ("GET", "/streams/s:drop", "", 404, "HW6001"),
        ("POST", "/metrics", "", 405, "HW6002"),
        ("GET", publish, "", 405, "HW6002"),
        ("PUT", "/streams", "", 405, "HW6002"),
        ("POST", publish, "{\"payload\":", 400, "HW6006"),
        ("POST", publish, "", 400, "HW6006"),
        ("POST", publish, "{\"flag\":0}", 400, "HW6007"),
        (
            "POST",
            publish,
            "{\"payload\":\"{temperature\",\"flag\":0}",
            400,
            "HW6008",
        ),
        ("POST", "/streams/t:publish", "{\"payload\":\"{}\"}", 404, "HW3001"),
        ("POST", "/streams", "{\"title\":\"s\"}", 400, "HW6006"),
        ("GET", "/v1/streams/s/records?limit=many", "", 400, "HW6009"),
        ("GET", "/v1/streams/s/records?limit=0", "", 400, "HW6009"),
        ("GET", "/v1/streams/s/records?from=yesterday", "", 400, "HW6009"),
        ("GET", "/v1/streams/s/records?wait=5", "", 400, "HW6009"),
        ("GET", "/v1/streams/s/records?shard=7", "", 400, "HW6009"),
        ("GET", "/v1/streams/t/records", "", 404, "HW3001"),
        ("GET", "/v1/streams/s/records?form=latest", "", 400, "HW6009"),
        ("GET", "/streams?foo=1", "", 400, "HW6009"),
        ("POST", "/v1/sql?pretty", "SHOW STREAMS;", 400, "HW6009"),
    ] {
        let answer = node.ask(method, path, &[], body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{method} {path}: {}",
            answer.text
        );
        assert!(
            answer.json()["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty()),
            "{}",
            answer.text
        );
    }
    let answer = node.ask("DELETE", "/streams", &[], "").await;
    assert_eq!(answer.headers["allow"], "GET, HEAD, POST");
    let head = node.ask("HEAD", "/health/live", &[], "").await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversize_bodies_are_refused_however_they_are_announced() {
    let node = Node::start(&["bridge.body_max=64KiB"]).await;
    node.sql("CREATE STREAM s;").await;
    let large = json!({"payload": "x".repeat(100_000), "flag": 1}).to_string();
    assert_eq!(node.post("/streams/s:publish", &large).await.code(), "HW6003");
    let head =
        "POST /streams/s:publish HTTP/1.1\r\nhost: node\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = format!("{head}{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    assert!(node.raw(chunked.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    let announced = "POST /streams/s:publish HTTP/1.1\r\nhost: node\r\ncontent-length: 99999999999\r\n\r\n";
    assert!(node.raw(announced.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    assert!(node.records("s").await.is_empty(), "nothing of it is stored");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_requests_end_their_own_connection_only() {
    let node = Node::start(&[]).await;
    node.sql("CREATE STREAM s;").await;
    let large_header = format!(
        "GET /streams HTTP/1.1\r\nhost: node\r\nx: {}\r\n\r\n",
        "x".repeat(300_000)
    );
    for broken in [
        &b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"[..],
        b"GET\r\n\r\n",
        b"GET /a b c HTTP/1.1\r\nhost: node\r\n\r\n",
        b"GET / HTTP/1.1\r\nho st: node\r\n\r\n",
        large_header.as_bytes(),
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /streams/s:publish HTTP/1.1\r\nhost: node\r\ncontent-length: -1\r\n\r\n",
        b"POST /streams/s:publish HTTP/1.1\r\nhost: node\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n12345",
        b"POST /streams/s:publish HTTP/1.1\r\nhost: node\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        &[b'a'; 100_000],
    ] {
        let answer = node.raw(broken).await;
        // However much of it is unread, the client gets to see why.
        assert!(
            answer.starts_with("HTTP/1.1 4"),
            "{:?} gave {answer}",
            String::from_utf8_lossy(&broken[..broken.len().min(60)])
        );
    }
    // And no reset behind it, which makes some systems throw the answer away.
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(large_header.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    ended.expect("an end without a reset");
    assert!(
        answer.starts_with(b"HTTP/1.1 431 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    // Cut off in the body.
    let cut = "POST /streams/s:publish HTTP/1.1\r\nhost: node\r\ncontent-length: 100\r\n\r\n{\"payload\":\"{}\"}";
    let answer = node.cut_off(cut.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(node.records("s").await.is_empty(), "half a request is none");
    assert_eq!(node.post("/streams/s:publish", r#"{"payload":"{}"}"#).await.status, 200);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_cost_nothing_and_slow_heads_are_given_up() {
    let node = Node::start(&["bridge.header_timeout=300ms"]).await;
    // EMQX's "test connection".
    for _ in 0..20 {
        drop(TcpStream::connect(node.address()).await.unwrap());
    }
    for begun in ["", "P", "POST /streams", "POST /streams HTTP/1.1\r\nhost: no"] {
        let mut slow = TcpStream::connect(node.address()).await.unwrap();
        slow.write_all(begun.as_bytes()).await.unwrap();
        assert_eq!(read_all(&mut slow).await, "", "after {begun:?}");
    }
    // A connection that has shown what it is may take its time.
    let mut kept = TcpStream::connect(node.address()).await.unwrap();
    for _ in 0..2 {
        kept.write_all(b"GET /health/live HTTP/1.1\r\nhost: node\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 1024];
        let count = timeout(PATIENCE, kept.read(&mut answer)).await.unwrap().unwrap();
        assert!(
            answer[..count].starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer[..count])
        );
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_to_come_back() {
    let node = Node::start(&["bridge.connections_max=2"]).await;
    let first = TcpStream::connect(node.address()).await.unwrap();
    let second = TcpStream::connect(node.address()).await.unwrap();
    let refused = wait_for("a refusal", async || {
        let answer = node
            .raw(b"GET /health/live HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")
            .await;
        (!answer.starts_with("HTTP/1.1 200")).then_some(answer)
    })
    .await;
    // Its request was not read, so the answer may be lost to a reset.
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 503"), "{refused}");
    drop((first, second));
    wait_for("room again", async || {
        let answer = node
            .raw(b"GET /health/live HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")
            .await;
        answer.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named_with_the_flag_that_changes_it() {
    let node = Node::start(&[]).await;
    let taken = node.address().to_string();
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder, &[&format!("bridge.http_listen={taken}")]);
    let error = node.start_another_bridge(&config.bridge).await.unwrap_err().to_string();
    assert!(error.contains(&taken) && error.contains("--http"), "{error}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_answer() {
    let node = Node::start(&[]).await;
    assert_eq!(node.get("/health/live").await.json(), json!({"status": "live"}));
    assert_eq!(node.get("/health/ready").await.json(), json!({"status": "ready"}));
    node.get("/nothing").await;
    let metrics = node.get("/metrics").await;
    assert!(
        metrics.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain")
    );
    for name in [
        "headwater_bridge_http_connections",
        "headwater_bridge_http_requests_total{route=\"unknown\",status=\"404\"}",
    ] {
        assert!(metrics.text.contains(name), "{name} is not in {}", metrics.text);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_too() {
    let node = Node::start(&[]).await;
    let stream = TcpStream::connect(node.address()).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get(format!("http://{}/health/live", node.address()));
    let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    node.stop().await;
}
