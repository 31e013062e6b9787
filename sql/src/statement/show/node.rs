//! SHOW TOPICS, SHOW CLIENTS and SHOW NODES: the broker's side of things.

use std::collections::BTreeMap;

use headwater_store::{CATALOG_GROUP, Catalog, GroupId, ReadError, Store, StreamId, TopicFilter, TopicName, tables};
use serde_json::{Value, json};

use super::{sorted, time};
use crate::engine::Engine;
use crate::error::SqlError;
use crate::limits::{RETAINED_COUNTED_MAX, RETAINED_PAGE_ROWS};

/// Topics of one sort: a filter that a stream captures, or the template that its records go out on.
#[derive(Debug)]
struct Topics {
    shown: String,
    result: bool,
    stream: StreamId,
    stream_name: String,
    /// Of what goes out.
    qos: Option<u8>,
    retain: Option<bool>,
    /// What matches them; None: no valid filter does.
    filter: Option<TopicFilter>,
    retained: u64,
}

impl Engine {
    /// Where messages go in and where results go out, with the retained messages that are there now.
    pub(super) async fn topic_rows(&self, catalog: &Catalog) -> Result<Vec<Value>, SqlError> {
        let mut all = known(catalog);
        let store = self.store().clone();
        let counted = self
            .store()
            .blocking(move || count_retained(&store, &mut all).map(|complete| (all, complete)))
            .await;
        let (all, complete) = counted?;
        let row = |topics: &Topics| {
            json!({
                "topic": topics.shown,
                "kind": if topics.result { "result" } else { "capture" },
                "stream": topics.stream_name,
                "qos": topics.qos,
                "retain": topics.retain,
                "retained": complete.then_some(topics.retained),
            })
        };
        Ok(all.iter().map(row).collect())
    }

    /// The MQTT clients that are connected to this node, one JSON object each: SHOW CLIENTS.
    pub fn clients(&self) -> Vec<Value> {
        let clients = self.node_watch().map(|watch| (watch.clients)()).unwrap_or_default();
        let row = |client: crate::ClientStatus| {
            json!({
                "client_id": client.client_id,
                "username": client.username,
                "peer": client.peer,
                "protocol": client.protocol,
                "connected": time(client.connected_at_ms),
                "subscriptions": client.subscriptions,
                "outbox_bytes": client.outbox_bytes,
            })
        };
        clients.into_iter().map(row).collect()
    }

    /// This node: there is no other yet.
    pub(super) fn node_rows(&self) -> Vec<Value> {
        let store = self.store();
        let leads: Vec<u16> = std::iter::once(CATALOG_GROUP)
            .chain(store.data_groups())
            .filter(|group| store.leadership(*group).borrow().leading)
            .map(|group: GroupId| group.0)
            .collect();
        let addresses: BTreeMap<_, _> = self
            .node_watch()
            .iter()
            .flat_map(|watch| &watch.addresses)
            .map(|(name, address)| (*name, address.to_string()))
            .collect();
        let started = self.started_at();
        vec![json!({
            "id": store.node().0,
            "version": env!("CARGO_PKG_VERSION"),
            "started": time(started.0),
            "uptime_s": (store.now().0 - started.0).max(0) / 1_000,
            "leads": leads,
            "addresses": addresses,
        })]
    }
}

/// By topic, and captures before results of the same.
fn known(catalog: &Catalog) -> Vec<Topics> {
    let mut all = Vec::new();
    for stream in sorted(&catalog.streams) {
        let topics = |shown: &str, filter| Topics {
            shown: shown.to_owned(),
            result: false,
            stream: stream.id,
            stream_name: stream.name.clone(),
            qos: None,
            retain: None,
            filter,
            retained: 0,
        };
        let captures = stream.captures.iter().zip(stream.capture_filters());
        all.extend(captures.map(|(shown, filter)| topics(shown, Some(filter))));
        if let Some(template) = &stream.options.topic {
            all.push(Topics {
                result: true,
                qos: Some(stream.options.qos.bits()),
                retain: Some(stream.options.retain),
                ..topics(template, filter_of(template))
            });
        }
    }
    all.sort_by(|a, b| (&a.shown, a.result, &a.stream_name).cmp(&(&b.shown, b.result, &b.stream_name)));
    all
}

/// The topics that a template makes: a level with a value in it is any level, and behind a `{+value}` may be any number.
fn filter_of(template: &str) -> Option<TopicFilter> {
    let mut levels = vec![String::new()];
    let mut rest = template;
    while let Some(next) = rest.chars().next() {
        let value = rest.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let level = levels.last_mut()?;
        match value {
            Some((name, after)) => {
                rest = after;
                "+".clone_into(level);
                if name.starts_with('+') {
                    "#".clone_into(level);
                    break;
                }
            }
            None => {
                rest = &rest[next.len_utf8()..];
                match next {
                    '/' => levels.push(String::new()),
                    _ if level != "+" => level.push(next),
                    _ => {}
                }
            }
        }
    }
    TopicFilter::new(levels.join("/")).ok()
}

/// Counts each retained message where its topic belongs: to the results that are retained there, else to its home. False:
/// there are more than anybody should wait for.
fn count_retained(store: &Store, all: &mut [Topics]) -> Result<bool, ReadError> {
    let mut left = RETAINED_COUNTED_MAX;
    for group in store.data_groups() {
        let table = store.table(group, tables::RETAINED);
        let mut from = Vec::new();
        loop {
            let page = table.scan(&[], &from, RETAINED_PAGE_ROWS)?;
            for (topic, _) in &page {
                if left == 0 {
                    return Ok(false);
                }
                left -= 1;
                count(store, all, topic);
            }
            match page.last() {
                Some((last, _)) if page.len() == RETAINED_PAGE_ROWS => from = [last, &[0][..]].concat(),
                _ => break,
            }
        }
    }
    Ok(true)
}

fn count(store: &Store, all: &mut [Topics], topic: &[u8]) {
    let Some(topic) = std::str::from_utf8(topic)
        .ok()
        .and_then(|topic| TopicName::new(topic).ok())
    else {
        return;
    };
    let matches = |topics: &Topics| topics.filter.as_ref().is_some_and(|filter| filter.matches(&topic));
    let result = all
        .iter()
        .position(|topics| topics.retain == Some(true) && matches(topics));
    let home = store.route(&topic).home.stream;
    let at = result.or_else(|| {
        all.iter()
            .position(|topics| !topics.result && topics.stream == home && matches(topics))
    });
    if let Some(at) = at {
        all[at].retained += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_a_filter() {
        for (template, filter) in [
            ("alerts/{device}", "alerts/+"),
            ("a/x{b}y/{c}/d", "a/+/+/d"),
            ("a/{+path}/b", "a/#"),
            ("a/{\"b/c\"}/d", "a/+/d"),
            ("plain", "plain"),
        ] {
            assert_eq!(
                filter_of(template).map(|found| found.as_str().to_owned()).as_deref(),
                Some(filter)
            );
        }
    }
}
