//! Bytes to packets.

use bytes::{Buf, Bytes, BytesMut};
use headwater_store::Qos;
use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16};

use super::properties::properties;
use super::wire::{Parsed, binary, check_topic, fail, string, topic, variable};
use super::{
    Ack, Auth, ConnAck, Connect, Disconnect, FilterList, Owner, Packet, PacketId, PacketType, Properties, Property,
    Publish, Reason, SubAck, Subscribe, SubscriptionList, Unsubscribe, Version, Will,
};

/// Why bytes are not a packet. The connection ends with [`DecodeError::reason`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum DecodeError {
    #[error("the first packet must be CONNECT")]
    ConnectFirst,
    #[error("packet type {0} is not used in this version")]
    PacketType(u8),
    #[error("{packet:?} cannot have the flags {flags:#06b}")]
    Flags { packet: PacketType, flags: u8 },
    #[error("a variable byte integer is longer than needed or than four bytes")]
    LongInteger,
    #[error("the packet has {bytes} bytes, at most {limit} are allowed")]
    TooLarge { bytes: usize, limit: usize },
    #[error("a field runs past the end of its packet")]
    Truncated,
    #[error("{0} bytes are left over at the end of the packet")]
    TrailingBytes(usize),
    #[error("the protocol's name is neither MQTT nor MQIsdp")]
    ProtocolName,
    #[error("protocol level {0} is not supported")]
    ProtocolLevel(u8),
    #[error("the connect flags {0:#010b} contradict each other or set the reserved bit")]
    ConnectFlags(u8),
    #[error("a string is not UTF-8")]
    NotUtf8,
    #[error("a string holds the null character")]
    NullCharacter,
    #[error("the packet identifier is zero")]
    PacketIdZero,
    #[error("DUP is set on a QoS 0 PUBLISH")]
    DupOnQos0,
    #[error("QoS 3 does not exist")]
    Qos3,
    #[error("a topic is empty")]
    TopicEmpty,
    #[error("a topic name holds a wildcard")]
    TopicWildcard,
    #[error("topic alias zero")]
    TopicAliasZero,
    #[error("property {0:#04x} does not exist")]
    PropertyUnknown(usize),
    #[error("property {id:#04x} cannot stand in {owner:?}")]
    PropertyNotAllowed { id: u8, owner: Owner },
    #[error("property {0:#04x} stands there twice")]
    PropertyRepeated(u8),
    #[error("property {0:#04x} has a value that it cannot have")]
    PropertyValue(u8),
    #[error("{packet:?} cannot have the code {code:#04x}")]
    ReasonCode { packet: PacketType, code: u8 },
    #[error("the acknowledge flags {0:#010b} set a reserved bit")]
    AcknowledgeFlags(u8),
    #[error("the subscription options {0:#010b} are not valid")]
    SubscriptionOptions(u8),
    #[error("the list of topic filters is empty")]
    ListEmpty,
}

impl DecodeError {
    /// The code for the DISCONNECT or CONNACK (MQTT 5.0 section 4.13).
    pub fn reason(&self) -> Reason {
        match self {
            DecodeError::TooLarge { .. } => Reason::PACKET_TOO_LARGE,
            DecodeError::ProtocolName | DecodeError::ProtocolLevel(_) => Reason::UNSUPPORTED_PROTOCOL_VERSION,
            DecodeError::TopicWildcard => Reason::TOPIC_NAME_INVALID,
            DecodeError::TopicAliasZero => Reason::TOPIC_ALIAS_INVALID,
            DecodeError::ConnectFirst
            | DecodeError::PacketIdZero
            | DecodeError::TopicEmpty
            | DecodeError::PropertyRepeated(_)
            | DecodeError::PropertyValue(_)
            | DecodeError::ListEmpty => Reason::PROTOCOL_ERROR,
            _ => Reason::MALFORMED_PACKET,
        }
    }

    pub(super) fn from_nom(error: nom::Err<DecodeError>) -> DecodeError {
        match error {
            nom::Err::Error(error) | nom::Err::Failure(error) => error,
            nom::Err::Incomplete(_) => DecodeError::Truncated,
        }
    }
}

/// nom's own parsers fail here for one reason only: the frame ended.
impl<I> nom::error::ParseError<I> for DecodeError {
    fn from_error_kind(_: I, _: nom::error::ErrorKind) -> DecodeError {
        DecodeError::Truncated
    }

    fn append(_: I, _: nom::error::ErrorKind, other: DecodeError) -> DecodeError {
        other
    }
}

/// Takes packets off a buffer. Learns the version from the CONNECT that passes through it.
#[derive(Debug, Clone)]
pub struct Decoder {
    version: Option<Version>,
    packet_max: usize,
}

impl Decoder {
    /// For a server: the first packet must be CONNECT. No packet may have more than `packet_max` bytes.
    pub fn new(packet_max: usize) -> Decoder {
        Decoder {
            version: None,
            packet_max,
        }
    }

    /// For a client, which knows its version.
    pub fn for_version(version: Version, packet_max: usize) -> Decoder {
        Decoder {
            version: Some(version),
            packet_max,
        }
    }

    /// The next packet; None when the buffer does not hold a whole one yet. After an error the stream has no packet
    /// boundary any more, and the connection ends.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(&first) = buffer.first() else { return Ok(None) };
        let packet = packet_type(first, self.version)?;
        let (header, remaining) = match variable(&buffer[1..]) {
            Ok((rest, remaining)) => (buffer.len() - rest.len(), remaining),
            Err(nom::Err::Failure(error)) => return Err(error),
            Err(_) => return Ok(None),
        };
        let bytes = header + remaining;
        if bytes > self.packet_max {
            return Err(DecodeError::TooLarge {
                bytes,
                limit: self.packet_max,
            });
        }
        if buffer.len() < bytes {
            return Ok(None);
        }
        let mut frame = buffer.split_to(bytes).freeze();
        frame.advance(header);
        // CONNECT says its own version; before it there is no other packet.
        let version = self.version.unwrap_or(Version::V5);
        let (rest, packet) = body(&frame, packet, first & 0x0f, version).map_err(DecodeError::from_nom)?;
        if !rest.is_empty() {
            return Err(DecodeError::TrailingBytes(rest.len()));
        }
        if let Packet::Connect(connect) = &packet {
            self.version.get_or_insert(connect.version);
        }
        Ok(Some(packet))
    }
}

/// Checks the first byte as soon as it is there.
fn packet_type(first: u8, version: Option<Version>) -> Result<PacketType, DecodeError> {
    use PacketType::*;
    let flags = first & 0x0f;
    let packet = match first >> 4 {
        1 => Connect,
        2 => ConnAck,
        3 => Publish,
        4 => PubAck,
        5 => PubRec,
        6 => PubRel,
        7 => PubComp,
        8 => Subscribe,
        9 => SubAck,
        10 => Unsubscribe,
        11 => UnsubAck,
        12 => PingReq,
        13 => PingResp,
        14 => Disconnect,
        15 if version.is_none_or(|version| version == Version::V5) => Auth,
        number => return Err(DecodeError::PacketType(number)),
    };
    if version.is_none() && packet != Connect {
        return Err(DecodeError::ConnectFirst);
    }
    match packet {
        Publish if flags & 0b0110 == 0b0110 => Err(DecodeError::Qos3),
        Publish if flags & 0b1110 == 0b1000 => Err(DecodeError::DupOnQos0),
        Publish => Ok(packet),
        // 3.1 let a client repeat these three with DUP.
        PubRel | Subscribe | Unsubscribe if version == Some(Version::V3_1) && flags == 0b1010 => Ok(packet),
        PubRel | Subscribe | Unsubscribe if flags == 0b0010 => Ok(packet),
        PubRel | Subscribe | Unsubscribe => Err(DecodeError::Flags { packet, flags }),
        _ if flags == 0 => Ok(packet),
        _ => Err(DecodeError::Flags { packet, flags }),
    }
}

/// Parses what follows the fixed header. `frame` is exactly that.
fn body(frame: &Bytes, packet: PacketType, flags: u8, version: Version) -> Parsed<'_, Packet> {
    match packet {
        PacketType::Connect => connect(frame),
        PacketType::ConnAck => connack(frame, version),
        PacketType::Publish => publish(frame, flags, version),
        PacketType::PubAck => ack(frame, packet, version).map(|(rest, ack)| (rest, Packet::PubAck(ack))),
        PacketType::PubRec => ack(frame, packet, version).map(|(rest, ack)| (rest, Packet::PubRec(ack))),
        PacketType::PubRel => ack(frame, packet, version).map(|(rest, ack)| (rest, Packet::PubRel(ack))),
        PacketType::PubComp => ack(frame, packet, version).map(|(rest, ack)| (rest, Packet::PubComp(ack))),
        PacketType::Subscribe => subscribe(frame, version),
        PacketType::SubAck => suback(frame, packet, version).map(|(rest, ack)| (rest, Packet::SubAck(ack))),
        PacketType::Unsubscribe => unsubscribe(frame, version),
        PacketType::UnsubAck => suback(frame, packet, version).map(|(rest, ack)| (rest, Packet::UnsubAck(ack))),
        PacketType::PingReq => Ok((frame, Packet::PingReq)),
        PacketType::PingResp => Ok((frame, Packet::PingResp)),
        PacketType::Disconnect => reason_and_properties(frame, frame, packet, Owner::Disconnect, version)
            .map(|(rest, (reason, properties))| (rest, Packet::Disconnect(Disconnect { reason, properties }))),
        PacketType::Auth => reason_and_properties(frame, frame, packet, Owner::Auth, version)
            .map(|(rest, (reason, properties))| (rest, Packet::Auth(Auth { reason, properties }))),
    }
}

fn connect(frame: &Bytes) -> Parsed<'_, Packet> {
    let (rest, name) = binary(frame).parse(frame)?;
    let (rest, level) = be_u8(rest)?;
    let version = match (&name[..], level) {
        (b"MQIsdp", 3) => Version::V3_1,
        (b"MQTT", 4) => Version::V3_1_1,
        (b"MQTT", 5) => Version::V5,
        (b"MQTT" | b"MQIsdp", _) => return fail(DecodeError::ProtocolLevel(level)),
        _ => return fail(DecodeError::ProtocolName),
    };
    let (rest, flags) = be_u8(rest)?;
    let has = |bit: u8| flags & bit != 0;
    let will_qos = Qos::from_bits((flags >> 3) & 3);
    let contradiction =
        has(0x01) || (!has(0x04) && flags & 0x38 != 0) || (version != Version::V5 && has(0x40) && !has(0x80));
    let Some(will_qos) = will_qos.filter(|_| !contradiction) else {
        return fail(DecodeError::ConnectFlags(flags));
    };
    let (rest, keep_alive_s) = be_u16(rest)?;
    let (rest, connect_properties) = properties_of(frame, rest, Owner::Connect, version)?;
    let (rest, client_id) = string(frame).parse(rest)?;
    let (rest, will) = optional(has(0x04), rest, |rest| {
        let (rest, properties) = properties_of(frame, rest, Owner::Will, version)?;
        let (rest, (topic, payload)) = (topic(frame), binary(frame)).parse(rest)?;
        Ok((
            rest,
            Will {
                topic,
                payload,
                qos: will_qos,
                retain: has(0x20),
                properties,
            },
        ))
    })?;
    let (rest, username) = optional(has(0x80), rest, |rest| string(frame).parse(rest))?;
    let (rest, password) = optional(has(0x40), rest, |rest| binary(frame).parse(rest))?;
    let connect = Connect {
        version,
        clean_start: has(0x02),
        keep_alive_s,
        client_id,
        will,
        username,
        password,
        properties: connect_properties,
    };
    Ok((rest, Packet::Connect(Box::new(connect))))
}

fn connack(frame: &Bytes, version: Version) -> Parsed<'_, Packet> {
    let (rest, flags) = be_u8(&frame[..])?;
    // 3.1 reserved the whole byte and had no session present.
    if flags & 0xfe != 0 || (version == Version::V3_1 && flags != 0) {
        return fail(DecodeError::AcknowledgeFlags(flags));
    }
    let (rest, code) = be_u8(rest)?;
    let reason = match version {
        Version::V5 => Some(Reason(code)).filter(|reason| reason.is_allowed_in(PacketType::ConnAck)),
        _ => Reason::from_return_code(code),
    };
    let Some(reason) = reason else {
        return fail(DecodeError::ReasonCode {
            packet: PacketType::ConnAck,
            code,
        });
    };
    let (rest, properties) = properties_of(frame, rest, Owner::ConnAck, version)?;
    Ok((
        rest,
        Packet::ConnAck(ConnAck {
            session_present: flags == 1,
            reason,
            properties,
        }),
    ))
}

fn publish(frame: &Bytes, flags: u8, version: Version) -> Parsed<'_, Packet> {
    let Some(qos) = Qos::from_bits((flags >> 1) & 3) else {
        return fail(DecodeError::Qos3);
    };
    let (rest, topic) = string(frame).parse(frame)?;
    let (rest, packet_id) = optional(qos != Qos::AtMostOnce, rest, packet_id)?;
    let (rest, properties) = properties_of(frame, rest, Owner::Publish, version)?;
    let aliased = topic.is_empty()
        && properties
            .find(|p| matches!(p, Property::TopicAlias(_)).then_some(()))
            .is_some();
    if !aliased {
        check_topic(&topic).map_err(nom::Err::Failure)?;
    }
    let (dup, retain) = (flags & 8 != 0, flags & 1 != 0);
    let payload = frame.slice_ref(rest);
    Ok((
        &[],
        Packet::Publish(Publish {
            dup,
            qos,
            retain,
            topic,
            packet_id,
            properties,
            payload,
        }),
    ))
}

fn ack(frame: &Bytes, packet: PacketType, version: Version) -> Parsed<'_, Ack> {
    let (rest, packet_id) = packet_id(frame)?;
    let (rest, (reason, properties)) = reason_and_properties(frame, rest, packet, Owner::Ack, version)?;
    Ok((
        rest,
        Ack {
            packet_id,
            reason,
            properties,
        },
    ))
}

fn subscribe(frame: &Bytes, version: Version) -> Parsed<'_, Packet> {
    let (rest, packet_id) = packet_id(frame)?;
    let (rest, properties) = properties_of(frame, rest, Owner::Subscribe, version)?;
    let subscriptions = SubscriptionList::check(frame.slice_ref(rest), version).map_err(nom::Err::Failure)?;
    Ok((
        &[],
        Packet::Subscribe(Subscribe {
            packet_id,
            properties,
            subscriptions,
        }),
    ))
}

fn unsubscribe(frame: &Bytes, version: Version) -> Parsed<'_, Packet> {
    let (rest, packet_id) = packet_id(frame)?;
    let (rest, properties) = properties_of(frame, rest, Owner::Unsubscribe, version)?;
    let filters = FilterList::check(frame.slice_ref(rest)).map_err(nom::Err::Failure)?;
    Ok((
        &[],
        Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties,
            filters,
        }),
    ))
}

fn suback(frame: &Bytes, packet: PacketType, version: Version) -> Parsed<'_, SubAck> {
    let (rest, packet_id) = packet_id(frame)?;
    let (rest, properties) = properties_of(frame, rest, Owner::Ack, version)?;
    if version != Version::V5 && packet == PacketType::UnsubAck {
        return Ok((
            rest,
            SubAck {
                packet_id,
                properties,
                reasons: Bytes::new(),
            },
        ));
    }
    let (rest, codes) = take(rest.len()).parse(rest)?;
    if codes.is_empty() {
        return fail(DecodeError::ListEmpty);
    }
    let allowed = |code: u8| match version {
        Version::V5 => Reason(code).is_allowed_in(packet),
        Version::V3_1_1 => matches!(code, 0..=2 | 0x80),
        Version::V3_1 => code <= 2,
    };
    if let Some(&code) = codes.iter().find(|code| !allowed(**code)) {
        return fail(DecodeError::ReasonCode { packet, code });
    }
    Ok((
        rest,
        SubAck {
            packet_id,
            properties,
            reasons: frame.slice_ref(codes),
        },
    ))
}

/// The tail that 5.0 lets a sender leave out from the right: no properties, then no reason.
fn reason_and_properties<'a>(
    frame: &Bytes,
    input: &'a [u8],
    packet: PacketType,
    owner: Owner,
    version: Version,
) -> Parsed<'a, (Reason, Properties)> {
    if input.is_empty() || version != Version::V5 {
        return Ok((input, (Reason::SUCCESS, Properties::default())));
    }
    let (rest, code) = be_u8(input)?;
    if !Reason(code).is_allowed_in(packet) {
        return fail(DecodeError::ReasonCode { packet, code });
    }
    if rest.is_empty() {
        return Ok((rest, (Reason(code), Properties::default())));
    }
    let (rest, properties) = properties(frame, owner).parse(rest)?;
    Ok((rest, (Reason(code), properties)))
}

fn packet_id(input: &[u8]) -> Parsed<'_, PacketId> {
    let (rest, id) = be_u16(input)?;
    match PacketId::new(id) {
        Some(id) => Ok((rest, id)),
        None => fail(DecodeError::PacketIdZero),
    }
}

fn properties_of<'a>(frame: &Bytes, input: &'a [u8], owner: Owner, version: Version) -> Parsed<'a, Properties> {
    match version {
        Version::V5 => properties(frame, owner).parse(input),
        _ => Ok((input, Properties::default())),
    }
}

/// `parse` when `present` says that the field is there.
fn optional<'a, T>(
    present: bool,
    input: &'a [u8],
    parse: impl FnOnce(&'a [u8]) -> Parsed<'a, T>,
) -> Parsed<'a, Option<T>> {
    if !present {
        return Ok((input, None));
    }
    parse(input).map(|(rest, value)| (rest, Some(value)))
}
