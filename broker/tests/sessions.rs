//! Sessions that outlive their connections, and QoS 2, over reconnects and restarts. What a kill does to them is in
//! `tests/recovery` of the workspace.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{
    Asks, Client, STAY, Server, ack, connect, encoded, expiry_s, id, message, number, open, resume, will,
};
use headwater_broker::packet::*;
use headwater_store::{Offset, Qos, group_for_topic};

/// Shows 3.1.1: 3.1.2-4 3.1.2-5 4.1.0-1 4.5.0-1 5.0: 3.1.2-5 3.1.2-6 3.1.2-23 4.1.0-1 4.5.0-1
#[tokio::test(flavor = "multi_thread")]
async fn what_came_while_it_was_away_is_there_in_order_once_also_after_a_restart() {
    for version in [Version::V3_1_1, Version::V5] {
        let server = Server::start(&[]).await;
        let asks = || Asks { version, ..STAY };
        let (mut device, present) = open(&server, "device", asks()).await;
        assert!(!present);
        device.subscribe("away/+", Qos::AtLeastOnce).await;
        drop(device);
        let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
        publisher.publish_numbers("away/a", 1..=20).await;
        publisher.publish_numbers("other", 1..=5).await;
        let server = Server::start_in(server.stop().await, &[]).await;
        let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
        publisher.publish_numbers("away/a", 21..=40).await;
        let (mut device, present) = open(&server, "device", asks()).await;
        assert!(present, "{version:?}");
        publisher.publish_numbers("away/a", 41..=60).await;
        for expected in 1..=60 {
            let publish = device.message().await;
            assert_eq!((number(&publish), publish.dup), (expected, false));
            device.acknowledge(&publish).await;
        }
        device.silent().await;
        // Acknowledged is acknowledged, when it leaves in good order.
        let goodbye = Disconnect {
            reason: Reason::SUCCESS,
            properties: Properties::default(),
        };
        device.send(&Packet::Disconnect(goodbye)).await;
        assert_eq!(device.receive().await, None);
        let (mut device, present) = open(&server, "device", asks()).await;
        assert!(present);
        device.silent().await;
        publisher.publish_numbers("away/b", 61..=61).await;
        assert_eq!(number(&device.message().await), 61);
        server.stop().await;
    }
}

/// Shows 5.0: 2.2.1-4 3.3.1-1 4.3.2-3 4.4.0-1 4.6.0-1
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_acknowledged_comes_again_with_dup_under_its_packet_id_and_first() {
    let server = Server::start(&[]).await;
    let (mut device, _) = open(&server, "device", STAY).await;
    device.subscribe("in/#", Qos::AtLeastOnce).await;
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    publisher.publish_numbers("in/x", 1..=5).await;
    let mut ids = Vec::new();
    for expected in 1..=5 {
        let publish = device.message().await;
        assert_eq!(number(&publish), expected);
        ids.push(id(&publish));
    }
    // Out of order: 2 and 4 are done.
    for at in [3, 1] {
        device.send(&Packet::PubAck(ack(ids[at]))).await;
    }
    device.send(&Packet::PingReq).await;
    device.expect(Packet::PingResp).await;
    drop(device);
    publisher.publish_numbers("in/x", 6..=6).await;
    let receive_max = Some(2);
    let narrow = Asks { receive_max, ..STAY };
    let (mut device, present) = open(&server, "device", narrow).await;
    assert!(present);
    for at in [0, 2] {
        let publish = device.message().await;
        assert_eq!(
            (number(&publish), id(&publish), publish.dup),
            (at as u64 + 1, ids[at], true)
        );
    }
    device.silent().await;
    for (at, expected) in [(0, 5), (2, 6)] {
        device.send(&Packet::PubAck(ack(ids[at]))).await;
        let publish = device.message().await;
        assert_eq!((number(&publish), publish.dup), (expected, expected == 5));
    }
    server.stop().await;
}

/// Shows 5.0: 4.3.3-1 4.3.3-2 4.3.3-3 4.3.3-4 4.3.3-5 4.3.3-6 4.4.0-1
#[tokio::test(flavor = "multi_thread")]
async fn qos_2_to_the_client_goes_on_where_it_was() {
    let server = Server::start(&[]).await;
    let (mut device, _) = open(&server, "device", STAY).await;
    device.subscribe("two/#", Qos::ExactlyOnce).await;
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    for number in 1..=3 {
        publisher
            .publish(message("two/x", Qos::ExactlyOnce, number, number.to_string()))
            .await;
        publisher.expect(Packet::PubRec(ack(number))).await;
        publisher.send(&Packet::PubRel(ack(number))).await;
        publisher.expect(Packet::PubComp(ack(number))).await;
    }
    let mut ids = Vec::new();
    for expected in 1..=3 {
        let publish = device.message().await;
        assert_eq!((number(&publish), publish.qos), (expected, Qos::ExactlyOnce));
        ids.push(id(&publish));
    }
    // The first is received, the second is done, the third is on its way.
    for id in [ids[0], ids[1]] {
        device.send(&Packet::PubRec(ack(id))).await;
        device.expect(Packet::PubRel(ack(id))).await;
    }
    device.send(&Packet::PubComp(ack(ids[1]))).await;
    device.silent().await;
    drop(device);
    let server = Server::start_in(server.stop().await, &[]).await;
    let mut device = resume(&server, "device").await;
    device.expect(Packet::PubRel(ack(ids[0]))).await;
    let again = device.message().await;
    assert_eq!((number(&again), id(&again), again.dup), (3, ids[2], true));
    device.send(&Packet::PubComp(ack(ids[0]))).await;
    device.send(&Packet::PubRec(ack(ids[2]))).await;
    device.expect(Packet::PubRel(ack(ids[2]))).await;
    device.send(&Packet::PubComp(ack(ids[2]))).await;
    device.silent().await;
    drop(device);
    let mut device = resume(&server, "device").await;
    device.silent().await;
    server.stop().await;
}

/// Shows 5.0: 3.1.2-4 4.3.3-8 4.3.3-10 4.3.3-11 4.3.3-12
#[tokio::test(flavor = "multi_thread")]
async fn qos_2_from_the_client_is_there_once_over_reconnects_and_restarts() {
    let server = Server::start(&[]).await;
    let (mut device, _) = open(&server, "device", STAY).await;
    let topics = ["once/a", "once/b", "once/c", "once/d", "once/e"];
    for (at, topic) in topics.iter().enumerate() {
        let id = at as u16 + 1;
        device
            .publish(message(topic, Qos::ExactlyOnce, id, id.to_string()))
            .await;
        device.expect(Packet::PubRec(ack(id))).await;
    }
    device.send(&Packet::PubRel(ack(1))).await;
    device.expect(Packet::PubComp(ack(1))).await;
    drop(device);
    let server = Server::start_in(server.stop().await, &[]).await;
    let mut observer = Client::connect(server.address(), Version::V5, "observer").await;
    observer.subscribe("once/#", Qos::ExactlyOnce).await;
    let mut device = resume(&server, "device").await;
    // 2 was not heard of, so it is sent again; 3 was; 1 stands for another message.
    let second = message("once/b", Qos::ExactlyOnce, 2, "2");
    device.publish(Publish { dup: true, ..second }).await;
    device.expect(Packet::PubRec(ack(2))).await;
    for id in [2, 3] {
        device.send(&Packet::PubRel(ack(id))).await;
        device.expect(Packet::PubComp(ack(id))).await;
    }
    for id in [1, 2] {
        device
            .publish(message("once/b", Qos::ExactlyOnce, id, (id + 10).to_string()))
            .await;
        device.expect(Packet::PubRec(ack(id))).await;
    }
    assert_eq!(number(&observer.message().await), 11);
    assert_eq!(number(&observer.message().await), 12);
    // A new session knows none of the old ids.
    drop(device);
    let anew = Asks {
        clean_start: true,
        ..STAY
    };
    let (mut device, present) = open(&server, "device", anew).await;
    assert!(!present);
    device.publish(message("once/d", Qos::ExactlyOnce, 4, "14")).await;
    device.expect(Packet::PubRec(ack(4))).await;
    assert_eq!(number(&observer.message().await), 14);
    device.send(&Packet::PubRel(ack(5))).await;
    assert!(
        matches!(device.receive().await, Some(Packet::PubComp(ack)) if ack.reason == Reason::PACKET_IDENTIFIER_NOT_FOUND)
    );
    server.stop().await;
}

/// Shows 5.0: 3.10.4-2 3.10.4-3
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_gets_nothing_from_before_it_even_if_the_session_is_older() {
    let server = Server::start(&[]).await;
    let (mut device, _) = open(&server, "device", STAY).await;
    device.subscribe("old/#", Qos::AtLeastOnce).await;
    drop(device);
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    publisher.publish_numbers("old/x", 1..=1).await;
    publisher.publish_numbers("new/x", 2..=2).await;
    let mut device = resume(&server, "device").await;
    assert_eq!(number(&device.message().await), 1);
    device.subscribe("new/#", Qos::AtLeastOnce).await;
    drop(device);
    publisher.publish_numbers("new/x", 3..=3).await;
    let mut device = resume(&server, "device").await;
    let again = device.message().await;
    assert_eq!((number(&again), again.dup), (1, true));
    assert_eq!(number(&device.message().await), 3);
    let unsubscribe = Unsubscribe {
        packet_id: PacketId::new(9).unwrap(),
        properties: Properties::default(),
        filters: ["old/#".into()].into_iter().collect(),
    };
    device.send(&Packet::Unsubscribe(unsubscribe)).await;
    assert!(matches!(device.receive().await, Some(Packet::UnsubAck(_))));
    drop(device);
    publisher.publish_numbers("old/x", 4..=4).await;
    let server = Server::start_in(server.stop().await, &[]).await;
    let mut device = resume(&server, "device").await;
    assert_eq!(
        number(&device.message().await),
        1,
        "what was in flight stays, whatever is subscribed to"
    );
    assert_eq!(number(&device.message().await), 3);
    device.silent().await;
    server.stop().await;
}

/// Shows 5.0: 3.1.2-23 4.1.0-2
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_expiry() {
    let server = Server::start(&[]).await;
    let (mut device, _) = open(&server, "device", Asks { expiry_s: 1, ..STAY }).await;
    device.subscribe("x/#", Qos::AtLeastOnce).await;
    drop(device);
    let (device, present) = open(&server, "device", Asks { expiry_s: 1, ..STAY }).await;
    assert!(present, "it is back in time");
    drop(device);
    let server = Server::start_in(server.stop().await, &[]).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (mut device, present) = open(&server, "device", STAY).await;
    assert!(!present);
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    publisher.publish_numbers("x/y", 1..=1).await;
    device.silent().await;
    server.stop().await;
}

/// Shows 5.0: 3.1.4-3 4.4.0-1
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_taken_over_with_what_is_in_flight() {
    let server = Server::start(&[]).await;
    let (mut first, _) = open(&server, "device", STAY).await;
    first.subscribe("t/#", Qos::AtLeastOnce).await;
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    publisher.publish_numbers("t/x", 1..=2).await;
    assert_eq!(number(&first.message().await), 1);
    let mut second = resume(&server, "device").await;
    for expected in 1..=2 {
        assert_eq!(number(&second.message().await), expected);
    }
    loop {
        match first.receive().await {
            Some(Packet::Disconnect(disconnect)) => {
                assert_eq!(disconnect.reason, Reason::SESSION_TAKEN_OVER);
                break;
            }
            Some(Packet::Publish(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    publisher.publish_numbers("t/x", 3..=3).await;
    assert_eq!(number(&second.message().await), 3);
    server.stop().await;
}

/// Gets a message, acknowledges it, says something and goodbye, all in one piece; and is back before that can have been read.
async fn comes_and_goes(server: Arc<Server>, device: u16, rounds: u16) {
    let (name, topic) = (format!("device-{device}"), format!("t/{device}"));
    let mut publisher = Client::connect(server.address(), Version::V5, &format!("publisher-{device}")).await;
    for round in 1..=rounds {
        let will = Some(will(&format!("will/{device}")));
        let (mut client, present) = open(&server, &name, Asks { will, ..STAY }).await;
        assert_eq!(present, round > 1);
        if round == 1 {
            client.subscribe(&topic, Qos::AtLeastOnce).await;
        }
        publisher.publish_numbers(&topic, round..=round).await;
        let next = client.message().await;
        assert_eq!((number(&next), next.dup), (u64::from(round), false), "{name}");
        let goodbye = Disconnect {
            reason: Reason::SUCCESS,
            properties: Properties::default(),
        };
        let last = [
            Packet::PubAck(ack(id(&next))),
            Packet::Publish(message(
                &format!("said/{device}"),
                Qos::AtMostOnce,
                0,
                round.to_string(),
            )),
            Packet::Disconnect(goodbye),
        ];
        let bytes: Vec<u8> = last.iter().flat_map(|packet| encoded(Version::V5, packet)).collect();
        client.send_bytes(&bytes).await;
    }
}

/// What a client has sent before it comes back counts, its goodbye too, however late the server gets to read it: no message
/// that it has acknowledged comes again, no will is said, nothing that it published is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_takeover_hears_its_predecessor_out() {
    const DEVICES: u16 = 8;
    const ROUNDS: u16 = 25;
    let server = Arc::new(Server::start(&[]).await);
    let mut observer = Client::connect(server.address(), Version::V5, "observer").await;
    observer.subscribe("will/#", Qos::AtLeastOnce).await;
    observer.subscribe("said/#", Qos::AtLeastOnce).await;
    let devices: Vec<_> = (0..DEVICES)
        .map(|device| tokio::spawn(comes_and_goes(server.clone(), device, ROUNDS)))
        .collect();
    for device in devices {
        device.await.unwrap();
    }
    for _ in 0..DEVICES * ROUNDS {
        let said = observer.take().await;
        assert!(said.topic.starts_with("said/"), "{}", said.topic);
    }
    observer.silent().await;
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_in_flight_comes_again() {
    let server = Server::start(&[]).await;
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    let kept = message("kept/x", Qos::ExactlyOnce, 1, "7");
    publisher.publish(Publish { retain: true, ..kept }).await;
    publisher.expect(Packet::PubRec(ack(1))).await;
    let (mut device, _) = open(&server, "device", STAY).await;
    device.subscribe("kept/#", Qos::ExactlyOnce).await;
    let first = device.message().await;
    assert!(first.retain);
    drop(device);
    let mut device = resume(&server, "device").await;
    let again = device.message().await;
    assert_eq!(
        (number(&again), id(&again), again.dup, again.retain),
        (7, id(&first), true, true)
    );
    drop(device);
    // When it is cleared meanwhile, the packet id is released: the client may have the message already.
    let cleared = message("kept/x", Qos::AtLeastOnce, 2, "");
    publisher
        .publish(Publish {
            retain: true,
            ..cleared
        })
        .await;
    publisher.expect(Packet::PubAck(ack(2))).await;
    let mut device = resume(&server, "device").await;
    let mut packets = [device.receive().await.unwrap(), device.receive().await.unwrap()];
    packets.sort_by_key(|packet| matches!(packet, Packet::PubRel(_)));
    assert!(
        matches!(&packets[0], Packet::Publish(publish) if publish.payload.is_empty()),
        "what cleared it"
    );
    assert_eq!(packets[1], Packet::PubRel(ack(id(&first))));
    server.stop().await;
}

/// Shows 5.0: 3.3.2-5 3.3.2-6
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_expired_while_it_was_away_do_not_come() {
    let server = Server::start(&[]).await;
    let (mut device, _) = open(&server, "device", STAY).await;
    device.subscribe("x/#", Qos::AtLeastOnce).await;
    drop(device);
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    for (number, expiry_s) in [(1, 1), (2, 100)] {
        let publish = message("x/y", Qos::AtLeastOnce, number, number.to_string());
        let properties = [Property::MessageExpiryInterval(expiry_s)].into_iter().collect();
        publisher.publish(Publish { properties, ..publish }).await;
        publisher.expect(Packet::PubAck(ack(number))).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut device = resume(&server, "device").await;
    let publish = device.message().await;
    assert_eq!(number(&publish), 2);
    let left = expiry_s(&publish);
    assert!(matches!(left, Some(90..=99)), "{left:?}");
    device.silent().await;
    server.stop().await;
}

/// Shows 5.0: 4.3.3-7
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_sent_does_not_expire_any_more() {
    let server = Server::start(&[]).await;
    let (mut device, _) = open(&server, "device", STAY).await;
    device.subscribe("soon/#", Qos::ExactlyOnce).await;
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    let short = message("soon/x", Qos::ExactlyOnce, 1, "7");
    let properties = [Property::MessageExpiryInterval(1)].into_iter().collect();
    publisher.publish(Publish { properties, ..short }).await;
    publisher.expect(Packet::PubRec(ack(1))).await;
    let first = device.message().await;
    drop(device);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut device = resume(&server, "device").await;
    let again = device.message().await;
    assert_eq!((number(&again), id(&again), again.dup), (7, id(&first), true));
    server.stop().await;
}

/// Shows 5.0: 3.1.3-6 3.1.3-7 3.2.2-16
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_client_id_gets_one_of_its_own_that_it_can_come_back_with() {
    let server = Server::start(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::open(server.address(), Version::V5).await;
        let stay = [Property::SessionExpiryInterval(600)].into_iter().collect();
        client
            .send(&Packet::Connect(Box::new(connect(Version::V5, "", stay))))
            .await;
        let Some(Packet::ConnAck(connack)) = client.receive().await else {
            panic!("no CONNACK")
        };
        let assigned = connack.properties.find(|property| match property {
            Property::AssignedClientIdentifier(id) => Some(id),
            _ => None,
        });
        clients.push((client, assigned.expect("an id is assigned")));
    }
    let (mut second, other) = clients.pop().unwrap();
    let (first, one) = clients.pop().unwrap();
    assert_ne!(one, other);
    second.silent().await;
    drop(first);
    resume(&server, &one).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_gets_the_newest_of_what_it_missed_within_its_limits() {
    for (limit, first) in [
        ("broker.session_messages_max=10", 31),
        // A message costs about 150 bytes here.
        ("broker.session_bytes_max=1KiB", 34),
        ("broker.session_age_max=1h", 1),
    ] {
        let server = Server::start(&[limit]).await;
        let (mut device, _) = open(&server, "device", STAY).await;
        device.subscribe("much/#", Qos::AtLeastOnce).await;
        drop(device);
        let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
        // Over all groups, and each at a time of its own.
        for number in 1..=40 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            publisher
                .publish_numbers(&format!("much/{number}"), number..=number)
                .await;
        }
        let mut device = resume(&server, "device").await;
        publisher.publish_numbers("much/live", 41..=41).await;
        let mut got = Vec::new();
        while let Some(Packet::Publish(publish)) = device.receive_within(Duration::from_millis(400)).await {
            got.push(number(&publish));
            device.acknowledge(&publish).await;
        }
        got.sort_unstable();
        if limit.contains("bytes") {
            let least = *got.first().unwrap();
            assert!((first..=38).contains(&least), "{got:?}");
            assert_eq!(got, (least..=41).collect::<Vec<u64>>(), "the newest, without a gap");
        } else {
            assert_eq!(got, (first..=41).collect::<Vec<u64>>(), "{limit}");
        }
        server.stop().await;
    }
}

/// All at one time, as from a device that empties its buffer.
#[tokio::test(flavor = "multi_thread")]
async fn limits_count_messages_also_where_many_came_at_once() {
    let server = Server::start(&["broker.session_messages_max=50"]).await;
    let (mut device, _) = open(&server, "device", STAY).await;
    device.subscribe("much/#", Qos::AtLeastOnce).await;
    drop(device);
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    for id in 1..=600u16 {
        let sent = message("much/one", Qos::AtLeastOnce, id, id.to_string());
        publisher.publish(sent).await;
    }
    for id in 1..=600u16 {
        publisher.expect(Packet::PubAck(ack(id))).await;
    }
    let mut device = resume(&server, "device").await;
    let mut got = Vec::new();
    while let Some(Packet::Publish(publish)) = device.receive_within(Duration::from_millis(400)).await {
        got.push(number(&publish));
        device.acknowledge(&publish).await;
    }
    assert_eq!(got, (551..=600).collect::<Vec<u64>>());
    server.stop().await;
}

/// Shows 5.0: 4.6.0-5 4.6.0-6
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_comes_back_under_load_gets_everything_once() {
    let server = Server::start(&["broker.outbox=1MiB", "broker.inflight_max=16"]).await;
    let (mut device, _) = open(&server, "device", STAY).await;
    device.subscribe("load/#", Qos::ExactlyOnce).await;
    let address = server.address();
    let load = tokio::spawn(async move {
        let mut publisher = Client::connect(address, Version::V3_1_1, "publisher").await;
        for number in 1..=1500u16 {
            publisher
                .publish(message(
                    &format!("load/{}", number % 7),
                    Qos::AtLeastOnce,
                    number,
                    number.to_string(),
                ))
                .await;
            publisher.expect(Packet::PubAck(ack(number))).await;
        }
    });
    let mut got = Vec::new();
    while got.len() < 1500 {
        // It vanishes now and then, in the middle of everything.
        for _ in 0..200 {
            if got.len() == 1500 {
                break;
            }
            match device.receive().await {
                Some(Packet::Publish(publish)) => {
                    assert_eq!(publish.qos, Qos::AtLeastOnce);
                    if !(publish.dup && got.contains(&number(&publish))) {
                        got.push(number(&publish));
                    }
                    device.acknowledge(&publish).await;
                }
                other => panic!("{other:?}"),
            }
        }
        drop(device);
        device = resume(&server, "device").await;
    }
    load.await.unwrap();
    let mut last = std::collections::HashMap::new();
    for number in &got {
        let before = last.insert(number % 7, *number).unwrap_or(0);
        assert!(before == 0 || before + 7 == *number, "{number} came after {before}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_trimmed_while_it_was_away_does_not_come_whatever_the_filter() {
    let mut server = Server::start(&[]).await;
    let filters = ["trim/a", "trim/#", "+/a"];
    // One session of each filter comes back at once, and one after a restart: from memory, and from disk.
    let client_id = |round: usize, filter: &str| format!("{round} {filter}");
    for round in 0..2 {
        for filter in filters {
            let (mut client, _) = open(&server, &client_id(round, filter), STAY).await;
            client.subscribe(filter, Qos::AtLeastOnce).await;
        }
    }
    let mut publisher = Client::connect(server.address(), Version::V5, "publisher").await;
    // In one read of the socket, so that a mark may fall inside a record batch.
    let numbers =
        |from: u16| (from..from + 10).map(|n| Packet::Publish(message("trim/a", Qos::AtLeastOnce, n, n.to_string())));
    for from in [1, 11] {
        let burst: Vec<u8> = numbers(from).flat_map(|packet| encoded(Version::V5, &packet)).collect();
        publisher.send_bytes(&burst).await;
        for n in from..from + 10 {
            publisher.expect(Packet::PubAck(ack(n))).await;
        }
    }
    let stream = server.store.catalog().borrow().stream("mqtt").cloned().unwrap();
    let group = group_for_topic("trim/a", server.store.data_groups().count() as u16);
    let shard = stream.shard_ids().find(|shard| shard.group == group).unwrap();
    server.store.trim(&[(shard, Offset(14))]).await.unwrap();
    for round in 0..2 {
        for filter in filters {
            let mut client = resume(&server, &client_id(round, filter)).await;
            let mut got = Vec::new();
            while let Some(message) = client.next_within(400).await {
                got.push(number(&message));
            }
            assert_eq!(got, (15..=20).collect::<Vec<_>>(), "{filter}");
        }
        server = Server::start_in(server.stop().await, &[]).await;
    }
    server.stop().await;
}
