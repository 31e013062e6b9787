//! The rows of a session that outlives its connection, or has a will. All are in the group of the client id, but for
//! what belongs to a message (`RECEIVED…`, `WILL_SENT`), which is in the group of the message's topic.
//!
//! Values are control values (`headwater_store::encode_control`); keys are written by hand:
//!
//! ```text
//! SESSION_OWNER, SESSION, SESSION_PROGRESS, SESSION_WILL, RECEIVED_BY    client id
//! SESSION_SUBSCRIPTION, SESSION_STREAM                                   client id length u16 | client id | filter
//! RECEIVED                                                               client id length u16 | client id | packet id u16
//! WILL_SENT                                                              client id length u16 | client id | epoch u64
//! ```

use bincode::{Decode, Encode};
use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use headwater_store::{LogIndex, NodeId, Offset, Qos, ShardId, TimestampMs, TopicName};

use crate::cursor::{At, Cursor};
use crate::packet::{Owner as PropertyOwner, PacketId, Properties, SubscriptionOptions};
use crate::publish::Message;
use crate::session::Subscription;

/// Who serves a session. Every other write of the session is conditional on this row, so one that lost the session
/// writes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Owner {
    /// Grows with each connection of the client, for ever.
    pub epoch: u64,
    /// The node.
    pub node: NodeId,
}

/// The session itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SessionRow {
    /// How long it is kept after its connection ended; `u32::MAX` is for ever.
    pub expiry_s: u32,
    /// When its connection ended; None while it is connected.
    pub ended_at: Option<TimestampMs>,
    /// It has sent QoS 2 messages: the groups know its owner, and may hold packet ids of it.
    pub receives: bool,
    /// The user name of its connection.
    pub username: Option<String>,
}

impl SessionRow {
    /// When it is over; None while it is connected, or if never.
    pub fn ends_at(&self) -> Option<TimestampMs> {
        let ended_at = self.ended_at.filter(|_| self.expiry_s != u32::MAX)?;
        Some(TimestampMs(ended_at.0.saturating_add(i64::from(self.expiry_s) * 1000)))
    }
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SubscriptionRow {
    options: u8,
    id: Option<u32>,
    since: Vec<LogIndex>,
}

impl SubscriptionRow {
    pub fn new(subscription: &Subscription, since: &[LogIndex]) -> SubscriptionRow {
        SubscriptionRow {
            options: subscription.options.to_byte(),
            id: subscription.id,
            since: since.to_vec(),
        }
    }

    /// The subscription to `filter` that this row keeps, and how far each group was applied when it was made.
    pub fn read(self, filter: &str) -> Option<(Subscription, Vec<LogIndex>)> {
        let options = SubscriptionOptions::from_stored(self.options)?;
        Some((Subscription::parse(filter, options, self.id)?, self.since))
    }
}

/// A stream that a session replays.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StreamRow {
    /// As granted.
    pub qos: Qos,
    /// The Subscription Identifier.
    pub id: Option<u32>,
    /// The next offset of each shard.
    pub cursors: Vec<(ShardId, Offset)>,
}

/// What a session has taken and what of it is not acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct ProgressRow {
    /// One for each group.
    pub cursors: Vec<Cursor>,
    /// In the order of their first delivery.
    pub pending: Vec<PendingRow>,
}

/// A message that was delivered and is not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PendingRow {
    pub packet_id: u16,
    pub source: SourceRow,
    pub qos: Qos,
    pub retain: bool,
    pub ids: Vec<u32>,
    /// PUBREC has come: what is left is PUBREL and PUBCOMP.
    pub released: bool,
}

/// Where a pending message is read again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum SourceRow {
    Log(At),
    /// The retained message of that topic.
    Retained(String),
}

/// The will of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct WillRow {
    /// Of the connection that left it.
    pub epoch: u64,
    /// How long it waits after the connection's end.
    pub delay_s: u32,
    topic: String,
    payload: Vec<u8>,
    qos: Qos,
    retain: bool,
    properties: Vec<u8>,
}

impl WillRow {
    pub fn new(will: &Message, delay_s: u32, epoch: u64) -> WillRow {
        WillRow {
            epoch,
            delay_s,
            topic: will.topic.as_str().to_owned(),
            payload: will.payload.to_vec(),
            qos: will.qos,
            retain: will.retain,
            properties: will.properties.as_bytes().to_vec(),
        }
    }

    /// The message; None for a row that another version wrote.
    pub fn message(&self) -> Option<Message> {
        Some(Message {
            topic: TopicName::new(self.topic.as_str()).ok()?,
            payload: Bytes::copy_from_slice(&self.payload),
            qos: self.qos,
            retain: self.retain,
            properties: Properties::check(Bytes::copy_from_slice(&self.properties), PropertyOwner::Will).ok()?,
        })
    }
}

/// The key of a client's own rows.
pub fn client_key(client_id: &ByteString) -> Bytes {
    client_id.as_bytes().clone()
}

/// What the keys of all rows of one client begin with, where it has several. A client id has at most
/// `CLIENT_ID_BYTES_MAX` bytes.
pub fn client_prefix(client_id: &str) -> BytesMut {
    let mut key = BytesMut::with_capacity(client_id.len() + 16);
    key.put_u16(client_id.len() as u16);
    key.put_slice(client_id.as_bytes());
    key
}

pub fn subscription_key(client_id: &str, filter: &str) -> Bytes {
    let mut key = client_prefix(client_id);
    key.put_slice(filter.as_bytes());
    key.freeze()
}

pub fn received_key(client_id: &str, packet_id: PacketId) -> Bytes {
    let mut key = client_prefix(client_id);
    key.put_u16(packet_id.get());
    key.freeze()
}

/// The packet id of a RECEIVED key.
pub fn received_packet_id(key: &[u8]) -> Option<PacketId> {
    let id = key.last_chunk::<2>()?;
    PacketId::new(u16::from_be_bytes(*id))
}

pub fn will_sent_key(client_id: &str, epoch: u64) -> Bytes {
    let mut key = client_prefix(client_id);
    key.put_u64(epoch);
    key.freeze()
}

#[cfg(test)]
mod tests {
    use headwater_store::{decode_control, encode_control};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_subscription_comes_back(
            filter in "(\\$share/[a-z]{1,3}/)?[a-z+]{1}(/[a-z]{1,3}){0,3}(/#)?",
            options in 0u8..0x30,
            id in proptest::option::of(1u32..268_435_455),
            since: Vec<u64>,
        ) {
            let Some(options) = SubscriptionOptions::from_stored(options) else { return Ok(()) };
            let subscription = Subscription::parse(&filter, options, id).unwrap();
            prop_assert_eq!(&*subscription.text(), filter.as_str());
            let since: Vec<LogIndex> = since.into_iter().map(LogIndex).collect();
            let row = encode_control(&SubscriptionRow::new(&subscription, &since));
            let read: SubscriptionRow = decode_control(&row).unwrap();
            prop_assert_eq!(read.read(&filter), Some((subscription, since)));
        }

        #[test]
        fn keys_of_one_client_are_never_another_ones(a in "[a-c]{0,3}", b in "[a-c]{0,3}", filter in "[a-c]{1,3}") {
            let key = subscription_key(&a, &filter);
            prop_assert_eq!(key.starts_with(&client_prefix(&b)), a == b);
        }

        #[test]
        fn a_packet_id_comes_back(client in "[a-z]{0,5}", id in 1u16..) {
            let id = PacketId::new(id).unwrap();
            prop_assert_eq!(received_packet_id(&received_key(&client, id)), Some(id));
        }
    }

    #[test]
    fn a_session_ends_when_its_expiry_has_passed_and_not_while_it_is_connected() {
        let row = |expiry_s, ended_at: Option<i64>| SessionRow {
            expiry_s,
            ended_at: ended_at.map(TimestampMs),
            receives: false,
            username: None,
        };
        assert_eq!(row(5, Some(1000)).ends_at(), Some(TimestampMs(6000)));
        assert_eq!(row(5, None).ends_at(), None);
        assert_eq!(row(u32::MAX, Some(1000)).ends_at(), None);
    }
}
