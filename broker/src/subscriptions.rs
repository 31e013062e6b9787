//! Who wants which topic: a trie of topic filters, and the memory of what it answered.
//!
//! Matching follows section 4.7 of MQTT 5.0. Subscriptions of one client that overlap become one delivery, with the
//! highest of their QoS and all of their identifiers (section 3.3.4).

mod trie;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytestring::ByteString;
use headwater_store::{Catalog, LogIndex, Qos, Record, Store, TopicFilter, TopicName};
use tokio::sync::watch;

use crate::change;
use crate::clients::Client;
use crate::cursor::At;
use crate::outbox::{Delivery, Outgoing, Pushed};

use trie::Node;

/// One subscription of one client.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// Whose.
    pub client: Arc<Client>,
    /// The granted QoS.
    pub qos: Qos,
    /// Not its own messages.
    pub no_local: bool,
    /// Keep the publisher's RETAIN flag.
    pub retain_as_published: bool,
    /// The Subscription Identifier.
    pub id: Option<u32>,
    /// How far each group was applied when it was made, by group: what is older is not its concern, even if a
    /// dispatcher gets to it only later. The retained message stands for it.
    pub since: Arc<[LogIndex]>,
}

/// What a client gets of a topic, all its subscriptions taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    qos: Qos,
    retain_as_published: bool,
    ids: Option<Arc<[u32]>>,
}

/// A client that receives a topic.
#[derive(Debug, Clone)]
pub struct Target {
    client: Arc<Client>,
    grant: Grant,
    /// What it gets of its own messages: No Local subscriptions left out. None where that is all of them.
    own: Option<Grant>,
    no_local: bool,
    /// The earliest of its subscriptions, by group.
    since: Arc<[LogIndex]>,
    /// Its subscriptions, where some are younger than others: a message that is older than one of them is not for that one.
    parts: Box<[Subscriber]>,
}

/// All subscriptions of this node, or those of one client that reads from the log.
///
/// Changes and looks are sequentially consistent with the dispatchers' word of how far they are (`dispatch`): a session
/// that sees a dispatcher at an entry knows that its subscriptions are seen from the next entry on.
#[derive(Debug, Default)]
pub struct Subscriptions {
    root: RwLock<Node>,
    /// Moves with each change, under the write lock: a remembered answer of an older revision is void.
    revision: AtomicU64,
    count: AtomicUsize,
}

impl Subscriptions {
    /// Adds a subscription, or replaces the one of the same connection and filter, without a gap [MQTT-3.8.4-3].
    pub fn subscribe(&self, filter: &TopicFilter, mut subscriber: Subscriber) {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        let slot = root.slot(filter.levels());
        match slot.get(subscriber.client.connection) {
            Some(replaced) => subscriber.since = replaced.since.clone(),
            None => {
                self.count.fetch_add(1, Ordering::SeqCst);
            }
        }
        slot.insert(subscriber);
        self.revision.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes a subscription away.
    pub fn unsubscribe(&self, filter: &TopicFilter, connection: u64) {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        if root.remove(filter.levels(), connection) {
            self.count.fetch_sub(1, Ordering::SeqCst);
            self.revision.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Everyone who receives `topic`.
    fn find(&self, topic: &TopicName) -> Arc<[Target]> {
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        let levels: Vec<&str> = topic.levels().collect();
        let mut found = Vec::new();
        root.collect(&levels, topic.is_reserved(), &mut found);
        found.sort_by_key(|subscriber| subscriber.client.connection);
        found
            .chunk_by(|a, b| a.client.connection == b.client.connection)
            .filter_map(Target::merge)
            .collect()
    }
}

impl Target {
    /// All subscriptions of one client that match.
    fn merge(subscribers: &[&Subscriber]) -> Option<Target> {
        let first = subscribers.first()?;
        let parts: &[&Subscriber] = match subscribers.iter().all(|subscriber| subscriber.since == first.since) {
            true => &[],
            false => subscribers,
        };
        Some(Target {
            parts: parts.iter().copied().cloned().collect(),
            client: first.client.clone(),
            grant: Grant::of(subscribers.iter().copied())?,
            own: Grant::of(subscribers.iter().copied().filter(|subscriber| !subscriber.no_local)),
            no_local: subscribers.iter().any(|subscriber| subscriber.no_local),
            since: earliest(subscribers),
        })
    }
}

fn earliest(subscribers: &[&Subscriber]) -> Arc<[LogIndex]> {
    match subscribers {
        [only] => only.since.clone(),
        _ => {
            let groups = subscribers
                .iter()
                .map(|subscriber| subscriber.since.len())
                .min()
                .unwrap_or(0);
            (0..groups)
                .filter_map(|group| subscribers.iter().map(|subscriber| subscriber.since[group]).min())
                .collect()
        }
    }
}

impl Grant {
    fn of<'a>(subscribers: impl Iterator<Item = &'a Subscriber> + Clone) -> Option<Grant> {
        let ids: Vec<u32> = subscribers.clone().filter_map(|subscriber| subscriber.id).collect();
        Some(Grant {
            qos: subscribers.clone().map(|subscriber| subscriber.qos).max()?,
            retain_as_published: subscribers.clone().any(|subscriber| subscriber.retain_as_published),
            ids: (!ids.is_empty()).then(|| ids.into()),
        })
    }
}

/// What happened to one message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Outboxes that took it.
    pub queued: u64,
    /// QoS 0 deliveries that found a full outbox.
    pub dropped: u64,
    /// Clients that read from the log now, because a delivery found a full outbox.
    pub fell_behind: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.queued += other.queued;
        self.dropped += other.dropped;
        self.fell_behind += other.fell_behind;
    }
}

/// Remembers the receivers of the topics that its owner handles; void as soon as any subscription changes.
#[derive(Debug)]
pub struct Matcher {
    subscriptions: Arc<Subscriptions>,
    revision: u64,
    topics: HashMap<TopicName, Arc<[Target]>>,
    topics_max: usize,
    /// Where results are told of by the names of their streams.
    catalog: Option<watch::Receiver<Arc<Catalog>>>,
}

impl Matcher {
    /// A memory of at most `topics_max` topics.
    pub fn new(subscriptions: Arc<Subscriptions>, topics_max: usize) -> Matcher {
        Matcher {
            subscriptions,
            revision: 0,
            topics: HashMap::new(),
            topics_max,
            catalog: None,
        }
    }

    /// The same, for what is committed: results say what they change, and where they are.
    pub fn of_results(self, store: &Store) -> Matcher {
        Matcher {
            catalog: Some(store.catalog()),
            ..self
        }
    }

    /// True when there is no subscription at all, so that looking at messages is useless.
    pub fn is_idle(&self) -> bool {
        self.subscriptions.count() == 0
    }

    /// Everyone who receives `topic`.
    pub fn targets(&mut self, topic: &TopicName) -> Arc<[Target]> {
        let revision = self.subscriptions.revision.load(Ordering::SeqCst);
        if revision != self.revision {
            self.topics.clear();
            self.revision = revision;
        }
        if let Some(targets) = self.topics.get(topic) {
            return targets.clone();
        }
        let targets = self.subscriptions.find(topic);
        if self.topics.len() >= self.topics_max {
            self.topics.clear();
        }
        // A copy of the text: the topic may be a slice of a whole read buffer.
        if let Ok(copy) = TopicName::new(topic.as_str()) {
            self.topics.insert(copy, targets.clone());
        }
        targets
    }

    /// Puts `record` into the outboxes of all who receive it. `at` is where it is committed; None for a message that is
    /// delivered live.
    pub fn deliver(&mut self, record: Record, at: Option<At>) -> Tally {
        let mut tally = Tally::default();
        self.each(record, at, |client, delivery| {
            let committed_qos_0 = at.is_some() && delivery.qos == Qos::AtMostOnce;
            match client.outbox.push(delivery) {
                Pushed::Queued => tally.queued += 1,
                Pushed::Dropped => tally.dropped += 1,
                Pushed::FellBehind => tally.fell_behind += 1,
                Pushed::Behind => tally.dropped += u64::from(committed_qos_0),
                Pushed::Ended => {}
            }
        });
        tally
    }

    /// Gives what becomes of `record` for each who receives it.
    pub fn each(&mut self, mut record: Record, at: Option<At>, mut give: impl FnMut(&Client, Delivery)) {
        let Some(topic) = &record.topic else { return };
        let targets = self.targets(topic);
        if targets.is_empty() {
            return;
        }
        if let (Some(_), Some(at), Some(catalog)) = (record.change, at, &self.catalog)
            && let Some(stream) = catalog.borrow().stream_by_id(at.shard.stream)
        {
            change::tell(&mut record, &stream.name, at.shard, at.offset);
        }
        let Some(message) = Outgoing::new(record, at).map(Arc::new) else {
            return;
        };
        for target in targets.iter().filter_map(|target| target.of(at.as_ref())) {
            let Some(grant) = target.grant_for(message.client_id()) else {
                continue;
            };
            let delivery = Delivery {
                message: message.clone(),
                qos: message.qos.min(grant.qos),
                resend: None,
                retain: message.retain && grant.retain_as_published,
                subscription_ids: grant.ids.clone(),
                giver: None,
            };
            give(&target.client, delivery);
        }
    }
}

impl Target {
    /// Those of its subscriptions that a message is for. None: the client has subscribed later.
    fn of(&self, at: Option<&At>) -> Option<Cow<'_, Target>> {
        let Some(at) = at else {
            return Some(Cow::Borrowed(self));
        };
        if is_older(at, &self.since) {
            return None;
        }
        if !self.parts.iter().any(|part| is_older(at, &part.since)) {
            return Some(Cow::Borrowed(self));
        }
        let there: Vec<&Subscriber> = self.parts.iter().filter(|part| !is_older(at, &part.since)).collect();
        Target::merge(&there).map(Cow::Owned)
    }

    /// What this client gets of a message that `publisher` sent.
    fn grant_for(&self, publisher: Option<&ByteString>) -> Option<&Grant> {
        if self.no_local && publisher == Some(&self.client.client_id) {
            self.own.as_ref()
        } else {
            Some(&self.grant)
        }
    }
}

/// Whether a message was applied before a subscription was made.
fn is_older(at: &At, since: &[LogIndex]) -> bool {
    since
        .get(usize::from(at.shard.group.0))
        .is_some_and(|since| at.index <= *since)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use headwater_store::{GroupId, Header, Offset, ShardId, StreamId, TimestampMs};
    use proptest::prelude::*;

    use super::*;
    use crate::clients::Gone;
    use crate::outbox::Outbox;
    use crate::packet::Version;

    fn client(connection: u64) -> Arc<Client> {
        Arc::new(Client {
            connection,
            client_id: format!("c{connection}").into(),
            username: None,
            peer: ([127, 0, 0, 1], 1).into(),
            version: Version::V5,
            connected_at: TimestampMs(0),
            outbox: Outbox::new(1 << 20, 2),
            subscriptions: AtomicUsize::new(0),
            gone: Gone::default(),
        })
    }

    fn subscriber(client: &Arc<Client>) -> Subscriber {
        let (qos, client) = (Qos::AtLeastOnce, client.clone());
        Subscriber {
            client,
            qos,
            no_local: false,
            retain_as_published: false,
            id: None,
            since: [].into(),
        }
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    fn record(publisher: &str) -> Record {
        let headers = vec![Header::ClientId(publisher.into())];
        Record {
            topic: TopicName::new("a/b").ok(),
            qos: Qos::AtLeastOnce,
            headers,
            ..Record::new("x")
        }
    }

    proptest! {
        /// The trie finds exactly those that matching one by one finds, also after some have left.
        #[test]
        fn the_trie_agrees_with_matching_one_by_one(
            filters in prop::collection::vec("(\\$?[ab]|\\+|)(/([ab]|\\+|)){0,3}(/#)?|#", 1..20),
            gone in prop::collection::vec(any::<bool>(), 20),
            topics in prop::collection::vec("\\$?[ab](/[ab]?){0,4}", 1..10),
        ) {
            let filters: Vec<_> = filters.iter().filter_map(|text| TopicFilter::new(text.as_str()).ok()).collect();
            let subscriptions = Subscriptions::default();
            for (number, filter) in filters.iter().enumerate() {
                subscriptions.subscribe(filter, subscriber(&client(number as u64)));
            }
            for (number, filter) in filters.iter().enumerate().filter(|(number, _)| gone[*number]) {
                subscriptions.unsubscribe(filter, number as u64);
            }
            let stay = |number: &usize| !gone[*number];
            prop_assert_eq!(subscriptions.count(), (0..filters.len()).filter(stay).count());
            for topic in &topics {
                let topic = TopicName::new(topic.as_str()).unwrap();
                let found: Vec<_> = subscriptions.find(&topic).iter().map(|target| target.client.connection).collect();
                let expected: Vec<_> =
                    (0..filters.len()).filter(stay).filter(|n| filters[*n].matches(&topic)).map(|n| n as u64).collect();
                prop_assert_eq!(found, expected, "{}", topic);
            }
        }
    }

    #[test]
    fn nothing_is_left_of_what_has_gone() {
        let subscriptions = Subscriptions::default();
        for text in ["a/+/c/#", "a/b", "#", "a/b/c"] {
            subscriptions.subscribe(&filter(text), subscriber(&client(1)));
        }
        for text in ["a/+/c/#", "a/b", "#", "a/b/c", "not/there"] {
            subscriptions.unsubscribe(&filter(text), 1);
        }
        assert!(subscriptions.root.read().unwrap().is_empty());
        assert_eq!(subscriptions.count(), 0);
    }

    #[test]
    fn overlapping_subscriptions_are_one_delivery() {
        let subscriptions = Arc::new(Subscriptions::default());
        let me = client(1);
        let subscribe = |text: &str, qos, id, no_local| {
            let subscriber = Subscriber {
                qos,
                id: Some(id),
                no_local,
                ..subscriber(&me)
            };
            subscriptions.subscribe(&filter(text), subscriber);
        };
        subscribe("a/b", Qos::AtMostOnce, 7, false);
        subscribe("a/+", Qos::AtLeastOnce, 9, true);
        let target = subscriptions.find(&TopicName::new("a/b").unwrap())[0].clone();
        let others = target.grant_for(Some(&"someone".into())).unwrap();
        assert_eq!(
            (others.qos, others.ids.as_deref()),
            (Qos::AtLeastOnce, Some(&[7, 9][..]))
        );
        let own = target.grant_for(Some(&me.client_id)).unwrap();
        assert_eq!(
            (own.qos, own.ids.as_deref()),
            (Qos::AtMostOnce, Some(&[7][..])),
            "No Local leaves the other one"
        );
    }

    #[test]
    fn a_matcher_sees_each_change_at_once() {
        let subscriptions = Arc::new(Subscriptions::default());
        let mut matcher = Matcher::new(subscriptions.clone(), 2);
        let me = client(1);
        assert!(matcher.is_idle());
        assert_eq!(matcher.deliver(record("p"), None).queued, 0);
        subscriptions.subscribe(&filter("a/#"), subscriber(&me));
        assert_eq!(matcher.deliver(record("p"), None).queued, 1);
        subscriptions.unsubscribe(&filter("a/#"), 1);
        assert_eq!(matcher.deliver(record("p"), None).queued, 0);
    }

    #[test]
    fn what_was_committed_before_the_subscription_is_not_delivered_to_it() {
        let subscriptions = Arc::new(Subscriptions::default());
        let mut matcher = Matcher::new(subscriptions.clone(), 2);
        let me = client(1);
        let since = |index| Subscriber {
            since: [LogIndex(0), LogIndex(index)].into(),
            ..subscriber(&me)
        };
        let at = |index| {
            let shard = ShardId {
                group: GroupId(1),
                stream: StreamId(1),
                number: 0,
            };
            Some(At {
                index: LogIndex(index),
                shard,
                offset: Offset(0),
            })
        };
        subscriptions.subscribe(&filter("a/b"), since(5));
        assert_eq!(matcher.deliver(record("p"), at(5)).queued, 0);
        assert_eq!(matcher.deliver(record("p"), at(6)).queued, 1);
        // The same again makes no gap, and another one keeps the earlier start.
        subscriptions.subscribe(&filter("a/b"), since(9));
        assert_eq!(matcher.deliver(record("p"), at(6)).queued, 1);
        let younger = Subscriber {
            qos: Qos::ExactlyOnce,
            id: Some(4),
            ..since(12)
        };
        subscriptions.subscribe(&filter("a/+"), younger);
        // It has no part in what came before it, though the client gets that.
        for (index, qos, ids) in [(6, Qos::AtLeastOnce, None), (13, Qos::ExactlyOnce, Some(vec![4]))] {
            let mut got = Vec::new();
            let sent = Record {
                qos: Qos::ExactlyOnce,
                ..record("p")
            };
            matcher.each(sent, at(index), |_, delivery| {
                got.push((delivery.qos, delivery.subscription_ids.map(|ids| ids.to_vec())));
            });
            assert_eq!(got, [(qos, ids)], "{index}");
        }
    }
}
