//! `ACK = 'memory'`: what is acknowledged before it is committed, and what is not. The driver is held where it asks for
//! the time of an entry, so that Batches are accepted and nothing is committed.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use headwater_broker::packet::*;
use headwater_store::{Ack as StreamAck, Qos, StreamSpec};

use crate::support::{Client, Gate, STAY, Server, ack, encoded, message, number, open, stream};

/// A server with the streams `fast`, which is acknowledged from memory, and `sure`.
async fn start(settings: &[&str]) -> (Server, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::start_with(folder, settings, gate.clone()).await;
    let fast = StreamSpec {
        ack: StreamAck::Memory,
        ..stream("fast", &["fast/#"])
    };
    server.store.create_stream(fast).await.unwrap();
    server.store.create_stream(stream("sure", &["sure/#"])).await.unwrap();
    (server, gate)
}

fn publish(topic: &str, qos: Qos, id: u16) -> Packet {
    Packet::Publish(message(topic, qos, id, id.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_puback_from_memory_does_not_wait_for_the_commit_and_everything_else_does() {
    let (server, gate) = start(&[]).await;
    let mut subscriber = Client::connect(server.address(), Version::V5, "subscriber").await;
    subscriber.subscribe("+/a", Qos::AtLeastOnce).await;
    for version in [Version::V3_1_1, Version::V5] {
        let mut fast = Client::connect(server.address(), version, "fast").await;
        let mut sure = Client::connect(server.address(), version, "sure").await;
        let mut twice = Client::connect(server.address(), version, "twice").await;
        gate.set(true);
        for id in 1..=3 {
            fast.send(&publish("fast/a", Qos::AtLeastOnce, id)).await;
            fast.expect(Packet::PubAck(ack(id))).await;
        }
        sure.send(&publish("sure/a", Qos::AtLeastOnce, 1)).await;
        sure.silent().await;
        twice.send(&publish("fast/twice", Qos::ExactlyOnce, 1)).await;
        twice.silent().await;
        subscriber.silent().await;
        gate.set(false);
        sure.expect(Packet::PubAck(ack(1))).await;
        twice.expect(Packet::PubRec(ack(1))).await;
        let mut numbers = Vec::new();
        for _ in 0..4 {
            let message = subscriber.take().await;
            numbers.extend(message.topic.starts_with("fast").then(|| number(&message)));
        }
        assert_eq!(numbers, [1, 2, 3], "delivered when committed, each once");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pubacks_keep_the_order_of_messages_of_both_sorts() {
    let (server, gate) = start(&[]).await;
    let mut client = Client::connect(server.address(), Version::V5, "mixed").await;
    // In one read of the socket, and in one each.
    for together in [true, false] {
        gate.set(true);
        let topics = [
            "fast/a",
            "fast/b",
            "sure/a",
            "fast/c",
            "$SYS/mine",
            "fast/d",
            "sure/b",
            "fast/e",
        ];
        let packets = (1..)
            .zip(topics)
            .map(|(id, topic)| publish(topic, Qos::AtLeastOnce, id));
        if together {
            let mut burst = BytesMut::new();
            packets.for_each(|packet| burst.extend(encoded(Version::V5, &packet)));
            client.send_bytes(&burst).await;
        } else {
            for packet in packets {
                client.send(&packet).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        client.expect(Packet::PubAck(ack(1))).await;
        client.expect(Packet::PubAck(ack(2))).await;
        client.silent().await;
        gate.set(false);
        for id in 3..=8 {
            match client.receive().await {
                Some(Packet::PubAck(ack)) => {
                    assert_eq!(ack.packet_id.get(), id);
                    assert_eq!(ack.reason.is_error(), id == 5, "{ack:?}");
                }
                other => panic!("no PUBACK but {other:?}"),
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_shares_a_batch_with_a_qos_2_message_of_a_durable_session_waits_with_it() {
    let (server, gate) = start(&[]).await;
    let (mut client, _) = open(&server, "durable", STAY).await;
    // The session's first QoS 2 message claims it, which costs commits of its own.
    client.send(&publish("fast/a", Qos::ExactlyOnce, 1)).await;
    client.expect(Packet::PubRec(ack(1))).await;
    gate.set(true);
    let mut burst = BytesMut::new();
    burst.extend(encoded(Version::V5, &publish("fast/a", Qos::AtLeastOnce, 2)));
    burst.extend(encoded(Version::V5, &publish("fast/a", Qos::ExactlyOnce, 3)));
    client.send_bytes(&burst).await;
    client.silent().await;
    gate.set(false);
    client.expect(Packet::PubAck(ack(2))).await;
    client.expect(Packet::PubRec(ack(3))).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_faster_than_the_disk_is_slowed_and_loses_nothing() {
    let (server, gate) = start(&["store.admission=1MiB", "broker.receive_max=60000"]).await;
    let mut client = Client::connect(server.address(), Version::V3_1_1, "flood").await;
    let mut subscriber = Client::connect(server.address(), Version::V5, "subscriber").await;
    subscriber.subscribe("fast/#", Qos::AtLeastOnce).await;
    gate.set(true);
    // 100 messages of 64 KiB fit in no way into 1 MiB.
    let packet = |id: u16| {
        let payload = format!("{id}{}", " ".repeat(64 << 10));
        encoded(
            Version::V3_1_1,
            &Packet::Publish(message("fast/a", Qos::AtLeastOnce, id, payload)),
        )
    };
    let sent: Vec<u8> = (1..=100).flat_map(packet).collect();
    let (mut reader, mut writer) = client.stream.split();
    let mut answers = [0; 400];
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let early = {
        let write = writer.write_all(&sent);
        let read = async {
            let mut early = 0;
            while let Ok(count) =
                tokio::time::timeout(Duration::from_millis(500), reader.read(&mut answers[early..])).await
            {
                early += count.unwrap();
            }
            gate.set(false);
            reader.read_exact(&mut answers[early..]).await.unwrap();
            early / 4
        };
        let (written, early) = tokio::join!(write, read);
        written.unwrap();
        early
    };
    assert!(
        (1..=17).contains(&early),
        "{early} acknowledged while nothing could be written"
    );
    for (id, answer) in (1u16..).zip(answers.chunks(4)) {
        assert_eq!(answer, [0x40, 2, (id >> 8) as u8, id as u8]);
    }
    for id in 1..=100u16 {
        let message = subscriber.take().await;
        let text = std::str::from_utf8(&message.payload).unwrap().trim().to_owned();
        assert_eq!(text, id.to_string());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_to_be_refused_is_not_acknowledged() {
    let (server, _) = start(&["store.free_disk_min=1000TiB"]).await;
    let mut client = Client::connect(server.address(), Version::V5, "full").await;
    client.send(&publish("fast/a", Qos::AtLeastOnce, 1)).await;
    match client.receive().await {
        Some(Packet::PubAck(ack)) => assert_eq!(ack.reason, Reason::QUOTA_EXCEEDED),
        other => panic!("no PUBACK but {other:?}"),
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_order_commits_what_was_acknowledged() {
    let (server, gate) = start(&[]).await;
    let mut client = Client::connect(server.address(), Version::V5, "leaving").await;
    gate.set(true);
    for id in 1..=20 {
        client.send(&publish("fast/a", Qos::AtLeastOnce, id)).await;
        client.expect(Packet::PubAck(ack(id))).await;
    }
    let stopping = tokio::spawn(server.stop());
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.set(false);
    let folder = stopping.await.unwrap();
    let server = Server::start_in(folder, &[]).await;
    let mut reader = Client::connect(server.address(), Version::V5, "reader").await;
    reader.subscribe("$stream/fast@earliest/#", Qos::AtLeastOnce).await;
    for id in 1..=20 {
        assert_eq!(number(&reader.take().await), id);
    }
    server.stop().await;
}
