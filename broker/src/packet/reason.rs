//! Reason codes (MQTT 5.0 section 2.4) and the return codes of the older versions.

use super::PacketType;

/// A reason code. Below 0x80 it went well.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub u8);

macro_rules! reasons {
    ($($name:ident = $code:literal),* $(,)?) => {
        #[allow(missing_docs)]
        impl Reason {
            $(pub const $name: Reason = Reason($code);)*

            /// The specification's name, in constants' spelling.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($code => stringify!($name),)*
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

reasons! {
    SUCCESS = 0x00, GRANTED_QOS_1 = 0x01, GRANTED_QOS_2 = 0x02, DISCONNECT_WITH_WILL = 0x04,
    NO_MATCHING_SUBSCRIBERS = 0x10, NO_SUBSCRIPTION_EXISTED = 0x11,
    CONTINUE_AUTHENTICATION = 0x18, REAUTHENTICATE = 0x19,
    UNSPECIFIED_ERROR = 0x80, MALFORMED_PACKET = 0x81, PROTOCOL_ERROR = 0x82,
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83, UNSUPPORTED_PROTOCOL_VERSION = 0x84,
    CLIENT_IDENTIFIER_NOT_VALID = 0x85, BAD_USER_NAME_OR_PASSWORD = 0x86, NOT_AUTHORIZED = 0x87,
    SERVER_UNAVAILABLE = 0x88, SERVER_BUSY = 0x89, BANNED = 0x8A, SERVER_SHUTTING_DOWN = 0x8B,
    BAD_AUTHENTICATION_METHOD = 0x8C, KEEP_ALIVE_TIMEOUT = 0x8D, SESSION_TAKEN_OVER = 0x8E,
    TOPIC_FILTER_INVALID = 0x8F, TOPIC_NAME_INVALID = 0x90, PACKET_IDENTIFIER_IN_USE = 0x91,
    PACKET_IDENTIFIER_NOT_FOUND = 0x92, RECEIVE_MAXIMUM_EXCEEDED = 0x93, TOPIC_ALIAS_INVALID = 0x94,
    PACKET_TOO_LARGE = 0x95, MESSAGE_RATE_TOO_HIGH = 0x96, QUOTA_EXCEEDED = 0x97,
    ADMINISTRATIVE_ACTION = 0x98, PAYLOAD_FORMAT_INVALID = 0x99, RETAIN_NOT_SUPPORTED = 0x9A,
    QOS_NOT_SUPPORTED = 0x9B, USE_ANOTHER_SERVER = 0x9C, SERVER_MOVED = 0x9D,
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E, CONNECTION_RATE_EXCEEDED = 0x9F, MAXIMUM_CONNECT_TIME = 0xA0,
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1, WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2,
}

impl Reason {
    /// 0x80 and above.
    pub fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// Whether MQTT 5.0 lets a packet of that type carry it.
    pub(super) fn is_allowed_in(self, packet: PacketType) -> bool {
        match packet {
            PacketType::ConnAck => {
                matches!(self.0, 0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
            }
            PacketType::PubAck | PacketType::PubRec => {
                matches!(self.0, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            PacketType::PubRel | PacketType::PubComp => matches!(self.0, 0x00 | 0x92),
            PacketType::SubAck => {
                matches!(
                    self.0,
                    0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2
                )
            }
            PacketType::UnsubAck => matches!(self.0, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
            PacketType::Disconnect => {
                matches!(self.0, 0x00 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2)
            }
            PacketType::Auth => matches!(self.0, 0x00 | 0x18 | 0x19),
            _ => false,
        }
    }

    /// The return code of a 3.1 or 3.1.1 CONNACK.
    pub(super) fn to_return_code(self) -> u8 {
        match self {
            Reason::SUCCESS => 0,
            Reason::UNSUPPORTED_PROTOCOL_VERSION => 1,
            Reason::CLIENT_IDENTIFIER_NOT_VALID => 2,
            Reason::BAD_USER_NAME_OR_PASSWORD => 4,
            Reason::NOT_AUTHORIZED => 5,
            _ => 3,
        }
    }

    /// The reason that a 3.1 or 3.1.1 CONNACK's return code stands for.
    pub(super) fn from_return_code(code: u8) -> Option<Reason> {
        Some(match code {
            0 => Reason::SUCCESS,
            1 => Reason::UNSUPPORTED_PROTOCOL_VERSION,
            2 => Reason::CLIENT_IDENTIFIER_NOT_VALID,
            3 => Reason::SERVER_UNAVAILABLE,
            4 => Reason::BAD_USER_NAME_OR_PASSWORD,
            5 => Reason::NOT_AUTHORIZED,
            _ => return None,
        })
    }
}

impl std::fmt::Debug for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#04x} {}", self.0, self.name())
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#04x} {}", self.0, self.name().to_lowercase().replace('_', " "))
    }
}
