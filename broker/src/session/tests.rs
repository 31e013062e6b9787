//! What the conversations in `tests/transcripts` do not reach: outcomes of the log, limits of the configuration.

use std::sync::Arc;

use headwater_store::{Header, Qos, Record, TimestampMs, TopicName, WriteError};

use super::*;
use crate::outbox::{Delivery, Outgoing};
use crate::packet::{Ack, Connect, Decoder, Publish, Subscribe, Unsubscribe};

const LIMITS: SessionLimits = SessionLimits {
    packet_max: 1024,
    payload_format_check: true,
    receive_max: 2,
    inflight_max: 2,
    topic_alias_max: 4,
    subscriptions_max: 2,
    keep_alive_max_s: 60,
    session_expiry_max_s: 3600,
    authentication_required: false,
};

fn connect(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 10,
        client_id: "c".into(),
        will: None,
        username: None,
        password: None,
        properties: Properties::default(),
    }
}

fn session(version: Version) -> Session {
    accept(&connect(version), None, &LIMITS, || unreachable!("it has a client id"))
        .unwrap()
        .session
}

fn publish(id: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: Qos::AtLeastOnce,
        retain: false,
        topic: "a".into(),
        packet_id: PacketId::new(id),
        properties: Properties::default(),
        payload: "x".into(),
    })
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn packets(version: Version, bytes: &mut BytesMut) -> Vec<Packet> {
    let mut decoder = Decoder::for_version(version, 4096);
    std::iter::from_fn(|| decoder.decode(bytes).unwrap()).collect()
}

/// Shows 3.1.1: 4.8.0-2
#[test]
fn only_a_commit_is_acknowledged_before_5() {
    let stopped = || Err(PublishError::Write(WriteError::Stopped));
    let full = || Err(PublishError::Write(WriteError::DiskFull { free: 0, mark: 1 }));
    let mut out = BytesMut::new();
    let mut old = session(Version::V3_1_1);
    old.acknowledge(Answer::Ack(id(1)), &Ok(()), &mut out).unwrap();
    assert_eq!(&out.split()[..], [0x40, 2, 0, 1]);
    old.acknowledge(Answer::Ack(id(2)), &full(), &mut out).unwrap_err();
    old.acknowledge(Answer::Ack(id(3)), &stopped(), &mut out).unwrap_err();
    assert!(out.is_empty());

    let mut new = session(Version::V5);
    new.acknowledge(Answer::Ack(id(2)), &full(), &mut out).unwrap();
    let answer = packets(Version::V5, &mut out);
    assert!(
        matches!(&answer[..], [Packet::PubAck(ack)] if ack.reason == Reason::QUOTA_EXCEEDED),
        "{answer:?}"
    );
    // An outcome that is not known is never told as a failure: the message may be in the log.
    new.acknowledge(Answer::Ack(id(3)), &stopped(), &mut out).unwrap_err();
    new.acknowledge(
        Answer::Ack(id(4)),
        &Err(WriteError::Indefinite("test").into()),
        &mut out,
    )
    .unwrap_err();
    assert!(out.is_empty());
}

/// Shows 5.0: 3.3.4-7
#[test]
fn the_receive_maximum_counts_what_is_not_acknowledged() {
    let mut actions = Vec::new();
    let mut out = BytesMut::new();
    let mut new = session(Version::V5);
    new.receive(publish(1), &mut actions).unwrap();
    new.receive(publish(2), &mut actions).unwrap();
    new.acknowledge(Answer::Ack(id(1)), &Ok(()), &mut out).unwrap();
    new.receive(publish(3), &mut actions).unwrap();
    let end = new.receive(publish(4), &mut actions).unwrap_err();
    assert!(matches!(
        end,
        End::Server {
            reason: Reason::RECEIVE_MAXIMUM_EXCEEDED,
            ..
        }
    ));

    let mut old = session(Version::V3_1_1);
    for number in 1..=3 {
        old.receive(publish(number), &mut actions).unwrap();
    }
    assert!(!old.may_receive(), "an older client is slowed by not reading from it");
    old.acknowledge(Answer::Ack(id(1)), &Ok(()), &mut out).unwrap();
    old.acknowledge(Answer::Ack(id(2)), &Ok(()), &mut out).unwrap();
    assert!(old.may_receive());
}

/// Shows 3.1.1: 3.1.2-24 5.0: 3.1.2-21 3.1.2-22 3.2.2-21 3.2.2-22
#[test]
fn the_keep_alive_is_one_and_a_half_times_what_was_agreed() {
    let agreed = |version, keep_alive_s| {
        let connect = Connect {
            keep_alive_s,
            ..connect(version)
        };
        accept(&connect, None, &LIMITS, || unreachable!())
            .unwrap()
            .session
            .keep_alive()
            .map(|limit| limit.as_millis())
    };
    assert_eq!(agreed(Version::V5, 10), Some(15_000));
    assert_eq!(
        agreed(Version::V5, 600),
        Some(90_000),
        "the server's keep alive of 60 s is announced"
    );
    assert_eq!(agreed(Version::V5, 0), Some(90_000));
    assert_eq!(
        agreed(Version::V3_1_1, 600),
        Some(900_000),
        "an older client cannot be told another"
    );
    assert_eq!(agreed(Version::V3_1_1, 0), None);
}

/// Shows 3.1.1: 3.1.3-9 5.0: 3.1.3-8 3.1.4-2
#[test]
fn a_client_id_that_is_too_long_is_refused() {
    for version in [Version::V3_1_1, Version::V5] {
        let connect = |bytes| Connect {
            client_id: "x".repeat(bytes).into(),
            ..connect(version)
        };
        assert!(accept(&connect(4096), None, &LIMITS, || unreachable!()).is_ok());
        let (reason, _) = accept(&connect(4097), None, &LIMITS, || unreachable!()).unwrap_err();
        assert_eq!(reason, Reason::CLIENT_IDENTIFIER_NOT_VALID);
    }
}

/// What becomes of a PUBLISH with this payload whose Payload Format Indicator says text.
fn sent_as_text(payload: &'static [u8]) -> Action {
    let Packet::Publish(mut publish) = publish(1) else {
        unreachable!()
    };
    publish.properties = [Property::PayloadFormatIndicator(true)].into_iter().collect();
    publish.payload = payload.into();
    let mut actions = Vec::new();
    let mut new = session(Version::V5);
    new.receive(Packet::Publish(publish), &mut actions).unwrap();
    actions.remove(0)
}

#[test]
fn a_payload_that_says_it_is_text_is_checked_where_that_is_asked_for() {
    let accepted = sent_as_text("täxt".as_bytes());
    assert!(matches!(accepted, Action::Publish { .. }), "{accepted:?}");
    match sent_as_text(&[0xff, 0xfe]) {
        Action::Refuse { error, .. } => assert_eq!(error.reason(), Some(Reason::PAYLOAD_FORMAT_INVALID)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_or_view_cannot_be_shared() {
    for (filter, code) in [
        ("$share/g/a/#", 0),
        ("$share/g/$stream/s", 0x8f),
        ("$share/g/$view/v/k", 0x8f),
        ("$share/g/$queue/s", 0x8f),
    ] {
        let mut actions = Vec::new();
        let subscribe = Packet::Subscribe(Subscribe {
            packet_id: id(1),
            properties: Properties::default(),
            subscriptions: [(filter.into(), Default::default())].into_iter().collect(),
        });
        session(Version::V5).receive(subscribe, &mut actions).unwrap();
        let reasons = actions.into_iter().find_map(|action| match action {
            Action::SendSaved(Packet::SubAck(ack)) => Some(ack.reasons),
            _ => None,
        });
        assert_eq!(reasons.unwrap()[0], code, "{filter}");
    }
}

#[test]
fn the_filters_of_one_client_are_bounded_in_bytes_too() {
    let limits = SessionLimits {
        subscriptions_max: 1000,
        ..LIMITS
    };
    let accepted = accept(&connect(Version::V5), None, &limits, || unreachable!());
    let mut session = accepted.unwrap().session;
    let filter = |number: usize| format!("{number:065000}");
    let mut answer = |packet| {
        let mut actions = Vec::new();
        session.receive(packet, &mut actions).unwrap();
        let reasons = actions.into_iter().find_map(|action| match action {
            Action::SendSaved(Packet::SubAck(ack) | Packet::UnsubAck(ack)) => Some(ack.reasons),
            _ => None,
        });
        Reason(reasons.unwrap()[0])
    };
    let subscribe = |number| {
        Packet::Subscribe(Subscribe {
            packet_id: id(1),
            properties: Properties::default(),
            subscriptions: [(filter(number).into(), Default::default())].into_iter().collect(),
        })
    };
    // 16 of them are just below 1 MiB.
    for number in 0..16 {
        assert!(!answer(subscribe(number)).is_error(), "{number}");
    }
    assert_eq!(answer(subscribe(16)), Reason::QUOTA_EXCEEDED);
    assert!(!answer(subscribe(0)).is_error(), "it is there already");
    let unsubscribe = Packet::Unsubscribe(Unsubscribe {
        packet_id: id(2),
        properties: Properties::default(),
        filters: [filter(3).into()].into_iter().collect(),
    });
    assert_eq!(answer(unsubscribe), Reason::SUCCESS);
    assert!(!answer(subscribe(16)).is_error());
}

fn delivery(qos: Qos, headers: Vec<Header>) -> Delivery {
    let topic = Some(TopicName::new("a").unwrap());
    let record = Record {
        topic,
        timestamp: TimestampMs(1_000),
        headers,
        ..Record::new("x")
    };
    Delivery {
        message: Arc::new(Outgoing::new(record, None).unwrap()),
        qos,
        resend: None,
        retain: false,
        subscription_ids: None,
        giver: None,
    }
}

#[test]
fn deliveries_respect_the_window_and_the_expiry() {
    let mut out = Output::default();
    let mut session = session(Version::V5);
    let now = TimestampMs(5_999);
    let one = delivery(Qos::AtLeastOnce, vec![Header::MessageExpiry(10)]);
    assert_eq!(session.deliver(&one, now, &mut out), Delivered::Sent);
    assert_eq!(session.deliver(&one, now, &mut out), Delivered::Sent);
    assert_eq!(session.deliver(&one, now, &mut out), Delivered::WindowFull);
    assert_eq!(
        session.deliver(&delivery(Qos::AtMostOnce, vec![]), now, &mut out),
        Delivered::Sent
    );
    let sent = packets(Version::V5, &mut out.ready);
    assert!(
        matches!(&sent[0], Packet::Publish(publish)
        if publish.properties.iter().eq([Property::MessageExpiryInterval(6)])),
        "{sent:?}"
    );
    assert_eq!(sent.len(), 3);
    let expired = delivery(Qos::AtMostOnce, vec![Header::MessageExpiry(4)]);
    assert_eq!(session.deliver(&expired, now, &mut out), Delivered::Expired);
    assert_eq!(out.len(), 0);
    let ack = Ack {
        packet_id: id(2),
        reason: Reason::SUCCESS,
        properties: Properties::default(),
    };
    session.receive(Packet::PubAck(ack), &mut Vec::new()).unwrap();
    assert_eq!(session.deliver(&one, now, &mut out), Delivered::Sent);
    assert!(matches!(&packets(Version::V5, &mut out.ready)[..], [Packet::Publish(p)] if p.packet_id == Some(id(2))));
}

/// Shows 5.0: 3.1.2-24 3.1.2-25 3.1.2-26
#[test]
fn an_oversize_delivery_takes_no_packet_id_and_no_alias() {
    let properties = [Property::MaximumPacketSize(20), Property::TopicAliasMaximum(5)]
        .into_iter()
        .collect();
    let connect = Connect {
        properties,
        ..connect(Version::V5)
    };
    let mut session = accept(&connect, None, &LIMITS, || unreachable!()).unwrap().session;
    let mut out = Output::default();
    let long = delivery(
        Qos::AtLeastOnce,
        vec![Header::ContentType("a long content type".into())],
    );
    for _ in 0..5 {
        assert_eq!(session.deliver(&long, TimestampMs(0), &mut out), Delivered::Oversize);
    }
    assert_eq!(out.len(), 0);
    for _ in 0..2 {
        session.deliver(&delivery(Qos::AtMostOnce, vec![]), TimestampMs(0), &mut out);
    }
    let topics: Vec<_> = packets(Version::V5, &mut out.ready)
        .into_iter()
        .map(|packet| {
            if let Packet::Publish(publish) = packet {
                publish.topic
            } else {
                unreachable!()
            }
        })
        .collect();
    assert_eq!(
        topics,
        ["a", ""],
        "the topic is told once, then its alias stands for it"
    );
}

#[test]
fn a_goodbye_tells_a_new_client_why_and_fits_its_packets() {
    let mut out = BytesMut::new();
    session(Version::V3_1_1).goodbye(&End::shutdown(), &mut out);
    assert!(out.is_empty());
    session(Version::V5).goodbye(&End::Lost, &mut out);
    assert!(out.is_empty());
    session(Version::V5).goodbye(&End::taken_over(), &mut out);
    assert!(matches!(&packets(Version::V5, &mut out)[..],
        [Packet::Disconnect(disconnect)] if disconnect.reason == Reason::SESSION_TAKEN_OVER));
}

/// Shows 5.0: 3.1.2-8 3.14.4-3
#[test]
fn only_a_plain_disconnect_drops_the_will() {
    for (end, published) in [
        (End::Client { with_will: false }, false),
        (End::Client { with_will: true }, true),
        (End::Lost, true),
        (End::shutdown(), true),
        (End::taken_over(), true),
    ] {
        assert_eq!(end.publishes_will(), published, "{end:?}");
    }
}
