//! Keeps the rows whose output goes to this task's group. Every task reads all input; this is where they part.
//!
//! It stands before the aggregate, so that a group's state is kept in one place, the one where its results go.

use std::sync::Arc;

use bytes::Bytes;
use headwater_store::{GroupId, Record, StreamRow, TopicName, shard_for};

use super::{Operator, Place, Port};
use crate::change::Delta;
use crate::expression::{Expression, Faults};
use crate::plan::physical::{Expr, Node, PlanError, Routing};
use crate::record_key::RecordKey;
use crate::step::{Step, Stop};
use crate::template::CompiledTemplate;

#[derive(Debug)]
pub(super) struct Exchange {
    /// None: everything passes.
    part: Option<Part>,
}

#[derive(Debug)]
struct Part {
    output: Arc<StreamRow>,
    group: GroupId,
    topic: Option<CompiledTemplate>,
    key: RecordKey,
}

impl Exchange {
    /// `aggregates`: a GROUP BY over the routing's columns follows, so that rows go where their group's row will.
    pub fn new(node: &Node, routing: &Routing, aggregates: bool, place: &Place) -> Result<Exchange, PlanError> {
        let Place::Group { output, group } = place else {
            return Ok(Exchange { part: None });
        };
        if output.shards.iter().all(|shard| shard == group) {
            return Ok(Exchange { part: None });
        }
        let compile = |expr: &Expr| match aggregates {
            // What passes has the schema of what comes.
            true => Expression::compile_group_key(expr, &node.schema),
            false => Expression::compile(expr),
        };
        let topic = routing
            .topic
            .as_ref()
            .map(|topic| CompiledTemplate::compile(topic, &compile))
            .transpose()?;
        let key = RecordKey::compile(&routing.key, compile)?;
        Ok(Exchange {
            part: Some(Part {
                output: output.clone(),
                group: *group,
                topic,
                key,
            }),
        })
    }
}

impl Operator for Exchange {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let Some(part) = &self.part else {
            step.emit(delta.clone());
            return Ok(());
        };
        // Not told here: what the row is worked out from is worked out again below, once, where the row goes.
        let mut faults = Faults::default();
        let scope = step.scope();
        let topics = part
            .topic
            .as_ref()
            .map(|topic| topic.topics(&delta.rows, &scope, &mut faults));
        let keys = part.key.evaluate(&delta.rows, &scope, &mut faults);
        let mut last: Option<(Option<TopicName>, Bytes, bool)> = None;
        let kept: Vec<u32> = (0..delta.len())
            .filter(|row| {
                let topic = topics.as_ref().and_then(|topics| topics[*row].clone());
                let key = part.key.of(&keys, *row, delta.origin[*row]);
                match &last {
                    Some((same_topic, same_key, here)) if *same_topic == topic && *same_key == key => *here,
                    _ => {
                        let shard = place_of(&part.output, topic.as_ref(), &key);
                        let here = shard.group == part.group;
                        last = Some((topic, key, here));
                        here
                    }
                }
            })
            .map(|row| row as u32)
            .collect();
        step.emit(delta.take(&kept));
        Ok(())
    }
}

/// The shard of a row's record: by its topic where it has one, else by its key without the window.
pub(crate) fn place_of(output: &StreamRow, topic: Option<&TopicName>, placement: &Bytes) -> headwater_store::ShardId {
    if output.shards.len() == 1 {
        return output.shard(0);
    }
    shard_for(
        output,
        &Record {
            topic: topic.cloned(),
            key: Some(placement.clone()),
            ..Record::default()
        },
    )
}
