//! What reads of views say besides their rows.

use super::*;
use crate::outcome::{Outcome, RowStream};

async fn select(engine: &Engine, sql: &str) -> RowStream {
    match engine.execute(sql).await.unwrap().pop() {
        Some(Outcome::Rows(rows) | Outcome::Changes(rows)) => rows,
        other => panic!("{sql}: {other:?}"),
    }
}

/// Who has inserted a record can tell whether the rows have it: they are up to those records at least.
#[tokio::test]
async fn a_read_of_a_view_says_up_to_which_records_it_is() {
    let world = World::new(2).await;
    let engine = world.engine();
    let made = "CREATE STREAM s; CREATE STREAM other; CREATE VIEW v AS SELECT k, COUNT(*) AS n FROM s GROUP BY k; \
                CREATE VIEW whole AS SELECT SUM(n) AS n FROM v;";
    engine.execute(made).await.unwrap();
    world.caught_up("v").await;
    assert!(
        select(&engine, "SELECT * FROM v").await.as_of().is_empty(),
        "nothing was read"
    );
    engine
        .execute("INSERT INTO s (k) VALUES ('a'), ('b'), ('a'); INSERT INTO other (k) VALUES ('a');")
        .await
        .unwrap();
    world.caught_up("v").await;
    world.caught_up("whole").await;
    let rows = select(&engine, "SELECT * FROM v WHERE k = 'a'").await;
    assert_eq!(rows.as_of(), ["s:0:2"]);
    assert_eq!(rows.collect().await.unwrap(), [r#"{"k":"a","n":2}"#]);
    assert_eq!(select(&engine, "SELECT * FROM v EMIT CHANGES").await.as_of(), ["s:0:2"]);
    let both = select(&engine, "SELECT v.n FROM v LEFT JOIN whole ON v.n = whole.n").await;
    let revisions = world.output("v").await.len() - 1;
    assert_eq!(both.as_of(), ["s:0:2", &format!("v:0:{revisions}")]);
    assert!(
        select(&engine, "SELECT * FROM other").await.as_of().is_empty(),
        "no view"
    );
    assert!(
        select(&engine, "SELECT * FROM v$log").await.as_of().is_empty(),
        "records"
    );
    engine
        .execute("PAUSE QUERY v; INSERT INTO s (k) VALUES ('c');")
        .await
        .unwrap();
    assert_eq!(
        select(&engine, "SELECT * FROM v").await.as_of(),
        ["s:0:2"],
        "it is paused"
    );
    engine.stop().await;
    world.store.stop().await;
}
