//! Subscriptions: what the client asks for, what it is granted.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use bytestring::ByteString;
use headwater_store::{LogIndex, Qos, TopicFilter};

use super::{Action, Session, protocol_error};
use crate::error::End;
use crate::limits::FILTERS_BYTES_MAX;
use crate::packet::{
    Packet, Properties, Property, Reason, RetainHandling, SubAck, Subscribe, SubscriptionOptions, Unsubscribe, Version,
};
use crate::publish::RESERVED_TOPICS;
use crate::queue::{self, QUEUE_LEVEL};
use crate::replay::{OFFSET_PROPERTY, Replay, STREAM_LEVEL, Start};
use crate::views::{self, VIEW_LEVEL};

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

/// A subscription, and how far each group was applied when it was made.
#[derive(Debug, Clone)]
pub struct Subscribed {
    /// As granted.
    pub subscription: Subscription,
    /// By group; what is older is not for it.
    pub since: Arc<[LogIndex]>,
}

impl Session {
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

    pub(super) fn subscribe(&mut self, subscribe: Subscribe, actions: &mut Vec<Action>) -> Result<(), End> {
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
        // Streams and views are read, by each for itself; to compete for a stream there is `$queue`.
        let shared = subscription.share.is_some().then(|| subscription.filter.as_str());
        if shared.is_some_and(|filter| {
            ["$stream", "$view", "$queue"]
                .iter()
                .any(|name| begins_with_level(filter, name))
        }) {
            return Err(Reason::TOPIC_FILTER_INVALID);
        }
        let existed = self.subscriptions.get(&*text);
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
        self.subscriptions.insert((&*text).into(), Box::new(subscribed));
        Ok((subscription, existed))
    }

    /// One code per filter, also for filters that were not subscribed to.
    pub(super) fn unsubscribe(&mut self, unsubscribe: Unsubscribe, actions: &mut Vec<Action>) {
        let mut reasons = BytesMut::new();
        for text in unsubscribe.filters.iter() {
            if self.replays.remove(&text) {
                self.filters_bytes -= text.len();
                actions.push(Action::EndReplay(ByteString::from(&*text)));
                reasons.put_u8(Reason::SUCCESS.0);
                continue;
            }
            match self.subscriptions.remove(&*text) {
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
}

/// What a property says about where to begin, if it does; the inner None: something that cannot be read.
fn start(property: Property) -> Option<Option<Start>> {
    match property {
        Property::UserProperty(name, value) if &*name == OFFSET_PROPERTY => Some(Start::parse(&value)),
        _ => None,
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
