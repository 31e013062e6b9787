//! The protocol's state for one client: packets in, actions out. No socket, no clock of its own, no store.
//!
//! The connection feeds it packets and carries out the [`Action`]s in order; it gives it deliveries and the outcomes
//! of what the client published, and gets bytes for the socket. Sessions are clean: nothing outlives the connection.

mod alias;
mod connect;
mod inflight;

use std::collections::HashMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use headwater_store::{Qos, TimestampMs, TopicFilter, TopicName};

use crate::error::{End, PublishError};
use crate::limits::REASON_STRING_BYTES_MAX;
use crate::outbox::Delivery;
use crate::packet::{
    Ack, Disconnect, Packet, PacketId, Properties, Property, Publish, PublishParts, Reason, RetainHandling, SubAck,
    Subscribe, SubscriptionOptions, Unsubscribe, Version, encode,
};
use crate::publish::{Message, RESERVED_TOPICS, reserved_topic};

use alias::{InboundAliases, OutboundAliases};
use inflight::Inflight;

pub use connect::{Accepted, SessionLimits, accept};

/// What the connection is to do, in order.
#[derive(Debug)]
pub enum Action {
    /// Commit a message, then report it to [`Session::acknowledge`] if it has a packet id.
    Publish { message: Message, ack: Option<PacketId> },
    /// A message that is refused. Its outcome waits for its turn: acknowledgements keep the order of the messages.
    Refuse { ack: Option<PacketId>, error: PublishError },
    /// Add or replace a subscription.
    Subscribe(Subscription),
    /// Take one away.
    Unsubscribe(TopicFilter),
    /// Send this.
    Send(Packet),
    /// Then send the retained messages that this subscription matches.
    SendRetained(Subscription),
}

/// A granted subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// What it matches.
    pub filter: TopicFilter,
    /// As granted.
    pub options: SubscriptionOptions,
    /// The Subscription Identifier.
    pub id: Option<u32>,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// Its packet is in the buffer.
    Sent,
    /// The client has as many unacknowledged messages as it may have: try again after a PUBACK.
    WindowFull,
    /// It had expired.
    Expired,
    /// The client said that it does not take packets of that size [MQTT-3.1.2-24].
    Oversize,
}

/// One client's protocol state, from its CONNECT to its end.
#[derive(Debug)]
pub struct Session {
    version: Version,
    client_id: ByteString,
    username: Option<ByteString>,
    keep_alive: Option<Duration>,
    will: Option<Message>,
    /// The client asked for a session that outlives the connection; it was told that it gets none.
    asked_expiry: bool,
    /// The client wants reason strings.
    problem_information: bool,
    receive_max: u16,
    /// Its QoS 1 messages that are not acknowledged yet.
    unacknowledged: usize,
    inbound_aliases: InboundAliases,
    outbound_aliases: OutboundAliases,
    inflight: Inflight,
    /// The client's Maximum Packet Size.
    packet_max: usize,
    subscriptions_max: usize,
    subscriptions: HashMap<ByteString, TopicFilter>,
    /// Reused for the properties that one delivery does not share with others.
    scratch: BytesMut,
}

impl Session {
    /// Given or assigned.
    pub fn client_id(&self) -> &ByteString {
        &self.client_id
    }

    /// If it gave one.
    pub fn username(&self) -> Option<&ByteString> {
        self.username.as_ref()
    }

    /// After how long without a packet the client counts as lost: one and a half times its keep alive
    /// [MQTT-3.1.2-22]. None when it is off.
    pub fn keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    /// The will, if this `end` publishes it.
    pub fn will(&mut self, end: &End) -> Option<Message> {
        self.will.take().filter(|_| end.publishes_will())
    }

    /// The filters it is subscribed to.
    pub fn subscriptions(&self) -> impl ExactSizeIterator<Item = &TopicFilter> {
        self.subscriptions.values()
    }

    /// False while a client before 5.0, which knows no Receive Maximum, has as many messages on the way as a newer
    /// one might: it is slowed by not reading on.
    pub fn may_receive(&self) -> bool {
        self.version == Version::V5 || self.unacknowledged < usize::from(self.receive_max)
    }

    /// Takes one packet. An error ends the connection.
    pub fn receive(&mut self, packet: Packet, actions: &mut Vec<Action>) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.publish(publish, actions),
            Packet::PubAck(ack) => {
                // Out of order is fine, and one that is not expected does no harm: it may be late.
                self.inflight.release(ack.packet_id);
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.subscribe(subscribe, actions),
            Packet::Unsubscribe(unsubscribe) => {
                self.unsubscribe(unsubscribe, actions);
                Ok(())
            }
            Packet::PingReq => {
                actions.push(Action::Send(Packet::PingResp));
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.disconnect(&disconnect)),
            Packet::PubRel(ack) => {
                actions.push(Action::Send(Packet::PubComp(not_found(ack.packet_id))));
                Ok(())
            }
            Packet::PubRec(ack) if self.version == Version::V5 => {
                actions.push(Action::Send(Packet::PubRel(not_found(ack.packet_id))));
                Ok(())
            }
            Packet::PubComp(_) => Ok(()),
            Packet::Auth(_) => Err(protocol_error("AUTH without an authentication method in CONNECT")),
            Packet::Connect(_) => Err(protocol_error("a second CONNECT")),
            Packet::PubRec(_) | Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => Err(
                protocol_error("a packet that only a server sends, or that answers nothing"),
            ),
        }
    }

    fn publish(&mut self, publish: Publish, actions: &mut Vec<Action>) -> Result<(), End> {
        if publish.qos == Qos::ExactlyOnce {
            return Err(End::server(Reason::QOS_NOT_SUPPORTED, "QoS 2 is not supported yet"));
        }
        if publish.packet_id.is_some() {
            if self.version == Version::V5 && self.unacknowledged >= usize::from(self.receive_max) {
                let detail = format!("more than {} unacknowledged messages", self.receive_max);
                return Err(End::server(Reason::RECEIVE_MAXIMUM_EXCEEDED, detail));
            }
            self.unacknowledged += 1;
        }
        let ack = publish.packet_id;
        let topic = match self.topic_of(&publish)? {
            Ok(topic) => topic,
            Err(error) => {
                actions.push(Action::Refuse { ack, error });
                return Ok(());
            }
        };
        let (payload, qos, retain) = (publish.payload, publish.qos, publish.retain);
        let message = Message {
            topic,
            payload,
            qos,
            retain,
            properties: publish.properties,
        };
        actions.push(Action::Publish { message, ack });
        Ok(())
    }

    /// The topic that a PUBLISH names, directly or by its alias. The inner error refuses the message only.
    fn topic_of(&mut self, publish: &Publish) -> Result<Result<TopicName, PublishError>, End> {
        let mut alias = None;
        for property in publish.properties.iter() {
            match property {
                Property::TopicAlias(number) => alias = Some(number),
                Property::SubscriptionIdentifier(_) => {
                    return Err(protocol_error("a subscription identifier in a PUBLISH from a client"));
                }
                _ => {}
            }
        }
        if publish.topic.is_empty() {
            return self.inbound_aliases.topic(alias.unwrap_or(0)).map(Ok);
        }
        let topic = match TopicName::new(publish.topic.clone()) {
            Ok(topic) => topic,
            Err(error) => return Ok(Err(error.into())),
        };
        if let Some(alias) = alias {
            self.inbound_aliases.set(alias, &topic)?;
        }
        Ok(match reserved_topic(&topic) {
            Some(name) => Err(PublishError::Reserved(name)),
            None => Ok(topic),
        })
    }

    /// The outcome of a QoS 1 message, in the order of the messages. Writes its PUBACK to `out`. A client before 5.0
    /// can only be told of a success, so a message that was not committed ends its connection unacknowledged.
    pub fn acknowledge(
        &mut self,
        packet_id: PacketId,
        outcome: &Result<(), PublishError>,
        out: &mut BytesMut,
    ) -> Result<(), End> {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
        let reason = match outcome {
            Ok(()) => Reason::SUCCESS,
            Err(error) => match error.reason() {
                Some(reason) if self.version == Version::V5 => reason,
                Some(reason) => return Err(End::server(reason, error.to_string())),
                None => return Err(End::server(Reason::IMPLEMENTATION_SPECIFIC_ERROR, error.to_string())),
            },
        };
        if reason == Reason::SUCCESS {
            let [high, low] = packet_id.get().to_be_bytes();
            out.put_slice(&[0x40, 2, high, low]);
            return Ok(());
        }
        let detail = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let properties = self.reason_string(&detail);
        self.send(
            &Packet::PubAck(Ack {
                packet_id,
                reason,
                properties,
            }),
            out,
        );
        Ok(())
    }

    fn subscribe(&mut self, subscribe: Subscribe, actions: &mut Vec<Action>) -> Result<(), End> {
        let id = subscribe.properties.find(|property| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        });
        let mut reasons = BytesMut::new();
        let mut retained = Vec::new();
        let mut granted = 0;
        for (text, options) in subscribe.subscriptions.iter() {
            // Also when all of them name the same filter: each costs a look for retained messages.
            let answer = match granted < self.subscriptions_max {
                true => self.grant(&text, options, id),
                false => Err(Reason::QUOTA_EXCEEDED),
            };
            match answer {
                Ok((subscription, existed)) => {
                    granted += 1;
                    reasons.put_u8(subscription.options.qos.bits());
                    if wants_retained(options.retain_handling, existed) {
                        retained.push(Action::SendRetained(subscription.clone()));
                    }
                    actions.push(Action::Subscribe(subscription));
                }
                // 3.1 has no code for a failure.
                Err(reason) if self.version == Version::V3_1 => {
                    return Err(End::server(reason, "the subscription is refused"));
                }
                Err(reason) => reasons.put_u8(reason.0),
            }
        }
        let (packet_id, properties) = (subscribe.packet_id, Properties::default());
        actions.push(Action::Send(Packet::SubAck(SubAck {
            packet_id,
            properties,
            reasons: reasons.freeze(),
        })));
        actions.append(&mut retained);
        Ok(())
    }

    /// Checks one filter. Gives the subscription and whether it existed before.
    fn grant(
        &mut self,
        text: &ByteString,
        mut options: SubscriptionOptions,
        id: Option<u32>,
    ) -> Result<(Subscription, bool), Reason> {
        if text.starts_with("$share/") {
            return Err(Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        // $SYS may be subscribed to, as every broker allows; the others would promise what is not there yet.
        if RESERVED_TOPICS
            .iter()
            .any(|name| *name != "$SYS" && begins_with_level(text, name))
        {
            return Err(Reason::IMPLEMENTATION_SPECIFIC_ERROR);
        }
        // A copy of the text, which is a slice of a whole read buffer.
        let text = ByteString::from(&**text);
        let filter = TopicFilter::new(text.clone()).map_err(|_| Reason::TOPIC_FILTER_INVALID)?;
        let existed = self.subscriptions.contains_key(&text);
        if !existed && self.subscriptions.len() >= self.subscriptions_max {
            return Err(Reason::QUOTA_EXCEEDED);
        }
        self.subscriptions.insert(text, filter.clone());
        options.qos = options.qos.min(Qos::AtLeastOnce);
        Ok((Subscription { filter, options, id }, existed))
    }

    /// One code per filter, also for filters that were not subscribed to.
    fn unsubscribe(&mut self, unsubscribe: Unsubscribe, actions: &mut Vec<Action>) {
        let mut reasons = BytesMut::new();
        for text in unsubscribe.filters.iter() {
            match self.subscriptions.remove(&text) {
                Some(filter) => {
                    actions.push(Action::Unsubscribe(filter));
                    reasons.put_u8(Reason::SUCCESS.0);
                }
                None => reasons.put_u8(Reason::NO_SUBSCRIPTION_EXISTED.0),
            }
        }
        let (packet_id, properties) = (unsubscribe.packet_id, Properties::default());
        actions.push(Action::Send(Packet::UnsubAck(SubAck {
            packet_id,
            properties,
            reasons: reasons.freeze(),
        })));
    }

    fn disconnect(&self, disconnect: &Disconnect) -> End {
        let raises_expiry = disconnect
            .properties
            .iter()
            .any(|property| matches!(property, Property::SessionExpiryInterval(seconds) if seconds > 0));
        if raises_expiry && !self.asked_expiry {
            return protocol_error("a session expiry interval in DISCONNECT after none in CONNECT");
        }
        End::Client {
            with_will: disconnect.reason != Reason::SUCCESS,
        }
    }

    /// Writes one delivery to `out`, unless there is a reason not to.
    pub fn deliver(&mut self, delivery: &Delivery, now: TimestampMs, out: &mut BytesMut) -> Delivered {
        let message = &*delivery.message;
        let expires_in_s = message.expires_in_s(now);
        if expires_in_s == Some(0) {
            return Delivered::Expired;
        }
        let packet_id = match delivery.qos {
            Qos::AtMostOnce => None,
            _ => match self.inflight.take() {
                Some(id) => Some(id),
                None => return Delivered::WindowFull,
            },
        };
        self.scratch.clear();
        let mut topic = message.topic.as_str();
        if self.version == Version::V5 {
            expires_in_s
                .map(Property::MessageExpiryInterval)
                .iter()
                .for_each(|p| p.put(&mut self.scratch));
            for id in delivery.subscription_ids.iter().flat_map(|ids| ids.iter()) {
                Property::SubscriptionIdentifier(*id).put(&mut self.scratch);
            }
            if let Some((alias, known)) = self.outbound_aliases.alias(&message.topic) {
                Property::TopicAlias(alias).put(&mut self.scratch);
                topic = if known { "" } else { topic };
            }
        }
        let parts = PublishParts {
            version: self.version,
            dup: false,
            qos: if packet_id.is_some() {
                Qos::AtLeastOnce
            } else {
                Qos::AtMostOnce
            },
            retain: delivery.retain,
            topic,
            packet_id,
            properties: [
                if self.version == Version::V5 {
                    message.properties()
                } else {
                    &[]
                },
                &self.scratch,
            ],
            payload: &message.payload,
        };
        if parts.size() > self.packet_max || parts.put(out).is_err() {
            packet_id.inspect(|id| self.inflight.release(*id));
            self.outbound_aliases.forget(&message.topic, topic);
            return Delivered::Oversize;
        }
        Delivered::Sent
    }

    /// Writes a packet that the client is to get, if it takes packets of that size.
    pub fn send(&self, packet: &Packet, out: &mut BytesMut) {
        let start = out.len();
        if let Err(error) = encode(packet, self.version, out) {
            tracing::warn!(client_id = %self.client_id, %error, "a packet could not be encoded");
        }
        if out.len() - start > self.packet_max {
            out.truncate(start);
        }
    }

    /// Writes what a 5.0 client is told when the broker ends the connection; older clients just see it close.
    pub fn goodbye(&self, end: &End, out: &mut BytesMut) {
        if let (End::Server { reason, detail }, Version::V5) = (end, self.version) {
            let properties = self.reason_string(detail);
            self.send(
                &Packet::Disconnect(Disconnect {
                    reason: *reason,
                    properties,
                }),
                out,
            );
        }
    }

    fn reason_string(&self, detail: &str) -> Properties {
        reason_string(detail, self.problem_information)
    }
}

/// A Reason String property, if it is wanted and there is something to say.
fn reason_string(detail: &str, wanted: bool) -> Properties {
    let end = detail.floor_char_boundary(REASON_STRING_BYTES_MAX);
    let text = Some(&detail[..end]).filter(|text| wanted && !text.is_empty());
    text.map(|text| Property::ReasonString(text.into()))
        .into_iter()
        .collect()
}

fn protocol_error(detail: &'static str) -> End {
    End::server(Reason::PROTOCOL_ERROR, detail)
}

fn not_found(packet_id: PacketId) -> Ack {
    Ack {
        packet_id,
        reason: Reason::PACKET_IDENTIFIER_NOT_FOUND,
        properties: Properties::default(),
    }
}

fn begins_with_level(text: &str, level: &str) -> bool {
    text.strip_prefix(level)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn wants_retained(handling: RetainHandling, existed: bool) -> bool {
    match handling {
        RetainHandling::Always => true,
        RetainHandling::IfNew => !existed,
        RetainHandling::Never => false,
    }
}

/// The bytes that answer a CONNECT which no session came of.
pub fn refusal(version: Version, reason: Reason, detail: &str) -> Bytes {
    connect::refusal(version, reason, detail)
}

#[cfg(test)]
mod tests;
