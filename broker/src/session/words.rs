//! What a client is told in words: Reason Strings, where it wants them and its packets have room for them.

use bytes::BytesMut;

use crate::limits::REASON_STRING_BYTES_MAX;
use crate::packet::{EncodeError, Packet, Properties, Property, Version, encode};

/// A Reason String property, if it is wanted and there is something to say.
pub fn reason_string(detail: &str, wanted: bool) -> Properties {
    let end = detail.floor_char_boundary(REASON_STRING_BYTES_MAX);
    let text = Some(&detail[..end]).filter(|text| wanted && !text.is_empty());
    text.map(|text| Property::ReasonString(text.into()))
        .into_iter()
        .collect()
}

/// Appends a packet for a client that takes packets of at most `packet_max` bytes. One that would be larger goes out without
/// its words [MQTT-3.2.2-19] [MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.14.2-3], or not at all if that does not help.
pub fn encode_within(
    packet: &Packet,
    version: Version,
    packet_max: usize,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let start = out.len();
    encode(packet, version, out)?;
    if out.len() - start <= packet_max {
        return Ok(());
    }
    out.truncate(start);
    if let Some(wordless) = without_words(packet) {
        encode(&wordless, version, out)?;
        if out.len() - start > packet_max {
            out.truncate(start);
        }
    }
    Ok(())
}

/// The same packet without its properties, where these are words and nothing else.
fn without_words(packet: &Packet) -> Option<Packet> {
    let mut packet = packet.clone();
    match &mut packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) => ack.properties = Properties::default(),
        Packet::Disconnect(disconnect) => disconnect.properties = Properties::default(),
        Packet::ConnAck(connack) if connack.reason.is_error() => connack.properties = Properties::default(),
        _ => return None,
    }
    Some(packet)
}
