//! A hostile or unlucky client hurts only itself.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use headwater_broker::packet::*;
use headwater_store::Qos;
use support::{Client, SOON, Server, connect};

fn publish(topic: &str, qos: Qos, id: u16, payload: Vec<u8>) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: topic.into(),
        packet_id: PacketId::new(id).filter(|_| qos > Qos::AtMostOnce),
        properties: Properties::default(),
        payload: payload.into(),
    })
}

fn ack(id: u16) -> Packet {
    Packet::PubAck(Ack {
        packet_id: PacketId::new(id).unwrap(),
        reason: Reason::SUCCESS,
        properties: Properties::default(),
    })
}

async fn subscribe(client: &mut Client, filter: &str, qos: Qos) {
    let options = SubscriptionOptions {
        qos,
        ..SubscriptionOptions::default()
    };
    let packet = Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        properties: Properties::default(),
        subscriptions: [(filter.into(), options)].into_iter().collect(),
    };
    client.send(&Packet::Subscribe(packet)).await;
    assert!(matches!(client.receive().await, Some(Packet::SubAck(_))), "{filter}");
}

/// Everyone else is served as ever: messages go in, are acknowledged, and come out.
async fn assert_served(server: &Server, round: u16) {
    let mut reader = Client::connect(server.address(), Version::V5, "reader").await;
    subscribe(&mut reader, "others/+", Qos::AtLeastOnce).await;
    let mut writer = Client::connect(server.address(), Version::V5, "writer").await;
    for id in 1..=20 {
        let payload = (round * 100 + id).to_string().into_bytes();
        writer
            .send(&publish("others/1", Qos::AtLeastOnce, id, payload.clone()))
            .await;
        assert_eq!(writer.receive().await, Some(ack(id)));
        let Some(Packet::Publish(got)) = reader.receive().await else {
            panic!("no message in round {round}")
        };
        assert_eq!(&got.payload[..], &payload[..]);
        reader.send(&ack(got.packet_id.unwrap().get())).await;
    }
}

/// Until `holds` does, or it has been far too long.
async fn soon(what: &str, holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, waited).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_clients_task_ends_that_client_and_cleans_up_behind_it() {
    let server = Server::start(&[]).await;
    // Whatever it is that panics: here, what the broker was given to look up views.
    server
        .broker
        .serve_views(Arc::new(|_, _| panic!("a defect, on purpose")));
    let mut watcher = Client::connect(server.address(), Version::V5, "watcher").await;
    subscribe(&mut watcher, "will/+", Qos::AtLeastOnce).await;
    let mut unlucky = Client::open(server.address(), Version::V5).await;
    let Packet::Connect(mut packet) = connect(Version::V5, "unlucky", Properties::default()) else {
        unreachable!()
    };
    packet.will = Some(Will {
        topic: "will/unlucky".into(),
        payload: "gone".into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::default(),
    });
    unlucky.send(&Packet::Connect(packet)).await;
    assert!(matches!(unlucky.receive().await, Some(Packet::ConnAck(_))));
    subscribe(&mut unlucky, "others/#", Qos::AtLeastOnce).await;
    let filters = [("$view/a/b".into(), SubscriptionOptions::default())];
    let packet = Subscribe {
        packet_id: PacketId::new(2).unwrap(),
        properties: Properties::default(),
        subscriptions: filters.into_iter().collect(),
    };
    server.store.create_stream(stream("a")).await.unwrap();
    unlucky.send(&Packet::Subscribe(packet)).await;
    let Some(Packet::Disconnect(goodbye)) = unlucky.receive().await else {
        panic!("no DISCONNECT")
    };
    assert_eq!(goodbye.reason, Reason::UNSPECIFIED_ERROR);
    assert_eq!(unlucky.receive().await, None);
    let Some(Packet::Publish(will)) = watcher.receive().await else {
        panic!("no will")
    };
    assert_eq!(&will.payload[..], b"gone");
    soon("it is no client any more", || server.broker.clients().len() == 1).await;
    assert_served(&server, 1).await;
    server.stop().await;
}

fn stream(name: &str) -> headwater_store::StreamSpec {
    headwater_store::StreamSpec {
        name: name.into(),
        placement: headwater_store::Placement::Topic,
        shards: 1,
        columns: Vec::new(),
        captures: Vec::new(),
        form: headwater_store::StreamForm::Append,
        options: headwater_store::StreamOptions::default(),
        sql: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_to_everything_that_reads_nothing_keeps_no_more_than_its_outbox() {
    let server = Server::start(&["broker.packet_max=16KiB", "broker.outbox=64KiB"]).await;
    let mut stuck = Client::connect(server.address(), Version::V5, "stuck").await;
    subscribe(&mut stuck, "#", Qos::AtLeastOnce).await;
    let mut writer = Client::connect(server.address(), Version::V5, "loud").await;
    // Far more than sockets hold, so that it does wait in the broker: at both QoS.
    for id in 1..=1500u16 {
        let qos = if id.is_multiple_of(2) {
            Qos::AtLeastOnce
        } else {
            Qos::AtMostOnce
        };
        writer.send(&publish("loud/1", qos, id, vec![b'x'; 10_000])).await;
        if qos == Qos::AtLeastOnce {
            assert_eq!(writer.receive().await, Some(ack(id)), "its publisher is not slowed");
        }
    }
    let waiting = |client: &headwater_broker::ClientInfo| (client.client_id == "stuck").then_some(client.waiting_bytes);
    let waiting = server.broker.clients().iter().find_map(waiting).unwrap();
    assert!(waiting <= 64 << 10, "{waiting} bytes wait for it");
    assert_served(&server, 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_to_everything_on_a_slow_link_gets_all_in_order_at_its_own_pace() {
    let server = Server::start(&["broker.packet_max=16KiB", "broker.outbox=32KiB"]).await;
    let mut slow = Client::connect(server.address(), Version::V5, "slow").await;
    subscribe(&mut slow, "#", Qos::AtLeastOnce).await;
    let mut writer = Client::connect(server.address(), Version::V5, "writer-1").await;
    let count = 600u16;
    for id in 1..=count {
        let mut payload = id.to_string().into_bytes();
        payload.resize(8_000, b' ');
        writer.send(&publish("much/1", Qos::AtLeastOnce, id, payload)).await;
        assert_eq!(writer.receive().await, Some(ack(id)));
    }
    let mut got = Vec::new();
    while got.len() < usize::from(count) {
        let Some(Packet::Publish(publish)) = slow.receive().await else {
            panic!("after {} messages: nothing", got.len())
        };
        let text = std::str::from_utf8(&publish.payload).unwrap();
        got.push(text.trim().parse::<u16>().unwrap());
        slow.send(&ack(publish.packet_id.unwrap().get())).await;
        if got.len().is_multiple_of(50) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(got, (1..=count).collect::<Vec<_>>());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_packets_and_of_connections_is_survived_by_others() {
    let server = Server::start(&[]).await;
    let address = server.address();
    let floods: Vec<_> = (0..4)
        .map(|number| {
            tokio::spawn(async move {
                let mut flood = Client::connect(address, Version::V3_1_1, &format!("flood-{number}")).await;
                let mut bytes = Vec::new();
                for _ in 0..200 {
                    // PUBLISH at QoS 0 and PINGREQ, whose answers nobody reads.
                    bytes.extend_from_slice(b"\x30\x0a\x00\x05flood123\xc0\x00");
                }
                for _ in 0..200 {
                    if tokio::io::AsyncWriteExt::write_all(&mut flood.stream, &bytes)
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
            })
        })
        .collect();
    // Sockets that say nothing, or nonsense.
    let mut silent = Vec::new();
    for number in 0..50u8 {
        let mut socket = Client::open(address, Version::V5).await;
        if number.is_multiple_of(2) {
            socket.send_bytes(&[number; 64]).await;
        }
        silent.push(socket);
    }
    for round in 1..=3 {
        assert_served(&server, round).await;
    }
    for flood in floods {
        flood.abort();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_giant_will_is_said_or_refused_and_nobody_else_notices() {
    let server = Server::start(&["broker.packet_max=64KiB"]).await;
    let mut watcher = Client::connect(server.address(), Version::V5, "watcher").await;
    subscribe(&mut watcher, "will/+", Qos::AtLeastOnce).await;
    let mut seen = BTreeSet::new();
    for (name, bytes, fits) in [("large", 60_000, true), ("larger", 65_535, false)] {
        let Packet::Connect(mut packet) = connect(Version::V5, name, Properties::default()) else {
            unreachable!()
        };
        packet.will = Some(Will {
            topic: format!("will/{name}").into(),
            payload: vec![b'w'; bytes].into(),
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: Properties::default(),
        });
        let mut client = Client::open(server.address(), Version::V5).await;
        client.send(&Packet::Connect(packet)).await;
        match client.receive().await {
            Some(Packet::ConnAck(ack)) => assert_eq!(!ack.reason.is_error(), fits, "{name}"),
            other => assert!(!fits && other.is_none(), "{name}: {other:?}"),
        }
        drop(client);
        if fits {
            let Some(Packet::Publish(will)) = watcher.receive().await else {
                panic!("no will of {name}")
            };
            assert_eq!(will.payload.len(), bytes);
            watcher.send(&ack(will.packet_id.unwrap().get())).await;
            seen.insert(name);
        }
    }
    assert_eq!(seen.len(), 1);
    assert_eq!(watcher.receive_within(Duration::from_millis(200)).await, None);
    assert_served(&server, 1).await;
    server.stop().await;
}
