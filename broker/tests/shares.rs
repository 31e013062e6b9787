//! Shared subscriptions: each message to one member, none lost when members come and go.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use headwater_broker::packet::*;
use headwater_store::Qos;
use support::{Client, Server, connect};

async fn open(server: &Server, client_id: &str, durable: bool) -> Client {
    let mut client = Client::open(server.address(), Version::V5).await;
    let expiry = durable.then_some(Property::SessionExpiryInterval(600));
    let Packet::Connect(mut packet) = connect(Version::V5, client_id, expiry.into_iter().collect()) else {
        unreachable!()
    };
    packet.clean_start = !durable;
    client.send(&Packet::Connect(packet)).await;
    assert!(matches!(client.receive().await, Some(Packet::ConnAck(ack)) if !ack.reason.is_error()));
    client
}

async fn member(server: &Server, client_id: &str, durable: bool) -> Client {
    let mut client = open(server, client_id, durable).await;
    let options = SubscriptionOptions {
        qos: Qos::AtLeastOnce,
        ..SubscriptionOptions::default()
    };
    let packet = Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        properties: Properties::default(),
        subscriptions: [("$share/workers/jobs/#".into(), options)].into_iter().collect(),
    };
    client.send(&Packet::Subscribe(packet)).await;
    assert!(matches!(client.receive().await, Some(Packet::SubAck(_))));
    client
}

fn ack(id: u16) -> Ack {
    Ack {
        packet_id: PacketId::new(id).unwrap(),
        reason: Reason::SUCCESS,
        properties: Properties::default(),
    }
}

async fn publish(server: &Server, numbers: std::ops::RangeInclusive<u16>) {
    let mut client = Client::connect(server.address(), Version::V5, "publisher").await;
    for number in numbers {
        let packet = Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic: format!("jobs/{}", number % 5).into(),
            packet_id: PacketId::new(number),
            properties: Properties::default(),
            payload: number.to_string().into(),
        });
        client.send(&packet).await;
        assert_eq!(client.receive().await, Some(Packet::PubAck(ack(number))));
    }
}

/// What comes until nothing more does, acknowledged or not.
async fn take(client: &mut Client, acknowledge: bool) -> Vec<u16> {
    let mut numbers = Vec::new();
    while let Some(packet) = client.receive_within(Duration::from_millis(400)).await {
        let Packet::Publish(publish) = packet else {
            panic!("no message but {packet:?}")
        };
        numbers.push(std::str::from_utf8(&publish.payload).unwrap().parse().unwrap());
        if acknowledge {
            client
                .send(&Packet::PubAck(ack(publish.packet_id.unwrap().get())))
                .await;
        }
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_the_work_and_take_over_what_one_leaves() {
    let server = Server::start(&[]).await;
    let mut members = Vec::new();
    for name in ["a", "b", "c"] {
        members.push(member(&server, name, false).await);
    }
    publish(&server, 1..=60).await;
    // The first takes its part and acknowledges nothing.
    let mut first = members.remove(0);
    assert!(!take(&mut first, false).await.is_empty());
    let mut seen = BTreeSet::new();
    for member in &mut members {
        let got = take(member, true).await;
        assert!(!got.is_empty(), "each gets a part");
        for number in got {
            assert!(seen.insert(number), "{number} came twice");
        }
    }
    drop(first);
    for member in &mut members {
        for number in take(member, true).await {
            assert!(seen.insert(number), "{number} came twice");
        }
    }
    assert_eq!(seen, (1..=60).collect());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_member_hoards_nothing_and_loses_nothing() {
    let server = Server::start(&["broker.packet_max=4KiB", "broker.outbox=8KiB"]).await;
    let mut slow = member(&server, "slow", false).await;
    publish(&server, 1..=200).await;
    let mut quick = member(&server, "quick", false).await;
    let mut seen: BTreeSet<u16> = take(&mut quick, true).await.into_iter().collect();
    assert!(
        seen.len() >= 150,
        "it gets what the slow one has no room for: {}",
        seen.len()
    );
    for number in take(&mut slow, true).await {
        assert!(seen.insert(number), "{number} came twice");
    }
    assert_eq!(seen, (1..=200).collect());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_share_waits_for_its_members_over_a_restart() {
    let server = Server::start(&[]).await;
    let mut device = member(&server, "device", true).await;
    publish(&server, 1..=10).await;
    assert_eq!(take(&mut device, false).await.len(), 10);
    drop(device);
    publish(&server, 11..=20).await;
    let server = Server::start_in(server.stop().await, &[]).await;
    publish(&server, 21..=30).await;
    let mut device = open(&server, "device", true).await;
    let seen: BTreeSet<u16> = take(&mut device, true).await.into_iter().collect();
    assert_eq!(seen, (1..=30).collect());
    // Another one may come and get the rest when it goes, once.
    let mut other = member(&server, "other", false).await;
    drop(device);
    publish(&server, 31..=40).await;
    assert_eq!(take(&mut other, true).await.len(), 10);
    drop(other);
    let mut device = open(&server, "device", true).await;
    assert_eq!(take(&mut device, true).await, Vec::<u16>::new());
    drop(device);
    // The session's end is the end of its membership, and of a share that nobody else is in.
    drop(open(&server, "device", false).await);
    publish(&server, 41..=45).await;
    let mut device = member(&server, "device", true).await;
    assert_eq!(take(&mut device, true).await, Vec::<u16>::new());
    server.stop().await;
}
