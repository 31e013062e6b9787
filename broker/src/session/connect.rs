//! CONNECT: what is granted and what is refused.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use headwater_config::BrokerConfig;
use headwater_store::TopicName;

use super::Session;
use super::alias::{InboundAliases, OutboundAliases};
use super::inflight::Inflight;
use super::words::{encode_within, reason_string};
use crate::authentication::{self, Proved};
use crate::limits::{CLIENT_ID_BYTES_MAX, OUTBOUND_ALIASES_MAX};
use crate::packet::{ConnAck, Connect, Packet, Properties, Property, Reason, Version, Will};
use crate::publish::{Message, reserved_topic};
use crate::sessions::Wish;

/// What one client may do: the configuration, in the units of the protocol.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct SessionLimits {
    pub packet_max: u32,
    pub payload_format_check: bool,
    pub receive_max: u16,
    pub inflight_max: u16,
    pub topic_alias_max: u16,
    pub subscriptions_max: usize,
    /// 0: no bound.
    pub keep_alive_max_s: u16,
    /// `u32::MAX`: for ever.
    pub session_expiry_max_s: u32,
    pub authentication_required: bool,
}

impl From<&BrokerConfig> for SessionLimits {
    fn from(config: &BrokerConfig) -> SessionLimits {
        SessionLimits {
            packet_max: u32::try_from(config.packet_max.0).unwrap_or(u32::MAX),
            payload_format_check: config.payload_format_check,
            receive_max: config.receive_max,
            inflight_max: config.inflight_max,
            topic_alias_max: config.topic_alias_max,
            subscriptions_max: config.subscriptions_max,
            keep_alive_max_s: u16::try_from(config.keep_alive_max.0.div_ceil(1000)).unwrap_or(u16::MAX),
            session_expiry_max_s: match config.session_expiry_max.0 {
                0 => u32::MAX,
                max => u32::try_from(max.div_ceil(1000)).unwrap_or(u32::MAX),
            },
            authentication_required: config.scram_required,
        }
    }
}

/// A session and what to answer.
#[derive(Debug)]
pub struct Accepted {
    /// Ready for packets.
    pub session: Session,
    /// What the client wants of the session that it may have.
    pub wish: Wish,
    granted: Properties,
}

impl Accepted {
    /// The CONNACK, to be sent first.
    pub fn connack(&self, session_present: bool) -> Packet {
        Packet::ConnAck(ConnAck {
            session_present,
            reason: Reason::SUCCESS,
            properties: self.granted.clone(),
        })
    }
}

/// What a client asks for in the properties of its CONNECT; the defaults are those of section 3.1.2.11.
struct Wishes {
    expiry_s: u32,
    receive_max: u16,
    alias_max: u16,
    problem_information: bool,
}

impl Wishes {
    fn of(properties: &Properties) -> Wishes {
        let mut wishes = Wishes {
            expiry_s: 0,
            receive_max: u16::MAX,
            alias_max: 0,
            problem_information: true,
        };
        for property in properties.iter() {
            match property {
                Property::SessionExpiryInterval(seconds) => wishes.expiry_s = seconds,
                Property::ReceiveMaximum(count) => wishes.receive_max = count,
                Property::TopicAliasMaximum(count) => wishes.alias_max = count,
                Property::RequestProblemInformation(wanted) => wishes.problem_information = wanted,
                _ => {}
            }
        }
        wishes
    }
}

/// Opens a session, or says why not, with words for the log and the reason string. `proved` is who the client is, if it has
/// an authentication method that we know; `assign` makes a client id for a client that has none.
pub fn accept(
    connect: &Connect,
    proved: Option<Proved>,
    limits: &SessionLimits,
    assign: impl FnOnce() -> ByteString,
) -> Result<Accepted, (Reason, &'static str)> {
    check_authentication(connect, proved.is_some(), limits.authentication_required)?;
    let wishes = Wishes::of(&connect.properties);
    let assigned = connect.client_id.is_empty();
    if assigned && (connect.version == Version::V3_1 || (connect.version == Version::V3_1_1 && !connect.clean_start)) {
        return Err((Reason::CLIENT_IDENTIFIER_NOT_VALID, "a client id is needed"));
    }
    if connect.client_id.len() > CLIENT_ID_BYTES_MAX {
        return Err((Reason::CLIENT_IDENTIFIER_NOT_VALID, "the client id is too long"));
    }
    let will = connect.will.as_ref().map(will_message).transpose()?;
    // Before 5.0 a session is for good or not at all.
    let asked_expiry_s = match connect.version {
        Version::V5 => wishes.expiry_s,
        _ if connect.clean_start => 0,
        _ => u32::MAX,
    };
    let expiry_s = asked_expiry_s.min(limits.session_expiry_max_s);
    // A copy, as of everything that stays: the packet is a slice of a read buffer.
    let client_id = if assigned {
        assign()
    } else {
        ByteString::from(&*connect.client_id)
    };
    let (keep_alive_s, server_keep_alive) = keep_alive(connect, limits);
    let mut session = Session {
        version: connect.version,
        keep_alive: (keep_alive_s > 0).then(|| Duration::from_millis(u64::from(keep_alive_s) * 1500)),
        expiry_s,
        expiry_max_s: limits.session_expiry_max_s,
        durable: false,
        problem_information: wishes.problem_information,
        receive_max: limits.receive_max,
        unacknowledged: 0,
        in_log: 0,
        received: Default::default(),
        inbound_aliases: InboundAliases::new(limits.topic_alias_max),
        outbound_aliases: OutboundAliases::new(wishes.alias_max.min(OUTBOUND_ALIASES_MAX)),
        inflight: Inflight::new(wishes.receive_max.min(limits.inflight_max)),
        packet_max: connect.packet_max(),
        payload_format_check: limits.payload_format_check,
        subscriptions_max: limits.subscriptions_max,
        subscriptions: Default::default(),
        filters_bytes: 0,
        replays: Default::default(),
        names: None,
        identity: None,
        scratch: BytesMut::new(),
        client_id: client_id.clone(),
    };
    let user = proved.as_ref().map(|proved| proved.user.clone());
    let authenticated = proved
        .as_ref()
        .map(|proved| authentication::properties(Some(proved.last.clone())));
    let granted = [
        (expiry_s != asked_expiry_s).then_some(Property::SessionExpiryInterval(expiry_s)),
        Some(Property::ReceiveMaximum(limits.receive_max)),
        Some(Property::MaximumPacketSize(limits.packet_max)),
        assigned.then_some(Property::AssignedClientIdentifier(client_id)),
        Some(Property::TopicAliasMaximum(limits.topic_alias_max)),
        server_keep_alive.map(Property::ServerKeepAlive),
    ];
    let wish = Wish {
        clean_start: connect.clean_start,
        expiry_s,
        will,
        username: user.or_else(|| connect.username.as_ref().map(|name| ByteString::from(&**name))),
    };
    session.identity = proved.map(|proved| Box::new(proved.into()));
    let granted = granted.into_iter().flatten();
    let accepted = Accepted {
        session,
        wish,
        granted: granted.chain(authenticated.into_iter().flatten()).collect(),
    };
    let mut connack = BytesMut::new();
    accepted.session.send(&accepted.connack(false), &mut connack);
    match connack.is_empty() {
        true => Err((
            Reason::PACKET_TOO_LARGE,
            "the client takes no packet as large as its CONNACK",
        )),
        false => Ok(accepted),
    }
}

/// Whether the client may come in with the authentication that it has, or without.
fn check_authentication(connect: &Connect, proved: bool, required: bool) -> Result<(), (Reason, &'static str)> {
    let method = authentication::method(&connect.properties);
    if method.is_some() && !proved {
        return Err((
            Reason::BAD_AUTHENTICATION_METHOD,
            "the authentication method is not known here",
        ));
    }
    if method.is_none() && required {
        return Err((
            Reason::NOT_AUTHORIZED,
            "the authentication method SCRAM-SHA-256 (MQTT 5.0) is asked for",
        ));
    }
    Ok(())
}

/// The keep alive in force, and the Server Keep Alive to announce. A client before 5.0 cannot be told another value,
/// so its own stands.
fn keep_alive(connect: &Connect, limits: &SessionLimits) -> (u16, Option<u16>) {
    let (asked, max) = (connect.keep_alive_s, limits.keep_alive_max_s);
    if connect.version == Version::V5 && max > 0 && (asked == 0 || asked > max) {
        return (max, Some(max));
    }
    (asked, None)
}

/// The will's message, and its delay in seconds.
fn will_message(will: &Will) -> Result<(Message, u32), (Reason, &'static str)> {
    let invalid = (Reason::TOPIC_NAME_INVALID, "the will's topic is not valid");
    let topic = TopicName::new(&*will.topic).map_err(|_| invalid)?;
    if reserved_topic(&topic).is_some() {
        return Err((Reason::NOT_AUTHORIZED, "the will's topic belongs to headwater"));
    }
    let delay_s = will.properties.find(|property| match property {
        Property::WillDelayInterval(seconds) => Some(seconds),
        _ => None,
    });
    let message = Message {
        topic,
        payload: Bytes::copy_from_slice(&will.payload),
        qos: will.qos,
        retain: will.retain,
        properties: will.properties.iter().collect(),
    };
    Ok((message, delay_s.unwrap_or(0)))
}

/// The bytes of a CONNACK that refuses a client which takes packets of at most `packet_max` bytes.
pub fn refusal(version: Version, packet_max: usize, reason: Reason, detail: &str) -> Bytes {
    let properties = reason_string(detail, true);
    let connack = Packet::ConnAck(ConnAck {
        session_present: false,
        reason,
        properties,
    });
    let mut out = BytesMut::new();
    match encode_within(&connack, version, packet_max, &mut out) {
        Ok(()) => out.freeze(),
        Err(_) => Bytes::new(),
    }
}
