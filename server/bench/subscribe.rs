//! `headwater bench subscribe`: receives what `bench publish` sends from elsewhere.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use headwater_store::Qos;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::connection::Connection;
use super::limits::CONNECTS_AT_ONCE;
use super::message::Filler;
use super::report::{Clock, DeliveredReport, Format, Latency, Report};
use super::subscriber::{Goal, Received, Subscriber};
use super::target::{Target, TargetArgs};
use super::verify::{Findings, Verifier};

/// Who listens to what.
#[derive(Debug, Clone, clap::Args)]
pub struct SubscribeArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Subscribing clients; each receives everything.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    clients: u32,
    /// The topic filter.
    #[arg(long, default_value = "bench/+", value_name = "FILTER")]
    topic: String,
    /// 0 or 1.
    #[arg(long, default_value = "1", value_parser = super::qos)]
    qos: Qos,
    /// Messages that each client has to receive: it ends when they are there, or when none has come for --patience.
    #[arg(long, value_name = "MESSAGES")]
    expect: Option<u64>,
    /// Ends after this time (without it and --expect: with Ctrl-C).
    #[arg(long, value_parser = super::duration)]
    duration: Option<Duration>,
    /// Check each delivery's content and order, and look for gaps. Implied by --expect.
    #[arg(long)]
    verify: bool,
    /// Give up when nothing has come for this long after the first message.
    #[arg(long, default_value = "10s", value_parser = super::duration)]
    patience: Duration,
    /// How the report is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Subscribes, receives, reports.
pub async fn run(args: SubscribeArgs) -> Result<()> {
    let target = args.target.target()?;
    let first_goal = match args.expect {
        Some(messages) => Goal::Count { messages, since: None },
        None => Goal::Open,
    };
    let (goal, goal_seen) = watch::channel(first_goal);
    let latency = Arc::new(Latency::new());
    let tasks = subscribe(&args, &target, &goal_seen, &latency).await?;
    drop(goal_seen);
    eprintln!("subscribed");
    let start = Instant::now();
    tokio::select! {
        () = over(args.duration) => {
            let _ = goal.send(Goal::Now);
        }
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("cannot listen for SIGINT")?;
            let _ = goal.send(Goal::Now);
        }
        // All tasks have reached their goal.
        () = goal.closed() => {}
    }
    let (delivered, problems, ended) = conclude(&args, tasks, &latency, start).await?;
    Report {
        address: target.address.to_string(),
        protocol: target.version.as_str(),
        clients: args.clients,
        qos: args.qos.bits(),
        elapsed_s: (ended - start).as_secs_f64(),
        published: None,
        delivered: Some(delivered),
        server: None,
        problems,
    }
    .conclude(args.output)
}

async fn over(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

async fn subscribe(
    args: &SubscribeArgs,
    target: &Target,
    goal: &watch::Receiver<Goal>,
    latency: &Arc<Latency>,
) -> Result<Vec<JoinHandle<Received>>> {
    let run = RandomState::new().hash_one(std::process::id()) as u32;
    let connections: Vec<_> = stream::iter(0..args.clients)
        .map(|number| async move {
            let mut connection = Connection::open(target, format!("bench-{run:08x}-s{number}")).await?;
            connection.subscribe(&args.topic, args.qos).await?;
            anyhow::Ok(connection)
        })
        .buffered(CONNECTS_AT_ONCE)
        .try_collect()
        .await?;
    let (clock, filler) = (Clock::new(), Arc::new(Filler::new()));
    let task = |connection| {
        let verifier = (args.verify || args.expect.is_some()).then(|| Verifier::new(filler.clone(), None));
        let subscriber = Subscriber::new(connection, args.patience, clock, latency.clone(), verifier);
        tokio::spawn(subscriber.run(goal.clone()))
    };
    Ok(connections.into_iter().map(task).collect())
}

async fn conclude(
    args: &SubscribeArgs,
    tasks: Vec<JoinHandle<Received>>,
    latency: &Latency,
    start: Instant,
) -> Result<(DeliveredReport, Vec<String>, Instant)> {
    let (mut received, mut missing, mut ended) = (0, 0, start);
    let (mut findings, mut problems) = (Findings::default(), Vec::new());
    for task in tasks {
        let it = task.await?;
        received += it.received;
        ended = it.ended.map_or(ended, |it| it.max(ended));
        problems.extend(it.problem);
        let gaps = it
            .verifier
            .map(|verifier| verifier.finish(None, args.expect.is_some()))
            .unwrap_or_default();
        // What is missing at the end of a publisher's sequence is no gap: only who knows the count can tell.
        missing += gaps
            .missing
            .max(args.expect.map_or(0, |expect| expect.saturating_sub(it.distinct)));
        findings.add(gaps);
    }
    let report = DeliveredReport {
        subscribers: args.clients,
        expected: args.expect.map(|expect| expect * u64::from(args.clients)),
        received,
        messages_per_s: received as f64 / (ended - start).as_secs_f64().max(1e-6),
        verified: args.verify || args.expect.is_some(),
        missing,
        duplicates: findings.duplicates,
        out_of_order: findings.out_of_order,
        corrupt: findings.corrupt,
        latency_us: latency.summary(),
    };
    report.problems(&findings, &mut problems);
    if let Some(expect) = args.expect.filter(|expect| received > expect * u64::from(args.clients)) {
        problems.push(format!(
            "{received} came, {} were expected",
            expect * u64::from(args.clients)
        ));
    }
    Ok((report, problems, ended))
}
