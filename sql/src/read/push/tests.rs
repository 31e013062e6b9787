//! Homes that come while a read is under way.

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::Poll;

use headwater_config::Config;
use headwater_store::{Ack, Placement, StreamForm, StreamOptions, StreamSpec, SystemClock, TopicName};

use super::*;
use crate::ast::StatementKind;
use crate::outcome::RowStream;
use crate::parse::parse;
use crate::plan::Binder;

const SELECT: &str = "SELECT v FROM 'r/#' EMIT CHANGES FROM BEGINNING;";
const TOPICS: usize = 40;
/// A read that is left in its middle may have been done already by then; of so many not all are.
const TRIES: usize = 100;

fn home(number: usize) -> StreamSpec {
    StreamSpec {
        name: format!("home{number}"),
        placement: Placement::Topic,
        shards: 1,
        columns: vec![],
        captures: vec![format!("r/home{number}/+")],
        form: StreamForm::Append,
        options: StreamOptions::default(),
        ack: Ack::default(),
        sql: String::new(),
    }
}

async fn begin(store: &Store) -> (Push, RowStream) {
    let catalog = store.catalog().borrow().clone();
    let statements = parse(SELECT).unwrap();
    let StatementKind::Select(select) = &statements[0].kind else {
        panic!("{SELECT} is no SELECT");
    };
    let plan = Binder::new(&catalog, SELECT).select(select).unwrap().plan;
    let rules = QueryRules {
        idle_us: i64::MAX,
        future_skew_us: i64::MAX,
    };
    let (sender, rows) = RowStream::channel();
    let push = Push::begin(store.clone(), &plan, sender, rules, 100).await;
    (push.unwrap(), rows)
}

/// Polls it so often, and then drops it.
async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let (mut future, mut left) = (pin!(future), times);
    std::future::poll_fn(move |context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            left -= 1;
            match left {
                0 => Poll::Ready(None),
                _ => Poll::Pending,
            }
        }
    })
    .await
}

fn records(found: Vec<(StoredBatch, Offset)>) -> Vec<(ShardId, Offset)> {
    let of_batch = |(batch, from): (StoredBatch, Offset)| {
        let records = batch.records_from(from).unwrap();
        records.into_iter().map(move |(offset, _)| (batch.shard, offset))
    };
    found.into_iter().flat_map(of_batch).collect()
}

/// A read of several groups is dropped when streams change, with what it found in the first ones: that goes before what
/// the next follower gives.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_when_a_home_comes_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::embedded().unwrap().store;
    config.path = folder.path().join("data");
    let store = tokio::task::spawn_blocking(move || Store::open(&config, Arc::new(SystemClock)).unwrap());
    let store = store.await.unwrap();
    for number in 0..TOPICS {
        let topic = TopicName::new(format!("r/{number}")).unwrap();
        let record = Record {
            topic: Some(topic.clone()),
            ..Record::new(r#"{"v":1}"#)
        };
        store.write(store.route(&topic).batch(record)).await.unwrap();
    }
    for number in 0..TRIES {
        let (mut push, _rows) = begin(&store).await;
        let before = push.follower.cursors().to_vec();
        let done = polled(push.follower.next(FOLLOW_BYTES), 3).await;
        let took = push.follower.cursors() != before;
        store.create_stream(home(number)).await.unwrap();
        push.changes.changed().await.unwrap();
        let taken = push.follow_homes().await.unwrap();
        if done.is_some() || !took {
            continue;
        }
        let mut all = records(taken);
        assert!(!all.is_empty(), "what was taken is lost");
        while all.len() < TOPICS {
            all.extend(records(push.follower.next(FOLLOW_BYTES).await.unwrap()));
        }
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), TOPICS, "{all:?}");
        store.stop().await;
        return;
    }
    panic!("no read was left in its middle");
}
