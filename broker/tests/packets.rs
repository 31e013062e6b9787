//! The codec: vectors in `packets/*.txt`, round trips of generated packets, arbitrary bytes, and rumqttd's decoder as a
//! second opinion.

#[path = "support/generate.rs"]
mod generate;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::BytesMut;
use generate::{packet, version};
use headwater_broker::packet::{DecodeError, Decoder, Packet, Properties, Version, encode};
use proptest::prelude::*;
use rumqttd::protocol::Protocol;

const PACKET_MAX: usize = 1 << 20;

/// What a server that speaks `version` makes of the first packet in `bytes`.
fn decode(version: Version, bytes: &[u8]) -> Result<Option<Packet>, DecodeError> {
    Decoder::for_version(version, PACKET_MAX).decode(&mut BytesMut::from(bytes))
}

fn encoded(version: Version, packet: &Packet) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    out
}

/// Each line is `VERSION HEX => what it is`. `UPDATE=1` rewrites what comes after the arrow: read the difference.
#[test]
fn vectors() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packets");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| match line.split_once("=>") {
            Some((input, _)) if !line.starts_with('#') => {
                count += 1;
                format!("{}=> {}", input, verdict(input))
            }
            _ => line.to_owned(),
        });
        let now = lines.collect::<Vec<_>>().join("\n") + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, now).unwrap();
        } else {
            for (was, is) in text.lines().zip(now.lines()) {
                assert_eq!(was, is, "{}", path.display());
            }
        }
    }
    assert!(count > 40, "only {count} vectors were found");
}

fn verdict(input: &str) -> String {
    let (name, hex) = input.trim().split_once(' ').unwrap();
    let digits: String = hex.split_whitespace().collect();
    let bytes: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect();
    let decoded = match name {
        "first" => Decoder::new(64).decode(&mut BytesMut::from(&bytes[..])),
        _ => decode(named(name), &bytes),
    };
    match decoded {
        Ok(Some(packet)) => {
            let version = if let Packet::Connect(connect) = &packet {
                connect.version
            } else {
                named(name)
            };
            let again = encoded(version, &packet);
            assert_eq!(
                decode(version, &again),
                Ok(Some(packet.clone())),
                "{input} does not survive a round trip"
            );
            format!("{packet:?}")
        }
        Ok(None) => "incomplete".to_owned(),
        Err(error) => format!("error {:?}: {error}", error.reason()),
    }
}

fn named(name: &str) -> Version {
    match name {
        "3.1" => Version::V3_1,
        "3.1.1" => Version::V3_1_1,
        "5.0" | "first" => Version::V5,
        other => panic!("no version {other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_packet_reads_back_whole_and_in_pieces(
        (version, packet) in version().prop_flat_map(|v| (Just(v), packet(v))),
        cut: prop::sample::Index,
    ) {
        let bytes = encoded(version, &packet);
        prop_assert_eq!(decode(version, &bytes), Ok(Some(packet)));
        // Any shorter piece is incomplete, and takes nothing off the buffer.
        let cut = cut.index(bytes.len());
        let mut piece = BytesMut::from(&bytes[..cut]);
        prop_assert_eq!(Decoder::for_version(version, PACKET_MAX).decode(&mut piece), Ok(None));
        prop_assert_eq!(piece.len(), cut);
    }

    #[test]
    fn packets_follow_each_other(packets in prop::collection::vec(packet(Version::V5), 1..8)) {
        let mut buffer = BytesMut::new();
        packets.iter().for_each(|packet| encode(packet, Version::V5, &mut buffer).unwrap());
        let mut decoder = Decoder::for_version(Version::V5, PACKET_MAX);
        for packet in packets {
            prop_assert_eq!(decoder.decode(&mut buffer), Ok(Some(packet)));
        }
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn arbitrary_bytes_are_no_panic(version in version(), bytes: Vec<u8>) {
        let _ = decode(version, &bytes);
        let _ = Decoder::new(PACKET_MAX).decode(&mut BytesMut::from(&bytes[..]));
    }

    #[test]
    fn a_damaged_packet_is_no_panic_and_what_is_accepted_has_a_form(
        (version, packet) in version().prop_flat_map(|v| (Just(v), packet(v))),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let mut bytes = encoded(version, &packet);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(Some(packet)) = decode(version, &bytes) {
            let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
            let again = encoded(version, &packet);
            prop_assert_eq!(decode(version, &again), Ok(Some(packet)));
        }
    }

    /// rumqttd reads every packet that we write, and what it writes again means the same to us.
    #[test]
    fn rumqttd_agrees_on_valid_packets(
        (version, packet) in prop_oneof![Just(Version::V3_1_1), Just(Version::V5)]
            .prop_flat_map(|v| (Just(v), packet(v)))
    ) {
        if !rumqttd_knows(&packet, version) {
            return Ok(());
        }
        let bytes = encoded(version, &packet);
        let again = match second_opinion(version, &bytes) {
            Opinion::Accepted(again) => again,
            other => return Err(TestCaseError::fail(format!("{other:?} on {packet:?}"))),
        };
        let theirs = decode(version, &again).map_err(|error| TestCaseError::fail(format!("{error} in {again:x?}")))?;
        prop_assert_eq!(theirs.as_ref().map(plain), Some(plain(&packet)));
    }

    /// Where both accept damaged bytes they read the same; rumqttd may accept more, never less.
    #[test]
    fn rumqttd_is_never_stricter(
        (version, packet) in prop_oneof![Just(Version::V3_1_1), Just(Version::V5)]
            .prop_flat_map(|v| (Just(v), packet(v))),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let mut bytes = encoded(version, &packet);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let Ok(Some(ours)) = decode(version, &bytes) else { return Ok(()) };
        // It cannot read the form of DISCONNECT that leaves the property length out.
        if !rumqttd_knows(&ours, version) || matches!(ours, Packet::Disconnect(_)) {
            return Ok(());
        }
        if let Opinion::Refused(error) = second_opinion(version, &bytes) {
            return Err(TestCaseError::fail(format!("{error} on {ours:?} {bytes:x?}")));
        }
    }
}

#[derive(Debug)]
enum Opinion {
    /// Read and written again.
    Accepted(BytesMut),
    Refused(String),
    /// Its reader or writer panicked.
    Panicked,
}

fn second_opinion(version: Version, bytes: &[u8]) -> Opinion {
    catch_unwind(AssertUnwindSafe(|| {
        let mut input = BytesMut::from(bytes);
        let mut output = BytesMut::new();
        let outcome = match version {
            Version::V5 => reread(rumqttd::protocol::v5::V5, &mut input, &mut output),
            _ => reread(rumqttd::protocol::v4::V4, &mut input, &mut output),
        };
        match outcome {
            Ok(_) => Opinion::Accepted(output),
            Err(error) => Opinion::Refused(error.to_string()),
        }
    }))
    .unwrap_or(Opinion::Panicked)
}

fn reread(
    mut protocol: impl Protocol,
    input: &mut BytesMut,
    output: &mut BytesMut,
) -> Result<usize, rumqttd::protocol::Error> {
    let packet = protocol.read_mut(input, PACKET_MAX)?;
    protocol.write(packet, output)
}

/// What rumqttd 0.20 has not, or has wrong.
fn rumqttd_knows(packet: &Packet, version: Version) -> bool {
    match packet {
        // It reads what clients send, and no AUTH.
        Packet::Auth(_) | Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => false,
        // It takes a password for text, and an empty user name for none.
        Packet::Connect(connect) => {
            let password = connect.password.as_deref().unwrap_or(b"text");
            connect.version == version
                && std::str::from_utf8(password).is_ok_and(|password| !password.is_empty())
                && connect.username.as_ref().is_none_or(|name| !name.is_empty())
        }
        _ => true,
    }
}

/// A packet in words, with its properties sorted: rumqttd writes them in an order of its own.
fn plain(packet: &Packet) -> String {
    let mut packet = packet.clone();
    let mut sorted = Vec::new();
    let mut take = |properties: &mut Properties| {
        let mut words: Vec<String> = properties.iter().map(|property| format!("{property:?}")).collect();
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
        Packet::Auth(_) | Packet::PingReq | Packet::PingResp => {}
    }
    format!("{packet:?} {sorted:?}")
}
