//! What an entry does to the rows, refusals, producers, fences, crashes.

use super::*;
use crate::engine::memory::MemoryEngine;
use crate::ids::StreamId;
use crate::key_hashes::KeyHashes;
use crate::limits::PRODUCER_KEPT_MS;
use crate::record::Record;
use crate::record_batch::{encode_record, seal};
use crate::retention::RetentionClass;

const GROUP: GroupId = GroupId(1);
const TABLE: TableId = TableId(1000);
const SHARD: ShardId = ShardId {
    group: GROUP,
    stream: StreamId(9),
    number: 0,
};

fn appending(payloads: &[&str]) -> Item {
    let mut body = Vec::new();
    payloads
        .iter()
        .for_each(|payload| encode_record(&Record::new(payload.as_bytes().to_vec()), &mut body));
    let batch = seal(&body, payloads.len() as u32, TimestampMs(5));
    Item {
        appends: vec![ItemAppend {
            shard: SHARD,
            class: RetentionClass::FOREVER,
            batch: batch.into(),
            keys: KeyHashes::default(),
            prefixes: KeyHashes::default(),
        }],
        ..Item::default()
    }
}

fn load(engine: &Arc<MemoryEngine>) -> Applier {
    let slices = Slices::open(engine.clone(), 1 << 20).unwrap();
    Applier::load(engine.clone(), Arc::new(slices), GROUP).unwrap()
}

fn put(value: &'static str) -> Put {
    Put {
        table: TABLE,
        key: "k".into(),
        value: Some(value.into()),
    }
}

fn row(value: Option<&'static str>) -> Condition {
    Condition::Row {
        table: TABLE,
        key: "k".into(),
        value: value.map(Into::into),
    }
}

fn run(applier: &mut Applier, items: Vec<Item>) -> Vec<Outcome> {
    let index = applier.applied().index.next();
    let data = entry::encode(&Entry {
        time: TimestampMs(5),
        items,
    });
    applier.apply(index, Term(1), data.into()).unwrap().1
}

#[test]
fn offsets_run_on_across_items_entries_and_a_reload() {
    let engine = Arc::new(MemoryEngine::default());
    let mut applier = load(&engine);
    assert_eq!(
        run(&mut applier, vec![appending(&["a", "b"]), appending(&["c"])]),
        [Ok(vec![Offset(0)]), Ok(vec![Offset(2)])]
    );
    let mut applier = load(&engine);
    assert_eq!(run(&mut applier, vec![appending(&["d"])]), [Ok(vec![Offset(3)])]);
    assert_eq!(applier.applied().index, LogIndex(2));
}

#[test]
fn a_refused_item_changes_nothing_and_later_items_see_earlier_ones() {
    let mut applier = load(&Arc::default());
    let claim = |value| Item {
        conditions: vec![row(None)],
        puts: vec![put(value)],
        ..appending(&["x"])
    };
    assert_eq!(
        run(&mut applier, vec![claim("first"), claim("second")]),
        [Ok(vec![Offset(0)]), Err(Refusal::Conflict)]
    );
    let follow = Item {
        conditions: vec![row(Some("first")), Condition::Term(Term(1))],
        ..appending(&["y"])
    };
    assert_eq!(
        run(&mut applier, vec![follow]),
        [Ok(vec![Offset(1)])],
        "the refused append took no offset"
    );
    let old_term = Item {
        conditions: vec![Condition::Term(Term(0))],
        ..appending(&["z"])
    };
    assert_eq!(run(&mut applier, vec![old_term]), [Err(Refusal::Conflict)]);
}

fn sent(sequence: u64, time_ms: i64, payload: &str) -> (TimestampMs, Item) {
    let producer = Producer {
        id: "http/4711".into(),
        epoch: 0,
        sequence,
    };
    let item = Item {
        producer: Some(producer),
        ..appending(&[payload])
    };
    (TimestampMs(time_ms), item)
}

fn run_at(applier: &mut Applier, (time, item): (TimestampMs, Item)) -> Outcome {
    let index = applier.applied().index.next();
    let items = vec![item];
    let data = entry::encode(&Entry { time, items });
    applier.apply(index, Term(1), data.into()).unwrap().1.remove(0)
}

#[test]
fn what_a_producer_sends_again_is_applied_once() {
    let engine = Arc::new(MemoryEngine::default());
    let mut applier = load(&engine);
    assert_eq!(run_at(&mut applier, sent(0, 5, "a")), Ok(vec![Offset(0)]));
    assert_eq!(run_at(&mut applier, sent(0, 6, "a")), Err(Refusal::Duplicate));
    let refused = Item {
        conditions: vec![row(Some("never"))],
        ..sent(1, 7, "b").1
    };
    assert_eq!(run_at(&mut applier, (TimestampMs(7), refused)), Err(Refusal::Conflict));
    assert_eq!(
        run_at(&mut applier, sent(1, 8, "b")),
        Ok(vec![Offset(1)]),
        "a refused one was not applied"
    );
    let mut applier = load(&engine);
    assert_eq!(
        run_at(&mut applier, sent(1, 9, "b")),
        Err(Refusal::Duplicate),
        "after a restart too"
    );
}

#[test]
fn silent_producers_are_forgotten() {
    let engine = Arc::new(MemoryEngine::default());
    let mut applier = load(&engine);
    let rows = |table| {
        let (mut count, key) = (0, table_row::key(GROUP, table, b""));
        let mut visit = |_: &[u8], _: &[u8]| {
            count += 1;
            true
        };
        engine.scan(Family::State, &key, &key, &mut visit).unwrap();
        count
    };
    for number in 0..10 {
        let (time, mut item) = sent(0, number, "x");
        item.producer.as_mut().unwrap().id = format!("p{number}").into();
        run_at(&mut applier, (time, item)).unwrap();
    }
    assert_eq!((rows(tables::PRODUCERS), rows(tables::PRODUCER_HOURS)), (10, 10));
    let day_and_two_hours = PRODUCER_KEPT_MS + 2 * 3_600_000;
    for sequence in 0..4 {
        run_at(&mut applier, sent(sequence, day_and_two_hours, "y")).unwrap();
    }
    assert_eq!((rows(tables::PRODUCERS), rows(tables::PRODUCER_HOURS)), (1, 1));
}

#[test]
fn a_newer_route_fences_the_older_ones() {
    let engine = Arc::new(MemoryEngine::default());
    let mut applier = load(&engine);
    let routed = |revision| Item {
        revision: Some(RouteRevision(revision)),
        ..appending(&["x"])
    };
    assert_eq!(
        run(&mut applier, vec![routed(1), routed(2), routed(1)])[2],
        Err(Refusal::Stale(RouteRevision(2)))
    );
    let mut applier = load(&engine);
    assert_eq!(
        run(&mut applier, vec![routed(1)]),
        [Err(Refusal::Stale(RouteRevision(2)))],
        "fences are kept"
    );
}

#[test]
fn a_crash_goes_back_to_one_point_for_rows_and_applied_index() {
    let engine = Arc::new(MemoryEngine::default());
    let mut applier = load(&engine);
    run(&mut applier, vec![appending(&["a"])]);
    engine.flush().unwrap();
    run(&mut applier, vec![appending(&["b"])]);
    engine.crash();
    let mut applier = load(&engine);
    assert_eq!(applier.applied().index, LogIndex(1));
    assert_eq!(
        run(&mut applier, vec![appending(&["b"])]),
        [Ok(vec![Offset(1)])],
        "replayed to the same offset"
    );
}
