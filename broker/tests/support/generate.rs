//! Generated packets of every kind and version.

use bytes::Bytes;
use bytestring::ByteString;
use headwater_broker::packet::*;
use headwater_store::Qos;
use proptest::prelude::*;

pub fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V3_1), Just(Version::V3_1_1), Just(Version::V5)]
}

pub fn packet(version: Version) -> BoxedStrategy<Packet> {
    let v5 = version == Version::V5;
    let ack = move || (id(), reason(v5, &[0x00, 0x10, 0x87, 0x97]), properties(v5, Owner::Ack)).prop_map(to_ack);
    let release = move || (id(), reason(v5, &[0x00, 0x92]), properties(v5, Owner::Ack)).prop_map(to_ack);
    let mut kinds = vec![
        connect(version)
            .prop_map(|connect| Packet::Connect(Box::new(connect)))
            .boxed(),
        connack(version).boxed(),
        publish(version).prop_map(Packet::Publish).boxed(),
        publish(version).prop_map(Packet::Publish).boxed(),
        ack().prop_map(Packet::PubAck).boxed(),
        ack().prop_map(Packet::PubRec).boxed(),
        release().prop_map(Packet::PubRel).boxed(),
        release().prop_map(Packet::PubComp).boxed(),
        subscribe(version).boxed(),
        suback(version).boxed(),
        unsubscribe(version).boxed(),
        unsuback(version).boxed(),
        Just(Packet::PingReq).boxed(),
        Just(Packet::PingResp).boxed(),
        (
            reason(v5, &[0x00, 0x04, 0x81, 0x8b, 0x8e]),
            properties(v5, Owner::Disconnect),
        )
            .prop_map(|(reason, properties)| Packet::Disconnect(Disconnect { reason, properties }))
            .boxed(),
    ];
    if v5 {
        let auth = (reason(true, &[0x00, 0x18, 0x19]), properties(true, Owner::Auth));
        kinds.push(
            auth.prop_map(|(reason, properties)| Packet::Auth(Auth { reason, properties }))
                .boxed(),
        );
    }
    prop::strategy::Union::new(kinds).boxed()
}

fn to_ack((packet_id, reason, properties): (PacketId, Reason, Properties)) -> Ack {
    Ack {
        packet_id,
        reason,
        properties,
    }
}

fn id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

fn text() -> impl Strategy<Value = ByteString> {
    "[^\u{0}]{0,12}".prop_map(ByteString::from)
}

fn topic() -> impl Strategy<Value = ByteString> {
    "[a-zü$/ ]{1,12}".prop_map(ByteString::from)
}

fn filter() -> impl Strategy<Value = ByteString> {
    "[a-c/+]{1,8}(/#)?".prop_map(ByteString::from)
}

fn data() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn qos() -> impl Strategy<Value = Qos> {
    (0u8..3).prop_map(|bits| Qos::from_bits(bits).unwrap())
}

fn reason(v5: bool, codes: &'static [u8]) -> impl Strategy<Value = Reason> {
    prop::sample::select(if v5 { codes } else { &codes[..1] }).prop_map(Reason)
}

fn property(owner: Owner) -> BoxedStrategy<Property> {
    use Property::*;
    let user = (text(), text())
        .prop_map(|(name, value)| UserProperty(name, value))
        .boxed();
    let kinds = match owner {
        Owner::Connect => vec![
            any::<u32>().prop_map(SessionExpiryInterval).boxed(),
            (1..=u16::MAX).prop_map(ReceiveMaximum).boxed(),
            (1..=u32::MAX).prop_map(MaximumPacketSize).boxed(),
            any::<u16>().prop_map(TopicAliasMaximum).boxed(),
            any::<bool>().prop_map(RequestResponseInformation).boxed(),
            any::<bool>().prop_map(RequestProblemInformation).boxed(),
            text().prop_map(AuthenticationMethod).boxed(),
            user,
        ],
        Owner::Will | Owner::Publish => vec![
            any::<bool>().prop_map(PayloadFormatIndicator).boxed(),
            any::<u32>().prop_map(MessageExpiryInterval).boxed(),
            text().prop_map(ContentType).boxed(),
            topic().prop_map(ResponseTopic).boxed(),
            data().prop_map(CorrelationData).boxed(),
            match owner {
                Owner::Will => any::<u32>().prop_map(WillDelayInterval).boxed(),
                _ => (1..=u16::MAX).prop_map(TopicAlias).boxed(),
            },
            user,
        ],
        Owner::ConnAck => vec![
            any::<u32>().prop_map(SessionExpiryInterval).boxed(),
            (1..=u16::MAX).prop_map(ReceiveMaximum).boxed(),
            (0u8..2).prop_map(MaximumQos).boxed(),
            any::<bool>().prop_map(RetainAvailable).boxed(),
            (1..=u32::MAX).prop_map(MaximumPacketSize).boxed(),
            text().prop_map(AssignedClientIdentifier).boxed(),
            any::<u16>().prop_map(TopicAliasMaximum).boxed(),
            text().prop_map(ReasonString).boxed(),
            any::<bool>().prop_map(WildcardSubscriptionAvailable).boxed(),
            any::<bool>().prop_map(SubscriptionIdentifierAvailable).boxed(),
            any::<bool>().prop_map(SharedSubscriptionAvailable).boxed(),
            any::<u16>().prop_map(ServerKeepAlive).boxed(),
            text().prop_map(ResponseInformation).boxed(),
            text().prop_map(ServerReference).boxed(),
            user,
        ],
        Owner::Ack => vec![text().prop_map(ReasonString).boxed(), user],
        Owner::Subscribe => {
            vec![(1u32..=268_435_455).prop_map(SubscriptionIdentifier).boxed(), user]
        }
        Owner::Unsubscribe => vec![user],
        Owner::Disconnect => vec![
            any::<u32>().prop_map(SessionExpiryInterval).boxed(),
            text().prop_map(ReasonString).boxed(),
            text().prop_map(ServerReference).boxed(),
            user,
        ],
        Owner::Auth => vec![
            text().prop_map(AuthenticationMethod).boxed(),
            text().prop_map(ReasonString).boxed(),
            user,
        ],
    };
    prop::strategy::Union::new(kinds).boxed()
}

/// Any properties that may stand there, each but user properties once.
fn properties(v5: bool, owner: Owner) -> BoxedStrategy<Properties> {
    let count = if v5 { 0..6 } else { 0..1 };
    prop::collection::vec(property(owner), count)
        .prop_map(|mut list| {
            let mut seen = Vec::new();
            list.retain(|property| {
                let kind = std::mem::discriminant(property);
                let first = !seen.contains(&kind);
                seen.push(kind);
                first || matches!(property, Property::UserProperty(..))
            });
            list.into_iter().collect()
        })
        .boxed()
}

fn connect(version: Version) -> impl Strategy<Value = Connect> {
    let v5 = version == Version::V5;
    let will = (topic(), data(), qos(), any::<bool>(), properties(v5, Owner::Will)).prop_map(
        |(topic, payload, qos, retain, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            properties,
        },
    );
    let login = prop::option::of((text(), prop::option::of(data())));
    let rest = (
        any::<bool>(),
        any::<u16>(),
        text(),
        prop::option::of(will),
        login,
        properties(v5, Owner::Connect),
    );
    rest.prop_map(move |(clean_start, keep_alive_s, client_id, will, login, properties)| {
        let (username, password) = login.map_or((None, None), |(name, password)| (Some(name), password));
        Connect {
            version,
            clean_start,
            keep_alive_s,
            client_id,
            will,
            username,
            password,
            properties,
        }
    })
}

fn connack(version: Version) -> impl Strategy<Value = Packet> {
    let codes: &[u8] = if version == Version::V5 {
        &[0, 0x81, 0x87, 0x95, 0x9b]
    } else {
        &[0, 0x84, 0x85, 0x88]
    };
    let present = any::<bool>().prop_map(move |present| present && version != Version::V3_1);
    (
        present,
        prop::sample::select(codes),
        properties(version == Version::V5, Owner::ConnAck),
    )
        .prop_map(|(session_present, code, properties)| {
            Packet::ConnAck(ConnAck {
                session_present,
                reason: Reason(code),
                properties,
            })
        })
}

fn publish(version: Version) -> impl Strategy<Value = Publish> {
    let flags = (any::<bool>(), qos(), any::<bool>());
    (
        flags,
        topic(),
        id(),
        properties(version == Version::V5, Owner::Publish),
        data(),
    )
        .prop_map(|((dup, qos, retain), topic, id, properties, payload)| Publish {
            dup: dup && qos != Qos::AtMostOnce,
            qos,
            retain,
            topic,
            packet_id: (qos != Qos::AtMostOnce).then_some(id),
            properties,
            payload,
        })
}

fn subscribe(version: Version) -> impl Strategy<Value = Packet> {
    let v5 = version == Version::V5;
    let handling = prop::sample::select(vec![
        RetainHandling::Always,
        RetainHandling::IfNew,
        RetainHandling::Never,
    ]);
    let options =
        (qos(), any::<bool>(), any::<bool>(), handling).prop_map(move |(qos, a, b, retain_handling)| match v5 {
            true => SubscriptionOptions {
                qos,
                no_local: a,
                retain_as_published: b,
                retain_handling,
            },
            false => SubscriptionOptions {
                qos,
                ..SubscriptionOptions::default()
            },
        });
    let list = prop::collection::vec((filter(), options), 1..5);
    (id(), properties(v5, Owner::Subscribe), list).prop_map(|(packet_id, properties, list)| {
        Packet::Subscribe(Subscribe {
            packet_id,
            properties,
            subscriptions: list.into_iter().collect(),
        })
    })
}

fn unsubscribe(version: Version) -> impl Strategy<Value = Packet> {
    let list = prop::collection::vec(filter(), 1..5);
    (id(), properties(version == Version::V5, Owner::Unsubscribe), list).prop_map(|(packet_id, properties, list)| {
        Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties,
            filters: list.into_iter().collect(),
        })
    })
}

fn suback(version: Version) -> impl Strategy<Value = Packet> {
    let codes: &[u8] = match version {
        Version::V5 => &[0, 1, 2, 0x80, 0x8f, 0x97, 0x9e],
        Version::V3_1_1 => &[0, 1, 2, 0x80],
        Version::V3_1 => &[0, 1, 2],
    };
    let reasons = prop::collection::vec(prop::sample::select(codes), 1..6);
    (id(), properties(version == Version::V5, Owner::Ack), reasons).prop_map(|(packet_id, properties, reasons)| {
        Packet::SubAck(SubAck {
            packet_id,
            properties,
            reasons: reasons.into(),
        })
    })
}

fn unsuback(version: Version) -> impl Strategy<Value = Packet> {
    let v5 = version == Version::V5;
    let reasons = prop::collection::vec(
        prop::sample::select(&[0u8, 0x11, 0x80, 0x8f][..]),
        if v5 { 1..6 } else { 0..1 },
    );
    (id(), properties(v5, Owner::Ack), reasons).prop_map(|(packet_id, properties, reasons)| {
        Packet::UnsubAck(SubAck {
            packet_id,
            properties,
            reasons: reasons.into(),
        })
    })
}
