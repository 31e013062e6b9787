//! Streams that queries write, made before what they say of themselves was checked.

use super::*;

/// Its TIMESTAMP names what the query does not select: NULL in every record, as it always was.
#[tokio::test]
async fn a_stored_timestamp_that_is_not_selected_keeps_nobody_from_reading() {
    let world = World::new(1).await;
    let engine = world.engine();
    let plant = stream("plant", Placement::Topic, &["plant/{device}/temp"]);
    let plant = world.store.create_stream(plant).await.unwrap();
    let mut plan = alerts(plant.id);
    engine.resolve_start(&mut plan).await.unwrap();
    let mut output = stream("alerts", Placement::Topic, &[]);
    output.options.timestamp = Some("at".to_owned());
    let spec = QuerySpec {
        output,
        inputs: plan.inputs(),
        plan: plan.encode(),
        sql: String::new(),
    };
    world.store.create_query(spec).await.unwrap();
    let reader = "CREATE STREAM n AS SELECT COUNT(*) AS n FROM alerts GROUP BY TUMBLING (INTERVAL 1 DAY) EMIT CHANGES";
    engine.execute(reader).await.unwrap();
    let error = engine.execute("SELECT at FROM alerts").await.unwrap_err();
    assert_eq!(error.code, codes::UNKNOWN_COLUMN, "{error}");
    world.publish("plant/a/temp", r#"{"temp":60}"#).await;
    world.caught_up("alerts").await;
    world.caught_up("n").await;
    assert!(
        world
            .output("n")
            .await
            .last()
            .is_some_and(|row| row.ends_with(r#"{"n":1}"#))
    );
    engine.stop().await;
    world.store.stop().await;
}
