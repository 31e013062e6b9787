//! `$queue/…`: the consumers of a stream compete, nothing is lost, what nobody can do goes to the dead letters.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_broker::packet::*;
use headwater_store::{Header, Offset, Placement, Qos, StreamForm, StreamOptions, StreamSpec};
use support::{Client, Server, connect};

async fn make_jobs(server: &Server) {
    let spec = StreamSpec {
        name: "jobs".into(),
        placement: Placement::Topic,
        shards: 1,
        columns: Vec::new(),
        captures: vec!["jobs/#".into()],
        form: StreamForm::Append,
        options: StreamOptions::default(),
        sql: String::new(),
    };
    server.store.create_stream(spec).await.unwrap();
}

async fn open(server: &Server, client_id: &str, durable: bool) -> Client {
    let mut client = Client::open(server.address(), Version::V5).await;
    let expiry = durable.then_some(Property::SessionExpiryInterval(600));
    let Packet::Connect(mut packet) = connect(Version::V5, client_id, expiry.into_iter().collect()) else {
        unreachable!()
    };
    packet.clean_start = !durable;
    client.send(&Packet::Connect(packet)).await;
    assert!(matches!(client.receive().await, Some(Packet::ConnAck(ack)) if !ack.reason.is_error()));
    client
}

async fn subscribe(client: &mut Client, filter: &str, qos: Qos) -> u8 {
    let options = SubscriptionOptions {
        qos,
        ..SubscriptionOptions::default()
    };
    let packet = Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        properties: Properties::default(),
        subscriptions: [(filter.into(), options)].into_iter().collect(),
    };
    client.send(&Packet::Subscribe(packet)).await;
    match client.receive().await {
        Some(Packet::SubAck(suback)) => suback.reasons[0],
        other => panic!("no SUBACK but {other:?}"),
    }
}

async fn consumer(server: &Server, client_id: &str) -> Client {
    let mut client = open(server, client_id, false).await;
    assert_eq!(
        subscribe(&mut client, "$queue/jobs", Qos::ExactlyOnce).await,
        1,
        "QoS 1 at most"
    );
    client
}

fn ack(id: u16, reason: Reason) -> Packet {
    Packet::PubAck(Ack {
        packet_id: PacketId::new(id).unwrap(),
        reason,
        properties: Properties::default(),
    })
}

async fn publish(server: &Server, numbers: std::ops::RangeInclusive<u16>) {
    let mut client = Client::connect(server.address(), Version::V5, "publisher").await;
    for number in numbers {
        let packet = Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic: format!("jobs/{}", number % 5).into(),
            packet_id: PacketId::new(number),
            properties: Properties::default(),
            payload: number.to_string().into(),
        });
        client.send(&packet).await;
        assert_eq!(client.receive().await, Some(ack(number, Reason::SUCCESS)));
    }
}

/// What comes until nothing more does within `wait`; `answer` says how each is answered, if it is.
async fn take(client: &mut Client, wait_ms: u64, answer: Option<Reason>) -> Vec<u16> {
    let mut numbers = Vec::new();
    while let Some(packet) = client.receive_within(Duration::from_millis(wait_ms)).await {
        let Packet::Publish(publish) = packet else {
            panic!("no message but {packet:?}")
        };
        assert!(!publish.dup && !publish.retain);
        numbers.push(std::str::from_utf8(&publish.payload).unwrap().parse().unwrap());
        if let (Some(reason), Some(id)) = (answer, publish.packet_id) {
            client.send(&ack(id.get(), reason)).await;
        }
    }
    numbers
}

const DONE: Option<Reason> = Some(Reason::SUCCESS);

/// Payloads of the dead letters, with what they say of themselves.
async fn dead_letters(server: &Server) -> BTreeMap<u16, (String, Option<bytes::Bytes>)> {
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
    assert_eq!(take(&mut hangs, 700, None).await, [] as [u16; 0]);
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
    assert_eq!(take(&mut late, 400, None).await, [] as [u16; 0]);
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
    let done: BTreeSet<u16> = take(&mut quick, 600, DONE).await.into_iter().collect();
    assert_eq!(done, (1..=200).collect());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_session_goes_on_consuming_without_subscribing_again() {
    let server = Server::start(&[]).await;
    make_jobs(&server).await;
    publish(&server, 1..=3).await;
    let mut device = open(&server, "device", true).await;
    assert_eq!(subscribe(&mut device, "$queue/jobs@latest", Qos::AtLeastOnce).await, 1);
    publish(&server, 4..=6).await;
    assert_eq!(
        take(&mut device, 400, None).await.len(),
        3,
        "it began where it was told to"
    );
    drop(device);
    publish(&server, 7..=9).await;
    let server = Server::start_in(server.stop().await, &[]).await;
    let mut device = open(&server, "device", true).await;
    let got: BTreeSet<u16> = take(&mut device, 600, DONE).await.into_iter().collect();
    assert_eq!(got, (4..=9).collect(), "the unanswered ones too");
    // QoS 0 is done when it is sent.
    let mut careless = open(&server, "careless", false).await;
    assert_eq!(subscribe(&mut careless, "$queue/jobs", Qos::AtMostOnce).await, 0);
    drop(device);
    publish(&server, 10..=20).await;
    assert_eq!(take(&mut careless, 400, None).await.len(), 11);
    drop(careless);
    let mut other = consumer(&server, "other").await;
    assert_eq!(take(&mut other, 400, None).await, [] as [u16; 0]);
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
        let reason = subscribe(&mut client, wrong, Qos::AtLeastOnce).await;
        assert_eq!(reason, Reason::TOPIC_FILTER_INVALID.0, "{wrong}");
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
