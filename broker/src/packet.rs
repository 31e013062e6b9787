//! MQTT control packets: one set of types for 3.1, 3.1.1 and 5.0, one codec, no input or output.
//!
//! Sources: MQTT V3.1 (IBM), MQTT Version 3.1.1 and MQTT Version 5.0 (OASIS). [`Decoder::decode`] takes whole packets
//! off a buffer, [`encode`] appends one to a buffer. The types are those of 5.0; in the older versions properties are
//! empty and reason codes map to the few return codes there were.
//!
//! Decoding copies nothing and allocates nothing: strings, payloads, property blocks and filter lists are slices that
//! share the read buffer, and lists are checked once and walked again when they are needed. So no packet can make the
//! decoder hold more than the bytes it sent. Whoever keeps a piece for longer than a moment copies it, because a slice
//! keeps its whole read buffer alive.

mod decode;
mod encode;
mod filters;
mod properties;
mod reason;
mod wire;

use std::num::NonZeroU16;

use bytes::Bytes;
use bytestring::ByteString;
use headwater_store::Qos;

pub use decode::{DecodeError, Decoder};
pub use encode::{EncodeError, PublishParts, encode};
pub use filters::{FilterList, RetainHandling, SubscriptionList, SubscriptionOptions};
pub use properties::{Owner, Properties, Property};
pub use reason::Reason;

/// The protocol's versions, by the level in CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `MQIsdp`, level 3.
    V3_1,
    /// `MQTT`, level 4.
    V3_1_1,
    /// `MQTT`, level 5.
    V5,
}

impl Version {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V3_1 => "3.1",
            Version::V3_1_1 => "3.1.1",
            Version::V5 => "5.0",
        }
    }
}

/// A packet identifier; zero is not one [MQTT-2.2.1-3].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub NonZeroU16);

impl PacketId {
    /// None for zero.
    pub fn new(id: u16) -> Option<PacketId> {
        NonZeroU16::new(id).map(PacketId)
    }

    /// The number on the wire.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// The packet types' numbers, the upper half of the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

/// One MQTT control packet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Packet {
    Connect(Box<Connect>),
    ConnAck(ConnAck),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    SubAck(SubAck),
    Unsubscribe(Unsubscribe),
    UnsubAck(SubAck),
    PingReq,
    PingResp,
    Disconnect(Disconnect),
    Auth(Auth),
}

impl Packet {
    /// Its type.
    pub fn packet_type(&self) -> PacketType {
        match self {
            Packet::Connect(_) => PacketType::Connect,
            Packet::ConnAck(_) => PacketType::ConnAck,
            Packet::Publish(_) => PacketType::Publish,
            Packet::PubAck(_) => PacketType::PubAck,
            Packet::PubRec(_) => PacketType::PubRec,
            Packet::PubRel(_) => PacketType::PubRel,
            Packet::PubComp(_) => PacketType::PubComp,
            Packet::Subscribe(_) => PacketType::Subscribe,
            Packet::SubAck(_) => PacketType::SubAck,
            Packet::Unsubscribe(_) => PacketType::Unsubscribe,
            Packet::UnsubAck(_) => PacketType::UnsubAck,
            Packet::PingReq => PacketType::PingReq,
            Packet::PingResp => PacketType::PingResp,
            Packet::Disconnect(_) => PacketType::Disconnect,
            Packet::Auth(_) => PacketType::Auth,
        }
    }
}

/// CONNECT (section 3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Which protocol the rest of the connection speaks.
    pub version: Version,
    /// Clean Start; Clean Session before 5.0.
    pub clean_start: bool,
    /// Seconds; 0 is off.
    pub keep_alive_s: u16,
    /// Empty: the server is asked to choose.
    pub client_id: ByteString,
    /// What to publish when the client is lost.
    pub will: Option<Will>,
    /// Whoever the client says it is.
    pub username: Option<ByteString>,
    /// Its proof.
    pub password: Option<Bytes>,
    /// 5.0.
    pub properties: Properties,
}

impl Connect {
    /// How many bytes a packet for the client may have.
    pub fn packet_max(&self) -> usize {
        let told = self.properties.find(|property| match property {
            Property::MaximumPacketSize(bytes) => usize::try_from(bytes).ok(),
            _ => None,
        });
        told.unwrap_or(usize::MAX)
    }
}

/// The will in a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Where to.
    pub topic: ByteString,
    /// What.
    pub payload: Bytes,
    /// How.
    pub qos: Qos,
    /// Whether to keep it as the topic's retained message.
    pub retain: bool,
    /// 5.0.
    pub properties: Properties,
}

/// CONNACK (section 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the server still had the session.
    pub session_present: bool,
    /// [`Reason::SUCCESS`], or why not.
    pub reason: Reason,
    /// 5.0.
    pub properties: Properties,
}

/// PUBLISH (section 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Sent before.
    pub dup: bool,
    /// The delivery's QoS.
    pub qos: Qos,
    /// Retain.
    pub retain: bool,
    /// Empty only where a topic alias stands for it.
    pub topic: ByteString,
    /// Some exactly when the QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// 5.0.
    pub properties: Properties,
    /// May be empty.
    pub payload: Bytes,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (sections 3.4 to 3.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Which message.
    pub packet_id: PacketId,
    /// 5.0; success before.
    pub reason: Reason,
    /// 5.0.
    pub properties: Properties,
}

impl Ack {
    /// Without properties.
    pub fn new(packet_id: PacketId, reason: Reason) -> Ack {
        Ack {
            packet_id,
            reason,
            properties: Properties::default(),
        }
    }
}

/// SUBSCRIBE (section 3.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// For the SUBACK.
    pub packet_id: PacketId,
    /// 5.0.
    pub properties: Properties,
    /// At least one.
    pub subscriptions: SubscriptionList,
}

/// SUBACK or UNSUBACK (sections 3.9 and 3.11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAck {
    /// Of the SUBSCRIBE or UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// 5.0.
    pub properties: Properties,
    /// One [`Reason`] byte per filter, in order; UNSUBACK has none before 5.0.
    pub reasons: Bytes,
}

/// UNSUBSCRIBE (section 3.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// For the UNSUBACK.
    pub packet_id: PacketId,
    /// 5.0.
    pub properties: Properties,
    /// At least one.
    pub filters: FilterList,
}

/// DISCONNECT (section 3.14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// 5.0; a normal disconnection before.
    pub reason: Reason,
    /// 5.0.
    pub properties: Properties,
}

/// AUTH (section 3.15), 5.0 only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Success, continue or re-authenticate.
    pub reason: Reason,
    /// Method and data.
    pub properties: Properties,
}
