//! A hostile or unlucky client hurts only itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use headwater_broker::packet::*;
use headwater_store::Qos;
use tokio::sync::Semaphore;

use crate::support::{Asks, CLEAN, Client, SOON, Server, ack, message, number, open, stream, will};

/// Everyone else is served as ever: messages go in, are acknowledged, and come out.
async fn assert_served(server: &Server, round: u16) {
    let mut reader = Client::connect(server.address(), Version::V5, "reader").await;
    reader.subscribe("others/+", Qos::AtLeastOnce).await;
    let mut writer = Client::connect(server.address(), Version::V5, "writer").await;
    for id in 1..=20 {
        let payload = (round * 100 + id).to_string().into_bytes();
        writer
            .publish(message("others/1", Qos::AtLeastOnce, id, payload.clone()))
            .await;
        writer.expect(Packet::PubAck(ack(id))).await;
        let got = reader.message().await;
        assert_eq!(&got.payload[..], &payload[..]);
        reader.acknowledge(&got).await;
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
    watcher.subscribe("will/+", Qos::AtLeastOnce).await;
    let will = Some(will("will/unlucky"));
    let (mut unlucky, _) = open(&server, "unlucky", Asks { will, ..CLEAN }).await;
    unlucky.subscribe("others/#", Qos::AtLeastOnce).await;
    let filters = [("$view/a/b".into(), SubscriptionOptions::default())];
    let packet = Subscribe {
        packet_id: PacketId::new(2).unwrap(),
        properties: Properties::default(),
        subscriptions: filters.into_iter().collect(),
    };
    server.store.create_stream(stream("a", &[])).await.unwrap();
    unlucky.send(&Packet::Subscribe(packet)).await;
    let Some(Packet::Disconnect(goodbye)) = unlucky.receive().await else {
        panic!("no DISCONNECT")
    };
    assert_eq!(goodbye.reason, Reason::UNSPECIFIED_ERROR);
    assert_eq!(unlucky.receive().await, None);
    let will = watcher.message().await;
    assert_eq!(&will.payload[..], b"gone");
    soon("it is no client any more", || server.broker.clients().len() == 1).await;
    assert_served(&server, 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_to_everything_that_reads_nothing_keeps_no_more_than_its_outbox() {
    let server = Server::start(&["broker.packet_max=16KiB", "broker.outbox=64KiB"]).await;
    let mut stuck = Client::connect(server.address(), Version::V5, "stuck").await;
    stuck.subscribe("#", Qos::AtLeastOnce).await;
    let mut writer = Client::connect(server.address(), Version::V5, "loud").await;
    // Far more than sockets hold, so that it does wait in the broker: at both QoS.
    for id in 1..=1500u16 {
        let qos = if id.is_multiple_of(2) {
            Qos::AtLeastOnce
        } else {
            Qos::AtMostOnce
        };
        writer.publish(message("loud/1", qos, id, vec![b'x'; 10_000])).await;
        if qos == Qos::AtLeastOnce {
            assert_eq!(
                writer.receive().await,
                Some(Packet::PubAck(ack(id))),
                "its publisher is not slowed"
            );
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
    slow.subscribe("#", Qos::AtLeastOnce).await;
    let mut writer = Client::connect(server.address(), Version::V5, "writer-1").await;
    let count = 600u16;
    for id in 1..=count {
        let mut payload = id.to_string().into_bytes();
        payload.resize(8_000, b' ');
        writer.publish(message("much/1", Qos::AtLeastOnce, id, payload)).await;
        writer.expect(Packet::PubAck(ack(id))).await;
    }
    let mut got = Vec::new();
    while got.len() < usize::from(count) {
        let Some(Packet::Publish(publish)) = slow.receive().await else {
            panic!("after {} messages: nothing", got.len())
        };
        got.push(number(&publish));
        slow.acknowledge(&publish).await;
        if got.len().is_multiple_of(50) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(got, (1..=u64::from(count)).collect::<Vec<_>>());
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
    watcher.subscribe("will/+", Qos::AtLeastOnce).await;
    let mut seen = BTreeSet::new();
    for (name, bytes, fits) in [("large", 60_000, true), ("larger", 65_535, false)] {
        let giant = Will {
            payload: vec![b'w'; bytes].into(),
            retain: true,
            ..will(&format!("will/{name}"))
        };
        let will = Some(giant);
        let mut client = Client::open(server.address(), Version::V5).await;
        client.send(&Asks { will, ..CLEAN }.packet(name)).await;
        match client.receive().await {
            Some(Packet::ConnAck(ack)) => assert_eq!(!ack.reason.is_error(), fits, "{name}"),
            other => assert!(!fits && other.is_none(), "{name}: {other:?}"),
        }
        drop(client);
        if fits {
            let will = watcher.message().await;
            assert_eq!(will.payload.len(), bytes);
            watcher.acknowledge(&will).await;
            seen.insert(name);
        }
    }
    assert_eq!(seen.len(), 1);
    assert_eq!(watcher.receive_within(Duration::from_millis(200)).await, None);
    assert_served(&server, 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_subscriptions_than_can_wait_for_their_retained_messages_end_a_client() {
    let server = Server::start(&[]).await;
    let mut writer = Client::connect(server.address(), Version::V5, "writer").await;
    let kept = message("kept/0", Qos::AtLeastOnce, 1, "x");
    writer.publish(Publish { retain: true, ..kept }).await;
    writer.expect(Packet::PubAck(ack(1))).await;
    let asks = Asks {
        receive_max: Some(1),
        ..CLEAN
    };
    let (mut greedy, _) = open(&server, "greedy", asks).await;
    let filter = |number: usize| (format!("kept/{number}").into(), at_least_once());
    let packet = Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        properties: Properties::default(),
        subscriptions: (0..1000).map(filter).collect(),
    });
    // It acknowledges nothing, so from the second packet on nothing of this is done.
    for _ in 0..7 {
        greedy.send(&packet).await;
    }
    let end = loop {
        match greedy.receive().await {
            Some(Packet::Publish(_) | Packet::SubAck(_)) => {}
            other => break other,
        }
    };
    let Some(Packet::Disconnect(goodbye)) = end else {
        panic!("no DISCONNECT but {end:?}")
    };
    assert_eq!(goodbye.reason, Reason::QUOTA_EXCEEDED);
    assert_served(&server, 1).await;
    server.stop().await;
}

fn at_least_once() -> SubscriptionOptions {
    SubscriptionOptions {
        qos: Qos::AtLeastOnce,
        ..SubscriptionOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_views_faster_than_they_answer_is_slowed() {
    let server = Server::start(&[]).await;
    let (asked, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let rows: headwater_broker::ViewRows = {
        let (asked, answers) = (asked.clone(), answers.clone());
        Arc::new(move |_, key| {
            // Without a key it is only looked whether there is such a view.
            asked.fetch_add(usize::from(key.is_some()), Ordering::SeqCst);
            let answers = answers.clone();
            Some(Box::pin(async move {
                answers.acquire().await.unwrap().forget();
                Ok(vec![("k".into(), "{}".into())])
            }))
        })
    };
    server.broker.serve_views(rows);
    let mut heard = Client::connect(server.address(), Version::V5, "heard").await;
    heard.subscribe("answers", Qos::AtLeastOnce).await;
    let mut curious = Client::connect(server.address(), Version::V5, "curious").await;
    let response = Property::ResponseTopic("answers".into());
    for id in 1..=40 {
        let question = Publish {
            properties: [response.clone()].into_iter().collect(),
            ..message("$view/a/k", Qos::AtLeastOnce, id, "")
        };
        curious.publish(question).await;
    }
    soon("the first ones are asked", || asked.load(Ordering::SeqCst) >= 16).await;
    assert_served(&server, 1).await;
    assert_eq!(asked.load(Ordering::SeqCst), 16, "the others wait in its socket");
    answers.add_permits(40);
    for _ in 0..40 {
        assert_eq!(&heard.take().await.payload[..], b"{}");
    }
    server.stop().await;
}
