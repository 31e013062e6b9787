//! The engine on a real store, with plans made by hand.

mod counters;
mod joins;
mod large;
mod plans;
mod views;
mod world;
mod written;

use std::time::Duration;

use headwater_store::{Batch, Placement, Put, QuerySpec, Record, tables};

use super::position::QueryPosition;
use super::*;
use crate::plan::physical::*;
use crate::query::Progress;
use crate::types::Literal;
use plans::*;
use world::World;

const HOUR_US: i64 = 3_600_000_000;

async fn create(world: &World, engine: &Engine, name: &str, mut plan: Plan) {
    engine.resolve_start(&mut plan).await.unwrap();
    let output = stream(name, Placement::Topic, &[]);
    let inputs = plan.inputs();
    world
        .store
        .create_query(QuerySpec {
            output,
            plan: plan.encode(),
            inputs,
            sql: String::new(),
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_republishes_each_row_once_whatever_dies_in_between() {
    for groups in [1, 4] {
        let world = World::new(groups).await;
        let plant = world
            .store
            .create_stream(stream("plant", Placement::Topic, &["plant/{device}/temp"]))
            .await
            .unwrap();
        world.publish("plant/early/temp", r#"{"temp":99}"#).await;
        let mut engine = world.engine();
        create(&world, &engine, "alerts", alerts(plant.id)).await;
        let mut expected = Vec::new();
        for round in 0..6 {
            for device in ["sf", "seattle", "la", "berlin"] {
                world
                    .publish(
                        &format!("plant/{device}/temp"),
                        &format!("{{\"temp\":{}.50}}", 48 + round),
                    )
                    .await;
                if round >= 2 {
                    expected.push(format!(
                        "alerts/{device} {device} {{\"device\":\"{device}\",\"temp\":{}.50}}",
                        48 + round
                    ));
                }
            }
            if round % 2 == 0 {
                // Dies without a word, like kill -9, and another one takes over.
                drop(engine);
                engine = world.engine();
            }
            if round % 3 == 0 {
                world.caught_up("alerts").await;
            }
        }
        world.caught_up("alerts").await;
        expected.sort();
        assert_eq!(world.output("alerts").await, expected);
        let status = engine.query_status(&world.store.catalog().borrow().queries["alerts"].clone());
        assert_eq!(status.state, "running", "{status:?}");
        engine.stop().await;
        world.store.stop().await;
    }
}

/// What a task has read of a backlog and not stepped over when it is told to stop, the next one reads again.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_stopped_in_a_backlog_has_passed_nothing_unread() {
    const ROWS: usize = 60;
    let mut world = World::new(4).await;
    world.config.sql.step_records_max = 1;
    let engine = world.engine();
    // The second query writes nothing, so it is at the end at once, and with it the hub, while the first has steps to make.
    let create = "CREATE STREAM s (device STRING);
        CREATE VIEW counts AS SELECT device, COUNT(*) AS n FROM s GROUP BY device;
        CREATE STREAM nothing AS SELECT device FROM s WHERE device = 'x';";
    engine.execute(create).await.unwrap();
    engine.stop().await;
    // One Batch: a task has all of it before its first step.
    let catalog = world.store.catalog().borrow().clone();
    let (shard, group) = (catalog.streams["s"].shard(0), catalog.streams["counts"].shard(0).group);
    assert_ne!(
        shard.group, group,
        "else its own steps are news of the stream, and it is never at the end"
    );
    let records = vec![Record::new(r#"{"device":"a"}"#); ROWS];
    let batch = Batch::new(shard.group).append(shard, records);
    world.store.write(batch).await.unwrap();
    let mut stops = 0;
    let counts = loop {
        let mut steps = world.store.follow_group(group);
        let engine = world.engine();
        let step = async {
            let is_step = |put: &Put| put.table == tables::QUERY_STATE;
            while !steps.next().await.unwrap().puts.iter().any(is_step) {}
        };
        tokio::select! {
            () = step => {}
            () = world.caught_up("counts") => break world.output("counts").await,
        }
        engine.stop().await;
        stops += 1;
    };
    assert_eq!(counts.len(), ROWS);
    assert!(
        counts.contains(&format!(r#"- a {{"device":"a","n":{ROWS}}}"#)),
        "{counts:?}"
    );
    assert!(stops > 1, "it was not stopped on the way");
    world.store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn final_rows_are_the_same_whatever_dies_in_between() {
    let mut outputs = Vec::new();
    for dies in [false, true] {
        let world = World::new(4).await;
        let plant = world
            .store
            .create_stream(stream("plant", Placement::Topic, &["plant/{device}/temp"]))
            .await
            .unwrap();
        let mut engine = world.engine();
        create(&world, &engine, "hourly", hourly(plant.id, Emit::Final)).await;
        for minute in (0..240).step_by(20) {
            for (device, offset) in [("sf", 0.1), ("seattle", 0.2), ("la", 0.3)] {
                // Every fifth reading is an hour old: late, or not, by its own shard alone.
                let hour = minute / 60 - i32::from(minute % 100 == 80);
                let date = format!("2010/01/01 {:02}:{:02}", hour + 1, minute % 60);
                let payload = format!("{{\"temp\":{},\"date\":\"{date}\"}}", f64::from(minute) + offset);
                world.publish(&format!("plant/{device}/temp"), &payload).await;
            }
            if dies {
                drop(engine);
                engine = world.engine();
            }
            if minute % 60 == 0 {
                world.caught_up("hourly").await;
            }
        }
        world.caught_up("hourly").await;
        // The windows of three hours are closed by the shards' own watermarks, once the empty shard has left.
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if world.output("hourly").await.len() >= 9 {
                break;
            }
        }
        outputs.push(world.output("hourly").await);
        engine.stop().await;
        world.store.stop().await;
    }
    assert_eq!(outputs[0].len(), 9, "{:#?}", outputs[0]);
    assert_eq!(outputs[0], outputs[1]);
    assert_eq!(
        outputs[0][0],
        "alerts/la [\"la\",\"2010-01-01T01:00:00Z\"] {\"device\":\"la\",\"window_start\":\"2010-01-01T01:00:00Z\",\"avg\":20.3,\"count\":3}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_query_has_come_is_told_while_it_runs_and_while_it_does_not() {
    let world = World::new(4).await;
    let plant = stream("plant", Placement::Topic, &["plant/{device}/temp"]);
    let plant = world.store.create_stream(plant).await.unwrap();
    let engine = world.engine();
    create(&world, &engine, "counts", hourly(plant.id, Emit::Changes)).await;
    let told = async |what: &str, wanted: fn(&QueryPosition) -> bool| {
        for _ in 0..1_000 {
            let catalog = world.store.catalog().borrow().clone();
            let now = engine.query_position(&catalog, &catalog.queries["counts"]).await;
            if wanted(&now) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never told {what}");
    };
    for device in 0..20 {
        let reading = format!(r#"{{"temp":1,"date":"2010-01-01 00:{device:02}"}}"#);
        world.publish(&format!("plant/{device}/temp"), &reading).await;
    }
    told("its open windows", |now| (now.lag, now.windows) == (Some(0), Some(20))).await;
    world
        .store
        .set_query_state("counts", QueryState::Terminated)
        .await
        .unwrap();
    told("its saved cursors", |now| (now.lag, now.windows) == (Some(0), None)).await;
    for device in 0..7 {
        let reading = r#"{"temp":1,"date":"2010-01-01 02:00"}"#;
        world.publish(&format!("plant/{device}/temp"), reading).await;
    }
    told("what it has missed", |now| (now.lag, now.windows) == (Some(7), None)).await;
    world
        .store
        .set_query_state("counts", QueryState::Running)
        .await
        .unwrap();
    told("that it caught up", |now| now.lag == Some(0) && now.windows.is_some()).await;
    // All shards have spoken; those that are silent now leave the minimum.
    const DAY: TimestampUs = TimestampUs(1_262_304_000_000_000);
    told("its watermark", |now| now.watermark.is_some_and(|at| at >= DAY)).await;
    engine.stop().await;
    world.store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_query_leaves_no_rows_and_a_terminated_one_goes_on() {
    let world = World::new(1).await;
    let plant = world
        .store
        .create_stream(stream("plant", Placement::Topic, &["plant/{device}/temp"]))
        .await
        .unwrap();
    let engine = world.engine();
    create(&world, &engine, "counts", hourly(plant.id, Emit::Changes)).await;
    let reading = r#"{"temp":1,"date":"2010-01-01 00:00"}"#;
    world.publish("plant/sf/temp", reading).await;
    world.caught_up("counts").await;
    world
        .store
        .set_query_state("counts", QueryState::Terminated)
        .await
        .unwrap();
    world.publish("plant/sf/temp", reading).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.output("counts").await.len(), 1);
    world
        .store
        .set_query_state("counts", QueryState::Running)
        .await
        .unwrap();
    world.caught_up("counts").await;
    let output = world.output("counts").await;
    assert!(output[1].ends_with("\"count\":2}"), "{output:?}");

    let group = plant.shards[0];
    let rows = |table| world.store.table(group, table).scan(&[], &[], 100).unwrap().len();
    assert!(rows(tables::QUERY_STATE) > 0 && rows(tables::QUERY_PROGRESS) == 1);
    world.store.drop_query("counts").await.unwrap();
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if rows(tables::QUERY_STATE) + rows(tables::QUERY_PROGRESS) == 0 {
            break;
        }
    }
    assert_eq!((rows(tables::QUERY_STATE), rows(tables::QUERY_PROGRESS)), (0, 0));
    engine.stop().await;
    world.store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_query_with_much_state_holds_up_nobody_and_is_forgotten_after_a_crash_too() {
    let world = World::new(1).await;
    let plant = stream("plant", Placement::Topic, &["plant/{device}/temp"]);
    let plant = world.store.create_stream(plant).await.unwrap();
    let group = plant.shards[0];
    let rows = |table| world.store.table(group, table).scan(&[], &[], 1).unwrap().len();
    let mut engine = world.engine();
    create(&world, &engine, "counts", hourly(plant.id, Emit::Changes)).await;
    let query = world.store.catalog().borrow().queries["counts"].id;
    for page in 0..6_u32 {
        let mut batch = headwater_store::Batch::new(group);
        for row in 0..50_000_u32 {
            let key = [&query.to_be_bytes()[..], &page.to_be_bytes(), &row.to_be_bytes()].concat();
            batch = batch.put(tables::QUERY_STATE, key, vec![0; 8]);
        }
        world.store.write(batch).await.unwrap();
    }
    let first = Progress::key(query);
    let progress = || world.store.table(group, tables::QUERY_PROGRESS).get(&first).unwrap();
    world
        .publish("plant/sf/temp", r#"{"temp":1,"date":"2010-01-01"}"#)
        .await;
    world.caught_up("counts").await;
    world.store.drop_query("counts").await.unwrap();
    while progress().is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    create(&world, &engine, "alerts", alerts(plant.id)).await;
    world.publish("plant/sf/temp", "{\"temp\":51}").await;
    world.caught_up("alerts").await;
    assert!(
        rows(tables::QUERY_STATE) > 0,
        "the new query did not wait for the old one's rows"
    );
    drop(engine);
    assert!(rows(tables::QUERY_STATE) > 0, "it died in the middle");
    engine = world.engine();
    for _ in 0..3_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if rows(tables::QUERY_STATE) == 0 {
            break;
        }
    }
    assert_eq!((rows(tables::QUERY_STATE), rows(tables::QUERY_PROGRESS)), (0, 1));
    engine.stop().await;
    world.store.stop().await;
}

/// Also where one step of a backlog has more of them than usual.
#[tokio::test(flavor = "multi_thread")]
async fn each_record_of_a_backlog_that_does_not_parse_is_told() {
    const ROWS: usize = 3_000;
    let world = World::new(1).await;
    let engine = world.engine();
    let create = "CREATE STREAM s (n INTEGER); CREATE STREAM q AS SELECT n FROM s;";
    engine.execute(create).await.unwrap();
    engine.stop().await;
    let shard = world.store.catalog().borrow().streams["s"].shard(0);
    let records = vec![Record::new(r#"{"n":"#); ROWS];
    world
        .store
        .write(Batch::new(shard.group).append(shard, records))
        .await
        .unwrap();
    let engine = world.engine();
    world.caught_up("q").await;
    assert_eq!(world.output("q$errors").await.len(), ROWS);
    engine.stop().await;
    world.store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_cannot_go_on_says_why_and_harms_no_other() {
    let world = World::new(1).await;
    let plant = world
        .store
        .create_stream(stream("plant", Placement::Topic, &["plant/{device}/temp"]))
        .await
        .unwrap();
    let engine = world.engine();
    let mut strict = alerts(plant.id);
    for source in strict.sources_mut() {
        source.on_error = headwater_store::OnError::Fail;
    }
    create(&world, &engine, "strict", strict).await;
    create(&world, &engine, "alerts", alerts(plant.id)).await;
    world.publish("plant/sf/temp", "{\"temp\":").await;
    world.publish("plant/sf/temp", "{\"temp\":51}").await;
    world.caught_up("alerts").await;
    assert_eq!(world.output("alerts").await.len(), 1);
    let row = world.store.catalog().borrow().queries["strict"].clone();
    let status = loop {
        let status = engine.query_status(&row);
        if status.state == "failed" {
            break status;
        }
        // It reads beside the other one.
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert!(status.last_error.unwrap().contains("does not parse"));
    let row = world.store.catalog().borrow().queries["alerts"].clone();
    // A step is told of after it is committed.
    while engine.query_status(&row).errors == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        (engine.query_status(&row).state, engine.query_status(&row).errors),
        ("running", 1)
    );
    engine.stop().await;
    world.store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selects_read_what_is_stored_or_what_comes() {
    let world = World::new(4).await;
    let plant = world
        .store
        .create_stream(stream("plant", Placement::Topic, &["plant/{device}/temp"]))
        .await
        .unwrap();
    let engine = world.engine();
    for (device, temp) in [("sf", 60), ("seattle", 40), ("la", 70)] {
        world
            .publish(
                &format!("plant/{device}/temp"),
                &format!("{{\"temp\":{temp},\"date\":\"2010-01-01\"}}"),
            )
            .await;
    }
    let mut plan = alerts(plant.id);
    let push = engine.push(&plan).await.unwrap();
    plan.sources_mut().for_each(|source| source.start = Start::Earliest);
    let rows = engine.read(&plan).await.unwrap().collect().await.unwrap();
    assert_eq!(rows, [r#"{"device":"sf","temp":60}"#, r#"{"device":"la","temp":70}"#]);
    plan.order_by = vec![OrderBy {
        expr: column(1),
        descending: true,
    }];
    plan.limit = Some(1);
    let rows = engine.read(&plan).await.unwrap().collect().await.unwrap();
    assert_eq!(rows, [r#"{"device":"la","temp":70}"#]);
    let mut counts = hourly(plant.id, Emit::AtEnd);
    counts.sources_mut().for_each(|source| source.start = Start::Earliest);
    let rows = engine.read(&counts).await.unwrap().collect().await.unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(
        rows[0],
        r#"{"device":"la","window_start":"2010-01-01T00:00:00Z","avg":70.0,"count":1}"#
    );

    world.publish("plant/berlin/temp", "{\"temp\":51}").await;
    let mut push = push;
    assert_eq!(push.next().await.unwrap().unwrap(), r#"{"device":"berlin","temp":51}"#);
    engine.stop().await;
    assert!(push.next().await.is_none(), "it ends with the engine");
    world.store.stop().await;
}
