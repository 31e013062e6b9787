//! FROM 'plant/{site}/+/temp': the messages that clients published to the topics of a filter.
//!
//! A message lies in its home stream, the one whose capture matches its topic most specifically. Where the most specific
//! capture that can match any of the filter's topics matches all of them, that stream is the home of them all, and FROM
//! reads it, narrowed to the filter. Otherwise the messages lie in several streams, and reading several at once is not
//! supported yet.

use std::sync::Arc;

use headwater_store::{Catalog, Level, StreamRow, StreamState, TopicFilter};

use crate::ast::Text;
use crate::error::{SqlError, codes};
use crate::plan::bind::scope::Scope;
use crate::plan::physical::{BinaryOp, Expr, SourceColumn, UnaryOp};
use crate::types::{DataType, Literal};

/// The home stream of the filter's topics, and the filter.
pub fn source<'a>(catalog: &'a Catalog, text: &Text) -> Result<(&'a Arc<StreamRow>, TopicFilter), SqlError> {
    let filter = TopicFilter::capture(text.text.as_str())
        .map_err(|error| SqlError::new(codes::BAD_TOPIC, error.to_string()).at(text.span))?;
    let mut homes: Vec<(TopicFilter, &Arc<StreamRow>)> = catalog
        .streams
        .values()
        .filter(|stream| stream.state == StreamState::Active)
        .flat_map(|stream| stream.capture_filters().map(move |capture| (capture, stream)))
        .filter(|(capture, _)| overlap(capture.levels(), filter.levels()))
        .collect();
    homes.sort_by(|(a, one), (b, other)| a.cmp_specificity(b).then_with(|| one.name.cmp(&other.name)));
    match homes.first() {
        Some((capture, stream)) if covers(capture.levels(), filter.levels()) => Ok((stream, filter)),
        Some(_) => {
            let mut names: Vec<&str> = homes.iter().map(|(_, stream)| stream.name.as_str()).collect();
            names.dedup();
            Err(
                SqlError::not_supported("a topic filter whose messages lie in several streams", text.span)
                    .detail(format!("they may lie in {}", names.join(", ")))
                    .help(format!(
                        "collect them with CREATE STREAM s FROM TOPIC '{}', or read one of the streams by name",
                        text.text
                    )),
            )
        }
        None => Err(SqlError::new(codes::UNKNOWN_STREAM, "no stream takes messages of these topics").at(text.span)),
    }
}

/// Some topic matches both.
fn overlap(a: &[Level], b: &[Level]) -> bool {
    match (a.split_first(), b.split_first()) {
        (None, None) => true,
        (Some((Level::Multi, _)), _) | (_, Some((Level::Multi, _))) => true,
        (Some((Level::Literal(one), a)), Some((Level::Literal(other), b))) => one == other && overlap(a, b),
        (Some((_, a)), Some((_, b))) => overlap(a, b),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// Each topic that matches `narrow` matches `wide`.
fn covers(wide: &[Level], narrow: &[Level]) -> bool {
    match (wide.split_first(), narrow.split_first()) {
        (Some((Level::Multi, _)), _) => true,
        (None, None) => true,
        (Some((Level::Single(_), wide)), Some((Level::Literal(_) | Level::Single(_), narrow))) => covers(wide, narrow),
        (Some((Level::Literal(one), wide)), Some((Level::Literal(other), narrow))) => {
            one == other && covers(wide, narrow)
        }
        _ => false,
    }
}

/// Whether a record's topic matches the filter, as a condition on its levels.
pub fn condition(scope: &mut Scope<'_>, filter: &TopicFilter) -> Option<Expr> {
    let mut level = |number: usize| {
        let column = scope.column(
            SourceColumn::TopicLevel(number as i32),
            &format!("_topic[{number}]"),
            DataType::String,
        );
        Box::new(Expr::Column(column))
    };
    let literal = |text: &str| Box::new(Expr::Literal(Literal::String(text.to_owned())));
    let is = |op, operand| Expr::Unary { op, operand };
    let mut parts = Vec::new();
    let levels = filter.levels();
    for (number, wanted) in levels.iter().enumerate() {
        match wanted {
            Level::Literal(text) => {
                parts.push(Expr::Binary {
                    op: BinaryOp::Equal,
                    left: level(number),
                    right: literal(text),
                });
            }
            Level::Single(_) => parts.push(is(UnaryOp::IsNotNull, level(number))),
            Level::Multi => {}
        }
    }
    if !matches!(levels.last(), Some(Level::Multi)) {
        parts.push(is(UnaryOp::IsNull, level(levels.len())));
    }
    if !matches!(levels.first(), Some(Level::Literal(_))) {
        // A wildcard in the first level does not match the server's own topics [MQTT-4.7.2-1]; a record written by
        // name has no topic and is not matched either.
        parts.push(Expr::Like {
            operand: level(0),
            pattern: literal("$%"),
            escape: None,
            negated: true,
        });
    }
    let and = |left: Expr, right| Expr::Binary {
        op: BinaryOp::And,
        left: Box::new(left),
        right: Box::new(right),
    };
    parts.into_iter().reduce(and)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(filter: &str) -> Vec<Level> {
        TopicFilter::capture(filter).unwrap().levels().to_vec()
    }

    #[test]
    fn filters_overlap_where_a_topic_matches_both() {
        let overlap = |a, b| overlap(&levels(a), &levels(b)) && super::overlap(&levels(b), &levels(a));
        assert!(overlap("a/+", "+/b"));
        assert!(overlap("a/#", "a"));
        assert!(overlap("a/b/#", "a/+/c"));
        assert!(!overlap("a/+", "a"));
        assert!(!overlap("a/b", "a/c"));
        assert!(overlap("a/b/#", "a/+"), "`a/b/#` matches `a/b` too");
        assert!(!overlap("a/b/#", "a"));
    }

    #[test]
    fn a_filter_covers_narrower_ones() {
        let covers = |wide, narrow| covers(&levels(wide), &levels(narrow));
        assert!(covers("#", "a/+/#"));
        assert!(covers("a/#", "a"));
        assert!(covers("a/{x}", "a/b"));
        assert!(covers("a/+", "a/{x}"));
        assert!(!covers("a/b", "a/+"));
        assert!(!covers("a/+", "a/#"));
        assert!(!covers("a/+", "a/b/c"));
    }
}
