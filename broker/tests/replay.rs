//! `$stream/…`: a stream from any place, over plain MQTT.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use headwater_broker::packet::*;
use headwater_store::Qos;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::support::{Asks, CLEAN, Client, STAY, Server, ack, message, number, open, stream};

async fn publish(server: &Server, topic: &str, qos: Qos, numbers: std::ops::RangeInclusive<u16>) {
    let mut client = Client::connect(server.address(), Version::V5, "publisher").await;
    for number in numbers {
        client.publish(message(topic, qos, number, number.to_string())).await;
        if qos == Qos::AtLeastOnce {
            client.expect(Packet::PubAck(ack(number))).await;
        }
    }
    client.send(&Packet::PingReq).await;
    client.expect(Packet::PingResp).await;
}

async fn subscribe(client: &mut Client, filter: &str, offsets: &[&str]) -> Reason {
    let (reason, early) = subscribe_and_collect(client, filter, offsets).await;
    assert!(early.is_empty(), "no SUBACK but {early:?}");
    reason
}

/// Messages may come before the SUBACK (MQTT 5.0, 3.8.4): a durable session's waits until the subscription is saved.
async fn subscribe_and_collect(client: &mut Client, filter: &str, offsets: &[&str]) -> (Reason, VecDeque<Publish>) {
    let mut early = VecDeque::new();
    let options = SubscriptionOptions {
        qos: Qos::AtLeastOnce,
        ..SubscriptionOptions::default()
    };
    let offset = |offset: &&str| Property::UserProperty("stream-offset".into(), (*offset).into());
    let packet = Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        properties: offsets.iter().map(offset).collect(),
        subscriptions: [(filter.into(), options)].into_iter().collect(),
    };
    client.send(&Packet::Subscribe(packet)).await;
    loop {
        match client.receive().await {
            Some(Packet::SubAck(suback)) => return (Reason(suback.reasons[0]), early),
            Some(Packet::Publish(publish)) => early.push_back(publish),
            other => panic!("no SUBACK but {other:?}"),
        }
    }
}

/// What comes until nothing more does: numbers by topic, and the last place.
async fn take(client: &mut Client) -> (BTreeMap<String, Vec<u64>>, BTreeMap<String, String>) {
    let (mut numbers, mut place) = (BTreeMap::<String, Vec<u64>>::new(), BTreeMap::new());
    while let Some(publish) = client.next_within(400).await {
        numbers
            .entry(publish.topic.to_string())
            .or_default()
            .push(number(&publish));
        for property in publish.properties.iter() {
            if let Property::UserProperty(name, value) = property {
                place.insert(name.to_string(), value.to_string());
            }
        }
        client.acknowledge(&publish).await;
    }
    (numbers, place)
}

fn numbers(topic: &str, range: std::ops::RangeInclusive<u64>) -> BTreeMap<String, Vec<u64>> {
    BTreeMap::from([(topic.to_owned(), range.collect())])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_from_where_it_is_asked_for_and_goes_on_live() {
    let server = Server::start(&[]).await;
    server.store.create_stream(stream("plant", &["plant/#"])).await.unwrap();
    publish(&server, "plant/1", Qos::AtLeastOnce, 1..=10).await;
    // What was delivered live is replayed too.
    publish(&server, "plant/1", Qos::AtMostOnce, 11..=12).await;
    publish(&server, "plant/other", Qos::AtLeastOnce, 1..=3).await;
    let server = Server::start_in(server.stop().await, &[]).await;

    let mut new = Client::connect(server.address(), Version::V5, "new").await;
    assert_eq!(
        subscribe(&mut new, "$stream/plant/plant/1", &["earliest"]).await,
        Reason(1)
    );
    let (got, place) = take(&mut new).await;
    assert_eq!(got, numbers("plant/1", 1..=12));
    assert_eq!((place["stream"].as_str(), place["offset"].as_str()), ("plant", "11"));
    publish(&server, "plant/1", Qos::AtLeastOnce, 13..=13).await;
    assert_eq!(take(&mut new).await.0, numbers("plant/1", 13..=13));

    let shard = &place["shard"];
    for (filter, offset, first) in [
        ("$stream/plant/plant/1", format!("{shard}:7"), 8),
        ("$stream/plant/plant/1", "5".to_owned(), 6),
        ("$stream/plant/plant/1", "@-1h".to_owned(), 1),
        ("$stream/plant/+/1", "@2020-01-01T00:00:00Z".to_owned(), 1),
    ] {
        let mut client = Client::connect(server.address(), Version::V5, "again").await;
        assert_eq!(subscribe(&mut client, filter, &[&offset]).await, Reason(1));
        assert_eq!(
            take(&mut client).await.0,
            numbers("plant/1", first..=13),
            "{filter} {offset}"
        );
    }

    let mut old = Client::connect(server.address(), Version::V3_1_1, "old").await;
    assert_eq!(subscribe(&mut old, "$stream/plant@10/plant/1", &[]).await, Reason(1));
    assert_eq!(take(&mut old).await.0, numbers("plant/1", 11..=13));
    let mut whole = Client::connect(server.address(), Version::V3_1_1, "whole").await;
    assert_eq!(subscribe(&mut whole, "$stream/plant@earliest", &[]).await, Reason(1));
    let (got, _) = take(&mut whole).await;
    assert_eq!((got["plant/1"].len(), got["plant/other"].len()), (13, 3));

    let mut latest = Client::connect(server.address(), Version::V5, "latest").await;
    assert_eq!(subscribe(&mut latest, "$stream/plant/#", &[]).await, Reason(1));
    assert!(take(&mut latest).await.0.is_empty(), "latest unless said otherwise");
    publish(&server, "plant/1", Qos::AtLeastOnce, 14..=14).await;
    assert_eq!(take(&mut latest).await.0, numbers("plant/1", 14..=14));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_stream_comes_whole_through_a_small_window() {
    let server = Server::start(&["broker.inflight_max=4"]).await;
    publish(&server, "long/x", Qos::AtLeastOnce, 1..=1000).await;
    let mut client = Client::connect(server.address(), Version::V5, "client").await;
    assert_eq!(
        subscribe(&mut client, "$stream/mqtt/long/#", &["earliest"]).await,
        Reason(1)
    );
    assert_eq!(take(&mut client).await.0, numbers("long/x", 1..=1000));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_session_goes_on_replaying_where_it_was() {
    let server = Server::start(&["broker.inflight_max=4"]).await;
    publish(&server, "long/x", Qos::AtLeastOnce, 1..=20).await;
    let (mut client, _) = open(&server, "durable", STAY).await;
    let (reason, mut early) = subscribe_and_collect(&mut client, "$stream/mqtt/long/#", &["5"]).await;
    assert_eq!(reason, Reason(1));
    // Offset 5 is the sixth message; two are acknowledged, and the window is full of the next four.
    let mut ids = Vec::new();
    for number in 6..=11u16 {
        let publish = match early.pop_front() {
            Some(publish) => publish,
            None => match client.receive().await {
                Some(Packet::Publish(publish)) => publish,
                other => panic!("no message {number} but {other:?}"),
            },
        };
        assert_eq!(&publish.payload[..], number.to_string().as_bytes());
        ids.push(publish.packet_id.unwrap().get());
        if number <= 7 {
            client.send(&Packet::PubAck(ack(ids[ids.len() - 1]))).await;
        }
    }
    drop(client);
    publish(&server, "long/x", Qos::AtLeastOnce, 21..=25).await;
    let server = Server::start_in(server.stop().await, &["broker.inflight_max=4"]).await;
    let (mut client, present) = open(&server, "durable", STAY).await;
    assert!(present);
    for number in 8..=25u16 {
        let Some(Packet::Publish(publish)) = client.receive().await else {
            panic!("no message {number}")
        };
        assert_eq!(&publish.payload[..], number.to_string().as_bytes());
        let again = number <= 11;
        assert_eq!(publish.dup, again, "{number}");
        if again {
            assert_eq!(
                publish.packet_id.unwrap().get(),
                ids[usize::from(number) - 6],
                "its packet id"
            );
        }
        let offset = publish.properties.find(|property| match property {
            Property::UserProperty(name, value) if &*name == "offset" => Some(value.to_string()),
            _ => None,
        });
        assert_eq!(offset, Some((number - 1).to_string()), "it says where it was found");
        client.acknowledge(&publish).await;
    }
    // Given back, it does not come again.
    let packet = Packet::Unsubscribe(Unsubscribe {
        packet_id: PacketId::new(9).unwrap(),
        properties: Properties::default(),
        filters: ["$stream/mqtt/long/#".into()].into_iter().collect(),
    });
    client.send(&packet).await;
    assert!(matches!(client.receive().await, Some(Packet::UnsubAck(_))));
    drop(client);
    publish(&server, "long/x", Qos::AtLeastOnce, 26..=26).await;
    let (mut client, present) = open(&server, "durable", STAY).await;
    assert!(present);
    assert_eq!(client.receive_within(Duration::from_millis(300)).await, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_gets_of_all_its_streams_in_turn() {
    let server = Server::start(&[]).await;
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for name in ["one", "two"] {
        let capture = format!("{name}/#");
        server.store.create_stream(stream(name, &[&capture])).await.unwrap();
        // Payloads that do not compress, and in many small entries: a stream is several pages long.
        for _ in 0..20 {
            for id in 1..=50 {
                let payload: Vec<u8> = (0..300).map(|_| random.next_u32() as u8).collect();
                let long = message(&format!("{name}/x"), Qos::AtLeastOnce, id, payload);
                publisher.publish(long).await;
            }
            for id in 1..=50 {
                publisher.expect(Packet::PubAck(ack(id))).await;
            }
        }
    }
    let asks = Asks {
        receive_max: Some(8),
        ..CLEAN
    };
    let (mut slow, _) = open(&server, "slow", asks).await;
    let mut counts = BTreeMap::<String, usize>::new();
    for name in ["one", "two"] {
        // Those of the first one may come before the second SUBACK.
        let (granted, early) = subscribe_and_collect(&mut slow, &format!("$stream/{name}@earliest"), &[]).await;
        assert!(!granted.is_error());
        for message in &early {
            slow.acknowledge(message).await;
            *counts.entry(message.topic.to_string()).or_default() += 1;
        }
    }
    while counts.values().sum::<usize>() < 1000 {
        *counts.entry(slow.take().await.topic.to_string()).or_default() += 1;
    }
    assert_eq!(counts.len(), 2, "half of all, and nothing of one: {counts:?}");
    server.stop().await;
}
