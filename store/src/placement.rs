//! Where records go: topics to groups, messages to the home stream and the copies, keys to shards.
//!
//! A topic or key hashes (XXH3-64) to one of 1 024 slots, and a slot belongs to a data group. Slots are what a later
//! rebalancing may move; the hash never changes.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytestring::ByteString;
use twox_hash::XxHash3_64;

use crate::batch::Batch;
use crate::captures::Captures;
use crate::catalog::{Ack, Catalog, Placement, StreamRow};
use crate::ids::{GroupId, RouteRevision, ShardId, StreamId};
use crate::limits::ROUTES_CACHED_MAX;
use crate::record::Record;
use crate::topic::TopicName;

/// Fixed for ever: slots are persisted in query state keys too.
pub const SLOTS: u64 = 1024;

/// The name of the stream that takes what no other capture matches.
pub const DEFAULT_STREAM: &str = "mqtt";

/// Where the messages of one topic go. All shards are of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The topic's group.
    pub group: GroupId,
    /// The routing this was worked out from.
    pub revision: RouteRevision,
    /// The shard whose records MQTT subscribers receive.
    pub home: ShardId,
    /// A shard of each other stream that captures the topic.
    pub copies: Vec<ShardId>,
    /// When a message is acknowledged: as its home stream says.
    pub ack: Ack,
}

impl Route {
    /// The Batch of one message: the home copy, and a copy for each other matching capture. A retained row may be
    /// added to it. Nothing where no stream captures the topic and the default stream is not there yet.
    pub fn batch(&self, record: Record) -> Batch {
        let mut batch = Batch::new(self.group).routed(self.revision);
        for copy in &self.copies {
            batch = batch.append(
                *copy,
                vec![Record {
                    copy: true,
                    ..record.clone()
                }],
            );
        }
        batch.append(self.home, vec![record])
    }
}

/// The slot of a key, 0 to 1 023.
pub fn slot(key: &[u8]) -> u16 {
    (XxHash3_64::oneshot(key) % SLOTS) as u16
}

/// The data group of a topic; `groups` is the number of data groups.
pub fn group_for_topic(topic: &str, groups: u16) -> GroupId {
    GroupId(slot(topic.as_bytes()) % groups + 1)
}

/// The shard of a record that goes to `stream` by name: by its topic or by its key, as the stream is placed. Records
/// with neither go to the first shard, where they keep their order.
pub fn shard_for(stream: &StreamRow, record: &Record) -> ShardId {
    let placed_by = match stream.placement {
        Placement::Topic => record
            .topic
            .as_ref()
            .map(|topic| topic.as_str().as_bytes())
            .or(record.key.as_deref()),
        Placement::Key => record.key_or_topic(),
    };
    let number = placed_by.map_or(0, |key| slot(key) % stream.shards.len() as u16);
    stream.shard(number)
}

/// The groups of a new stream's shards. Topic placement has shard n in group n + 1, so that both hashes above agree.
pub(crate) fn shard_groups(id: StreamId, placement: Placement, shards: u16, groups: u16) -> Vec<GroupId> {
    match placement {
        Placement::Topic => (1..=groups).map(GroupId).collect(),
        Placement::Key => {
            let first = slot(&id.0.to_be_bytes());
            (0..shards)
                .map(|number| GroupId((first + number) % groups + 1))
                .collect()
        }
    }
}

/// The captures of one routing, and the routes already worked out.
#[derive(Debug)]
pub(crate) struct Router {
    revision: RouteRevision,
    groups: u16,
    captures: Captures,
    default: Option<Arc<StreamRow>>,
    routes: RwLock<HashMap<ByteString, Arc<Route>>>,
}

impl Router {
    pub fn new(catalog: &Catalog, groups: u16) -> Router {
        Router {
            revision: catalog.route_revision,
            groups,
            captures: catalog.captures.clone(),
            default: catalog.streams.get(DEFAULT_STREAM).cloned(),
            routes: RwLock::default(),
        }
    }

    pub fn revision(&self) -> RouteRevision {
        self.revision
    }

    /// The route of a topic. None only before the default stream is made.
    pub fn route(&self, topic: &TopicName) -> Option<Arc<Route>> {
        let cached = self
            .routes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(topic.as_str())
            .cloned();
        if cached.is_some() {
            return cached;
        }
        let route = Arc::new(self.work_out(topic)?);
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= ROUTES_CACHED_MAX {
            routes.clear();
        }
        routes.insert(topic.to_byte_string(), route.clone());
        Some(route)
    }

    fn work_out(&self, topic: &TopicName) -> Option<Route> {
        let group = group_for_topic(topic.as_str(), self.groups);
        let shard = |stream: &StreamRow| stream.shard(group.0 - 1);
        let mut matching = self.captures.matching(topic);
        // Only the most specific takes the message where the default stream would be a second copy of everything.
        let default = self.default.as_ref();
        if matching.len() > 1 {
            matching.retain(|stream| default.is_none_or(|default| default.id != stream.id));
        }
        let home = matching.first().or(default)?;
        Some(Route {
            group,
            revision: self.revision,
            home: shard(home),
            copies: matching.iter().skip(1).map(|stream| shard(stream)).collect(),
            ack: home.ack,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::stream;

    fn router(streams: &[Arc<StreamRow>]) -> Router {
        let mut catalog = Catalog::default();
        streams.iter().for_each(|stream| catalog.take_stream(stream.clone()));
        Router::new(&catalog, 4)
    }

    fn homes(router: &Router, topic: &str) -> (u64, Vec<u64>) {
        let route = router.route(&TopicName::new(topic).unwrap()).unwrap();
        assert!(
            route
                .copies
                .iter()
                .chain([&route.home])
                .all(|shard| shard.group == route.group),
            "one group"
        );
        (
            route.home.stream.0,
            route.copies.iter().map(|shard| shard.stream.0).collect(),
        )
    }

    #[test]
    fn one_home_and_a_copy_for_every_other_capture() {
        let router = router(&[
            stream(1, DEFAULT_STREAM, &["#"]),
            stream(2, "plants", &["plant/#", "plant/berlin/#"]),
            stream(3, "temps", &["plant/{site}/temp"]),
            stream(4, "alike", &["plant/{s}/temp"]),
        ]);
        assert_eq!(
            homes(&router, "car/7"),
            (1, vec![]),
            "the default stream takes the rest"
        );
        assert_eq!(
            homes(&router, "plant/x"),
            (2, vec![]),
            "and no copy of what others capture"
        );
        assert_eq!(
            homes(&router, "plant/berlin/temp"),
            (2, vec![4, 3]),
            "literal before plus, once a stream"
        );
        assert_eq!(
            homes(&router, "plant/rome/temp"),
            (4, vec![3, 2]),
            "then the name decides"
        );
        assert_eq!(
            homes(&router, "$other/x"),
            (1, vec![]),
            "what `#` does not match has a home too"
        );
    }

    #[test]
    fn the_home_alone_says_when_a_message_is_acknowledged() {
        let with = |id, name, capture: &str| {
            Arc::new(StreamRow {
                ack: Ack::Memory,
                ..(*stream(id, name, &[capture])).clone()
            })
        };
        let router = router(&[
            stream(1, DEFAULT_STREAM, &["#"]),
            with(2, "fast", "plant/#"),
            stream(3, "sure", &["plant/+/sure"]),
        ]);
        let acks = ["plant/x", "plant/x/sure", "car"].map(|topic| {
            let route = router.route(&TopicName::new(topic).unwrap()).unwrap();
            (route.ack, route.copies.len())
        });
        assert_eq!(acks, [(Ack::Memory, 0), (Ack::Quorum, 1), (Ack::Quorum, 0)]);
    }

    #[test]
    fn the_hash_is_pinned_for_ever() {
        assert_eq!(
            [slot(b""), slot(b"a"), slot(b"sensors/seattle"), slot(b"sensors/sf")],
            PINNED
        );
        let row = stream(7, "s", &[]);
        let record = Record {
            topic: Some(TopicName::new("sensors/sf").unwrap()),
            ..Record::new("x")
        };
        assert_eq!(shard_for(&row, &record).group, group_for_topic("sensors/sf", 4));
    }

    const PINNED: [u16; 4] = [194, 543, 435, 531];
}
