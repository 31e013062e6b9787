//! A broker under load, over restarts and at its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use headwater_broker::packet::*;
use headwater_broker::{Broker, BrokerError, PublishError};
use headwater_store::{Qos, Record, ShardId, Store, TopicName, group_for_topic};

use crate::support::{
    Asks, CLEAN, Client, SOON, Server, config, encoded, expiry_s, message, number, open, stream, will,
};

/// At QoS 1.
fn publish(topic: &str, id: u16, payload: impl Into<Bytes>) -> Packet {
    Packet::Publish(message(topic, Qos::AtLeastOnce, id, payload))
}

fn retained(topic: &str, id: u16, payload: &'static str, properties: &[Property]) -> Packet {
    Packet::Publish(Publish {
        retain: true,
        properties: properties.iter().cloned().collect(),
        ..message(topic, Qos::AtLeastOnce, id, payload)
    })
}

async fn puback(client: &mut Client) -> u16 {
    match client.receive().await {
        Some(Packet::PubAck(ack)) if ack.reason == Reason::SUCCESS => ack.packet_id.get(),
        other => panic!("no PUBACK but {other:?}"),
    }
}

/// Shows 3.1.1: 4.6.0-2 4.6.0-5 4.6.0-6 7.1.1-1 5.0: 4.2-1 4.6.0-2 4.6.0-5 4.6.0-6
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_in_flight_are_acknowledged_in_order_and_delivered_in_order() {
    let server = Server::start(&[]).await;
    for version in [Version::V3_1_1, Version::V5] {
        let mut subscriber = Client::connect(server.address(), version, "subscriber").await;
        subscriber.subscribe("load/#", Qos::AtLeastOnce).await;
        let mut publisher = Client::connect(server.address(), version, "publisher").await;
        let mut burst = BytesMut::new();
        for id in 1..=500u16 {
            burst.extend(encoded(
                version,
                &publish(&format!("load/{}", id % 7), id, id.to_string()),
            ));
        }
        publisher.send_bytes(&burst).await;
        for id in 1..=500 {
            assert_eq!(puback(&mut publisher).await, id);
        }
        let mut last = std::collections::HashMap::new();
        for _ in 0..500 {
            let message = subscriber.take().await;
            let number = number(&message);
            let before = last.insert(message.topic.clone(), number).unwrap_or(0);
            assert!(before < number, "{} came after {before} on {}", number, message.topic);
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_the_log() {
    let server = Server::start(&[]).await;
    let mut publisher = Client::connect(server.address(), Version::V5, "device-1").await;
    let properties = [Property::UserProperty("unit".into(), "C".into())];
    publisher.send(&retained("plant/7", 1, "21.5", &properties)).await;
    puback(&mut publisher).await;
    let record = stored(&server.store, "mqtt", "plant/7").await.pop().unwrap();
    assert_eq!(record.payload.as_deref(), Some(&b"21.5"[..]));
    assert_eq!(
        (record.qos, record.retain, record.copy),
        (Qos::AtLeastOnce, true, false)
    );
    use headwater_store::Header;
    assert_eq!(
        record.headers,
        [
            Header::ClientId("device-1".into()),
            Header::User("unit".into(), "C".into())
        ]
    );
    server.stop().await;
}

/// The records of `topic` in `stream`.
async fn stored(store: &Store, stream: &str, topic: &str) -> Vec<Record> {
    let row = store.catalog().borrow().stream(stream).cloned().unwrap();
    let group = group_for_topic(topic, store.data_groups().count() as u16);
    let shard: ShardId = row.shard_ids().find(|shard| shard.group == group).unwrap();
    let (mut from, end) = store.bounds(shard).await.unwrap();
    let mut records = Vec::new();
    while from < end {
        for batch in store.read(shard, from, 1 << 20).await.unwrap() {
            records.extend(batch.records_from(from).unwrap().into_iter().map(|(_, record)| record));
            from = batch.end();
        }
    }
    records.retain(|record| record.topic.as_ref().is_some_and(|name| name.as_str() == topic));
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_made_under_load_cuts_exactly_and_keeps_the_order() {
    let server = Server::start(&["broker.receive_max=100"]).await;
    let address = server.address();
    let mut subscriber = Client::connect(address, Version::V5, "subscriber").await;
    subscriber.subscribe("cut/+", Qos::AtLeastOnce).await;
    let enough = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let enough = enough.clone();
        async move {
            let mut publisher = Client::connect(address, Version::V3_1_1, "publisher").await;
            let mut total = 0;
            while !enough.load(Ordering::Relaxed) {
                let mut burst = BytesMut::new();
                for id in 1..=50u16 {
                    total += 1;
                    burst.extend(encoded(Version::V3_1_1, &publish("cut/x", id, total.to_string())));
                }
                publisher.send_bytes(&burst).await;
                for id in 1..=50 {
                    assert_eq!(puback(&mut publisher).await, id);
                }
            }
            total
        }
    });
    for (name, capture) in [("one", "cut/#"), ("two", "cut/+")] {
        tokio::time::sleep(Duration::from_millis(30)).await;
        server.store.create_stream(stream(name, &[capture])).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    enough.store(true, Ordering::Relaxed);
    let total = load.await.unwrap();
    // Each message once, however many streams capture it.
    for expected in 1..=total {
        assert_eq!(number(&subscriber.take().await), expected);
    }
    let mut numbers = Vec::new();
    for stream in ["mqtt", "one", "two"] {
        let records = stored(&server.store, stream, "cut/x").await;
        let home: Vec<u64> = records
            .iter()
            .filter(|record| !record.copy)
            .map(payload_number)
            .collect();
        assert!(!home.is_empty(), "{stream} was nobody's home: this test saw nothing");
        numbers.extend(home);
    }
    assert_eq!(numbers, (1..=total).collect::<Vec<u64>>());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_waits_for_what_its_predecessor_said() {
    let server = Server::start(&[]).await;
    let mut subscriber = Client::connect(server.address(), Version::V5, "subscriber").await;
    subscriber.subscribe("status", Qos::AtLeastOnce).await;
    let mut old = Client::open(server.address(), Version::V3_1_1).await;
    let offline = Will {
        payload: "offline".into(),
        ..will("status")
    };
    let asks = |will| Asks {
        version: Version::V3_1_1,
        will,
        ..CLEAN
    };
    let mut burst = encoded(Version::V3_1_1, &asks(Some(offline)).packet("device"));
    for id in 1..=1000 {
        burst.extend(encoded(Version::V3_1_1, &publish("busy/x", id, vec![b'x'; 500])));
    }
    old.send_bytes(&burst).await;
    assert!(matches!(old.receive().await, Some(Packet::ConnAck(_))));
    let mut new = Client::open(server.address(), Version::V3_1_1).await;
    new.send(&asks(None).packet("device")).await;
    new.send(&publish("status", 1, "online")).await;
    assert_eq!(subscriber.take().await.payload, "offline");
    assert_eq!(subscriber.take().await.payload, "online");
    server.stop().await;
}

fn payload_number(record: &Record) -> u64 {
    std::str::from_utf8(record.payload.as_ref().unwrap())
        .unwrap()
        .parse()
        .unwrap()
}

/// Shows 5.0: 4.5.0-1
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_made_under_load_misses_nothing_after_its_suback() {
    let server = Server::start(&[]).await;
    let address = server.address();
    let load = tokio::spawn(async move {
        let mut publisher = Client::connect(address, Version::V3_1_1, "publisher").await;
        for number in 1..=600u64 {
            publisher.send(&publish("gap/x", 1, number.to_string())).await;
            puback(&mut publisher).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut subscriber = Client::connect(address, Version::V5, "subscriber").await;
    subscriber.subscribe("gap/+", Qos::AtLeastOnce).await;
    let first = number(&subscriber.take().await);
    for expected in first + 1..=600 {
        assert_eq!(number(&subscriber.take().await), expected);
    }
    load.await.unwrap();
    server.stop().await;
}

/// Shows 3.1.1: 3.1.2-7
#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_survive_a_restart_and_come_page_by_page() {
    let server = Server::start(&[]).await;
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    for id in 1..=300 {
        publisher.send(&retained(&format!("many/{id}/x"), id, "v", &[])).await;
    }
    for id in 1..=300 {
        assert_eq!(puback(&mut publisher).await, id);
    }
    let folder = server.stop().await;
    let server = Server::start_in(folder, &[]).await;
    let mut subscriber = Client::connect(server.address(), Version::V3_1_1, "subscriber").await;
    subscriber.subscribe("many/+/x", Qos::AtLeastOnce).await;
    let mut topics = std::collections::BTreeSet::new();
    for _ in 0..300 {
        let message = subscriber.take().await;
        assert!(message.retain);
        topics.insert(message.topic);
    }
    assert_eq!(topics.len(), 300);
    server.stop().await;
}

/// Shows 5.0: 3.3.2-5 3.3.2-6
#[tokio::test(flavor = "multi_thread")]
async fn the_message_expiry_counts_down_and_ends() {
    let server = Server::start(&[]).await;
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    publisher
        .send(&retained("old/1", 1, "v", &[Property::MessageExpiryInterval(100)]))
        .await;
    publisher
        .send(&retained("old/2", 2, "v", &[Property::MessageExpiryInterval(1)]))
        .await;
    for id in [1, 2] {
        assert_eq!(puback(&mut publisher).await, id);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut subscriber = Client::connect(server.address(), Version::V5, "subscriber").await;
    subscriber.subscribe("old/+", Qos::AtMostOnce).await;
    let old = subscriber.take().await;
    assert_eq!(&*old.topic, "old/1");
    let left = expiry_s(&old);
    assert!(matches!(left, Some(90..=99)), "{left:?}");
    assert_eq!(subscriber.receive_within(Duration::from_millis(200)).await, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_does_not_keep_up_reads_the_log_and_slows_nobody() {
    let server = Server::start(&["broker.packet_max=4KiB", "broker.outbox=8KiB", "broker.inflight_max=2"]).await;
    let mut slow = Client::connect(server.address(), Version::V5, "slow").await;
    slow.subscribe("fast/#", Qos::AtLeastOnce).await;
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    let mut other = Client::connect(server.address(), Version::V5, "other").await;
    other.subscribe("fast/#", Qos::AtLeastOnce).await;
    for id in 1..=400u16 {
        let payload = format!("{id:01000}");
        publisher.send(&publish(&format!("fast/{}", id % 5), id, payload)).await;
        assert_eq!(puback(&mut publisher).await, id);
        other.take().await;
    }
    // Far more than its outbox holds, and it gets every one of them, those of a topic in order.
    let mut last = std::collections::HashMap::new();
    for _ in 1..=400 {
        let message = slow.take().await;
        assert!(!message.dup);
        let number = number(&message);
        let before = last.insert(message.topic.clone(), number).unwrap_or(0);
        assert!(
            before == 0 || before + 5 == number,
            "{number} came after {before} on {}",
            message.topic
        );
    }
    // It is served live again.
    publisher.send(&publish("fast/0", 1, "405")).await;
    assert_eq!(puback(&mut publisher).await, 1);
    assert_eq!(number(&slow.take().await), 405);
    assert_eq!(slow.receive_within(Duration::from_millis(200)).await, None);
    server.stop().await;
}

/// Shows 5.0: 3.1.2-8 3.1.2-15 3.14.4-1 3.14.4-2
#[tokio::test(flavor = "multi_thread")]
async fn stopping_acknowledges_says_goodbye_and_publishes_wills() {
    let server = Server::start(&[]).await;
    let lost = Will {
        retain: true,
        ..will("status/client")
    };
    let asks = Asks {
        will: Some(lost),
        ..CLEAN
    };
    let (mut client, _) = open(&server, "client", asks).await;
    for id in 1..=100 {
        client.send(&publish("last/x", id, "v")).await;
    }
    // The first acknowledgement shows that the burst is being read.
    assert_eq!(puback(&mut client).await, 1);
    let stopping = tokio::spawn(server.stop());
    let mut acknowledged = 1;
    let end = loop {
        match client.receive().await {
            Some(Packet::PubAck(ack)) => {
                acknowledged += 1;
                assert_eq!(ack.packet_id.get(), acknowledged);
            }
            other => break other,
        }
    };
    assert!(
        matches!(&end, Some(Packet::Disconnect(disconnect)) if disconnect.reason == Reason::SERVER_SHUTTING_DOWN),
        "{end:?}"
    );
    assert_eq!(client.receive().await, None);
    let folder = stopping.await.unwrap();
    let server = Server::start_in(folder, &[]).await;
    assert!(stored(&server.store, "mqtt", "last/x").await.len() >= usize::from(acknowledged));
    let mut subscriber = Client::connect(server.address(), Version::V5, "subscriber").await;
    subscriber.subscribe("status/#", Qos::AtLeastOnce).await;
    assert_eq!(subscriber.take().await.payload, "gone");
    server.stop().await;
}

/// Shows 3.1.1: 4.7.3-3 5.0: 4.7.3-3
#[tokio::test(flavor = "multi_thread")]
async fn topics_and_filters_may_be_as_long_as_their_length_can_say() {
    let server = Server::start(&[]).await;
    let longest = "x".repeat(usize::from(u16::MAX));
    for version in [Version::V3_1_1, Version::V5] {
        let mut client = Client::connect(server.address(), version, "client").await;
        client.subscribe(&longest, Qos::AtMostOnce).await;
        client.publish(message(&longest, Qos::AtMostOnce, 0, "v")).await;
        assert_eq!(&*client.take().await.topic, longest);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_are_closed_at_once() {
    let server = Server::start(&["broker.connections_max=2"]).await;
    let first = Client::connect(server.address(), Version::V5, "first").await;
    let _second = Client::connect(server.address(), Version::V5, "second").await;
    let mut third = Client::open(server.address(), Version::V5).await;
    third.send_bytes(&[]).await;
    assert_eq!(third.receive().await, None);
    drop(first);
    // Its place is free as soon as the broker has seen it go.
    tokio::time::timeout(SOON, async {
        loop {
            let mut client = Client::open(server.address(), Version::V5).await;
            client.send(&CLEAN.packet("third")).await;
            if client.receive().await.is_some() {
                break;
            }
        }
    })
    .await
    .unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_publisher_needs_no_connection() {
    let server = Server::start(&[]).await;
    let publisher = server.broker.publisher();
    let mut subscriber = Client::connect(server.address(), Version::V5, "subscriber").await;
    subscriber.subscribe("rest/+", Qos::AtLeastOnce).await;
    let topic = TopicName::new("rest/1").unwrap();
    let record = Record {
        topic: Some(topic),
        qos: Qos::AtLeastOnce,
        retain: true,
        ..Record::new("v")
    };
    let published = publisher.publish(record.clone()).await.unwrap();
    assert_eq!(subscriber.take().await.payload, "v");
    let again = publisher.publish(record.clone()).await.unwrap();
    assert_eq!((again.shard, again.offset.0), (published.shard, published.offset.0 + 1));
    let mut late = Client::connect(server.address(), Version::V5, "late").await;
    late.subscribe("rest/1", Qos::AtLeastOnce).await;
    assert!(late.take().await.retain);
    let reserved = Record {
        topic: Some(TopicName::new("$SYS/x").unwrap()),
        ..record
    };
    assert!(matches!(
        publisher.publish(reserved).await,
        Err(PublishError::Reserved("$SYS"))
    ));
    assert!(matches!(
        publisher.publish(Record::new("v")).await,
        Err(PublishError::NoTopic)
    ));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let server = Server::start(&[]).await;
    let setting = format!("broker.mqtt_listen={}", server.address());
    let config = config(server.folder.path(), &[&setting]);
    let error = Broker::start(server.store.clone(), &config.broker).await.unwrap_err();
    assert!(matches!(error, BrokerError::Listen { .. }));
    let message = error.to_string();
    assert!(
        message.contains(&server.address().to_string()) && message.contains("--mqtt"),
        "{message}"
    );
    server.stop().await;
}

/// Shows 3.1.1: 3.3.5-2 4.8.0-2 5.0: 3.4.2-1
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_with_97_and_acknowledges_nothing() {
    let folder = Server::start(&[]).await.stop().await;
    let server = Server::start_in(folder, &["store.free_disk_min=4096TiB"]).await;
    let mut new = Client::connect(server.address(), Version::V5, "new").await;
    new.send(&publish("full/x", 7, "v")).await;
    match new.receive().await {
        Some(Packet::PubAck(ack)) => {
            assert_eq!((ack.packet_id.get(), ack.reason), (7, Reason::QUOTA_EXCEEDED));
            let words = ack.properties.find(|property| match property {
                Property::ReasonString(words) => Some(words),
                _ => None,
            });
            assert!(words.is_some_and(|words| words.contains("disk")));
        }
        other => panic!("no PUBACK but {other:?}"),
    }
    let mut old = Client::connect(server.address(), Version::V3_1_1, "old").await;
    old.send(&publish("full/x", 7, "v")).await;
    assert_eq!(
        old.receive().await,
        None,
        "a client before 5.0 can only be told by the connection's end"
    );
    server.stop().await;
}
