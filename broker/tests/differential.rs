//! Our decoder beside two others, rumqttd's and rmqtt-codec's, over generated packets and damaged ones.
//!
//! What we write they read, and what they write again means the same to us. Where they accept what we refuse, or refuse what
//! we accept, the difference is one of those below, which `docs/mqtt.md` lists with who is right.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::BytesMut;
use headwater_broker::packet::{DecodeError, Packet, Properties, Property, Version};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rumqttd::protocol::Protocol;
use tokio_util::codec::{Decoder as _, Encoder as _};

use crate::support::generate::{packet, version};
use crate::support::{PACKET_MAX, decode, encoded};

/// Another decoder.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Oracle {
    /// rumqttd 0.20.
    Rumqttd,
    /// rmqtt-codec 0.3.
    Rmqtt,
}

#[derive(Debug)]
enum Opinion {
    /// Read and written again.
    Accepted(BytesMut),
    Refused(String),
    /// Its reader or writer panicked.
    Panicked,
}

impl Oracle {
    fn opinion(self, version: Version, bytes: &[u8]) -> Opinion {
        let reread = || match (self, version) {
            (Oracle::Rumqttd, Version::V5) => rumqttd(rumqttd::protocol::v5::V5, bytes),
            (Oracle::Rumqttd, _) => rumqttd(rumqttd::protocol::v4::V4, bytes),
            (Oracle::Rmqtt, Version::V5) => rmqtt_5(bytes),
            (Oracle::Rmqtt, _) => rmqtt_3(bytes),
        };
        match catch_unwind(AssertUnwindSafe(reread)) {
            Ok(Ok(output)) => Opinion::Accepted(output),
            Ok(Err(error)) => Opinion::Refused(error),
            Err(_) => Opinion::Panicked,
        }
    }

    /// Whether it has such packets, and has them right.
    fn knows(self, packet: &Packet, version: Version) -> bool {
        match (self, packet) {
            // It reads what clients send, and no AUTH.
            (
                Oracle::Rumqttd,
                Packet::Auth(_) | Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp,
            ) => false,
            (_, Packet::Connect(connect)) if connect.version != version => false,
            // It takes a password for text, and an empty user name for none.
            (Oracle::Rumqttd, Packet::Connect(connect)) => {
                let password = connect.password.as_deref().unwrap_or(b"text");
                std::str::from_utf8(password).is_ok_and(|password| !password.is_empty())
                    && connect.username.as_ref().is_none_or(|name| !name.is_empty())
            }
            // It wants a client id with Clean Start 0 in all versions, and says so in the decoder.
            (Oracle::Rmqtt, Packet::Connect(connect)) => connect.clean_start || !connect.client_id.is_empty(),
            _ => true,
        }
    }

    /// What it accepts and we refuse, as the specifications ask.
    fn accepts(self, error: &DecodeError) -> bool {
        use DecodeError::*;
        match self {
            Oracle::Rumqttd => matches!(
                error,
                AcknowledgeFlags(_)
                    | ConnectFlags(_)
                    | DupOnQos0
                    | Flags { .. }
                    | ListEmpty
                    | LongInteger
                    | NotUtf8
                    | NullCharacter
                    | PacketIdZero
                    | PropertyRepeated(_)
                    | PropertyValue(_)
                    | SubscriptionOptions(_)
                    | TopicAliasZero
                    | TopicEmpty
                    | TopicWildcard
                    | TrailingBytes(_)
                    | Truncated
            ),
            Oracle::Rmqtt => matches!(
                error,
                ConnectFlags(_)
                    | DupOnQos0
                    | ListEmpty
                    | LongInteger
                    | NullCharacter
                    | PropertyValue(_)
                    | ReasonCode { .. }
                    | SubscriptionOptions(_)
                    | TopicEmpty
                    | TopicWildcard
                    | TrailingBytes(_)
            ),
        }
    }
}

fn rumqttd(mut protocol: impl Protocol, bytes: &[u8]) -> Result<BytesMut, String> {
    let (mut input, mut output) = (BytesMut::from(bytes), BytesMut::new());
    let packet = protocol
        .read_mut(&mut input, PACKET_MAX)
        .map_err(|error| error.to_string())?;
    protocol.write(packet, &mut output).map_err(|error| error.to_string())?;
    Ok(output)
}

fn rmqtt_3(bytes: &[u8]) -> Result<BytesMut, String> {
    let mut codec = rmqtt_codec::v3::Codec::new(PACKET_MAX as u32);
    let decoded = codec.decode(&mut BytesMut::from(bytes));
    let (packet, _) = decoded.map_err(|error| error.to_string())?.ok_or("incomplete")?;
    let mut output = BytesMut::new();
    codec.encode(packet, &mut output).map_err(|error| error.to_string())?;
    Ok(output)
}

fn rmqtt_5(bytes: &[u8]) -> Result<BytesMut, String> {
    let mut codec = rmqtt_codec::v5::Codec::new(PACKET_MAX as u32, 0);
    let decoded = codec.decode(&mut BytesMut::from(bytes));
    let (packet, _) = decoded.map_err(|error| error.to_string())?.ok_or("incomplete")?;
    // Another codec: what the packet asked for is about other packets.
    let mut output = BytesMut::new();
    let encoded = rmqtt_codec::v5::Codec::new(0, 0).encode(packet, &mut output);
    encoded.map_err(|error| error.to_string())?;
    Ok(output)
}

/// They have no 3.1 of their own.
fn any_packet() -> impl Strategy<Value = (Version, Packet)> {
    let both_have = version().prop_filter("not 3.1", |version| *version != Version::V3_1);
    both_have.prop_flat_map(|version| (Just(version), packet(version)))
}

fn oracle() -> impl Strategy<Value = Oracle> {
    prop_oneof![Just(Oracle::Rumqttd), Just(Oracle::Rmqtt)]
}

proptest! {
    // The same cases every time: a difference so rare that it is not below must not come up on another day.
    #![proptest_config(ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn others_agree_on_valid_packets(oracle in oracle(), (version, packet) in any_packet()) {
        if !oracle.knows(&packet, version) {
            return Ok(());
        }
        let bytes = encoded(version, &packet);
        let again = match oracle.opinion(version, &bytes) {
            Opinion::Accepted(again) => again,
            other => return Err(TestCaseError::fail(format!("{oracle:?}: {other:?} on {packet:?}"))),
        };
        let theirs = decode(version, &again)
            .map_err(|error| TestCaseError::fail(format!("{oracle:?}: {error} in {again:x?}")))?;
        prop_assert_eq!(theirs.as_ref().map(plain), Some(plain(&packet)));
    }

    #[test]
    fn others_differ_on_damaged_packets_in_known_ways(
        oracle in oracle(),
        (version, packet) in any_packet(),
        at: prop::sample::Index,
        byte: u8,
    ) {
        if !oracle.knows(&packet, version) {
            return Ok(());
        }
        let mut bytes = encoded(version, &packet);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let opinion = oracle.opinion(version, &bytes);
        match (decode(version, &bytes), opinion) {
            (Ok(Some(ours)), Opinion::Refused(error)) if oracle.knows(&ours, version) => {
                return Err(TestCaseError::fail(format!("{oracle:?}: {error} on {ours:?} {bytes:x?}")));
            }
            (Err(error), Opinion::Accepted(_)) if !oracle.accepts(&error) => {
                return Err(TestCaseError::fail(format!("{oracle:?} accepts what we say {error:?} on: {version:?} {bytes:x?}")));
            }
            _ => {}
        }
    }
}

/// A packet in words, with its properties sorted, because others write them in an order of their own.
fn plain(packet: &Packet) -> String {
    let mut packet = packet.clone();
    let mut sorted = Vec::new();
    let mut take = |properties: &mut Properties| {
        let told = properties.iter().filter(|property| !is_default(property));
        let mut words: Vec<String> = told.map(|property| format!("{property:?}")).collect();
        words.sort();
        sorted.push(words);
        *properties = Properties::default();
    };
    match &mut packet {
        Packet::Connect(connect) => {
            take(&mut connect.properties);
            connect
                .will
                .as_mut()
                .into_iter()
                .for_each(|will| take(&mut will.properties));
        }
        Packet::ConnAck(connack) => take(&mut connack.properties),
        Packet::Publish(publish) => take(&mut publish.properties),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            take(&mut ack.properties);
        }
        Packet::Subscribe(subscribe) => take(&mut subscribe.properties),
        Packet::Unsubscribe(unsubscribe) => take(&mut unsubscribe.properties),
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => take(&mut ack.properties),
        Packet::Disconnect(disconnect) => take(&mut disconnect.properties),
        Packet::Auth(auth) => take(&mut auth.properties),
        Packet::PingReq | Packet::PingResp => {}
    }
    format!("{packet:?} {sorted:?}")
}

/// A property that says what holds without it: rmqtt-codec leaves it out.
fn is_default(property: &Property) -> bool {
    matches!(
        property,
        Property::PayloadFormatIndicator(false)
            | Property::RequestProblemInformation(true)
            | Property::RequestResponseInformation(false)
            | Property::SessionExpiryInterval(0)
            | Property::TopicAliasMaximum(0)
            | Property::WillDelayInterval(0)
            | Property::ReceiveMaximum(u16::MAX)
            | Property::RetainAvailable(true)
            | Property::WildcardSubscriptionAvailable(true)
            | Property::SubscriptionIdentifierAvailable(true)
            | Property::SharedSubscriptionAvailable(true)
    )
}

/// The vectors of `packets/*.txt` on which another decoder says something else: `differences.txt`. `UPDATE=1` rewrites it.
#[test]
fn others_differ_on_the_vectors_as_listed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let mut files: Vec<_> = std::fs::read_dir(format!("{folder}/packets"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let mut list = String::from(
        "# Packets on which other decoders differ from ours, made by differential.rs. Who is right: docs/mqtt.md.\n\n",
    );
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        let vectors = text.lines().filter(|line| !line.starts_with('#'));
        for (name, hex) in vectors.filter_map(|line| line.split_once("=>")?.0.trim().split_once(' ')) {
            let digits: String = hex.split_whitespace().collect();
            let bytes: Vec<u8> = (0..digits.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                .collect();
            let version = match name {
                "3.1.1" => Version::V3_1_1,
                "5.0" => Version::V5,
                "first" if digits.contains("4d51545405") => Version::V5,
                "first" if digits.contains("4d51545404") => Version::V3_1_1,
                _ => continue,
            };
            for oracle in [Oracle::Rumqttd, Oracle::Rmqtt] {
                list += &difference(oracle, version, hex, &bytes).unwrap_or_default();
            }
        }
    }
    let path = format!("{folder}/differences.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &list).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    for (was, is) in committed.lines().zip(list.lines()) {
        assert_eq!(was, is);
    }
    assert_eq!(committed.lines().count(), list.lines().count());
}

fn difference(oracle: Oracle, version: Version, hex: &str, bytes: &[u8]) -> Option<String> {
    let theirs = match (decode(version, bytes), oracle.opinion(version, bytes)) {
        (Ok(Some(ours)), _) if !oracle.knows(&ours, version) => return None,
        (Ok(Some(_)), Opinion::Refused(_)) => "we accept it, refused".to_owned(),
        (Ok(Some(_)), Opinion::Panicked) => "we accept it, panics".to_owned(),
        (Err(error), Opinion::Accepted(_)) => format!("accepted, we say: {error}"),
        (Err(error), Opinion::Panicked) => format!("panics, we say: {error}"),
        _ => return None,
    };
    Some(format!("{oracle:?} {} {hex}: {theirs}\n", version.as_str()))
}
