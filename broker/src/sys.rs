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

/// Averages are over so many minutes.
const MINUTES: [u32; 3] = [1, 5, 15];

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
    let (mut loads, mut clients_max) = (Loads::default(), 0);
    let mut matcher = Matcher::new(
        shared.subscriptions.clone(),
        figures(&shared, &loads, clients_max).len(),
    );
    let mut period = tokio::time::interval(Duration::from_millis(SYS_PERIOD_MS));
    loop {
        period.tick().await;
        for (client, messages) in shared.clients.take_dropped() {
            shared.events.dropped(&client, messages);
        }
        loads.look(counters(&shared));
        clients_max = clients_max.max(shared.clients.count());
        for (topic, value) in shared.sys.replace(figures(&shared, &loads, clients_max)) {
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

/// Averages of how much counters grow in a minute, each look counting for less the longer ago it is, as mosquitto has them.
#[derive(Debug, Default)]
struct Loads {
    last: Option<Counters>,
    averages: [[f64; MINUTES.len()]; COUNTERS.len()],
}

const COUNTERS: [&str; 6] = [
    "connections",
    "bytes/received",
    "bytes/sent",
    "publish/received",
    "publish/sent",
    "publish/dropped",
];

/// Values of [`COUNTERS`].
type Counters = [u64; COUNTERS.len()];

fn counters(shared: &Shared) -> Counters {
    let metrics = &shared.metrics;
    [
        metrics.connections_accepted.value(),
        metrics.received_bytes.value(),
        metrics.sent_bytes.value(),
        metrics.received_messages.value(),
        metrics.delivered_messages.value(),
        metrics.dropped_messages.value(),
    ]
}

impl Loads {
    /// To be called each [`SYS_PERIOD_MS`].
    fn look(&mut self, now: Counters) {
        let last = self.last.replace(now).unwrap_or_default();
        let looks_a_minute = 60_000.0 / SYS_PERIOD_MS as f64;
        for (averages, (now, last)) in self.averages.iter_mut().zip(now.into_iter().zip(last)) {
            let a_minute = now.saturating_sub(last) as f64 * looks_a_minute;
            for (average, minutes) in averages.iter_mut().zip(MINUTES) {
                let kept = (-1.0 / (looks_a_minute * f64::from(minutes))).exp();
                *average = a_minute + kept * (*average - a_minute);
            }
        }
    }

    fn figures(&self) -> impl Iterator<Item = (String, String)> {
        let of = |(name, averages): (&'static str, [f64; MINUTES.len()])| {
            let each = MINUTES.into_iter().zip(averages);
            each.map(move |(minutes, average)| (format!("load/{name}/{minutes}min"), format!("{average:.2}")))
        };
        COUNTERS.into_iter().zip(self.averages).flat_map(of)
    }
}

fn figures(shared: &Shared, loads: &Loads, clients_max: usize) -> Vec<(TopicName, String)> {
    let metrics = &shared.metrics;
    let figures = [
        ("version", format!("headwater version {}", env!("CARGO_PKG_VERSION"))),
        ("uptime", format!("{} seconds", shared.started.elapsed().as_secs())),
        ("clients/connected", shared.clients.count().to_string()),
        ("clients/maximum", clients_max.max(shared.clients.count()).to_string()),
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
    let figures = figures.map(|(name, value)| (name.to_owned(), value)).into_iter();
    figures
        .chain(loads.figures())
        .filter_map(|(name, value)| Some((topic(&name)?, value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_come_to_what_is_done_in_a_minute() {
        let mut loads = Loads::default();
        for look in 1..=(60_000 / SYS_PERIOD_MS) * 15 {
            loads.look([0, look * 100, 0, 0, 0, 0]);
        }
        let figures: Vec<(String, String)> = loads.figures().collect();
        let value = |name: &str| -> f64 {
            let (_, value) = figures.iter().find(|(known, _)| known == name).unwrap();
            value.parse().unwrap()
        };
        assert_eq!(value("load/bytes/sent/1min"), 0.0);
        let a_minute = 100.0 * 60_000.0 / SYS_PERIOD_MS as f64;
        assert!((value("load/bytes/received/1min") - a_minute).abs() < 1.0);
        // Over fifteen minutes it has come to one minus 1/e of it.
        assert!((value("load/bytes/received/15min") - a_minute * (1.0 - (-1.0f64).exp())).abs() < 1.0);
    }
}
