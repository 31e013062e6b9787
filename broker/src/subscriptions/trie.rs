//! The trie of topic filters, a level a node.

use std::collections::HashMap;

use headwater_store::Level;

use super::Subscriber;

/// What filters have in common up to here, and how they go on.
#[derive(Debug, Default)]
pub struct Node {
    children: Children,
    single: Option<Box<Node>>,
    /// Filters that end here.
    here: Ends,
    /// Filters that end here with `#`.
    multi: Ends,
}

impl Node {
    /// Where a filter of these levels ends.
    pub fn slot(&mut self, levels: &[Level]) -> &mut Ends {
        match levels {
            [] => &mut self.here,
            [Level::Multi, ..] => &mut self.multi,
            [Level::Single(_), rest @ ..] => self.single.get_or_insert_default().slot(rest),
            [Level::Literal(text), rest @ ..] => self.children.get_or_insert(text).slot(rest),
        }
    }

    /// Removes a subscription, and the nodes that it alone kept. Whether there was one.
    pub fn remove(&mut self, levels: &[Level], connection: u64) -> bool {
        match levels {
            [] => self.here.remove(connection),
            [Level::Multi, ..] => self.multi.remove(connection),
            [Level::Single(_), rest @ ..] => {
                let Some(child) = &mut self.single else { return false };
                let removed = child.remove(rest, connection);
                if child.is_empty() {
                    self.single = None;
                }
                removed
            }
            [Level::Literal(text), rest @ ..] => {
                let Some(child) = self.children.get_mut(text) else {
                    return false;
                };
                let removed = child.remove(rest, connection);
                if child.is_empty() {
                    self.children.remove(text);
                }
                removed
            }
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.here.is_empty() && self.multi.is_empty() && self.children.is_empty() && self.single.is_none()
    }

    /// Everyone whose filter matches. `reserved`: this is the first level of a `$` topic, where wildcards do not match
    /// [MQTT-4.7.2-1].
    pub fn collect<'a>(&'a self, levels: &[&str], reserved: bool, found: &mut Vec<&'a Subscriber>) {
        if !reserved {
            found.extend(self.multi.values());
        }
        let Some((first, rest)) = levels.split_first() else {
            found.extend(self.here.values());
            return;
        };
        if let Some(child) = self.children.get(first) {
            child.collect(rest, false, found);
        }
        if let Some(child) = self.single.as_ref().filter(|_| !reserved) {
            child.collect(rest, false, found);
        }
    }
}

/// The literal levels below a node. Most nodes have one or none: a tree of devices is deep and narrow at its ends, and a map
/// for each of them would be most of what a subscription costs.
#[derive(Debug, Default)]
#[expect(
    clippy::box_collection,
    reason = "a map in here would make every node larger by it, and few have one"
)]
enum Children {
    #[default]
    None,
    One(Box<(Box<str>, Node)>),
    Many(Box<HashMap<Box<str>, Node>>),
}

impl Children {
    fn is_empty(&self) -> bool {
        match self {
            Children::None => true,
            Children::One(_) => false,
            Children::Many(map) => map.is_empty(),
        }
    }

    fn get(&self, text: &str) -> Option<&Node> {
        match self {
            Children::None => None,
            Children::One(only) => (&*only.0 == text).then_some(&only.1),
            Children::Many(map) => map.get(text),
        }
    }

    fn get_mut(&mut self, text: &str) -> Option<&mut Node> {
        match self {
            Children::None => None,
            Children::One(only) => (&*only.0 == text).then_some(&mut only.1),
            Children::Many(map) => map.get_mut(text),
        }
    }

    fn get_or_insert(&mut self, text: &str) -> &mut Node {
        match self {
            Children::None => *self = Children::One(Box::new((text.into(), Node::default()))),
            Children::One(only) if &*only.0 != text => {
                if let Children::One(only) = std::mem::take(self) {
                    *self = Children::Many(Box::new(HashMap::from([*only])));
                }
            }
            Children::One(_) | Children::Many(_) => {}
        }
        match self {
            Children::None => unreachable!("there is one since a moment ago"),
            Children::One(only) => &mut only.1,
            Children::Many(map) => map.entry(text.into()).or_default(),
        }
    }

    fn remove(&mut self, text: &str) {
        match self {
            Children::None => {}
            Children::One(only) => {
                if &*only.0 == text {
                    *self = Children::None;
                }
            }
            Children::Many(map) => drop(map.remove(text)),
        }
    }
}

/// The subscriptions to one filter, by connection: mostly one, and none at the nodes on the way to it.
#[derive(Debug, Default)]
#[expect(
    clippy::box_collection,
    reason = "as above: few nodes have any, and each has two of these"
)]
pub enum Ends {
    #[default]
    None,
    One(Box<Subscriber>),
    Many(Box<HashMap<u64, Subscriber>>),
}

impl Ends {
    fn is_empty(&self) -> bool {
        match self {
            Ends::None => true,
            Ends::One(_) => false,
            Ends::Many(map) => map.is_empty(),
        }
    }

    /// The one of this connection.
    pub fn get(&self, connection: u64) -> Option<&Subscriber> {
        match self {
            Ends::None => None,
            Ends::One(only) => Some(&**only).filter(|only| only.client.connection == connection),
            Ends::Many(map) => map.get(&connection),
        }
    }

    /// Adds one, or replaces that of the same connection.
    pub fn insert(&mut self, subscriber: Subscriber) {
        let connection = subscriber.client.connection;
        match std::mem::take(self) {
            Ends::One(only) if only.client.connection != connection => {
                let both = [(only.client.connection, *only), (connection, subscriber)];
                *self = Ends::Many(Box::new(HashMap::from(both)));
            }
            Ends::None | Ends::One(_) => *self = Ends::One(Box::new(subscriber)),
            Ends::Many(mut map) => {
                map.insert(connection, subscriber);
                *self = Ends::Many(map);
            }
        }
    }

    /// Whether there was one.
    fn remove(&mut self, connection: u64) -> bool {
        match self {
            Ends::None => false,
            Ends::One(only) => {
                let found = only.client.connection == connection;
                if found {
                    *self = Ends::None;
                }
                found
            }
            Ends::Many(map) => map.remove(&connection).is_some(),
        }
    }

    fn values(&self) -> impl Iterator<Item = &Subscriber> {
        let (one, many) = match self {
            Ends::None => (None, None),
            Ends::One(only) => (Some(&**only), None),
            Ends::Many(map) => (None, Some(map.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}
