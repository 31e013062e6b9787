//! The MQTT codec: no bytes make it panic, it takes the same packets off a stream however the stream was cut, and what it
//! decoded it encodes to bytes that decode to the same.
//!
//! Input: the first byte chooses who listens (a server, or a client of one version) and where the stream is cut.
#![no_main]

use bytes::BytesMut;
use headwater_broker::packet::{Decoder, Packet, Version, encode};
use libfuzzer_sys::fuzz_target;

const PACKET_MAX: usize = 64 * 1024;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, stream)) = input.split_first() else {
        return;
    };
    let decoder = || match choice % 3 {
        0 => Decoder::new(PACKET_MAX),
        1 => Decoder::for_version(Version::V3_1_1, PACKET_MAX),
        _ => Decoder::for_version(Version::V5, PACKET_MAX),
    };
    let whole = packets(decoder(), &[stream]);
    let cut = usize::from(choice / 3) % (stream.len() + 1);
    assert_eq!(
        packets(decoder(), &[&stream[..cut], &stream[cut..]]),
        whole,
        "cut after {cut} bytes"
    );

    let version = match (choice % 3, whole.first()) {
        (0, Some(Packet::Connect(connect))) => connect.version,
        (0, _) => return,
        (1, _) => Version::V3_1_1,
        _ => Version::V5,
    };
    for packet in whole {
        let mut bytes = BytesMut::new();
        encode(&packet, version, &mut bytes).expect("what was decoded can be encoded");
        let again = decoder_of(&packet, version)
            .decode(&mut bytes)
            .expect("what was encoded can be decoded");
        assert_eq!(again.as_ref(), Some(&packet));
        assert!(bytes.is_empty(), "one packet and nothing after it");
    }
});

/// Everything up to the first error.
fn packets(mut decoder: Decoder, chunks: &[&[u8]]) -> Vec<Packet> {
    let (mut buffer, mut packets) = (BytesMut::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(_) => return packets,
            }
        }
    }
    packets
}

/// A CONNECT tells its own version; everything else needs to know it.
fn decoder_of(packet: &Packet, version: Version) -> Decoder {
    match packet {
        Packet::Connect(_) => Decoder::new(usize::MAX),
        _ => Decoder::for_version(version, usize::MAX),
    }
}
