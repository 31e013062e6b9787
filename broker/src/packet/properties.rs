//! MQTT 5.0 properties (section 2.2.2.2).

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16, be_u32};

use super::decode::DecodeError;
use super::wire::{binary, check_topic, fail, put_binary, put_variable, string, topic, variable};

/// A block of properties, checked when it was read and kept as it came: no list is built, and nothing is copied.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Properties(Bytes);

/// One property.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Property {
    PayloadFormatIndicator(bool),
    MessageExpiryInterval(u32),
    ContentType(ByteString),
    ResponseTopic(ByteString),
    CorrelationData(Bytes),
    SubscriptionIdentifier(u32),
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(ByteString),
    ServerKeepAlive(u16),
    AuthenticationMethod(ByteString),
    AuthenticationData(Bytes),
    RequestProblemInformation(bool),
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(ByteString),
    ServerReference(ByteString),
    ReasonString(ByteString),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(u8),
    RetainAvailable(bool),
    UserProperty(ByteString, ByteString),
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifierAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

/// What a block of properties belongs to: it decides which ones may stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Owner {
    Connect,
    Will,
    ConnAck,
    Publish,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK: reason string and user properties.
    Ack,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Auth,
}

impl Owner {
    /// Table 2-4 of the specification, by owner.
    fn allows(self, id: u8) -> bool {
        match self {
            Owner::Connect => matches!(id, 0x11 | 0x15 | 0x16 | 0x17 | 0x19 | 0x21 | 0x22 | 0x26 | 0x27),
            Owner::Will => matches!(id, 0x01 | 0x02 | 0x03 | 0x08 | 0x09 | 0x18 | 0x26),
            Owner::ConnAck => matches!(
                id,
                0x11..=0x13 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f | 0x21 | 0x22 | 0x24..=0x2a
            ),
            Owner::Publish => matches!(id, 0x01 | 0x02 | 0x03 | 0x08 | 0x09 | 0x0b | 0x23 | 0x26),
            Owner::Ack => matches!(id, 0x1f | 0x26),
            Owner::Subscribe => matches!(id, 0x0b | 0x26),
            Owner::Unsubscribe => id == 0x26,
            Owner::Disconnect => matches!(id, 0x11 | 0x1c | 0x1f | 0x26),
            Owner::Auth => matches!(id, 0x15 | 0x16 | 0x1f | 0x26),
        }
    }

    /// User properties repeat anywhere, subscription identifiers in a PUBLISH; nothing else does.
    fn repeats(self, id: u8) -> bool {
        id == 0x26 || (id == 0x0b && self == Owner::Publish)
    }
}

impl Properties {
    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The block without its length, as on the wire.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// In the order of the sender.
    pub fn iter(&self) -> impl Iterator<Item = Property> + '_ {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            // The block was checked as a whole when it was made, so an error cannot come up here.
            let (after, (_, property)) = (!rest.is_empty())
                .then(|| property(&self.0).parse(rest).ok())
                .flatten()?;
            rest = after;
            Some(property)
        })
    }

    /// The first one that `pick` takes.
    pub fn find<T>(&self, pick: impl FnMut(Property) -> Option<T>) -> Option<T> {
        self.iter().find_map(pick)
    }

    /// Checks a block that came without its length, as [`Properties::as_bytes`] gave it.
    pub fn check(block: Bytes, owner: Owner) -> Result<Properties, DecodeError> {
        let mut seen = 0u64;
        let mut rest = &block[..];
        while !rest.is_empty() {
            let (after, (id, property)) = match property(&block).parse(rest) {
                Ok(parsed) => parsed,
                Err(nom::Err::Error(error) | nom::Err::Failure(error)) => return Err(error),
                Err(nom::Err::Incomplete(_)) => return Err(DecodeError::Truncated),
            };
            rest = after;
            if !owner.allows(id) {
                return Err(DecodeError::PropertyNotAllowed { id, owner });
            }
            if seen & (1 << id) != 0 && !owner.repeats(id) {
                return Err(DecodeError::PropertyRepeated(id));
            }
            seen |= 1 << id;
            check_value(id, &property)?;
        }
        if seen & (1 << 0x16) != 0 && seen & (1 << 0x15) == 0 {
            return Err(DecodeError::PropertyValue(0x16));
        }
        Ok(Properties(block))
    }
}

/// Values that have the right shape and are forbidden all the same.
fn check_value(id: u8, property: &Property) -> Result<(), DecodeError> {
    let good = match property {
        Property::TopicAlias(0) => return Err(DecodeError::TopicAliasZero),
        Property::ReceiveMaximum(value) => *value > 0,
        Property::MaximumPacketSize(value) => *value > 0,
        Property::SubscriptionIdentifier(value) => *value > 0,
        Property::MaximumQos(value) => *value < 2,
        _ => true,
    };
    if good {
        Ok(())
    } else {
        Err(DecodeError::PropertyValue(id))
    }
}

/// Reads a block with its length in front.
pub(super) fn properties<'a>(
    frame: &Bytes,
    owner: Owner,
) -> impl Parser<&'a [u8], Output = Properties, Error = DecodeError> {
    move |input: &'a [u8]| {
        let (rest, length) = variable(input)?;
        if length == 0 {
            return Ok((rest, Properties::default()));
        }
        let (rest, block) = take(length).parse(rest)?;
        let properties = Properties::check(frame.slice_ref(block), owner).map_err(nom::Err::Failure)?;
        Ok((rest, properties))
    }
}

/// One property with its identifier in front.
fn property<'a>(frame: &Bytes) -> impl Parser<&'a [u8], Output = (u8, Property), Error = DecodeError> {
    move |input: &'a [u8]| {
        // Identifiers are variable byte integers; all that are assigned fit one byte.
        let (rest, id) = variable(input)?;
        let id = u8::try_from(id).or(Err(nom::Err::Failure(DecodeError::PropertyUnknown(id))))?;
        let flag = |rest| match be_u8(rest)? {
            (rest, value @ 0..=1) => Ok((rest, value == 1)),
            _ => fail(DecodeError::PropertyValue(id)),
        };
        let (rest, property) = match id {
            0x01 => flag.map(Property::PayloadFormatIndicator).parse(rest),
            0x02 => be_u32.map(Property::MessageExpiryInterval).parse(rest),
            0x03 => string(frame).map(Property::ContentType).parse(rest),
            0x08 => topic(frame).map(Property::ResponseTopic).parse(rest),
            0x09 => binary(frame).map(Property::CorrelationData).parse(rest),
            0x0b => variable
                .map(|id| Property::SubscriptionIdentifier(id as u32))
                .parse(rest),
            0x11 => be_u32.map(Property::SessionExpiryInterval).parse(rest),
            0x12 => string(frame).map(Property::AssignedClientIdentifier).parse(rest),
            0x13 => be_u16.map(Property::ServerKeepAlive).parse(rest),
            0x15 => string(frame).map(Property::AuthenticationMethod).parse(rest),
            0x16 => binary(frame).map(Property::AuthenticationData).parse(rest),
            0x17 => flag.map(Property::RequestProblemInformation).parse(rest),
            0x18 => be_u32.map(Property::WillDelayInterval).parse(rest),
            0x19 => flag.map(Property::RequestResponseInformation).parse(rest),
            0x1a => string(frame).map(Property::ResponseInformation).parse(rest),
            0x1c => string(frame).map(Property::ServerReference).parse(rest),
            0x1f => string(frame).map(Property::ReasonString).parse(rest),
            0x21 => be_u16.map(Property::ReceiveMaximum).parse(rest),
            0x22 => be_u16.map(Property::TopicAliasMaximum).parse(rest),
            0x23 => be_u16.map(Property::TopicAlias).parse(rest),
            0x24 => be_u8.map(Property::MaximumQos).parse(rest),
            0x25 => flag.map(Property::RetainAvailable).parse(rest),
            0x26 => (string(frame), string(frame))
                .map(|(name, value)| Property::UserProperty(name, value))
                .parse(rest),
            0x27 => be_u32.map(Property::MaximumPacketSize).parse(rest),
            0x28 => flag.map(Property::WildcardSubscriptionAvailable).parse(rest),
            0x29 => flag.map(Property::SubscriptionIdentifierAvailable).parse(rest),
            0x2a => flag.map(Property::SharedSubscriptionAvailable).parse(rest),
            _ => return fail(DecodeError::PropertyUnknown(usize::from(id))),
        }?;
        Ok((rest, (id, property)))
    }
}

impl Property {
    /// Whether it has a form on the wire: strings and data fit two bytes of length, strings are free of the null
    /// character, a response topic is a topic. Only properties that did not come over MQTT can fail.
    pub(crate) fn is_valid(&self) -> bool {
        const MAX: usize = u16::MAX as usize;
        let text = |text: &ByteString| text.len() <= MAX && !text.as_bytes().contains(&0);
        match self {
            Property::ResponseTopic(topic) => text(topic) && check_topic(topic).is_ok(),
            Property::ContentType(value)
            | Property::AssignedClientIdentifier(value)
            | Property::AuthenticationMethod(value)
            | Property::ResponseInformation(value)
            | Property::ServerReference(value)
            | Property::ReasonString(value) => text(value),
            Property::CorrelationData(data) | Property::AuthenticationData(data) => data.len() <= MAX,
            Property::UserProperty(name, value) => text(name) && text(value),
            _ => true,
        }
    }

    /// Appends it, identifier first.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        let mut text = |id: u8, data: &[u8]| {
            out.put_u8(id);
            put_binary(out, data);
        };
        match self {
            Property::ContentType(value) => text(0x03, value.as_bytes()),
            Property::ResponseTopic(value) => text(0x08, value.as_bytes()),
            Property::CorrelationData(value) => text(0x09, value),
            Property::AssignedClientIdentifier(value) => text(0x12, value.as_bytes()),
            Property::AuthenticationMethod(value) => text(0x15, value.as_bytes()),
            Property::AuthenticationData(value) => text(0x16, value),
            Property::ResponseInformation(value) => text(0x1a, value.as_bytes()),
            Property::ServerReference(value) => text(0x1c, value.as_bytes()),
            Property::ReasonString(value) => text(0x1f, value.as_bytes()),
            Property::UserProperty(name, value) => {
                text(0x26, name.as_bytes());
                put_binary(out, value.as_bytes());
            }
            Property::SubscriptionIdentifier(value) => {
                out.put_u8(0x0b);
                put_variable(out, *value as usize);
            }
            Property::MessageExpiryInterval(value) => put_u32(out, 0x02, *value),
            Property::SessionExpiryInterval(value) => put_u32(out, 0x11, *value),
            Property::WillDelayInterval(value) => put_u32(out, 0x18, *value),
            Property::MaximumPacketSize(value) => put_u32(out, 0x27, *value),
            Property::ServerKeepAlive(value) => put_u16(out, 0x13, *value),
            Property::ReceiveMaximum(value) => put_u16(out, 0x21, *value),
            Property::TopicAliasMaximum(value) => put_u16(out, 0x22, *value),
            Property::TopicAlias(value) => put_u16(out, 0x23, *value),
            Property::PayloadFormatIndicator(value) => out.put_slice(&[0x01, u8::from(*value)]),
            Property::RequestProblemInformation(value) => out.put_slice(&[0x17, u8::from(*value)]),
            Property::RequestResponseInformation(value) => out.put_slice(&[0x19, u8::from(*value)]),
            Property::MaximumQos(value) => out.put_slice(&[0x24, *value]),
            Property::RetainAvailable(value) => out.put_slice(&[0x25, u8::from(*value)]),
            Property::WildcardSubscriptionAvailable(value) => out.put_slice(&[0x28, u8::from(*value)]),
            Property::SubscriptionIdentifierAvailable(value) => out.put_slice(&[0x29, u8::from(*value)]),
            Property::SharedSubscriptionAvailable(value) => out.put_slice(&[0x2a, u8::from(*value)]),
        }
    }
}

fn put_u16(out: &mut BytesMut, id: u8, value: u16) {
    out.put_u8(id);
    out.put_u16(value);
}

fn put_u32(out: &mut BytesMut, id: u8, value: u32) {
    out.put_u8(id);
    out.put_u32(value);
}

/// A property that has no form on the wire is left out.
impl FromIterator<Property> for Properties {
    fn from_iter<I: IntoIterator<Item = Property>>(properties: I) -> Properties {
        let mut out = BytesMut::new();
        properties
            .into_iter()
            .filter(Property::is_valid)
            .for_each(|property| property.put(&mut out));
        Properties(out.freeze())
    }
}

impl std::fmt::Debug for Properties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
