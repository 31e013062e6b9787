//! Packets to bytes.

use bytes::{BufMut, BytesMut};
use headwater_store::Qos;

use super::wire::{VARIABLE_MAX, put_binary, put_variable, variable_size};
use super::{Ack, ConnAck, Connect, Packet, PacketId, PacketType, Properties, Reason, SubAck, Version};

/// A packet that has no form on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string or binary field above 65 535 bytes.
    #[error("a field has {0} bytes, MQTT allows 65535")]
    FieldTooLong(usize),
    /// More than a remaining length can say.
    #[error("the packet would have {0} bytes, MQTT allows 268435455")]
    PacketTooLong(usize),
}

/// Appends `packet` to `out` as `version` spells it. On an error `out` is as it was.
///
/// DISCONNECT and AUTH always carry their reason and property length (`e0 02 xx 00`): a widespread client library
/// cannot read the shorter forms.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Packet::Publish(publish) = packet {
        let parts = PublishParts {
            version,
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: &publish.topic,
            packet_id: publish.packet_id,
            properties: [publish.properties.as_bytes(), &[]],
            payload: &publish.payload,
        };
        return parts.put(out);
    }
    check_fields(packet)?;
    let start = out.len();
    let flags = match packet.packet_type() {
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 2,
        _ => 0,
    };
    out.put_u8((packet.packet_type() as u8) << 4 | flags);
    out.put_u8(0);
    put_body(packet, version, out);
    close(out, start)
}

/// Writes the remaining length of the packet that begins at `start`. One byte was left for it; a longer one moves
/// the body, which only packets above 127 bytes pay for.
fn close(out: &mut BytesMut, start: usize) -> Result<(), EncodeError> {
    let body = start + 2;
    let length = out.len() - body;
    if length > VARIABLE_MAX {
        out.truncate(start);
        return Err(EncodeError::PacketTooLong(length));
    }
    let more = variable_size(length) - 1;
    if more > 0 {
        out.put_bytes(0, more);
        out.copy_within(body..body + length, body + more);
    }
    put_variable(&mut &mut out[start + 1..], length);
    Ok(())
}

fn put_body(packet: &Packet, version: Version, out: &mut BytesMut) {
    match packet {
        Packet::Connect(connect) => put_connect(connect, out),
        Packet::ConnAck(connack) => put_connack(connack, version, out),
        Packet::Publish(_) | Packet::PingReq | Packet::PingResp => {}
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            put_ack(ack, version, out);
        }
        Packet::Subscribe(subscribe) => {
            out.put_u16(subscribe.packet_id.get());
            put_properties(&subscribe.properties, version, out);
            out.put_slice(subscribe.subscriptions.as_bytes());
        }
        Packet::Unsubscribe(unsubscribe) => {
            out.put_u16(unsubscribe.packet_id.get());
            put_properties(&unsubscribe.properties, version, out);
            out.put_slice(unsubscribe.filters.as_bytes());
        }
        Packet::SubAck(suback) => put_suback(suback, version, out),
        Packet::UnsubAck(unsuback) if version == Version::V5 => put_suback(unsuback, version, out),
        Packet::UnsubAck(unsuback) => out.put_u16(unsuback.packet_id.get()),
        Packet::Disconnect(disconnect) => put_reason(disconnect.reason, &disconnect.properties, version, out),
        Packet::Auth(auth) => put_reason(auth.reason, &auth.properties, version, out),
    }
}

fn put_connect(connect: &Connect, out: &mut BytesMut) {
    let (name, level) = match connect.version {
        Version::V3_1 => (&b"MQIsdp"[..], 3),
        Version::V3_1_1 => (&b"MQTT"[..], 4),
        Version::V5 => (&b"MQTT"[..], 5),
    };
    put_binary(out, name);
    out.put_u8(level);
    let will = connect.will.as_ref();
    out.put_u8(
        u8::from(connect.clean_start) << 1
            | u8::from(will.is_some()) << 2
            | will.map_or(0, |will| will.qos.bits() << 3 | u8::from(will.retain) << 5)
            | u8::from(connect.password.is_some()) << 6
            | u8::from(connect.username.is_some()) << 7,
    );
    out.put_u16(connect.keep_alive_s);
    put_properties(&connect.properties, connect.version, out);
    put_binary(out, connect.client_id.as_bytes());
    if let Some(will) = will {
        put_properties(&will.properties, connect.version, out);
        put_binary(out, will.topic.as_bytes());
        put_binary(out, &will.payload);
    }
    if let Some(username) = &connect.username {
        put_binary(out, username.as_bytes());
    }
    if let Some(password) = &connect.password {
        put_binary(out, password);
    }
}

fn put_connack(connack: &ConnAck, version: Version, out: &mut BytesMut) {
    out.put_u8(u8::from(connack.session_present && version != Version::V3_1));
    match version {
        Version::V5 => out.put_u8(connack.reason.0),
        _ => out.put_u8(connack.reason.to_return_code()),
    }
    put_properties(&connack.properties, version, out);
}

/// A plain success is the two bytes of the packet id in every version; every client reads that.
fn put_ack(ack: &Ack, version: Version, out: &mut BytesMut) {
    out.put_u16(ack.packet_id.get());
    if ack.reason != Reason::SUCCESS || !ack.properties.is_empty() {
        put_reason(ack.reason, &ack.properties, version, out);
    }
}

fn put_suback(suback: &SubAck, version: Version, out: &mut BytesMut) {
    out.put_u16(suback.packet_id.get());
    put_properties(&suback.properties, version, out);
    match version {
        Version::V5 => out.put_slice(&suback.reasons),
        _ => out.extend(
            suback
                .reasons
                .iter()
                .map(|code| if *code >= 0x80 { 0x80 } else { *code }),
        ),
    }
}

fn put_reason(reason: Reason, properties: &Properties, version: Version, out: &mut BytesMut) {
    if version == Version::V5 {
        out.put_u8(reason.0);
        put_properties(properties, version, out);
    }
}

fn put_properties(properties: &Properties, version: Version, out: &mut BytesMut) {
    if version == Version::V5 {
        put_variable(out, properties.as_bytes().len());
        out.put_slice(properties.as_bytes());
    }
}

/// The fields with a two-byte length that do not come from a decoder or a builder that checked them.
fn check_fields(packet: &Packet) -> Result<(), EncodeError> {
    let Packet::Connect(connect) = packet else {
        return Ok(());
    };
    let will = connect.will.as_ref();
    [
        connect.client_id.len(),
        will.map_or(0, |will| will.topic.len()),
        will.map_or(0, |will| will.payload.len()),
        connect.username.as_ref().map_or(0, |username| username.len()),
        connect.password.as_ref().map_or(0, |password| password.len()),
    ]
    .into_iter()
    .try_for_each(check_field)
}

fn check_field(length: usize) -> Result<(), EncodeError> {
    if length > usize::from(u16::MAX) {
        Err(EncodeError::FieldTooLong(length))
    } else {
        Ok(())
    }
}

/// A PUBLISH in pieces, so that one message goes to many clients without a packet built for each.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct PublishParts<'a> {
    pub version: Version,
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    /// Empty where a topic alias stands for it.
    pub topic: &'a str,
    pub packet_id: Option<PacketId>,
    /// Property bytes without length, one piece after the other: what is the same for all receivers, and what is not.
    pub properties: [&'a [u8]; 2],
    pub payload: &'a [u8],
}

impl PublishParts<'_> {
    /// The packet's size in bytes, header included: what Maximum Packet Size limits.
    pub fn size(&self) -> usize {
        let remaining = self.remaining();
        1 + variable_size(remaining) + remaining
    }

    fn properties_size(&self) -> usize {
        self.properties.iter().map(|piece| piece.len()).sum()
    }

    fn remaining(&self) -> usize {
        let properties = match self.version {
            Version::V5 => variable_size(self.properties_size()) + self.properties_size(),
            _ => 0,
        };
        2 + self.topic.len() + self.packet_id.map_or(0, |_| 2) + properties + self.payload.len()
    }

    /// Appends the packet.
    pub fn put(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        debug_assert_eq!(self.packet_id.is_some(), self.qos != Qos::AtMostOnce);
        check_field(self.topic.len())?;
        let remaining = self.remaining();
        if remaining > VARIABLE_MAX {
            return Err(EncodeError::PacketTooLong(remaining));
        }
        out.reserve(remaining + 5);
        out.put_u8(0x30 | u8::from(self.dup) << 3 | self.qos.bits() << 1 | u8::from(self.retain));
        put_variable(out, remaining);
        put_binary(out, self.topic.as_bytes());
        if let Some(id) = self.packet_id {
            out.put_u16(id.get());
        }
        if self.version == Version::V5 {
            put_variable(out, self.properties_size());
            self.properties.iter().for_each(|piece| out.put_slice(piece));
        }
        out.put_slice(self.payload);
        Ok(())
    }
}
