//! `$queue/…`: the consumers of a stream compete, nothing is lost, what nobody can do goes to the dead letters.

use std::collections::{BTreeMap, BTreeSet};

use headwater_broker::packet::*;
use headwater_store::{Batch, Header, Offset, Qos, Record};

use crate::support::{CLEAN, Client, STAY, Server, ack, number, open, stream};

async fn make_jobs(server: &Server) {
    server.store.create_stream(stream("jobs", &["jobs/#"])).await.unwrap();
}

async fn consumer(server: &Server, client_id: &str) -> Client {
    let (mut client, _) = open(server, client_id, CLEAN).await;
    let granted = client.try_subscribe("$queue/jobs", Qos::ExactlyOnce).await;
    assert_eq!(granted, Reason::GRANTED_QOS_1, "QoS 1 at most");
    client
}

async fn publish(server: &Server, numbers: std::ops::RangeInclusive<u16>) {
    let mut client = Client::connect(server.address(), Version::V5, "publisher").await;
    for number in numbers {
        client
            .publish_numbers(&format!("jobs/{}", number % 5), number..=number)
            .await;
    }
}

/// What comes until nothing more does within `wait_ms`; `answer` says how each is answered, if it is.
async fn take(client: &mut Client, wait_ms: u64, answer: Option<Reason>) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(publish) = client.next_within(wait_ms).await {
        assert!(!publish.dup && !publish.retain);
        numbers.push(number(&publish));
        if let (Some(reason), Some(id)) = (answer, publish.packet_id) {
            client
                .send(&Packet::PubAck(Ack {
                    reason,
                    ..ack(id.get())
                }))
                .await;
        }
    }
    numbers
}

const DONE: Option<Reason> = Some(Reason::SUCCESS);

/// Payloads of the dead letters, with what they say of themselves.
async fn dead_letters(server: &Server) -> BTreeMap<u64, (String, Option<bytes::Bytes>)> {
    let row = server.store.catalog().borrow().stream("jobs$dead").cloned();
    let mut letters = BTreeMap::new();
    for shard in row.iter().flat_map(|row| row.shard_ids()) {
        for batch in server.store.read(shard, Offset(0), 1 << 20).await.unwrap() {
            for (_, record) in batch.records_from(Offset(0)).unwrap() {
                assert_eq!(record.topic, None, "it is not published again");
                let tries = record.headers.iter().find_map(|header| match header {
                    Header::User(name, value) if &**name == "queue-tries" => Some(value.to_string()),
                    _ => None,
                });
                let number = std::str::from_utf8(&record.payload.unwrap()).unwrap().parse().unwrap();
                let twice = letters.insert(number, (tries.unwrap(), record.key));
                assert_eq!(twice, None, "{number} is buried twice");
            }
        }
    }
    letters
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_compete_for_what_was_there_and_what_comes() {
    let server = Server::start(&[]).await;
    make_jobs(&server).await;
    publish(&server, 1..=30).await;
    let mut consumers = Vec::new();
    for name in ["a", "b", "c"] {
        consumers.push(consumer(&server, name).await);
    }
    publish(&server, 31..=90).await;
    let mut seen = BTreeSet::new();
    // The first takes its part, acknowledges nothing, and leaves.
    let mut first = consumers.remove(0);
    assert!(!take(&mut first, 400, None).await.is_empty());
    drop(first);
    for consumer in &mut consumers {
        for number in take(consumer, 600, DONE).await {
            assert!(seen.insert(number), "{number} came twice");
        }
    }
    assert_eq!(seen, (1..=90).collect());
    drop(consumers);
    // Nobody is there, and the place is kept; nothing that was acknowledged comes again, also over a restart.
    publish(&server, 91..=95).await;
    let server = Server::start_in(server.stop().await, &[]).await;
    let mut last = consumer(&server, "d").await;
    assert_eq!(
        take(&mut last, 600, DONE).await.into_iter().collect::<BTreeSet<_>>(),
        (91..=95).collect()
    );
    assert_eq!(dead_letters(&server).await.len(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_answered_comes_again_and_at_last_is_a_dead_letter() {
    let server = Server::start(&["broker.queue_timeout=300ms", "broker.queue_tries=3"]).await;
    make_jobs(&server).await;
    publish(&server, 1..=1).await;
    let mut hangs = consumer(&server, "hangs").await;
    assert_eq!(take(&mut hangs, 150, None).await, [1]);
    let mut quick = consumer(&server, "quick").await;
    assert_eq!(take(&mut quick, 700, DONE).await, [1], "another one does it");
    assert_eq!(take(&mut hangs, 700, None).await, [] as [u64; 0]);
    drop(hangs);
    // Nobody can do this one: each time it comes it is rejected, at once and not after the timeout.
    publish(&server, 2..=2).await;
    assert_eq!(take(&mut quick, 250, Some(Reason::UNSPECIFIED_ERROR)).await, [2, 2, 2]);
    // Nor this one: unanswered three times, also when its consumer leaves.
    publish(&server, 3..=3).await;
    let mut got = take(&mut quick, 400, None).await;
    drop(quick);
    let mut other = consumer(&server, "other").await;
    got.extend(take(&mut other, 600, None).await);
    assert_eq!(got, [3, 3, 3]);
    let letters = dead_letters(&server).await;
    assert_eq!(letters.keys().copied().collect::<Vec<_>>(), [2, 3]);
    assert_eq!(letters[&2], ("3".into(), Some("jobs/2".into())));
    // What is buried is done with.
    drop(other);
    let server = Server::start_in(server.stop().await, &[]).await;
    let mut late = consumer(&server, "late").await;
    assert_eq!(take(&mut late, 400, None).await, [] as [u64; 0]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_hangs_takes_no_more_than_its_window() {
    let server = Server::start(&["broker.queue_timeout=200ms"]).await;
    make_jobs(&server).await;
    publish(&server, 1..=200).await;
    let mut hangs = consumer(&server, "hangs").await;
    assert_eq!(
        take(&mut hangs, 500, None).await.len(),
        32,
        "it gets nothing new for what it did not answer"
    );
    let mut quick = consumer(&server, "quick").await;
    let done: BTreeSet<u64> = take(&mut quick, 600, DONE).await.into_iter().collect();
    assert_eq!(done, (1..=200).collect());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_session_goes_on_consuming_without_subscribing_again() {
    let server = Server::start(&[]).await;
    make_jobs(&server).await;
    publish(&server, 1..=3).await;
    let (mut device, _) = open(&server, "device", STAY).await;
    device.subscribe("$queue/jobs@latest", Qos::AtLeastOnce).await;
    publish(&server, 4..=6).await;
    assert_eq!(
        take(&mut device, 400, None).await.len(),
        3,
        "it began where it was told to"
    );
    drop(device);
    publish(&server, 7..=9).await;
    let server = Server::start_in(server.stop().await, &[]).await;
    let (mut device, _) = open(&server, "device", STAY).await;
    let got: BTreeSet<u64> = take(&mut device, 600, DONE).await.into_iter().collect();
    assert_eq!(got, (4..=9).collect(), "the unanswered ones too");
    // QoS 0 is done when it is sent.
    let (mut careless, _) = open(&server, "careless", CLEAN).await;
    careless.subscribe("$queue/jobs", Qos::AtMostOnce).await;
    drop(device);
    publish(&server, 10..=20).await;
    assert_eq!(take(&mut careless, 400, None).await.len(), 11);
    drop(careless);
    let mut other = consumer(&server, "other").await;
    assert_eq!(take(&mut other, 400, None).await, [] as [u64; 0]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_none_is_refused_and_one_whose_stream_goes_ends() {
    let server = Server::start(&[]).await;
    make_jobs(&server).await;
    let mut client = consumer(&server, "client").await;
    for wrong in [
        "$queue/none",
        "$queue/jobs/a",
        "$queue/jobs@never",
        "$queue/+",
        "$queue/jobs@9:0",
        "$queue",
    ] {
        let reason = client.try_subscribe(wrong, Qos::AtLeastOnce).await;
        assert_eq!(reason, Reason::TOPIC_FILTER_INVALID, "{wrong}");
    }
    publish(&server, 1..=3).await;
    assert_eq!(take(&mut client, 300, DONE).await.len(), 3);
    server.store.drop_stream("jobs").await.unwrap();
    make_jobs(&server).await;
    publish(&server, 4..=4).await;
    let mut client = consumer(&server, "client").await;
    assert_eq!(take(&mut client, 300, DONE).await, [4], "a new stream is a new queue");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_queries_only_is_no_job_and_no_message() {
    let server = Server::start(&[]).await;
    let row = server.store.create_stream(stream("jobs", &["jobs/#"])).await.unwrap();
    for shard in row.shard_ids() {
        let batch = Batch::new(shard.group).append(shard, vec![Record::watermark(1_000_000)]);
        server.store.write(batch).await.unwrap();
    }
    publish(&server, 1..=1).await;
    let mut worker = consumer(&server, "worker").await;
    let (mut reader, _) = open(&server, "reader", CLEAN).await;
    reader.subscribe("$stream/jobs@earliest", Qos::AtLeastOnce).await;
    for client in [&mut worker, &mut reader] {
        assert_eq!(take(client, 600, DONE).await, [1]);
    }
    server.stop().await;
}
