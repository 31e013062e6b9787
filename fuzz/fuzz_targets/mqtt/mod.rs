//! The MQTT codec, for one version: no bytes make it panic, it takes the same packets off a stream however the stream was
//! cut, what it decoded it encodes to bytes that decode to the same, and it asks for no room that the bytes do not fill.
//!
//! Input: the first byte chooses who listens (a server that waits for CONNECT, or somebody who knows the version), and where
//! the stream is cut.

use bytes::BytesMut;
use headwater_broker::packet::{Decoder, Packet, Version, encode};

const PACKET_MAX: usize = 64 * 1024;

pub fn check(version: Version, input: &[u8]) {
    let Some((&choice, stream)) = input.split_first() else {
        return;
    };
    let decoder = || match choice % 2 {
        0 => Decoder::new(PACKET_MAX),
        _ => Decoder::for_version(version, PACKET_MAX),
    };
    let whole = packets(decoder(), &[stream]);
    let cut = usize::from(choice / 2) % (stream.len() + 1);
    assert_eq!(
        packets(decoder(), &[&stream[..cut], &stream[cut..]]),
        whole,
        "cut after {cut} bytes"
    );

    // A server learns the version from the CONNECT, and another one is another target's.
    if choice % 2 == 0 && !matches!(whole.first(), Some(Packet::Connect(connect)) if connect.version == version) {
        return;
    }
    for packet in whole {
        let version = match &packet {
            Packet::Connect(connect) => connect.version,
            _ => version,
        };
        let mut bytes = BytesMut::new();
        encode(&packet, version, &mut bytes).expect("what was decoded can be encoded");
        let again = Decoder::for_version(version, usize::MAX)
            .decode(&mut bytes)
            .expect("what was encoded can be decoded");
        assert_eq!(again.as_ref(), Some(&packet));
        assert!(bytes.is_empty(), "one packet and nothing after it");
    }
}

/// Everything up to the first error.
fn packets(mut decoder: Decoder, chunks: &[&[u8]]) -> Vec<Packet> {
    let (mut buffer, mut packets) = (BytesMut::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        let capacity = buffer.capacity();
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(_) => return packets,
            }
        }
        assert!(buffer.capacity() <= capacity, "the decoder asks for no room");
    }
    packets
}
