//! What time does while nobody looks: sessions and retained messages that expire while the server is down, or before the
//! timer that would end them.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use headwater_broker::Broker;
use headwater_broker::packet::*;
use headwater_store::{Clock, Qos, Store, SystemClock, TimestampMs};
use support::{Client, Server, config, connect};

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
    let (settings, clock) = (config(folder.path(), &[]), clock.clone());
    let open = {
        let store = settings.store.clone();
        move || Store::open(&store, clock).unwrap()
    };
    let store = tokio::task::spawn_blocking(open).await.unwrap();
    let broker = Broker::start(store.clone(), &settings.broker).await.unwrap();
    Server { broker, store, folder }
}

/// Whether there was a session.
async fn open(server: &Server, client_id: &str, expiry_s: u32) -> (Client, bool) {
    let mut client = Client::open(server.address(), Version::V5).await;
    let properties = [Property::SessionExpiryInterval(expiry_s)].into_iter().collect();
    let Packet::Connect(mut packet) = connect(Version::V5, client_id, properties) else {
        unreachable!()
    };
    packet.clean_start = false;
    client.send(&Packet::Connect(packet)).await;
    match client.receive().await {
        Some(Packet::ConnAck(ack)) if !ack.reason.is_error() => (client, ack.session_present),
        other => panic!("no CONNACK but {other:?}"),
    }
}

async fn subscribe(client: &mut Client, filter: &str) {
    let options = SubscriptionOptions {
        qos: Qos::AtLeastOnce,
        ..SubscriptionOptions::default()
    };
    let packet = Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        properties: Properties::default(),
        subscriptions: [(filter.into(), options)].into_iter().collect(),
    };
    client.send(&Packet::Subscribe(packet)).await;
    assert!(matches!(client.receive().await, Some(Packet::SubAck(_))));
}

async fn publish(server: &Server, topic: &str, retain: bool, expiry_s: Option<u32>) {
    let mut client = Client::connect(server.address(), Version::V5, "publisher").await;
    let packet = Packet::Publish(Publish {
        dup: false,
        qos: Qos::AtLeastOnce,
        retain,
        topic: topic.into(),
        packet_id: PacketId::new(1),
        properties: expiry_s.map(Property::MessageExpiryInterval).into_iter().collect(),
        payload: "x".into(),
    });
    client.send(&packet).await;
    assert!(matches!(client.receive().await, Some(Packet::PubAck(ack)) if !ack.reason.is_error()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_expiry_has_passed_is_not_resumed_whatever_its_timer_says() {
    let clock = Arc::new(Ahead::default());
    let server = start(Arc::new(tempfile::tempdir().unwrap()), &clock).await;
    for (client_id, away_s, present) in [("back in time", 500, true), ("too late", 700, false)] {
        let (mut client, existed) = open(&server, client_id, 600).await;
        assert!(!existed);
        subscribe(&mut client, "a/+").await;
        drop(client);
        // Its end is written.
        tokio::time::sleep(Duration::from_millis(300)).await;
        publish(&server, "a/1", false, None).await;
        // The timer sleeps on: it was set by how long there was to wait then.
        clock.advance(away_s);
        let (mut client, existed) = open(&server, client_id, 600).await;
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
    for client_id in ["short", "long"] {
        let (mut client, _) = open(&server, client_id, if client_id == "short" { 60 } else { 6000 }).await;
        subscribe(&mut client, "a/+").await;
    }
    let folder = server.stop().await;
    clock.advance(120);
    let server = start(folder, &clock).await;
    assert!(!open(&server, "short", 60).await.1);
    assert!(open(&server, "long", 6000).await.1);
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
    subscribe(&mut reader, "r/+").await;
    let mut left = Vec::new();
    while let Some(Packet::Publish(publish)) = reader.receive_within(Duration::from_millis(400)).await {
        assert!(publish.retain);
        let expiry_s = publish.properties.find(|property| match property {
            Property::MessageExpiryInterval(seconds) => Some(seconds),
            _ => None,
        });
        left.push((publish.topic.to_string(), expiry_s));
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
