//! `$events`: what happens to clients is in the log, in order for each of them, and over MQTT.

use std::time::Duration;

use headwater_broker::packet::*;
use headwater_store::{Offset, Qos};
use serde_json::Value;

use crate::support::{Client, Server, connect, message};

/// The events of one client, in order.
async fn events_of(server: &Server, client_id: &str) -> Vec<Value> {
    let row = server.store.catalog().borrow().stream("$events").cloned().unwrap();
    let mut events = Vec::new();
    for shard in row.shard_ids() {
        let key = bytes::Bytes::copy_from_slice(client_id.as_bytes());
        let found = server.store.read_key(shard, key, Offset(0), 1 << 20).await.unwrap();
        let payloads = found.records.into_iter().filter_map(|(_, record)| record.payload);
        events.extend(payloads.map(|payload| serde_json::from_slice::<Value>(&payload).unwrap()));
    }
    events
}

fn field(events: &[Value], name: &str) -> Vec<String> {
    let text = |event: &Value| event[name].as_str().map_or(event[name].to_string(), str::to_owned);
    events.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_client_can_be_asked_for() {
    let server = Server::start(&[]).await;
    let mut watcher = Client::connect(server.address(), Version::V3_1_1, "watcher").await;
    watcher.subscribe("$events/disconnected", Qos::AtLeastOnce).await;

    let mut device = Client::connect(server.address(), Version::V5, "device/1").await;
    device.subscribe("a/+", Qos::ExactlyOnce).await;
    let packet = Packet::Unsubscribe(Unsubscribe {
        packet_id: PacketId::new(2).unwrap(),
        properties: Properties::default(),
        filters: ["a/+".into()].into_iter().collect(),
    });
    device.send(&packet).await;
    assert!(matches!(device.receive().await, Some(Packet::UnsubAck(_))));
    // No DISCONNECT: it was lost.
    drop(device);
    let Some(Packet::Publish(lost)) = watcher.receive().await else {
        panic!("nothing about the lost device")
    };
    assert_eq!(&*lost.topic, "$events/disconnected");
    let live: Value = serde_json::from_slice(&lost.payload).unwrap();
    assert_eq!(
        (&live["client_id"], &live["reason"]),
        (&"device/1".into(), &"lost".into())
    );

    let events = events_of(&server, "device/1").await;
    assert_eq!(
        field(&events, "event"),
        ["connected", "subscribed", "unsubscribed", "disconnected"]
    );
    assert_eq!(field(&events[1..2], "filter"), ["a/+"]);
    assert_eq!(field(&events[1..2], "qos"), ["2"]);
    assert_eq!(field(&events, "version"), ["5.0"; 4]);

    // Somebody who is turned away.
    let mut refused = Client::open(server.address(), Version::V5).await;
    let method = [Property::AuthenticationMethod("none such".into())]
        .into_iter()
        .collect();
    let packet = connect(Version::V5, "refused", method);
    refused.send(&Packet::Connect(Box::new(packet))).await;
    assert!(matches!(refused.receive().await, Some(Packet::ConnAck(ack)) if ack.reason.is_error()));
    drop(watcher);
    // Also what is told while the broker stops is written.
    let server = Server::start_in(server.stop().await, &[]).await;
    assert_eq!(field(&events_of(&server, "refused").await, "event"), ["refused"]);
    let watcher = events_of(&server, "watcher").await;
    assert_eq!(field(&watcher, "event"), ["connected", "subscribed", "disconnected"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_publishes_events_and_wildcards_do_not_see_them() {
    let server = Server::start(&[]).await;
    let mut all = Client::connect(server.address(), Version::V5, "all").await;
    all.subscribe("#", Qos::AtMostOnce).await;
    let mut forger = Client::connect(server.address(), Version::V5, "forger").await;
    let forged = message("$events/connected", Qos::AtLeastOnce, 1, "{}");
    forger.publish(forged.clone()).await;
    assert!(matches!(forger.receive().await, Some(Packet::PubAck(ack)) if ack.reason == Reason::NOT_AUTHORIZED));
    // Nor by an alias that was given to the topic with a message that was refused.
    for topic in ["$events/connected", ""] {
        let properties = [Property::TopicAlias(1)].into_iter().collect();
        let (topic, forged) = (topic.into(), forged.clone());
        let aliased = Publish {
            properties,
            topic,
            ..forged
        };
        forger.publish(aliased).await;
        assert!(matches!(forger.receive().await, Some(Packet::PubAck(ack)) if ack.reason == Reason::NOT_AUTHORIZED));
    }
    assert_eq!(all.receive_within(Duration::from_millis(300)).await, None);
    server.stop().await;
}
