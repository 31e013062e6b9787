//! The protocol's state for one client: packets in, actions out. No socket, no clock of its own, no store.
//!
//! The connection feeds it packets and carries out the [`Action`]s in order; it gives it deliveries and the outcomes
//! of what the client published, and gets bytes for the socket. Bytes come in two kinds: those that may be sent at once,
//! and, in a session that outlives its connection, those that may be sent when what they stand for is saved: a QoS 2
//! message with its packet id, a PUBREL.

mod alias;
mod connect;
mod inflight;
mod outbound;
mod words;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use bytestring::ByteString;
use headwater_store::{LogIndex, Qos, TopicFilter, TopicName, WriteError};

use crate::cursor::At;
use crate::error::{End, PublishError};
use crate::giver::Giver;
use crate::limits::FILTERS_BYTES_MAX;
use crate::packet::{
    Ack, Disconnect, Packet, PacketId, Properties, Property, Publish, Reason, RetainHandling, SubAck, Subscribe,
    SubscriptionOptions, Unsubscribe, Version,
};
use crate::pipeline::Answer;
use crate::publish::{Message, RESERVED_TOPICS, reserved_topic};
use crate::queue::{self, QUEUE_LEVEL};
use crate::replay::{OFFSET_PROPERTY, Replay, STREAM_LEVEL, Start};
use crate::views::{self, Names, Question, VIEW_LEVEL};

use alias::{InboundAliases, OutboundAliases};
use inflight::Inflight;
use words::{encode_within, reason_string};

pub use connect::{SessionLimits, accept, refusal};
pub use inflight::{Flight, Source};
pub use outbound::{Delivered, Output};

/// What the connection is to do, in order.
#[derive(Debug)]
pub enum Action {
    /// Commit a message, then report it to [`Session::acknowledge`] if it wants an answer.
    Publish { message: Message, answer: Option<Answer> },
    /// A message that is refused. Its outcome waits for its turn: acknowledgements keep the order of the messages.
    Refuse {
        answer: Option<Answer>,
        error: PublishError,
    },
    /// Forget that this QoS 2 message was received, then report it to [`Session::acknowledge`].
    Release(PacketId),
    /// Add or replace a subscription.
    Subscribe(Subscription),
    /// Become a consumer of a queue, which begins there if it is new.
    Consume(Subscription, Vec<Start>),
    /// Take one away.
    Unsubscribe(Subscription),
    /// Read a stream from a place on; the same filter begins anew.
    Replay(Replay),
    /// Publish what a view answers.
    Ask(Question, Option<Answer>),
    /// Read it no longer.
    EndReplay(ByteString),
    /// Tell a share or queue that its message at this place was acknowledged.
    Acknowledged(Giver, At),
    /// The same with an error.
    Rejected(Giver, At),
    /// Send this.
    Send(Packet),
    /// Send this when what came before it is saved.
    SendSaved(Packet),
    /// Then send the retained messages that this subscription matches.
    SendRetained(Subscription),
}

/// A granted subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The name of the share, for `$share/<name>/<filter>`.
    pub share: Option<ByteString>,
    /// What it matches.
    pub filter: TopicFilter,
    /// As granted.
    pub options: SubscriptionOptions,
    /// The Subscription Identifier.
    pub id: Option<u32>,
}

impl Subscription {
    /// Reads a SUBSCRIBE's topic filter. None if it is not one.
    pub fn parse(text: &str, options: SubscriptionOptions, id: Option<u32>) -> Option<Subscription> {
        let (share, filter) = match text.strip_prefix("$share/") {
            Some(rest) => {
                let (name, filter) = rest.split_once('/')?;
                if name.is_empty() || name.contains(['+', '#']) {
                    return None;
                }
                (Some(ByteString::from(name)), filter)
            }
            None => (None, text),
        };
        let filter = TopicFilter::new(filter).ok()?;
        Some(Subscription {
            share,
            filter,
            options,
            id,
        })
    }

    /// Whether it asks for figures of this node.
    pub fn is_sys(&self) -> bool {
        begins_with_level(self.filter.as_str(), "$SYS")
    }

    /// Whether it is a queue's.
    pub fn is_queue(&self) -> bool {
        self.filter.as_str().starts_with(QUEUE_LEVEL)
    }

    /// Whether its messages are for one of several clients: those of a share or a queue.
    pub fn competes(&self) -> bool {
        self.share.is_some() || self.is_queue()
    }

    /// As the client wrote it.
    pub fn text(&self) -> ByteString {
        match &self.share {
            Some(name) => format!("$share/{name}/{}", self.filter.as_str()).into(),
            None => self.filter.as_str().into(),
        }
    }
}

/// One client's protocol state, from its CONNECT to its end.
#[derive(Debug)]
pub struct Session {
    version: Version,
    client_id: ByteString,
    keep_alive: Option<Duration>,
    /// How long the session outlives the connection, in seconds; `u32::MAX` is for ever.
    expiry_s: u32,
    expiry_max_s: u32,
    /// It does, so its state is saved.
    durable: bool,
    /// The client wants reason strings.
    problem_information: bool,
    receive_max: u16,
    /// Its messages that are not acknowledged to the end: PUBACK or PUBCOMP.
    unacknowledged: usize,
    /// Its messages that wait for the log.
    in_log: usize,
    /// Its QoS 2 messages, until their PUBCOMP.
    received: HashMap<PacketId, Received>,
    inbound_aliases: InboundAliases,
    outbound_aliases: OutboundAliases,
    inflight: Inflight,
    /// The client's Maximum Packet Size.
    packet_max: usize,
    subscriptions_max: usize,
    subscriptions: HashMap<ByteString, Subscribed>,
    filters_bytes: usize,
    /// The streams and views that it replays, by filter.
    replays: HashSet<ByteString>,
    /// What streams and views there are.
    names: Option<Arc<Names>>,
    /// Reused for the properties that one delivery does not share with others.
    scratch: BytesMut,
}

/// A subscription, and how far each group was applied when it was made.
#[derive(Debug, Clone)]
pub struct Subscribed {
    /// As granted.
    pub subscription: Subscription,
    /// By group; what is older is not for it.
    pub since: Arc<[LogIndex]>,
}

/// A QoS 2 message of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Received {
    stage: Stage,
    /// It counts towards the Receive Maximum: it came over this connection.
    counts: bool,
}

/// What a PUBLISH is for.
enum Topic {
    Public(TopicName),
    View(Question),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// On its way into the log.
    Storing,
    /// Stored; PUBREC was sent.
    Stored,
    /// PUBREL came.
    Releasing,
}

impl Session {
    /// Given or assigned.
    pub fn client_id(&self) -> &ByteString {
        &self.client_id
    }

    /// After how long without a packet the client counts as lost: one and a half times its keep alive
    /// [MQTT-3.1.2-22]. None when it is off.
    pub fn keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    /// How long the session outlives the connection, in seconds, as of now.
    pub fn expiry_s(&self) -> u32 {
        self.expiry_s
    }

    /// What it is subscribed to.
    pub fn subscriptions(&self) -> impl ExactSizeIterator<Item = &Subscribed> {
        self.subscriptions.values()
    }

    /// From now on its state is saved: see [`Action::SendSaved`].
    pub fn set_durable(&mut self) {
        self.durable = true;
    }

    /// Lets it look which streams and views there are.
    pub fn set_names(&mut self, names: Arc<Names>) {
        self.names = Some(names);
    }

    /// Takes back what an earlier connection left: subscriptions, and QoS 2 messages that it stored.
    pub fn restore(&mut self, subscriptions: Vec<Subscribed>, received: impl Iterator<Item = PacketId>) {
        for subscribed in subscriptions {
            let text = subscribed.subscription.text();
            self.filters_bytes += text.len();
            self.subscriptions.insert(text, subscribed);
        }
        let stored = Received {
            stage: Stage::Stored,
            counts: false,
        };
        self.received = received.map(|id| (id, stored)).collect();
    }

    /// Takes back a stream that an earlier connection replayed. False when it is not there any more.
    pub fn restore_replay(&mut self, replay: &Replay) -> bool {
        let exists = self.names.as_ref().is_some_and(|names| replay.exists(&names.catalog()));
        self.filters_bytes += if exists { replay.text.len() } else { 0 };
        exists && self.replays.insert(replay.text.clone())
    }

    /// Whether it replays this, still.
    pub fn replays(&self, text: &ByteString) -> bool {
        self.replays.contains(text)
    }

    /// How far each group was applied when the subscription to `filter` was made: `now`, if it is new.
    pub fn since(&mut self, filter: &TopicFilter, now: impl FnOnce() -> Arc<[LogIndex]>) -> Arc<[LogIndex]> {
        match self.subscriptions.get_mut(filter.as_str()) {
            Some(subscribed) if subscribed.since.is_empty() => {
                subscribed.since = now();
                subscribed.since.clone()
            }
            Some(subscribed) => subscribed.since.clone(),
            None => now(),
        }
    }

    /// False while a client before 5.0, which knows no Receive Maximum, has as many messages on the way into the log as a
    /// newer one might: it is slowed by not reading on.
    pub fn may_receive(&self) -> bool {
        self.version == Version::V5 || self.in_log < usize::from(self.receive_max)
    }

    /// Takes one packet. An error ends the connection.
    pub fn receive(&mut self, packet: Packet, actions: &mut Vec<Action>) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.publish(publish, actions),
            Packet::PubAck(ack) => {
                // Out of order is fine, and one that is not expected does no harm: it may be late.
                let flight = self.inflight.acknowledge(ack.packet_id);
                if let Some((giver, at)) = flight.and_then(Flight::into_given) {
                    actions.push(match ack.reason.is_error() {
                        true => Action::Rejected(giver, at),
                        false => Action::Acknowledged(giver, at),
                    });
                }
                Ok(())
            }
            Packet::PubRec(ack) => {
                self.pubrec(&ack, actions);
                Ok(())
            }
            Packet::PubComp(ack) => {
                self.inflight.complete(ack.packet_id);
                Ok(())
            }
            Packet::PubRel(ack) => self.pubrel(ack.packet_id, actions),
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
            Packet::Auth(_) => Err(protocol_error("AUTH without an authentication method in CONNECT")),
            Packet::Connect(_) => Err(protocol_error("a second CONNECT")),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(protocol_error("a packet that only a server sends"))
            }
        }
    }

    fn publish(&mut self, publish: Publish, actions: &mut Vec<Action>) -> Result<(), End> {
        let answer = match (publish.qos, publish.packet_id) {
            (_, None) => None,
            (Qos::ExactlyOnce, Some(id)) => match self.received.get(&id).map(|received| received.stage) {
                // Sent again because PUBREC did not arrive: the message is ours already.
                Some(Stage::Stored) => {
                    actions.push(Action::Send(Packet::PubRec(success(id))));
                    return Ok(());
                }
                // Its PUBREC is still to come.
                Some(Stage::Storing) => return Ok(()),
                Some(Stage::Releasing) => return Err(protocol_error("a packet id that is still in use")),
                None => Some(Answer::Rec(id)),
            },
            (_, Some(id)) => Some(Answer::Ack(id)),
        };
        if answer.is_some() {
            if self.version == Version::V5 && self.unacknowledged >= usize::from(self.receive_max) {
                let detail = format!("more than {} unacknowledged messages", self.receive_max);
                return Err(End::server(Reason::RECEIVE_MAXIMUM_EXCEEDED, detail));
            }
            self.unacknowledged += 1;
            self.in_log += 1;
        }
        if let Some(Answer::Rec(id)) = answer {
            let (stage, counts) = (Stage::Storing, true);
            self.received.insert(id, Received { stage, counts });
        }
        let topic = match self.topic_of(&publish)?.and_then(|topic| self.public(topic, &publish)) {
            Ok(Topic::Public(topic)) => topic,
            Ok(Topic::View(question)) => {
                actions.push(Action::Ask(question, answer));
                return Ok(());
            }
            Err(error) => {
                actions.push(Action::Refuse { answer, error });
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
        actions.push(Action::Publish { message, answer });
        Ok(())
    }

    fn pubrel(&mut self, id: PacketId, actions: &mut Vec<Action>) -> Result<(), End> {
        match self.received.get_mut(&id) {
            Some(received) => match received.stage {
                Stage::Storing => return Err(protocol_error("a PUBREL before its PUBREC")),
                Stage::Stored => {
                    received.stage = Stage::Releasing;
                    self.in_log += 1;
                    actions.push(Action::Release(id));
                }
                // Its PUBCOMP is still to come.
                Stage::Releasing => {}
            },
            None => actions.push(Action::Send(Packet::PubComp(not_found(id)))),
        }
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
        Ok(Ok(topic))
    }

    /// Clients publish nothing to reserved topics, by whatever alias, but they may ask a view.
    fn public(&self, topic: TopicName, publish: &Publish) -> Result<Topic, PublishError> {
        let Some(name) = reserved_topic(&topic) else {
            return Ok(Topic::Public(topic));
        };
        let question = Question::of(topic.as_str(), publish).ok_or(PublishError::Reserved(name))?;
        match self.names.as_ref().is_some_and(|names| names.is_view(question.view())) {
            true => Ok(Topic::View(question)),
            false => Err(PublishError::NoView(question.view().to_owned())),
        }
    }

    /// The outcome of a message or its release, in the order of the packets. Writes the answer to `out`. A client before
    /// 5.0 can only be told of a success, so a message that was not committed ends its connection unacknowledged.
    pub fn acknowledge(
        &mut self,
        answer: Answer,
        outcome: &Result<(), PublishError>,
        out: &mut BytesMut,
    ) -> Result<(), End> {
        self.in_log = self.in_log.saturating_sub(1);
        let reason = match outcome {
            Ok(()) => Reason::SUCCESS,
            Err(PublishError::Write(WriteError::Conflict)) => return Err(End::taken_over()),
            Err(error) => match error.reason() {
                // Only a message can be refused; its release has to be done.
                Some(reason) if self.version == Version::V5 && !matches!(answer, Answer::Comp(_)) => reason,
                Some(reason) => return Err(End::server(reason, error.to_string())),
                None => return Err(End::server(Reason::IMPLEMENTATION_SPECIFIC_ERROR, error.to_string())),
            },
        };
        self.note_answer(answer, reason == Reason::SUCCESS);
        let (first_byte, packet_id) = match answer {
            Answer::Ack(id) => (0x40, id),
            Answer::Rec(id) => (0x50, id),
            Answer::Comp(id) => (0x70, id),
        };
        if reason == Reason::SUCCESS {
            let [high, low] = packet_id.get().to_be_bytes();
            out.put_slice(&[first_byte, 2, high, low]);
            return Ok(());
        }
        let detail = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let properties = self.reason_string(&detail);
        let ack = Ack {
            packet_id,
            reason,
            properties,
        };
        let packet = match answer {
            Answer::Ack(_) => Packet::PubAck(ack),
            Answer::Rec(_) | Answer::Comp(_) => Packet::PubRec(ack),
        };
        self.send(&packet, out);
        Ok(())
    }

    /// Moves a QoS 2 message on, and gives back its part of the Receive Maximum at its end.
    fn note_answer(&mut self, answer: Answer, good: bool) {
        let done = match answer {
            Answer::Ack(_) => true,
            Answer::Rec(id) if good => {
                if let Some(received) = self.received.get_mut(&id) {
                    received.stage = Stage::Stored;
                }
                false
            }
            Answer::Rec(id) | Answer::Comp(id) => self.received.remove(&id).is_some_and(|received| received.counts),
        };
        self.unacknowledged = self.unacknowledged.saturating_sub(usize::from(done));
    }

    fn subscribe(&mut self, subscribe: Subscribe, actions: &mut Vec<Action>) -> Result<(), End> {
        let id = subscribe.properties.find(|property| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        });
        // None: there is one that cannot be read.
        let starts: Option<Vec<Start>> = subscribe.properties.iter().filter_map(start).collect();
        let mut reasons = BytesMut::new();
        let mut retained = Vec::new();
        let mut granted = 0;
        for (text, options) in subscribe.subscriptions.iter() {
            if options.no_local && text.starts_with("$share/") {
                return Err(protocol_error("No Local in a shared subscription"));
            }
            if text.starts_with(STREAM_LEVEL) || text.starts_with(VIEW_LEVEL) {
                let reason = match &starts {
                    _ if granted >= self.subscriptions_max => Reason::QUOTA_EXCEEDED,
                    Some(starts) => self.grant_replay(&text, starts, options.qos, id, actions),
                    None => Reason::TOPIC_FILTER_INVALID,
                };
                granted += usize::from(!reason.is_error());
                if reason.is_error() && self.version == Version::V3_1 {
                    return Err(End::server(reason, "the subscription is refused"));
                }
                reasons.put_u8(reason.0);
                continue;
            }
            // Also when all of them name the same filter: each costs a look for retained messages.
            let answer = match &starts {
                _ if granted >= self.subscriptions_max => Err(Reason::QUOTA_EXCEEDED),
                starts if begins_with_level(&text, QUEUE_LEVEL.trim_end_matches('/')) => {
                    self.check_queue(&text, starts.as_deref())
                }
                _ => Ok(()),
            };
            let answer = answer.and_then(|()| self.grant(&text, options, id));
            match answer {
                Ok((subscription, existed)) => {
                    granted += 1;
                    reasons.put_u8(subscription.options.qos.bits());
                    if subscription.is_queue() {
                        actions.push(Action::Consume(subscription, starts.clone().unwrap_or_default()));
                        continue;
                    }
                    // A share gets no retained messages [MQTT-3.3.1-9].
                    if subscription.share.is_none() && wants_retained(options.retain_handling, existed) {
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
        actions.push(Action::SendSaved(Packet::SubAck(SubAck {
            packet_id,
            properties,
            reasons: reasons.freeze(),
        })));
        actions.append(&mut retained);
        Ok(())
    }

    /// Checks a filter that names a stream or a view.
    fn grant_replay(
        &mut self,
        text: &ByteString,
        starts: &[Start],
        qos: Qos,
        id: Option<u32>,
        actions: &mut Vec<Action>,
    ) -> Reason {
        let text = ByteString::from(&**text);
        let replay = Replay::parse(&text, starts, qos, id).or_else(|| views::parse(&text, qos, id));
        let exists = |replay: &Replay| {
            let names = self.names.as_ref();
            names
                .is_some_and(|names| replay.exists(&names.catalog()) && (!replay.view || names.is_view(&replay.stream)))
        };
        let Some(replay) = replay.filter(exists) else {
            return Reason::TOPIC_FILTER_INVALID;
        };
        let too_long = self.filters_bytes + text.len() > FILTERS_BYTES_MAX;
        let is_new = !self.replays.contains(&text);
        if is_new && (self.subscriptions.len() + self.replays.len() >= self.subscriptions_max || too_long) {
            return Reason::QUOTA_EXCEEDED;
        }
        let granted = Reason(replay.qos.bits());
        self.filters_bytes += if is_new { text.len() } else { 0 };
        self.replays.insert(text);
        actions.push(Action::Replay(replay));
        granted
    }

    /// Whether a filter names a queue that there is, and where it may begin.
    fn check_queue(&self, text: &ByteString, starts: Option<&[Start]>) -> Result<(), Reason> {
        let queue = starts.and_then(|starts| queue::parse(text, starts));
        match (queue, &self.names) {
            (Some(queue), Some(names)) if queue.exists(&names.catalog()) => Ok(()),
            _ => Err(Reason::TOPIC_FILTER_INVALID),
        }
    }

    /// Checks one filter. Gives the subscription and whether it existed before.
    fn grant(
        &mut self,
        text: &ByteString,
        mut options: SubscriptionOptions,
        id: Option<u32>,
    ) -> Result<(Subscription, bool), Reason> {
        // $SYS may be subscribed to, as every broker allows; the others would promise what is not there yet.
        if RESERVED_TOPICS
            .iter()
            .any(|name| !matches!(*name, "$SYS" | "$share" | "$queue" | "$events") && begins_with_level(text, name))
        {
            return Err(Reason::IMPLEMENTATION_SPECIFIC_ERROR);
        }
        // A copy of the text, which is a slice of a whole read buffer.
        let text = ByteString::from(&**text);
        let subscription = Subscription::parse(&text, options, id).ok_or(Reason::TOPIC_FILTER_INVALID)?;
        let existed = self.subscriptions.get(&text);
        let too_long = self.filters_bytes + text.len() > FILTERS_BYTES_MAX;
        if existed.is_none() && (self.subscriptions.len() + self.replays.len() >= self.subscriptions_max || too_long) {
            return Err(Reason::QUOTA_EXCEEDED);
        }
        // The same again goes on where it was [MQTT-3.8.4-3].
        let since = existed.map_or_else(Arc::default, |subscribed| subscribed.since.clone());
        let existed = existed.is_some();
        self.filters_bytes += if existed { 0 } else { text.len() };
        if subscription.competes() {
            // A member that leaves may have got what another one gets then.
            options.qos = options.qos.min(Qos::AtLeastOnce);
        }
        let subscription = Subscription {
            options,
            ..subscription
        };
        let subscribed = Subscribed {
            subscription: subscription.clone(),
            since,
        };
        self.subscriptions.insert(text, subscribed);
        Ok((subscription, existed))
    }

    /// One code per filter, also for filters that were not subscribed to.
    fn unsubscribe(&mut self, unsubscribe: Unsubscribe, actions: &mut Vec<Action>) {
        let mut reasons = BytesMut::new();
        for text in unsubscribe.filters.iter() {
            if self.replays.remove(&text) {
                self.filters_bytes -= text.len();
                actions.push(Action::EndReplay(ByteString::from(&*text)));
                reasons.put_u8(Reason::SUCCESS.0);
                continue;
            }
            match self.subscriptions.remove(&text) {
                Some(subscribed) => {
                    self.filters_bytes -= text.len();
                    actions.push(Action::Unsubscribe(subscribed.subscription));
                    reasons.put_u8(Reason::SUCCESS.0);
                }
                None => reasons.put_u8(Reason::NO_SUBSCRIPTION_EXISTED.0),
            }
        }
        let (packet_id, properties) = (unsubscribe.packet_id, Properties::default());
        actions.push(Action::SendSaved(Packet::UnsubAck(SubAck {
            packet_id,
            properties,
            reasons: reasons.freeze(),
        })));
    }

    fn disconnect(&mut self, disconnect: &Disconnect) -> End {
        let expiry_s = disconnect.properties.find(|property| match property {
            Property::SessionExpiryInterval(seconds) => Some(seconds),
            _ => None,
        });
        if let Some(expiry_s) = expiry_s {
            if expiry_s > 0 && self.expiry_s == 0 {
                return protocol_error("a session expiry interval in DISCONNECT after none in CONNECT");
            }
            self.expiry_s = expiry_s.min(self.expiry_max_s);
        }
        End::Client {
            with_will: disconnect.reason != Reason::SUCCESS,
        }
    }

    /// Writes a packet that the client is to get, if it takes packets of that size.
    pub fn send(&self, packet: &Packet, out: &mut BytesMut) {
        if let Err(error) = encode_within(packet, self.version, self.packet_max, out) {
            tracing::warn!(client_id = %self.client_id, %error, "a packet could not be encoded");
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

/// What a property says about where to begin, if it does; the inner None: something that cannot be read.
fn start(property: Property) -> Option<Option<Start>> {
    match property {
        Property::UserProperty(name, value) if &*name == OFFSET_PROPERTY => Some(Start::parse(&value)),
        _ => None,
    }
}

fn protocol_error(detail: &'static str) -> End {
    End::server(Reason::PROTOCOL_ERROR, detail)
}

fn success(packet_id: PacketId) -> Ack {
    Ack {
        packet_id,
        reason: Reason::SUCCESS,
        properties: Properties::default(),
    }
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

#[cfg(test)]
mod tests;
