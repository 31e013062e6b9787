//! What SHOW QUERIES counts, over the tasks that a query has one after the other.

use super::*;

async fn shows(engine: &Engine, query: &str, what: &str, wanted: impl Fn(&QueryStatus) -> bool) {
    let mut last = None;
    for _ in 0..500 {
        let row = engine.store().catalog().borrow().queries[query].clone();
        let status = engine.query_status(&row);
        if wanted(&status) {
            return;
        }
        last = Some(status);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: {last:?}");
}

fn counts(status: &QueryStatus) -> (u64, u64, u64) {
    (status.records, status.rows, status.errors)
}

#[tokio::test]
async fn a_query_counts_on_over_pauses_until_it_is_dropped() {
    let world = World::new(1).await;
    let mut engine = world.engine();
    let made = "CREATE STREAM s; CREATE STREAM q AS SELECT 1 / v AS n FROM s; INSERT INTO s (v) VALUES (1), (0), (2);";
    engine.execute(made).await.unwrap();
    shows(&engine, "q", "three rows", |now| counts(now) == (3, 3, 1)).await;
    for statement in ["PAUSE", "TERMINATE"] {
        engine.execute(&format!("{statement} QUERY q;")).await.unwrap();
        let ended = |now: &QueryStatus| now.rate.is_none() && counts(now) == (3, 3, 1);
        shows(&engine, "q", "the same while nothing runs", ended).await;
    }
    engine
        .execute("RESUME QUERY q; INSERT INTO s (v) VALUES (0);")
        .await
        .unwrap();
    shows(&engine, "q", "one more", |now| counts(now) == (4, 4, 2)).await;
    engine.stop().await;
    engine = world.engine();
    shows(&engine, "q", "none of before the start", |now| {
        now.state == "running" && counts(now) == (0, 0, 0)
    })
    .await;
    engine.execute("DROP QUERY q;").await.unwrap();
    for round in 0.. {
        if engine.inner.statuses.lock().is_empty() {
            break;
        }
        assert!(round < 500, "a dropped query is still counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    engine.stop().await;
    world.store.stop().await;
}

/// Each time it stops there.
#[tokio::test]
async fn the_record_that_stops_a_query_is_counted() {
    let world = World::new(1).await;
    let engine = world.engine();
    let made = "CREATE STREAM s FROM TOPIC 's/#' WITH (ON_ERROR = 'fail'); CREATE STREAM q AS SELECT v FROM s;";
    engine.execute(made).await.unwrap();
    for payload in [r#"{"v": 1}"#, r#"{"v": "#] {
        world.publish("s/1", payload).await;
    }
    let failed = |errors| move |now: &QueryStatus| now.state == "failed" && now.errors == errors;
    shows(&engine, "q", "one error", failed(1)).await;
    engine.execute("RESUME QUERY q;").await.unwrap();
    shows(&engine, "q", "once more", failed(2)).await;
    engine.stop().await;
    world.store.stop().await;
}
