//! Shared subscriptions: each message to one member, none lost when members come and go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use headwater_broker::limits::JOINS_MAX;
use headwater_broker::packet::*;
use headwater_store::Qos;

use crate::support::{Asks, CLEAN, Client, Gate, STAY, Server, number, open, resume};

async fn member(server: &Server, client_id: &str, asks: Asks) -> Client {
    let (mut client, _) = open(server, client_id, asks).await;
    client.subscribe("$share/workers/jobs/#", Qos::AtLeastOnce).await;
    client
}

async fn publish(server: &Server, numbers: std::ops::RangeInclusive<u16>) {
    let mut client = Client::connect(server.address(), Version::V5, "publisher").await;
    for number in numbers {
        client
            .publish_numbers(&format!("jobs/{}", number % 5), number..=number)
            .await;
    }
}

/// What comes until nothing more does, acknowledged or not.
async fn take(client: &mut Client, acknowledge: bool) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(publish) = client.next_within(400).await {
        numbers.push(number(&publish));
        if acknowledge {
            client.acknowledge(&publish).await;
        }
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_the_work_and_take_over_what_one_leaves() {
    let server = Server::start(&[]).await;
    let mut members = Vec::new();
    for name in ["a", "b", "c"] {
        members.push(member(&server, name, CLEAN).await);
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
    let mut slow = member(&server, "slow", CLEAN).await;
    publish(&server, 1..=200).await;
    let mut quick = member(&server, "quick", CLEAN).await;
    let mut seen: BTreeSet<u64> = take(&mut quick, true).await.into_iter().collect();
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
    let mut device = member(&server, "device", STAY).await;
    publish(&server, 1..=10).await;
    assert_eq!(take(&mut device, false).await.len(), 10);
    drop(device);
    publish(&server, 11..=20).await;
    let server = Server::start_in(server.stop().await, &[]).await;
    publish(&server, 21..=30).await;
    let mut device = resume(&server, "device").await;
    let seen: BTreeSet<u64> = take(&mut device, true).await.into_iter().collect();
    assert_eq!(seen, (1..=30).collect());
    // Another one may come and get the rest when it goes, once.
    let mut other = member(&server, "other", CLEAN).await;
    drop(device);
    publish(&server, 31..=40).await;
    assert_eq!(take(&mut other, true).await.len(), 10);
    drop(other);
    let mut device = resume(&server, "device").await;
    assert_eq!(take(&mut device, true).await, Vec::<u64>::new());
    drop(device);
    // The session's end is the end of its membership, and of a share that nobody else is in.
    drop(open(&server, "device", CLEAN).await);
    publish(&server, 41..=45).await;
    let mut device = member(&server, "device", STAY).await;
    assert_eq!(take(&mut device, true).await, Vec::<u64>::new());
    server.stop().await;
}

/// Each join of a durable session writes a row: while the log is held they wait, and a client with as many as may wait is
/// not read from.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_many_joins_waiting_is_not_read_from() {
    let gate = Arc::new(Gate::default());
    let server = Server::start_with(Arc::new(tempfile::tempdir().unwrap()), &[], gate.clone()).await;
    let (mut client, _) = open(&server, "joining", STAY).await;
    let join = |id: u16| {
        let subscription = (format!("$share/g/{id}").into(), SubscriptionOptions::default());
        Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(id).unwrap(),
            properties: Properties::default(),
            subscriptions: [subscription].into_iter().collect(),
        })
    };
    let last = JOINS_MAX as u16;
    gate.set(true);
    for id in 1..last {
        client.send(&join(id)).await;
    }
    client.silent().await;
    client.send(&join(last)).await;
    client.send(&join(last + 1)).await;
    client.send(&Packet::PingReq).await;
    let early = client.receive_within(Duration::from_millis(300)).await;
    assert_eq!(early, None, "{last} joins wait");
    gate.set(false);
    let mut granted = Vec::new();
    while granted.len() < usize::from(last) + 1 {
        match client.receive().await {
            Some(Packet::SubAck(suback)) => granted.push(suback.packet_id.get()),
            Some(Packet::PingResp) => {}
            other => panic!("no SUBACK but {other:?}"),
        }
    }
    assert_eq!(granted, (1..=last + 1).collect::<Vec<_>>());
    server.stop().await;
}
