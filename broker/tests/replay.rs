//! `$stream/…`: a stream from any place, over plain MQTT.

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use headwater_broker::packet::*;
use headwater_store::{Placement, Qos, StreamForm, StreamOptions, StreamSpec};
use support::{Client, Server};

fn ack(id: u16) -> Ack {
    Ack {
        packet_id: PacketId::new(id).unwrap(),
        reason: Reason::SUCCESS,
        properties: Properties::default(),
    }
}

async fn publish(server: &Server, topic: &str, qos: Qos, numbers: std::ops::RangeInclusive<u16>) {
    let mut client = Client::connect(server.address(), Version::V5, "publisher").await;
    for number in numbers {
        let packet = Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic: topic.into(),
            packet_id: PacketId::new(number).filter(|_| qos > Qos::AtMostOnce),
            properties: Properties::default(),
            payload: number.to_string().into(),
        });
        client.send(&packet).await;
        if qos == Qos::AtLeastOnce {
            assert_eq!(client.receive().await, Some(Packet::PubAck(ack(number))));
        }
    }
    client.send(&Packet::PingReq).await;
    assert_eq!(client.receive().await, Some(Packet::PingResp));
}

async fn subscribe(client: &mut Client, filter: &str, offsets: &[&str]) -> Reason {
    let (reason, early) = subscribe_durably(client, filter, offsets).await;
    assert!(early.is_empty(), "no SUBACK but {early:?}");
    reason
}

/// A durable session's SUBACK waits until the subscription is saved; messages may come before it (MQTT 5.0, 3.8.4).
async fn subscribe_durably(client: &mut Client, filter: &str, offsets: &[&str]) -> (Reason, VecDeque<Publish>) {
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
async fn take(client: &mut Client) -> (BTreeMap<String, Vec<u16>>, BTreeMap<String, String>) {
    let (mut numbers, mut place) = (BTreeMap::<String, Vec<u16>>::new(), BTreeMap::new());
    while let Some(packet) = client.receive_within(Duration::from_millis(400)).await {
        let Packet::Publish(publish) = packet else {
            panic!("no message but {packet:?}")
        };
        let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
        numbers.entry(publish.topic.to_string()).or_default().push(number);
        for property in publish.properties.iter() {
            if let Property::UserProperty(name, value) = property {
                place.insert(name.to_string(), value.to_string());
            }
        }
        client
            .send(&Packet::PubAck(ack(publish.packet_id.unwrap().get())))
            .await;
    }
    (numbers, place)
}

fn numbers(topic: &str, range: std::ops::RangeInclusive<u16>) -> BTreeMap<String, Vec<u16>> {
    BTreeMap::from([(topic.to_owned(), range.collect())])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_from_where_it_is_asked_for_and_goes_on_live() {
    let server = Server::start(&[]).await;
    let spec = StreamSpec {
        name: "plant".into(),
        placement: Placement::Topic,
        shards: 1,
        columns: Vec::new(),
        captures: vec!["plant/#".into()],
        form: StreamForm::Append,
        options: StreamOptions::default(),
        sql: String::new(),
    };
    server.store.create_stream(spec).await.unwrap();
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
    async fn open(server: &Server) -> (Client, bool) {
        let mut client = Client::open(server.address(), Version::V5).await;
        let expiry = [Property::SessionExpiryInterval(600)].into_iter().collect();
        let Packet::Connect(mut packet) = support::connect(Version::V5, "durable", expiry) else {
            unreachable!()
        };
        packet.clean_start = false;
        client.send(&Packet::Connect(packet)).await;
        match client.receive().await {
            Some(Packet::ConnAck(ack)) => (client, ack.session_present),
            other => panic!("no CONNACK but {other:?}"),
        }
    }
    let server = Server::start(&["broker.inflight_max=4"]).await;
    publish(&server, "long/x", Qos::AtLeastOnce, 1..=20).await;
    let (mut client, _) = open(&server).await;
    let (reason, mut early) = subscribe_durably(&mut client, "$stream/mqtt/long/#", &["5"]).await;
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
    let (mut client, present) = open(&server).await;
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
        client
            .send(&Packet::PubAck(ack(publish.packet_id.unwrap().get())))
            .await;
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
    let (mut client, present) = open(&server).await;
    assert!(present);
    assert_eq!(client.receive_within(Duration::from_millis(300)).await, None);
    server.stop().await;
}
