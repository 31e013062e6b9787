//! `$SYS/broker/…`: what this node does, under mosquitto's names. The figures are of this node and of this moment, so they
//! are not stored: subscribers get them when they subscribe, like retained messages, and then whenever one changes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_store::{Qos, Record, TopicName};

use crate::limits::SYS_PERIOD_MS;
use crate::listener::Shared;
use crate::outbox::{Delivery, Outgoing};
use crate::session::Subscription;
use crate::subscriptions::Matcher;

/// The last figures, by topic.
#[derive(Debug, Default)]
pub struct Sys(Mutex<Vec<(TopicName, String)>>);

impl Sys {
    /// What a new subscription gets.
    pub fn for_subscription(&self, subscription: &Subscription) -> Vec<Delivery> {
        let figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let matching = figures.iter().filter(|(topic, _)| subscription.filter.matches(topic));
        let delivery = |(topic, value): &(TopicName, String)| {
            let message = Outgoing::new(record(topic, value), None)?;
            Some(Delivery {
                retain: true,
                subscription_ids: subscription.id.map(|id| Arc::from([id])),
                ..Delivery::of(message.into(), Qos::AtMostOnce)
            })
        };
        matching.filter_map(delivery).collect()
    }

    /// Takes new figures; gives those that changed.
    fn replace(&self, now: Vec<(TopicName, String)>) -> Vec<(TopicName, String)> {
        let mut figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = now.iter().filter(|figure| !figures.contains(figure)).cloned().collect();
        *figures = now;
        changed
    }
}

/// Looks at the figures now and then, for as long as the broker runs.
pub async fn run(shared: Arc<Shared>) {
    let mut matcher = Matcher::new(shared.subscriptions.clone(), figures(&shared).len());
    let mut period = tokio::time::interval(Duration::from_millis(SYS_PERIOD_MS));
    loop {
        period.tick().await;
        for (client, messages) in shared.clients.take_dropped() {
            shared.events.dropped(&client, messages);
        }
        for (topic, value) in shared.sys.replace(figures(&shared)) {
            shared.metrics.tally(matcher.deliver(record(&topic, &value), None));
        }
    }
}

fn record(topic: &TopicName, value: &str) -> Record {
    Record {
        topic: Some(topic.clone()),
        ..Record::new(value.to_owned())
    }
}

fn figures(shared: &Shared) -> Vec<(TopicName, String)> {
    let metrics = &shared.metrics;
    let figures = [
        ("version", format!("headwater version {}", env!("CARGO_PKG_VERSION"))),
        ("uptime", format!("{} seconds", shared.started.elapsed().as_secs())),
        ("clients/connected", shared.clients.count().to_string()),
        ("subscriptions/count", shared.subscriptions.count().to_string()),
        ("bytes/received", metrics.received_bytes.value().to_string()),
        ("bytes/sent", metrics.sent_bytes.value().to_string()),
        (
            "publish/messages/received",
            metrics.received_messages.value().to_string(),
        ),
        ("publish/messages/sent", metrics.delivered_messages.value().to_string()),
        ("publish/messages/dropped", metrics.dropped_messages.value().to_string()),
    ];
    let topic = |name: &str| TopicName::new(format!("$SYS/broker/{name}")).ok();
    figures
        .into_iter()
        .filter_map(|(name, value)| Some((topic(name)?, value)))
        .collect()
}
