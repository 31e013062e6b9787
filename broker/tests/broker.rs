//! A broker under load, over restarts and at its limits.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use headwater_broker::packet::*;
use headwater_broker::{Broker, BrokerError, PublishError};
use headwater_store::{
    Placement, Qos, Record, ShardId, Store, StreamForm, StreamOptions, StreamSpec, TopicName, group_for_topic,
};
use support::{Client, SOON, Server, config, connect};

fn publish(topic: &str, id: u16, payload: impl Into<Bytes>) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: if id == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce },
        retain: false,
        topic: topic.into(),
        packet_id: PacketId::new(id),
        properties: Properties::default(),
        payload: payload.into(),
    })
}

fn retained(topic: &str, id: u16, payload: &'static str, properties: &[Property]) -> Packet {
    let Packet::Publish(message) = publish(topic, id, payload) else {
        unreachable!()
    };
    Packet::Publish(Publish {
        retain: true,
        properties: properties.iter().cloned().collect(),
        ..message
    })
}

async fn subscribe(client: &mut Client, filter: &str, qos: Qos) {
    let options = SubscriptionOptions {
        qos,
        ..SubscriptionOptions::default()
    };
    let subscriptions = [(filter.into(), options)].into_iter().collect();
    let properties = Properties::default();
    let packet_id = PacketId::new(1).unwrap();
    client
        .send(&Packet::Subscribe(Subscribe {
            packet_id,
            properties,
            subscriptions,
        }))
        .await;
    match client.receive().await {
        Some(Packet::SubAck(suback)) => assert_eq!(suback.reasons[0], qos.bits()),
        other => panic!("no SUBACK but {other:?}"),
    }
}

/// The next message, acknowledged.
async fn message(client: &mut Client) -> Publish {
    match client.receive().await {
        Some(Packet::Publish(publish)) => {
            if let Some(packet_id) = publish.packet_id {
                let (reason, properties) = (Reason::SUCCESS, Properties::default());
                client
                    .send(&Packet::PubAck(Ack {
                        packet_id,
                        reason,
                        properties,
                    }))
                    .await;
            }
            publish
        }
        other => panic!("no message but {other:?}"),
    }
}

fn number(publish: &Publish) -> u64 {
    std::str::from_utf8(&publish.payload).unwrap().parse().unwrap()
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
        subscribe(&mut subscriber, "load/#", Qos::AtLeastOnce).await;
        let mut publisher = Client::connect(server.address(), version, "publisher").await;
        let mut burst = BytesMut::new();
        for id in 1..=500u16 {
            encode(
                &publish(&format!("load/{}", id % 7), id, id.to_string()),
                version,
                &mut burst,
            )
            .unwrap();
        }
        publisher.send_bytes(&burst).await;
        for id in 1..=500 {
            assert_eq!(puback(&mut publisher).await, id);
        }
        let mut last = std::collections::HashMap::new();
        for _ in 0..500 {
            let message = message(&mut subscriber).await;
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
    subscribe(&mut subscriber, "cut/+", Qos::AtLeastOnce).await;
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
                    encode(&publish("cut/x", id, total.to_string()), Version::V3_1_1, &mut burst).unwrap();
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
        server.store.create_stream(captured(name, capture)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    enough.store(true, Ordering::Relaxed);
    let total = load.await.unwrap();
    // Each message once, however many streams capture it.
    for expected in 1..=total {
        assert_eq!(number(&message(&mut subscriber).await), expected);
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
    subscribe(&mut subscriber, "status", Qos::AtLeastOnce).await;
    let mut old = Client::open(server.address(), Version::V3_1_1).await;
    let Packet::Connect(mut packet) = connect(Version::V3_1_1, "device", Properties::default()) else {
        unreachable!()
    };
    let mut burst = BytesMut::new();
    packet.will = Some(Will {
        topic: "status".into(),
        payload: "offline".into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::default(),
    });
    encode(&Packet::Connect(packet), Version::V3_1_1, &mut burst).unwrap();
    for id in 1..=1000 {
        encode(&publish("busy/x", id, vec![b'x'; 500]), Version::V3_1_1, &mut burst).unwrap();
    }
    old.send_bytes(&burst).await;
    assert!(matches!(old.receive().await, Some(Packet::ConnAck(_))));
    let mut new = Client::open(server.address(), Version::V3_1_1).await;
    new.send(&connect(Version::V3_1_1, "device", Properties::default()))
        .await;
    new.send(&publish("status", 1, "online")).await;
    assert_eq!(message(&mut subscriber).await.payload, "offline");
    assert_eq!(message(&mut subscriber).await.payload, "online");
    server.stop().await;
}

fn payload_number(record: &Record) -> u64 {
    std::str::from_utf8(record.payload.as_ref().unwrap())
        .unwrap()
        .parse()
        .unwrap()
}

fn captured(name: &str, capture: &str) -> StreamSpec {
    StreamSpec {
        name: name.into(),
        placement: Placement::Topic,
        shards: 1,
        columns: Vec::new(),
        captures: vec![capture.into()],
        form: StreamForm::Append,
        options: StreamOptions::default(),
        sql: String::new(),
    }
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
    subscribe(&mut subscriber, "gap/+", Qos::AtLeastOnce).await;
    let first = number(&message(&mut subscriber).await);
    for expected in first + 1..=600 {
        assert_eq!(number(&message(&mut subscriber).await), expected);
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
    subscribe(&mut subscriber, "many/+/x", Qos::AtLeastOnce).await;
    let mut topics = std::collections::BTreeSet::new();
    for _ in 0..300 {
        let message = message(&mut subscriber).await;
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
    subscribe(&mut subscriber, "old/+", Qos::AtMostOnce).await;
    let message = message(&mut subscriber).await;
    assert_eq!(&*message.topic, "old/1");
    let left = message.properties.find(|property| match property {
        Property::MessageExpiryInterval(seconds) => Some(seconds),
        _ => None,
    });
    assert!(matches!(left, Some(90..=99)), "{left:?}");
    assert_eq!(subscriber.receive_within(Duration::from_millis(200)).await, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_does_not_keep_up_reads_the_log_and_slows_nobody() {
    let server = Server::start(&["broker.packet_max=4KiB", "broker.outbox=8KiB", "broker.inflight_max=2"]).await;
    let mut slow = Client::connect(server.address(), Version::V5, "slow").await;
    subscribe(&mut slow, "fast/#", Qos::AtLeastOnce).await;
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    let mut other = Client::connect(server.address(), Version::V5, "other").await;
    subscribe(&mut other, "fast/#", Qos::AtLeastOnce).await;
    for id in 1..=400u16 {
        let payload = format!("{id:01000}");
        publisher.send(&publish(&format!("fast/{}", id % 5), id, payload)).await;
        assert_eq!(puback(&mut publisher).await, id);
        message(&mut other).await;
    }
    // Far more than its outbox holds, and it gets every one of them, those of a topic in order.
    let mut last = std::collections::HashMap::new();
    for _ in 1..=400 {
        let message = message(&mut slow).await;
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
    assert_eq!(number(&message(&mut slow).await), 405);
    assert_eq!(slow.receive_within(Duration::from_millis(200)).await, None);
    server.stop().await;
}

/// Shows 5.0: 3.1.2-8 3.1.2-15 3.14.4-1 3.14.4-2
#[tokio::test(flavor = "multi_thread")]
async fn stopping_acknowledges_says_goodbye_and_publishes_wills() {
    let server = Server::start(&[]).await;
    let mut client = Client::open(server.address(), Version::V5).await;
    let Packet::Connect(mut packet) = connect(Version::V5, "client", Properties::default()) else {
        unreachable!()
    };
    let (topic, payload) = ("status/client".into(), "lost".into());
    packet.will = Some(Will {
        topic,
        payload,
        qos: Qos::AtLeastOnce,
        retain: true,
        properties: Properties::default(),
    });
    client.send(&Packet::Connect(packet)).await;
    client.receive().await.unwrap();
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
    subscribe(&mut subscriber, "status/#", Qos::AtLeastOnce).await;
    assert_eq!(message(&mut subscriber).await.payload, "lost");
    server.stop().await;
}

/// Shows 3.1.1: 4.7.3-3 5.0: 4.7.3-3
#[tokio::test(flavor = "multi_thread")]
async fn topics_and_filters_may_be_as_long_as_their_length_can_say() {
    let server = Server::start(&[]).await;
    let longest = "x".repeat(usize::from(u16::MAX));
    for version in [Version::V3_1_1, Version::V5] {
        let mut client = Client::connect(server.address(), version, "client").await;
        subscribe(&mut client, &longest, Qos::AtMostOnce).await;
        client.send(&publish(&longest, 0, "v")).await;
        assert_eq!(&*message(&mut client).await.topic, longest);
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
            client.send(&connect(Version::V5, "third", Properties::default())).await;
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
    subscribe(&mut subscriber, "rest/+", Qos::AtLeastOnce).await;
    let topic = TopicName::new("rest/1").unwrap();
    let record = Record {
        topic: Some(topic),
        qos: Qos::AtLeastOnce,
        retain: true,
        ..Record::new("v")
    };
    let published = publisher.publish(record.clone()).await.unwrap();
    assert_eq!(message(&mut subscriber).await.payload, "v");
    let again = publisher.publish(record.clone()).await.unwrap();
    assert_eq!((again.shard, again.offset.0), (published.shard, published.offset.0 + 1));
    let mut late = Client::connect(server.address(), Version::V5, "late").await;
    subscribe(&mut late, "rest/1", Qos::AtLeastOnce).await;
    assert!(message(&mut late).await.retain);
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

/// A client that others wrote, in both versions.
/// Shows 3.1.1: 7.0.0-2
#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_gets_along() {
    use rumqttc::v5::mqttbytes::v5::Packet as Packet5;
    let server = Server::start(&[]).await;
    let (host, port) = (server.address().ip().to_string(), server.address().port());
    let (old, mut old_events) = rumqttc::AsyncClient::new(rumqttc::MqttOptions::new("old", &host, port), 10);
    old.subscribe("rq/+", rumqttc::QoS::AtLeastOnce).await.unwrap();
    let options = rumqttc::v5::MqttOptions::new("new", &host, port);
    let (new, mut new_events) = rumqttc::v5::AsyncClient::new(options, 10);
    let exchange = async {
        while !matches!(
            old_events.poll().await.unwrap(),
            rumqttc::Event::Incoming(rumqttc::Packet::SubAck(_))
        ) {}
        new.publish("rq/5", rumqttc::v5::mqttbytes::QoS::AtLeastOnce, false, "five")
            .await
            .unwrap();
        while !matches!(
            new_events.poll().await.unwrap(),
            rumqttc::v5::Event::Incoming(Packet5::PubAck(_))
        ) {}
        loop {
            if let rumqttc::Event::Incoming(rumqttc::Packet::Publish(publish)) = old_events.poll().await.unwrap() {
                return publish.payload;
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, exchange).await.unwrap(), "five");
    server.stop().await;
}

/// PUBACKs may come in any order, and what has none comes again.
#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_acknowledges_out_of_order() {
    use rumqttc::{Event, Packet, QoS};
    let server = Server::start(&[]).await;
    let (host, port) = (server.address().ip().to_string(), server.address().port());
    let mut options = rumqttc::MqttOptions::new("manual", &host, port);
    options.set_manual_acks(true).set_clean_session(false);
    let (client, mut events) = rumqttc::AsyncClient::new(options.clone(), 10);
    client.subscribe("order/x", QoS::AtLeastOnce).await.unwrap();
    let address = server.address();
    let first_stay = async {
        while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
        let mut publisher = Client::connect(address, Version::V5, "publisher").await;
        for id in 1..=3u16 {
            publisher.send(&publish("order/x", id, id.to_string())).await;
            puback(&mut publisher).await;
        }
        let mut messages = Vec::new();
        while messages.len() < 3 {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
                messages.push(publish);
            }
        }
        for at in [2, 0] {
            client.ack(&messages[at]).await.unwrap();
        }
        client.disconnect().await.unwrap();
        while events.poll().await.is_ok() {}
    };
    tokio::time::timeout(SOON, first_stay).await.unwrap();
    let (_client, mut events) = rumqttc::AsyncClient::new(options, 10);
    let again = async {
        loop {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
                return (publish.payload, publish.dup);
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, again).await.unwrap(), ("2".into(), true));
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
