//! Order, changes of the routing, refusals, acknowledgements from memory.

use headwater_config::Config;
use headwater_store::{Store, StreamSpec, SystemClock, TopicName, group_for_topic};

use super::*;
use crate::packet::Properties;
use headwater_store::Qos;

fn ack(id: u16) -> Option<Answer> {
    PacketId::new(id).map(Answer::Ack)
}

fn message(topic: &str, payload: &'static str) -> Message {
    Message {
        topic: TopicName::new(topic).unwrap(),
        payload: payload.into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::default(),
    }
}

async fn open(folder: &std::path::Path) -> Store {
    let path = format!("store.path={}", folder.join("data").display());
    let config = Config::load(None, [], &[path, "store.free_disk_min=0".into()]).unwrap();
    let open = move || Store::open(&config.store, Arc::new(SystemClock)).unwrap();
    tokio::task::spawn_blocking(open).await.unwrap()
}

fn pipeline(store: &Store) -> Pipeline {
    let origin = Origin {
        client_id: "c".into(),
        username: None,
    };
    Pipeline::new(Publisher::new(store.clone()), origin, Arc::default())
}

async fn run_dry(pipeline: &mut Pipeline) -> Vec<(Option<Answer>, bool)> {
    let mut outcomes = Vec::new();
    std::future::poll_fn(|context| {
        while pipeline.poll(context, &mut outcomes) {}
        if pipeline.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outcomes
        .into_iter()
        .map(|(ack, outcome)| (ack, outcome.is_ok()))
        .collect()
}

async fn capture(store: &Store, name: &str, filter: &str) {
    let spec = StreamSpec {
        captures: vec![filter.into()],
        ..StreamSpec::new(name)
    };
    store.create_stream(spec).await.unwrap();
}

/// The payloads of `topic` in `stream`, as one text.
async fn stored(store: &Store, stream: &str, topic: &str) -> String {
    let row = store.catalog().borrow().stream(stream).cloned().unwrap();
    let group = group_for_topic(topic, store.data_groups().count() as u16);
    let shard = row.shard_ids().find(|shard| shard.group == group).unwrap();
    let (from, _) = store.bounds(shard).await.unwrap();
    let batches = store.read(shard, from, 1 << 20).await.unwrap();
    let records = batches.iter().flat_map(|batch| batch.records_from(from).unwrap());
    let payloads = records.map(|(_, record)| record.payload.unwrap());
    String::from_utf8(payloads.flatten().collect()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_routed_by_the_old_catalog_is_not_overtaken_by_one_routed_by_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut pipeline = pipeline(&store);
    pipeline.push(message("a/b", "1"), ack(1));
    pipeline.push(message("a/b", "2"), ack(2));
    pipeline.seal();
    // Routed and not submitted: by the time they are, the group's fence is ahead of them.
    capture(&store, "newer", "a/#").await;
    pipeline.push(message("a/b", "3"), ack(3));
    pipeline.push(message("x/y", "-"), ack(4));
    pipeline.seal();
    let outcomes = run_dry(&mut pipeline).await;
    assert_eq!(outcomes, [1, 2, 3, 4].map(|id| (ack(id), true)));
    assert_eq!(stored(&store, "newer", "a/b").await, "123");
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_from_memory_is_routed_again_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let fast = StreamSpec {
        captures: vec!["a/#".into()],
        ack: StreamAck::Memory,
        ..StreamSpec::new("fast")
    };
    store.create_stream(fast).await.unwrap();
    let mut pipeline = pipeline(&store);
    pipeline.push(message("a/b", "1"), ack(1));
    pipeline.push(message("a/b", "2"), ack(2));
    pipeline.seal();
    capture(&store, "newer", "a/b/#").await;
    pipeline.push(message("a/b", "3"), ack(3));
    pipeline.push(message("a/c", "-"), ack(4));
    pipeline.seal();
    let outcomes = run_dry(&mut pipeline).await;
    assert_eq!(outcomes, [1, 2, 3, 4].map(|id| (ack(id), true)));
    assert_eq!(stored(&store, "newer", "a/b").await, "123");
    assert!(pipeline.take_lost().is_none());
    assert_eq!(pipeline.promised(), 0, "all of it came true");
    store.stop().await;
}

#[test]
fn a_yes_that_does_not_come_true_is_counted_and_not_reported_twice() {
    let flying = |id, due| Entry {
        answer: ack(id),
        due,
        cargo: Cargo::Flying {
            flight: 0,
            message: message("a/b", "x"),
        },
    };
    let refused = Entry {
        due: Due::Answered,
        ..Entry::settled(ack(3), Err(PublishError::NoTopic))
    };
    let chunk = Chunk {
        entries: vec![
            flying(1, Due::Promised),
            flying(2, Due::Promised),
            refused,
            flying(4, Due::Committed),
        ],
        flights: vec![Flight::Landed(Err(WriteError::Indefinite("the disk broke")))],
        ..Chunk::default()
    };
    let mut outcomes = Vec::new();
    let (promised, lost) = chunk.report(&mut outcomes);
    let lost = lost.map(|lost| (lost.messages, lost.error.to_string()));
    assert_eq!(
        (promised, lost),
        (2, Some((2, "the outcome is not known: the disk broke".into())))
    );
    let answers: Vec<_> = outcomes
        .iter()
        .map(|(answer, outcome)| (*answer, outcome.is_ok()))
        .collect();
    assert_eq!(answers, [(ack(4), false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_reported_in_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut pipeline = pipeline(&store);
    pipeline.refuse(ack(1), PublishError::NoTopic);
    pipeline.seal();
    pipeline.push(message("a/b", "1"), ack(2));
    pipeline.refuse(ack(3), PublishError::NoTopic);
    pipeline.push(message("c", "2"), ack(4));
    pipeline.seal();
    let outcomes = run_dry(&mut pipeline).await;
    let expected = [(1, false), (2, true), (3, false), (4, true)].map(|(id, good)| (ack(id), good));
    assert_eq!(outcomes, expected);
    store.stop().await;
    pipeline.push(message("a/b", "3"), ack(5));
    pipeline.seal();
    assert_eq!(
        run_dry(&mut pipeline).await,
        [(ack(5), false)],
        "nothing is good after the stop"
    );
}
