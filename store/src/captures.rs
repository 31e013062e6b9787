//! The captures of all streams, as a trie over topic levels that shares what did not change with the one before it: a
//! catalog with a million captured streams gets another one in microseconds, while readers keep their snapshot.

use std::sync::Arc;

use bytestring::ByteString;

use crate::catalog::StreamRow;
use crate::topic::{Level, TopicName};

/// An immutable set of (topic filter, stream). Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Captures {
    root: Arc<Node>,
}

/// What filters go on with after the levels that lead here.
#[derive(Debug, Clone, Default)]
struct Node {
    literal: imbl::HashMap<ByteString, Arc<Node>>,
    single: Option<Arc<Node>>,
    /// Streams whose filter ends here, by name.
    here: Vec<Arc<StreamRow>>,
    /// Streams whose filter ends here in `#`, by name.
    multi: Vec<Arc<StreamRow>>,
}

impl Captures {
    /// Adds all captures of a stream.
    pub fn insert(&mut self, stream: &Arc<StreamRow>) {
        for filter in stream.capture_filters() {
            change(Arc::make_mut(&mut self.root), filter.levels(), &|streams| {
                let at = streams.partition_point(|other| other.name < stream.name);
                if streams.get(at).is_none_or(|other| other.name != stream.name) {
                    streams.insert(at, stream.clone());
                }
            });
        }
    }

    /// Takes away what [`Captures::insert`] added for a stream with these captures.
    pub fn remove(&mut self, stream: &StreamRow) {
        for filter in stream.capture_filters() {
            change(Arc::make_mut(&mut self.root), filter.levels(), &|streams| {
                streams.retain(|other| other.id != stream.id);
            });
        }
    }

    /// The streams that capture `topic`, each once, the most specific capture first: level by level literal before `+`
    /// before `#`, then the stream's name.
    pub fn matching(&self, topic: &TopicName) -> Vec<Arc<StreamRow>> {
        let levels: Vec<&str> = topic.levels().collect();
        let mut found = Vec::new();
        self.root.walk(&levels, !topic.is_reserved(), &mut found);
        found
    }
}

/// Changes the streams at the end of `levels`, on a path of its own; nodes that lead nowhere are taken away.
fn change(node: &mut Node, levels: &[Level], with: &dyn Fn(&mut Vec<Arc<StreamRow>>)) {
    match levels {
        [] => with(&mut node.here),
        [Level::Multi, ..] => with(&mut node.multi),
        [Level::Single(_), rest @ ..] => {
            let mut child = node.single.take().unwrap_or_default();
            change(Arc::make_mut(&mut child), rest, with);
            node.single = (!child.is_empty()).then_some(child);
        }
        [Level::Literal(literal), rest @ ..] => {
            let mut child = node.literal.remove(literal.as_str()).unwrap_or_default();
            change(Arc::make_mut(&mut child), rest, with);
            if !child.is_empty() {
                node.literal.insert(literal.as_str().into(), child);
            }
        }
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.literal.is_empty() && self.single.is_none() && self.here.is_empty() && self.multi.is_empty()
    }

    /// Literal children first, then `+`, then what ends here, then `#`: the order of specificity.
    fn walk(&self, levels: &[&str], wildcards: bool, found: &mut Vec<Arc<StreamRow>>) {
        match levels {
            [] => take(&self.here, found),
            [level, rest @ ..] => {
                if let Some(child) = self.literal.get(*level) {
                    child.walk(rest, true, found);
                }
                if let Some(child) = self.single.as_ref().filter(|_| wildcards) {
                    child.walk(rest, true, found);
                }
            }
        }
        if wildcards {
            take(&self.multi, found);
        }
    }
}

fn take(streams: &[Arc<StreamRow>], found: &mut Vec<Arc<StreamRow>>) {
    for stream in streams {
        if !found.iter().any(|other| other.id == stream.id) {
            found.push(stream.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::stream;
    use crate::topic::TopicFilter;
    use proptest::prelude::*;

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just(""), Just("+"), Just("{x}"), Just("$s")];
        (proptest::collection::vec(level, 1..4), any::<bool>()).prop_map(|(levels, multi)| {
            let mut text = levels.join("/");
            if multi {
                text.push_str("/#");
            }
            text
        })
    }

    /// What [`Captures`] must agree with: every filter looked at, and sorted.
    fn one_by_one(streams: &[Arc<StreamRow>], topic: &TopicName) -> Vec<Arc<StreamRow>> {
        let mut all: Vec<(TopicFilter, &Arc<StreamRow>)> = streams
            .iter()
            .flat_map(|stream| stream.capture_filters().map(move |filter| (filter, stream)))
            .filter(|(filter, _)| filter.matches(topic))
            .collect();
        all.sort_by(|(a, one), (b, other)| a.cmp_specificity(b).then_with(|| one.name.cmp(&other.name)));
        let mut found = Vec::new();
        for (_, stream) in all {
            take(std::slice::from_ref(stream), &mut found);
        }
        found
    }

    fn names(streams: &[Arc<StreamRow>]) -> Vec<&str> {
        streams.iter().map(|stream| stream.name.as_str()).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_looking_at_every_filter(
            captures in proptest::collection::vec((proptest::collection::vec(filter(), 1..3), any::<bool>()), 1..8),
            topic in proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just(""), Just("$s")], 1..4),
        ) {
            let Ok(topic) = TopicName::new(topic.join("/")) else { return Ok(()) };
            // A filter that does not parse, as `{x}/{x}`, is refused when a stream is made.
            let parses = |text: &String| TopicFilter::capture(text.as_str()).is_ok();
            let mut trie = Captures::default();
            let mut kept = Vec::new();
            for (number, (filters, goes)) in captures.iter().enumerate() {
                let filters: Vec<&str> = filters.iter().filter(|text| parses(text)).map(String::as_str).collect();
                let row = stream(number as u64, &format!("s{number}"), &filters);
                trie.insert(&row);
                if *goes {
                    let before = trie.clone();
                    trie.remove(&row);
                    drop(before);
                } else {
                    kept.push(row);
                }
            }
            let found = trie.matching(&topic);
            let expected = one_by_one(&kept, &topic);
            prop_assert_eq!(names(&found), names(&expected));
            kept.iter().for_each(|row| trie.remove(row));
            prop_assert!(trie.root.is_empty(), "nothing is left behind");
        }
    }

    #[test]
    fn a_snapshot_does_not_change() {
        let mut trie = Captures::default();
        trie.insert(&stream(1, "one", &["plant/+"]));
        let snapshot = trie.clone();
        trie.insert(&stream(2, "two", &["plant/x"]));
        let topic = TopicName::new("plant/x").unwrap();
        assert_eq!(names(&snapshot.matching(&topic)), ["one"]);
        assert_eq!(names(&trie.matching(&topic)), ["two", "one"]);
    }
}
