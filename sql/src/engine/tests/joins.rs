//! Joins under a key that very many rows share: what a reader leaves behind, and what a query keeps.

use super::*;
use crate::outcome::Outcome;

/// Rows of each side, all of one key: their pairs take minutes to look at.
const HOT_ROWS: usize = 20_000;

impl World {
    /// Rows of one key in a stream of one shard.
    async fn insert_hot(&self, stream: &str, rows: std::ops::Range<usize>) {
        let row = self.store.catalog().borrow().streams[stream].clone();
        // All are as long.
        let record = |number: usize| Record::new(format!("{{\"k\":1,\"v\":{}}}", 10_000 + number));
        let batch = headwater_store::Batch::new(row.shards[0]).append(row.shard(0), rows.map(record).collect());
        self.store.write(batch).await.unwrap();
    }

    async fn state_bytes(&self, engine: &Engine, query: &str) -> u64 {
        let catalog = self.store.catalog().borrow().clone();
        let position = engine.query_position(&catalog, &catalog.queries[query]).await;
        position.state_bytes.unwrap()
    }
}

/// Nobody is sent anything, so nobody is seen to be gone by sending.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_a_hot_join_ends_its_work() {
    let world = World::new(1).await;
    let engine = world.engine();
    engine.execute("CREATE STREAM l; CREATE STREAM r;").await.unwrap();
    world.insert_hot("l", 0..HOT_ROWS).await;
    world.insert_hot("r", 0..HOT_ROWS).await;
    let supervisor = engine.inner.tasks.len();
    let within = "l JOIN r ON l.k = r.k WITHIN (INTERVAL 1 DAY) WHERE l.v + r.v < 0";
    for (from, end) in [(within, ""), (within, "EMIT CHANGES FROM BEGINNING")] {
        let outcomes = engine.execute(&format!("SELECT l.v FROM {from} {end}")).await.unwrap();
        let Some(Outcome::Rows(rows) | Outcome::Changes(rows)) = outcomes.into_iter().next() else {
            panic!("a SELECT gives rows");
        };
        // It has begun, and is not through.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(
            engine.inner.tasks.len(),
            supervisor + 1,
            "{end} is through with all pairs"
        );
        drop(rows);
        let ended = async {
            while engine.inner.tasks.len() > supervisor {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        assert!(ended.is_ok(), "{end} goes on without its reader");
    }
    engine.stop().await;
    world.store.stop().await;
}

/// SHOW QUERIES tells what is stored: each row that waits, and nothing once the query is forgotten.
#[tokio::test]
async fn state_bytes_are_those_of_the_rows_that_wait() {
    let world = World::new(1).await;
    let engine = world.engine();
    let join = "CREATE STREAM j AS SELECT l.v FROM l JOIN r ON l.k = r.k WITHIN (INTERVAL 1 DAY)";
    engine
        .execute(&format!("CREATE STREAM l; CREATE STREAM r; {join};"))
        .await
        .unwrap();
    assert_eq!(world.state_bytes(&engine, "j").await, 0);
    world.insert_hot("l", 0..10).await;
    world.caught_up("j").await;
    let of_ten = world.state_bytes(&engine, "j").await;
    // At least the values themselves.
    assert!(of_ten > 10 * 5, "{of_ten}");
    world.insert_hot("l", 10..40).await;
    world.caught_up("j").await;
    assert_eq!(
        world.state_bytes(&engine, "j").await,
        of_ten * 4,
        "all rows are as large"
    );
    engine.execute("TERMINATE QUERY j;").await.unwrap();
    assert_eq!(world.state_bytes(&engine, "j").await, of_ten * 4, "it is kept");
    engine.stop().await;
    world.store.stop().await;
}

/// A step that is left in its middle is done again, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_is_stopped_in_a_backlog_gives_each_pair_once() {
    const ROWS: usize = 400;
    let mut world = World::new(1).await;
    world.config.sql.step_records_max = 50;
    let engine = world.engine();
    let create = "CREATE STREAM l; CREATE STREAM r;
        CREATE STREAM pairs AS SELECT l.v AS l, r.v AS r FROM l JOIN r ON l.k = r.k WITHIN (INTERVAL 1 DAY)
            WHERE (l.v + r.v) % 100 = 0;";
    engine.execute(create).await.unwrap();
    engine.stop().await;
    world.insert_hot("l", 0..ROWS).await;
    world.insert_hot("r", 0..ROWS).await;
    let group = world.store.catalog().borrow().streams["pairs"].shard(0).group;
    let mut stops = 0;
    let pairs = loop {
        let mut steps = world.store.follow_group(group);
        let engine = world.engine();
        let step = async {
            let is_step = |put: &Put| put.table == tables::QUERY_STATE;
            while !steps.next().await.unwrap().puts.iter().any(is_step) {}
        };
        let through = tokio::select! {
            () = step => false,
            () = world.caught_up("pairs") => true,
        };
        engine.stop().await;
        if through {
            break world.output("pairs").await;
        }
        stops += 1;
    };
    assert!(stops > 1, "it was not stopped on the way");
    let all = (0..ROWS).flat_map(|l| (0..ROWS).map(move |r| (10_000 + l, 10_000 + r)));
    let mut expected: Vec<String> = all
        .filter(|(l, r)| (l + r) % 100 == 0)
        .map(|(l, r)| format!("{{\"l\":{l},\"r\":{r}}}"))
        .collect();
    let mut found: Vec<String> = pairs
        .iter()
        .map(|line| line[line.find('{').unwrap()..].to_owned())
        .collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    world.store.stop().await;
}
