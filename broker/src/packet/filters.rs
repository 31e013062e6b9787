//! The lists in SUBSCRIBE and UNSUBSCRIBE, kept as they came and walked when needed.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use headwater_store::Qos;
use nom::Parser;
use nom::number::complete::be_u8;

use super::Version;
use super::decode::DecodeError;
use super::wire::{Parsed, fail, put_binary, string};

/// When a new subscription gets the retained messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetainHandling {
    /// 0: at each SUBSCRIBE.
    #[default]
    Always,
    /// 1: when the subscription did not exist before.
    IfNew,
    /// 2: not at all.
    Never,
}

/// The options byte of a subscription (section 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscriptionOptions {
    /// The highest QoS of its deliveries.
    pub qos: Qos,
    /// Not the client's own messages.
    pub no_local: bool,
    /// Keep the publisher's RETAIN flag.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    fn from_byte(byte: u8, version: Version) -> Option<SubscriptionOptions> {
        let reserved = if version == Version::V5 { 0xc0 } else { 0xfc };
        if byte & reserved != 0 {
            return None;
        }
        Some(SubscriptionOptions {
            qos: Qos::from_bits(byte & 3)?,
            no_local: byte & 4 != 0,
            retain_as_published: byte & 8 != 0,
            retain_handling: match byte >> 4 {
                0 => RetainHandling::Always,
                1 => RetainHandling::IfNew,
                2 => RetainHandling::Never,
                _ => return None,
            },
        })
    }

    /// Reads what [`SubscriptionOptions::to_byte`] gave, from a row.
    pub fn from_stored(byte: u8) -> Option<SubscriptionOptions> {
        SubscriptionOptions::from_byte(byte, Version::V5)
    }

    /// The byte of the wire.
    pub fn to_byte(self) -> u8 {
        self.qos.bits()
            | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling as u8) << 4
    }
}

/// Topic filters with options: the rest of a SUBSCRIBE.
#[derive(Clone, PartialEq, Eq)]
pub struct SubscriptionList(Bytes);

impl SubscriptionList {
    /// Checks that `list` is one or more filters with options.
    pub(super) fn check(list: Bytes, version: Version) -> Result<SubscriptionList, DecodeError> {
        each(&list, |rest| {
            subscription(&list, version).parse(rest).map(|(rest, _)| (rest, ()))
        })?;
        Ok(SubscriptionList(list))
    }

    /// In the order of the client.
    pub fn iter(&self) -> impl Iterator<Item = (ByteString, SubscriptionOptions)> + '_ {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            // The widest version reads every list: older ones only forbid more, and that was checked.
            let (after, item) = subscription(&self.0, Version::V5).parse(rest).ok()?;
            rest = after;
            Some(item)
        })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// For clients. A filter longer than MQTT allows is left out.
impl FromIterator<(ByteString, SubscriptionOptions)> for SubscriptionList {
    fn from_iter<I: IntoIterator<Item = (ByteString, SubscriptionOptions)>>(items: I) -> SubscriptionList {
        let mut out = BytesMut::new();
        for (filter, options) in items
            .into_iter()
            .filter(|(filter, _)| filter.len() <= usize::from(u16::MAX))
        {
            put_binary(&mut out, filter.as_bytes());
            out.put_u8(options.to_byte());
        }
        SubscriptionList(out.freeze())
    }
}

impl std::fmt::Debug for SubscriptionList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Topic filters: the rest of an UNSUBSCRIBE.
#[derive(Clone, PartialEq, Eq)]
pub struct FilterList(Bytes);

impl FilterList {
    /// Checks that `list` is one or more filters.
    pub(super) fn check(list: Bytes) -> Result<FilterList, DecodeError> {
        each(&list, |rest| filter(&list).parse(rest).map(|(rest, _)| (rest, ())))?;
        Ok(FilterList(list))
    }

    /// In the order of the client.
    pub fn iter(&self) -> impl Iterator<Item = ByteString> + '_ {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (after, item) = filter(&self.0).parse(rest).ok()?;
            rest = after;
            Some(item)
        })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// For clients. A filter longer than MQTT allows is left out.
impl FromIterator<ByteString> for FilterList {
    fn from_iter<I: IntoIterator<Item = ByteString>>(filters: I) -> FilterList {
        let mut out = BytesMut::new();
        for filter in filters
            .into_iter()
            .filter(|filter| filter.len() <= usize::from(u16::MAX))
        {
            put_binary(&mut out, filter.as_bytes());
        }
        FilterList(out.freeze())
    }
}

impl std::fmt::Debug for FilterList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Runs `parse` to the end of a list that must not be empty [MQTT-3.8.3-2] [MQTT-3.10.3-2].
fn each<'a>(list: &'a [u8], mut parse: impl FnMut(&'a [u8]) -> Parsed<'a, ()>) -> Result<(), DecodeError> {
    if list.is_empty() {
        return Err(DecodeError::ListEmpty);
    }
    let mut rest = list;
    while !rest.is_empty() {
        (rest, ()) = parse(rest).map_err(DecodeError::from_nom)?;
    }
    Ok(())
}

fn filter<'a>(frame: &Bytes) -> impl Parser<&'a [u8], Output = ByteString, Error = DecodeError> {
    |input: &'a [u8]| match string(frame).parse(input)? {
        (_, text) if text.is_empty() => fail(DecodeError::TopicEmpty),
        parsed => Ok(parsed),
    }
}

fn subscription<'a>(
    frame: &Bytes,
    version: Version,
) -> impl Parser<&'a [u8], Output = (ByteString, SubscriptionOptions), Error = DecodeError> {
    move |input: &'a [u8]| {
        let (rest, text) = filter(frame).parse(input)?;
        let (rest, byte) = be_u8(rest)?;
        match SubscriptionOptions::from_byte(byte, version) {
            Some(options) => Ok((rest, (text, options))),
            None => fail(DecodeError::SubscriptionOptions(byte)),
        }
    }
}
