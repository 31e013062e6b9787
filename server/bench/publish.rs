//! `headwater bench publish`: one run of the load.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use headwater_store::Qos;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::connection::Connection;
use super::limits::{CONNECTS_AT_ONCE, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN};
use super::message::Filler;
use super::observe::Usage;
use super::pace::{self, Extent, Schedule};
use super::publisher::{Load, Published, Publisher};
use super::report::{Clock, DeliveredReport, Format, Latency, PublishedReport, Report, ServerReport};
use super::subscriber::{Goal, Received, Subscriber};
use super::target::{Target, TargetArgs};
use super::topic::Template;
use super::verify::{Findings, Origin, Verifier};

/// The load.
#[derive(Debug, Clone, clap::Args)]
pub struct PublishArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Publishing clients, one connection each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    clients: u32,
    /// Messages that each client has under way (QoS 1).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    inflight: u16,
    /// 0 or 1.
    #[arg(long, default_value = "1", value_parser = super::qos)]
    qos: Qos,
    /// Bytes of each payload: JSON with incompressible filler.
    #[arg(long, default_value_t = 256, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(i64::from(PAYLOAD_BYTES_MIN)..=i64::from(PAYLOAD_BYTES_MAX)))]
    size: u32,
    // clap makes a line end of an n in braces.
    /// Where to; `client` in braces stands for the client's number, `n` in braces for the message's modulo --topics.
    #[arg(long, default_value = "bench/{client}", value_name = "TEMPLATE")]
    topic: String,
    /// How many values `n` has in --topic.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    topics: u64,
    /// How long to publish (default: 10s).
    #[arg(long, conflicts_with = "count", value_parser = super::duration)]
    duration: Option<Duration>,
    /// How many messages to publish, all clients together.
    #[arg(long, value_name = "MESSAGES")]
    count: Option<u64>,
    /// Open loop: messages a second, all clients together; latency counts from the intended time. Without it each
    /// client sends when its window has room (closed loop).
    #[arg(long, allow_negative_numbers = true, value_name = "MESSAGES", value_parser = rate)]
    rate: Option<f64>,
    /// Subscribe so many clients to all topics of the load, in this process.
    #[arg(long, default_value_t = 0, value_name = "CLIENTS", value_parser = clap::value_parser!(u32).range(0..=60_000))]
    subscribers: u32,
    /// Check each delivery's content and order; makes one subscriber when --subscribers is not given.
    #[arg(long)]
    verify: bool,
    /// Give up when nothing has come for this long.
    #[arg(long, default_value = "10s", value_parser = super::duration)]
    patience: Duration,
    /// The server's process, to see what it uses (Linux, same machine).
    #[arg(long)]
    pid: Option<u32>,
    /// How the report is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("write a number of messages a second, above 0".into()),
    }
}

impl PublishArgs {
    fn extent(&self) -> Extent {
        match (self.count, self.duration) {
            (Some(count), _) => Extent::Count(count),
            (None, duration) => Extent::Duration(duration.unwrap_or(Duration::from_secs(10))),
        }
    }

    fn subscribers(&self) -> u32 {
        self.subscribers.max(u32::from(self.verify))
    }

    fn load(&self) -> Result<Load> {
        Ok(Load {
            run: RandomState::new().hash_one(std::process::id()) as u32,
            template: Template::new(&self.topic, self.topics)?,
            filler: Arc::new(Filler::new()),
            payload_bytes: self.size as usize,
            qos: self.qos,
            patience: self.patience,
            clock: Clock::new(),
            latency: Latency::new(),
        })
    }
}

/// Connects, publishes, receives, reports.
pub async fn run(args: PublishArgs) -> Result<()> {
    let target = args.target.target()?;
    let load = Arc::new(args.load()?);
    let audience = Audience::open(&args, &target, &load).await?;
    let publishers = connect(&args, &target, &load).await?;
    let usage = || args.pid.map(Usage::of).transpose();
    let own = || Usage::of(std::process::id());

    let (before, own_before, start) = (usage()?, own().ok(), Instant::now());
    let published = publish(&args, publishers, start).await?;
    let own_used = own_before.and_then(|before| Some(own().ok()?.since(before)));
    let (delivered, mut problems) = audience.close(&published, start).await?;
    let used = before.zip(usage()?).map(|(before, after)| after.since(before));

    let total = Published::total(&published);
    let elapsed_s = total.ended.map_or(start.elapsed(), |ended| ended - start).as_secs_f64();
    problems.splice(0..0, published.iter().filter_map(|it| it.problem.clone()));
    count(&args, &total, &mut problems);
    let per_message = |it: f64| if total.sent == 0 { 0.0 } else { it / total.sent as f64 };
    let report = Report {
        address: target.address.to_string(),
        protocol: target.version.as_str(),
        clients: args.clients,
        qos: args.qos.bits(),
        elapsed_s,
        published: Some(PublishedReport {
            inflight: args.inflight,
            payload_bytes: load.payload_bytes,
            rate: args.rate,
            sent: total.sent,
            acknowledged: total.acknowledged,
            refused: total.refused,
            messages_per_s: total.done(args.qos) as f64 / elapsed_s.max(1e-6),
            latency_us: load.latency.summary(),
            generator_cpu_us_per_message: per_message(own_used.map_or(0.0, |used| used.cpu.as_secs_f64() * 1e6)),
        }),
        delivered,
        server: args.pid.zip(used).map(|(pid, used)| ServerReport {
            pid,
            cpu_us_per_message: per_message(used.cpu.as_secs_f64() * 1e6),
            write_amplification: per_message(used.written_bytes as f64) / load.payload_bytes as f64,
        }),
        problems,
    };
    report.conclude(args.output)
}

/// What is not exact about the publishing side.
fn count(args: &PublishArgs, total: &Published, problems: &mut Vec<String>) {
    if args.qos != Qos::AtMostOnce && total.acknowledged != total.sent {
        let why = total.reason.map_or(String::new(), |reason| format!(": {reason}"));
        problems.push(format!(
            "{} of {} messages are acknowledged, {} refused{why}",
            total.acknowledged, total.sent, total.refused
        ));
    }
    if let Some(count) = args.count.filter(|count| *count != total.sent) {
        problems.push(format!("{} of {count} messages were sent", total.sent));
    }
}

impl Published {
    /// All clients together.
    fn total(clients: &[Published]) -> Published {
        let sum = |number: fn(&Published) -> u64| clients.iter().map(number).sum();
        Published {
            sent: sum(|it| it.sent),
            acknowledged: sum(|it| it.acknowledged),
            refused: sum(|it| it.refused),
            reason: clients.iter().find_map(|it| it.reason),
            ended: clients.iter().filter_map(|it| it.ended).max(),
            problem: None,
        }
    }

    /// What counts for the rate: QoS 0 has no acknowledgement.
    fn done(&self, qos: Qos) -> u64 {
        match qos {
            Qos::AtMostOnce => self.sent,
            _ => self.acknowledged,
        }
    }
}

async fn connect(args: &PublishArgs, target: &Target, load: &Arc<Load>) -> Result<Vec<Publisher>> {
    let publishers: Vec<_> = stream::iter(0..args.clients)
        .map(|client| async move {
            let connection = Connection::open(target, format!("bench-{:08x}-p{client}", load.run))
                .await
                .with_context(|| format!("client {client}"))?;
            let inflight_max = connection.inflight_max();
            let publisher = Publisher::new(connection, load.clone(), client, args.inflight);
            anyhow::Ok((publisher, inflight_max))
        })
        .buffered(CONNECTS_AT_ONCE)
        .try_collect()
        .await?;
    if let Some((_, inflight_max)) = publishers
        .first()
        .filter(|(_, inflight_max)| *inflight_max < args.inflight)
    {
        eprintln!("the broker takes {inflight_max} messages in flight from a client, so it gets no more");
    }
    Ok(publishers.into_iter().map(|(publisher, _)| publisher).collect())
}

async fn publish(args: &PublishArgs, publishers: Vec<Publisher>, start: Instant) -> Result<Vec<Published>> {
    let due: Vec<_> = publishers.iter().map(|_| Arc::new(Notify::new())).collect();
    let mut tasks: Vec<JoinHandle<Published>> = Vec::new();
    for (client, (publisher, due)) in publishers.into_iter().zip(&due).enumerate() {
        let schedule = Schedule::new(start, client as u32, args.clients, args.extent(), args.rate);
        tasks.push(tokio::spawn(publisher.run(schedule, due.clone())));
    }
    if let Some(rate) = args.rate {
        pace::wake_at_rate(start, rate, due);
    }
    let mut published = Vec::new();
    for task in tasks {
        published.push(task.await?);
    }
    Ok(published)
}

/// The subscribers in this process.
struct Audience {
    goal: watch::Sender<Goal>,
    tasks: Vec<JoinHandle<Received>>,
    latency: Arc<Latency>,
    verify: bool,
}

impl Audience {
    /// Subscribed when it returns.
    async fn open(args: &PublishArgs, target: &Target, load: &Arc<Load>) -> Result<Audience> {
        let (goal, goal_seen) = watch::channel(Goal::Open);
        let latency = Arc::new(Latency::new());
        let filter = &load.template.filter();
        let connections: Vec<_> = stream::iter(0..args.subscribers())
            .map(|number| async move {
                let mut connection = Connection::open(target, format!("bench-{:08x}-s{number}", load.run)).await?;
                connection.subscribe(filter, args.qos).await?;
                anyhow::Ok(connection)
            })
            .buffered(CONNECTS_AT_ONCE)
            .try_collect()
            .await
            .context("a subscriber")?;
        let origin = Origin {
            run: load.run,
            template: load.template.clone(),
            clients: args.clients,
        };
        let verifier = || Verifier::new(load.filler.clone(), Some(origin.clone()));
        let tasks = connections
            .into_iter()
            .map(|connection| {
                let verifier = args.verify.then(verifier);
                let subscriber = Subscriber::new(connection, args.patience, load.clock, latency.clone(), verifier);
                tokio::spawn(subscriber.run(goal_seen.clone()))
            })
            .collect();
        Ok(Audience {
            goal,
            tasks,
            latency,
            verify: args.verify,
        })
    }

    /// Waits for what was published; the report and what is wrong.
    async fn close(self, published: &[Published], start: Instant) -> Result<(Option<DeliveredReport>, Vec<String>)> {
        let sent: Vec<_> = published.iter().map(|it| it.sent).collect();
        let messages: u64 = sent.iter().sum();
        let since = Some(Instant::now());
        // It is a watch: nobody listens only when there are no subscribers, or all have broken off.
        let _ = self.goal.send(Goal::Count { messages, since });
        let subscribers = self.tasks.len() as u32;
        if subscribers == 0 {
            return Ok((None, Vec::new()));
        }
        let (mut received, mut missing, mut ended) = (0, 0, start);
        let (mut findings, mut problems) = (Findings::default(), Vec::new());
        for task in self.tasks {
            let it = task.await?;
            received += it.received;
            ended = it.ended.map_or(ended, |it| it.max(ended));
            problems.extend(it.problem);
            match it.verifier {
                Some(verifier) => findings.add(verifier.finish(Some(&sent), true)),
                None => missing += messages.saturating_sub(it.received),
            }
        }
        let expected = messages * u64::from(subscribers);
        let report = DeliveredReport {
            subscribers,
            expected: Some(expected),
            received,
            messages_per_s: received as f64 / (ended - start).as_secs_f64().max(1e-6),
            verified: self.verify,
            missing: findings.missing + missing,
            // Without a look inside, more than there were is all that can be told.
            duplicates: if self.verify {
                findings.duplicates
            } else {
                received.saturating_sub(expected - missing)
            },
            out_of_order: findings.out_of_order,
            corrupt: findings.corrupt,
            latency_us: self.latency.summary(),
        };
        report.problems(&findings, &mut problems);
        Ok((Some(report), problems))
    }
}
