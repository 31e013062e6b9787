//! Steps whose Batch would be larger than one may be.

use headwater_store::limits::BATCH_BYTES_MAX;
use headwater_store::{Offset, StreamId, TopicName};

use super::*;
use crate::change::RecordId;
use crate::operator::Place;
use crate::pipeline::Pipeline;
use crate::step::{Committed, State};
use crate::types::TimestampUs;
use crate::watermark::Watermarks;

const DAY: &str = "2010-01-01 00:00";

impl World {
    /// A world of one group, with the stream that plans read.
    async fn with_plant() -> (World, Arc<StreamRow>) {
        let world = World::new(1).await;
        let plant = stream("plant", Placement::Topic, &["plant/{device}/temp"]);
        let plant = world.store.create_stream(plant).await.unwrap();
        (world, plant)
    }

    /// Publishes `temp` of many devices in few Batches.
    async fn publish_many(&self, plant: &StreamRow, devices: std::ops::Range<usize>, temp: &str, date: &str) {
        let record = |device: usize| Record {
            topic: Some(TopicName::new(format!("plant/{device:05}/temp")).unwrap()),
            ..Record::new(format!("{{\"temp\":\"{temp}\",\"date\":\"{date}\"}}"))
        };
        let devices: Vec<usize> = devices.collect();
        for some in devices.chunks((4 << 20) / (temp.len() + 100) + 1) {
            let records = some.iter().map(|device| record(*device)).collect();
            let batch = headwater_store::Batch::new(plant.shards[0]).append(plant.shard(0), records);
            self.store.write(batch).await.unwrap();
        }
    }

    async fn rows_of(&self, stream: &str) -> u64 {
        let shard = self.store.catalog().borrow().streams[stream].shard(0);
        self.store.bounds(shard).await.unwrap().1.0
    }

    /// Waits until a stream has at least so many rows.
    async fn wait_for_rows(&self, engine: &Engine, stream: &str, rows: u64) {
        for _ in 0..6_000 {
            if self.rows_of(stream).await >= rows {
                return;
            }
            let query = self.store.catalog().borrow().queries[stream].clone();
            let status = engine.query_status(&query);
            assert_ne!(status.state, "failed", "{status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} of {rows} rows came", self.rows_of(stream).await);
    }
}

/// SELECT device, MAX(temp) FROM plant GROUP BY device, TUMBLING (1 hour) EMIT FINAL, `times` over.
fn largest(plant: StreamId, times: usize) -> Plan {
    let mut plan = hourly(plant, Emit::Final);
    if let Op::Aggregate(aggregate) = &mut plan.nodes[3].op {
        aggregate.calls[0].function = AggregateFunction::Max;
    }
    if let Op::Sink(sink) = &mut plan.nodes[4].op {
        sink.items = several(times, 3);
    }
    plan
}

/// SELECT device, temp, temp, … FROM plant
fn copies(plant: StreamId, times: usize) -> Plan {
    let mut plan = alerts(plant);
    plan.nodes[1].op = Op::Filter(Expr::Literal(Literal::Boolean(true)));
    if let Op::Sink(sink) = &mut plan.nodes[3].op {
        sink.items = several(times, 1);
    }
    plan
}

fn several(times: usize, column: u32) -> Vec<SinkItem> {
    let item = |number| SinkItem::Column {
        name: format!("c{number}"),
        column: ColumnId(column),
    };
    (0..times).map(item).collect()
}

/// The windows' rows are more than one Batch may be, by what the state says of them (once) or only by what the SELECT
/// makes of them (ten times); and the engine dies while they go out.
#[tokio::test(flavor = "multi_thread")]
async fn windows_that_close_together_all_speak_once_whatever_dies_in_between() {
    for (temp_bytes, times) in [(4096, 1), (512, 10)] {
        let (world, plant) = World::with_plant().await;
        let mut engine = world.engine();
        create(&world, &engine, "largest", largest(plant.id, times)).await;
        let devices = BATCH_BYTES_MAX / (temp_bytes * times) + 200;
        world
            .publish_many(&plant, 0..devices, &"x".repeat(temp_bytes), DAY)
            .await;
        world.caught_up("largest").await;
        assert_eq!(world.rows_of("largest").await, 0, "all windows are open");
        world
            .publish("plant/99999/temp", r#"{"temp":"","date":"2010-01-02 00:00"}"#)
            .await;
        world.wait_for_rows(&engine, "largest", 1).await;
        drop(engine);
        engine = world.engine();
        world.wait_for_rows(&engine, "largest", devices as u64 / 2).await;
        drop(engine);
        engine = world.engine();
        world.wait_for_rows(&engine, "largest", devices as u64).await;
        world.caught_up("largest").await;
        let mut keys: Vec<_> = world.output("largest").await;
        keys.iter_mut().for_each(|row| row.truncate("alerts/00000".len()));
        let wanted: Vec<_> = (0..devices).map(|device| format!("alerts/{device:05}")).collect();
        assert!(keys == wanted, "{} rows of {devices}", keys.len());
        engine.stop().await;
        world.store.stop().await;
    }
}

/// A timer that has fired is in no state any more, one that has not is: nothing is left when all have.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_while_windows_close_are_late_for_them() {
    let (world, plant) = World::with_plant().await;
    let engine = world.engine();
    create(&world, &engine, "largest", largest(plant.id, 1)).await;
    let devices = BATCH_BYTES_MAX / 4096 + 200;
    world.publish_many(&plant, 0..devices, &"x".repeat(4096), DAY).await;
    world.caught_up("largest").await;
    world
        .publish("plant/99999/temp", r#"{"temp":"","date":"2010-01-02 00:00"}"#)
        .await;
    world.wait_for_rows(&engine, "largest", 1).await;
    drop(engine);
    // The windows of the last devices are closed, but have not spoken.
    world.publish_many(&plant, devices - 10..devices, "z", DAY).await;
    let engine = world.engine();
    world.wait_for_rows(&engine, "largest", devices as u64).await;
    world.caught_up("largest").await;
    let output = world.output("largest").await;
    assert_eq!(output.len(), devices);
    assert!(output.iter().all(|row| row.ends_with("x\"}")), "a late row was taken");
    let group = plant.shards[0];
    let state = world
        .store
        .table(group, tables::QUERY_STATE)
        .scan(&[], &[], 100)
        .unwrap();
    assert_eq!(
        state.len(),
        2,
        "what is left is the group and the timer of the next day"
    );
    engine.stop().await;
    world.store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_makes_too_much_is_taken_in_smaller_steps_and_one_row_that_does_is_left_out() {
    let (world, plant) = World::with_plant().await;
    let engine = world.engine();
    create(&world, &engine, "copies", copies(plant.id, 20)).await;
    world.publish_many(&plant, 0..15, &"x".repeat(200 << 10), DAY).await;
    world.publish_many(&plant, 15..16, &"y".repeat(2 << 20), DAY).await;
    world.publish_many(&plant, 16..30, &"x".repeat(200 << 10), DAY).await;
    world.wait_for_rows(&engine, "copies", 29).await;
    world.caught_up("copies").await;
    let mut keys = world.output("copies").await;
    keys.iter_mut().for_each(|row| row.truncate("alerts/00000".len()));
    let wanted = (0..30)
        .filter(|device| *device != 15)
        .map(|device| format!("alerts/{device:05}"));
    assert_eq!(keys, wanted.collect::<Vec<_>>());
    let query = world.store.catalog().borrow().queries["copies"].clone();
    let status = engine.query_status(&query);
    assert_eq!(
        (status.state, status.errors, status.records),
        ("running", 1, 30),
        "{status:?}"
    );
    engine.stop().await;
    world.store.stop().await;
}

/// Its state is gone with its timer, so it cannot wait for better times.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_whose_row_fits_no_write_is_left_out() {
    let (world, plant) = World::with_plant().await;
    let engine = world.engine();
    create(&world, &engine, "largest", largest(plant.id, 20)).await;
    world.publish_many(&plant, 0..1, "x", DAY).await;
    world.publish_many(&plant, 1..2, &"y".repeat(2 << 20), DAY).await;
    world.publish_many(&plant, 2..3, "x", DAY).await;
    world
        .publish("plant/99999/temp", r#"{"temp":"","date":"2010-01-02 00:00"}"#)
        .await;
    world.wait_for_rows(&engine, "largest", 2).await;
    world.caught_up("largest").await;
    let query = world.store.catalog().borrow().queries["largest"].clone();
    let status = engine.query_status(&query);
    assert_eq!(
        (status.state, status.rows, status.errors),
        ("running", 2, 1),
        "{status:?}"
    );
    engine.stop().await;
    world.store.stop().await;
}

#[test]
fn a_step_fires_no_more_timers_than_their_bytes_allow() {
    const DEVICES: u64 = 6_000;
    const TEMP_BYTES: usize = 4_096;
    let shard = headwater_store::ShardId {
        group: GroupId(1),
        stream: StreamId(1),
        number: 0,
    };
    let rules = crate::watermark::WatermarkRules {
        delay_us: 0,
        idle_us: HOUR_US,
        future_skew_us: i64::MAX,
        silence: crate::plan::physical::Silence::Elapsed,
    };
    let marks = Watermarks::new(rules, [(shard, TimestampUs::MIN)], TimestampUs::MIN, TimestampUs(0));
    let state = State::load(1, Committed::Memory(Default::default()), []).unwrap();
    let mut pipeline = Pipeline::new(&largest(StreamId(1), 1), &Place::Here, state, vec![Some(marks)]).unwrap();
    let record = |device: u64| {
        let date = if device == DEVICES { "2010-01-02 00:00" } else { DAY };
        let record = Record {
            topic: Some(TopicName::new(format!("plant/{device}/temp")).unwrap()),
            ..Record::new(format!(
                "{{\"temp\":\"{}\",\"date\":\"{date}\"}}",
                "x".repeat(TEMP_BYTES)
            ))
        };
        (
            RecordId {
                shard,
                offset: Offset(device),
            },
            record,
        )
    };
    let records: Vec<_> = (0..=DEVICES).map(record).collect();
    pipeline.apply(&records, TimestampUs(0)).unwrap();
    let mut steps = Vec::new();
    loop {
        let finished = pipeline.finish(TimestampUs(0), false, usize::MAX).unwrap();
        assert_eq!(finished.timers, finished.rows.len());
        steps.push(finished.timers);
        if !finished.more {
            break;
        }
    }
    let full = crate::limits::STEP_BYTES_MAX / TEMP_BYTES;
    assert!(
        steps[..2].iter().all(|timers| (full * 7 / 8..=full).contains(timers)),
        "{steps:?}"
    );
    assert_eq!(steps.iter().sum::<usize>(), DEVICES as usize);
}

/// A group whose key is longer than a table's may be: only leaving the record out helps.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_fits_no_step_is_passed_over() {
    let (world, plant) = World::with_plant().await;
    let engine = world.engine();
    let mut by_temp = hourly(plant.id, Emit::Changes);
    if let Op::Aggregate(aggregate) = &mut by_temp.nodes[3].op {
        aggregate.group = vec![column(1)];
    }
    create(&world, &engine, "counts", by_temp).await;
    let long = "d".repeat(headwater_store::limits::TABLE_KEY_BYTES_MAX);
    for temp in ["a", &long, "b", "a"] {
        world.publish_many(&plant, 0..1, temp, DAY).await;
    }
    world.wait_for_rows(&engine, "counts", 2).await;
    world.caught_up("counts").await;
    let output = world.output("counts").await;
    assert!(output.iter().all(|row| row.len() < 200));
    let counted = |key: &str, count: &str| {
        let begin = format!("alerts/{key} ");
        output.iter().any(|row| row.starts_with(&begin) && row.ends_with(count))
    };
    assert!(
        counted("a", "\"count\":2}") && counted("b", "\"count\":1}"),
        "{output:?}"
    );
    let query = world.store.catalog().borrow().queries["counts"].clone();
    let status = engine.query_status(&query);
    // AVG of a text is an error as well, of the three records that are counted.
    assert_eq!((status.state, status.records), ("running", 4), "{status:?}");
    assert!(status.errors >= 1, "{status:?}");
    engine.stop().await;
    world.store.stop().await;
}
