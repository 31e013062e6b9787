//! Packets that many tests send or expect, and what they read in them.

use bytes::{Bytes, BytesMut};
use headwater_broker::packet::*;
use headwater_store::Qos;

/// A PUBLISH without properties; at QoS 0 the packet id does not count.
pub fn message(topic: &str, qos: Qos, id: u16, payload: impl Into<Bytes>) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: topic.into(),
        packet_id: PacketId::new(id).filter(|_| qos > Qos::AtMostOnce),
        properties: Properties::default(),
        payload: payload.into(),
    }
}

/// The body of PUBACK, PUBREC, PUBREL or PUBCOMP.
pub fn ack(id: u16) -> Ack {
    Ack::new(PacketId::new(id).unwrap(), Reason::SUCCESS)
}

/// A will at QoS 1 that says "gone".
pub fn will(topic: &str) -> Will {
    Will {
        topic: topic.into(),
        payload: "gone".into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::default(),
    }
}

/// The number that a payload is.
pub fn number(publish: &Publish) -> u64 {
    std::str::from_utf8(&publish.payload).unwrap().trim().parse().unwrap()
}

/// The packet id of a message above QoS 0.
pub fn id(publish: &Publish) -> u16 {
    publish.packet_id.unwrap().get()
}

/// Its Message Expiry Interval.
pub fn expiry_s(publish: &Publish) -> Option<u32> {
    publish.properties.find(|property| match property {
        Property::MessageExpiryInterval(seconds) => Some(seconds),
        _ => None,
    })
}

pub fn encoded(version: Version, packet: &Packet) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    out
}

/// What a decoder of its own makes of these bytes.
pub fn decode(version: Version, bytes: &[u8]) -> Result<Option<Packet>, DecodeError> {
    Decoder::for_version(version, PACKET_MAX).decode(&mut BytesMut::from(bytes))
}

/// The largest packet that [`decode`] takes.
pub const PACKET_MAX: usize = 1 << 20;
