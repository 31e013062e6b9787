//! What time does while nobody looks: sessions and retained messages that expire while the server is down, or before the
//! timer that would end them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use headwater_broker::packet::*;
use headwater_store::{Clock, Qos, SystemClock, TimestampMs};

use crate::support::{Asks, Client, STAY, Server, ack, expiry_s, message, open};

/// The system's clock, set forward.
#[derive(Default)]
struct Ahead(AtomicI64);

impl Clock for Ahead {
    fn now(&self) -> TimestampMs {
        TimestampMs(SystemClock.now().0 + self.0.load(Ordering::SeqCst))
    }
}

impl Ahead {
    fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

async fn start(folder: Arc<tempfile::TempDir>, clock: &Arc<Ahead>) -> Server {
    Server::start_with(folder, &[], clock.clone()).await
}

async fn publish(server: &Server, topic: &str, retain: bool, expiry_s: Option<u32>) {
    let mut client = Client::connect(server.address(), Version::V5, "publisher").await;
    let publish = Publish {
        retain,
        properties: expiry_s.map(Property::MessageExpiryInterval).into_iter().collect(),
        ..message(topic, Qos::AtLeastOnce, 1, "x")
    };
    client.publish(publish).await;
    client.expect(Packet::PubAck(ack(1))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_expiry_has_passed_is_not_resumed_whatever_its_timer_says() {
    let clock = Arc::new(Ahead::default());
    let server = start(Arc::new(tempfile::tempdir().unwrap()), &clock).await;
    for (client_id, away_s, present) in [("back in time", 500, true), ("too late", 700, false)] {
        let (mut client, existed) = open(&server, client_id, STAY).await;
        assert!(!existed);
        client.subscribe("a/+", Qos::AtLeastOnce).await;
        drop(client);
        // Its end is written.
        tokio::time::sleep(Duration::from_millis(300)).await;
        publish(&server, "a/1", false, None).await;
        // The timer sleeps on: it was set by how long there was to wait then.
        clock.advance(away_s);
        let (mut client, existed) = open(&server, client_id, STAY).await;
        assert_eq!(existed, present, "{client_id}");
        let message = client.receive_within(Duration::from_millis(300)).await;
        assert_eq!(message.is_some(), present, "{client_id}: {message:?}");
        if !present {
            publish(&server, "a/1", false, None).await;
            let message = client.receive_within(Duration::from_millis(300)).await;
            assert_eq!(message, None, "its subscriptions are gone too");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_expires_while_the_server_is_down_is_not_resumed() {
    let clock = Arc::new(Ahead::default());
    let server = start(Arc::new(tempfile::tempdir().unwrap()), &clock).await;
    for (client_id, expiry_s) in [("short", 60), ("long", 6000)] {
        let (mut client, _) = open(&server, client_id, Asks { expiry_s, ..STAY }).await;
        client.subscribe("a/+", Qos::AtLeastOnce).await;
    }
    let folder = server.stop().await;
    clock.advance(120);
    let server = start(folder, &clock).await;
    assert!(!open(&server, "short", STAY).await.1);
    assert!(open(&server, "long", STAY).await.1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_expires_over_a_restart() {
    let clock = Arc::new(Ahead::default());
    let server = start(Arc::new(tempfile::tempdir().unwrap()), &clock).await;
    for (topic, expiry_s) in [("r/short", Some(60)), ("r/long", Some(6000)), ("r/ever", None)] {
        publish(&server, topic, true, expiry_s).await;
    }
    let folder = server.stop().await;
    clock.advance(120);
    let server = start(folder, &clock).await;
    let mut reader = Client::connect(server.address(), Version::V5, "reader").await;
    reader.subscribe("r/+", Qos::AtLeastOnce).await;
    let mut left = Vec::new();
    while let Some(publish) = reader.next_within(400).await {
        assert!(publish.retain);
        left.push((publish.topic.to_string(), expiry_s(&publish)));
    }
    left.sort();
    assert_eq!(left[0], ("r/ever".into(), None));
    let (topic, Some(expiry_s)) = left[1].clone() else {
        panic!("no expiry in {left:?}")
    };
    assert_eq!((topic.as_str(), left.len()), ("r/long", 2));
    assert!((5800..=5880).contains(&expiry_s), "it is counted down: {expiry_s}");
    server.stop().await;
}
