//! The codec: vectors in `packets/*.txt`, round trips of generated packets, arbitrary bytes. What other decoders say is in
//! `differential.rs`.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use headwater_broker::packet::{Connect, Decoder, Packet, Version};
use proptest::prelude::*;

use crate::support::generate::{packet, version};
use crate::support::{PACKET_MAX, decode, encoded};

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
        packets.iter().for_each(|packet| buffer.extend(encoded(Version::V5, packet)));
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

    /// What was decoded are slices of what was read, so no packet makes the decoder hold more than its own bytes.
    #[test]
    fn nothing_is_copied((version, packet) in version().prop_flat_map(|v| (Just(v), packet(v)))) {
        let mut buffer = encoded(version, &packet);
        let held = buffer.as_ptr_range();
        let packet = Decoder::for_version(version, PACKET_MAX).decode(&mut buffer).unwrap().unwrap();
        for piece in pieces(&packet) {
            let inside = piece.is_empty() || (held.start <= piece.as_ptr() && piece.as_ptr_range().end <= held.end);
            prop_assert!(inside, "{piece:x?} of {packet:?}");
        }
    }
}

/// The one thing that the decoder allocates has the size of a CONNECT, and an announced length is not allocated.
#[test]
fn an_announced_length_takes_no_room() {
    assert!(size_of::<Packet>() + size_of::<Connect>() <= 512);
    for header in [&[0x30, 0xff, 0xff, 0xff, 0x7f][..], &[0x82, 0xff, 0x7f], &[0x10, 0x80]] {
        let mut buffer = BytesMut::from(header);
        let capacity = buffer.capacity();
        let mut decoder = Decoder::for_version(Version::V5, usize::MAX);
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        assert_eq!((buffer.len(), buffer.capacity()), (header.len(), capacity));
    }
}

/// Everything of a packet that has a length of its own.
fn pieces(packet: &Packet) -> Vec<Bytes> {
    let text = |text: &ByteString| text.clone().into_bytes();
    match packet {
        Packet::Connect(connect) => {
            let mut pieces = vec![text(&connect.client_id), connect.properties.as_bytes().clone()];
            pieces.extend(connect.username.as_ref().map(text));
            pieces.extend(connect.password.clone());
            if let Some(will) = &connect.will {
                pieces.extend([
                    text(&will.topic),
                    will.payload.clone(),
                    will.properties.as_bytes().clone(),
                ]);
            }
            pieces
        }
        Packet::Publish(publish) => vec![
            text(&publish.topic),
            publish.payload.clone(),
            publish.properties.as_bytes().clone(),
        ],
        Packet::Subscribe(subscribe) => {
            let filters = subscribe.subscriptions.iter().map(|(filter, _)| text(&filter));
            filters.chain([subscribe.properties.as_bytes().clone()]).collect()
        }
        Packet::Unsubscribe(unsubscribe) => {
            let filters = unsubscribe.filters.iter().map(|filter| text(&filter));
            filters.chain([unsubscribe.properties.as_bytes().clone()]).collect()
        }
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => vec![ack.reasons.clone(), ack.properties.as_bytes().clone()],
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            vec![ack.properties.as_bytes().clone()]
        }
        Packet::ConnAck(connack) => vec![connack.properties.as_bytes().clone()],
        Packet::Disconnect(disconnect) => vec![disconnect.properties.as_bytes().clone()],
        Packet::Auth(auth) => vec![auth.properties.as_bytes().clone()],
        Packet::PingReq | Packet::PingResp => Vec::new(),
    }
}
