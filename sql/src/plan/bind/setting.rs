//! SET: what the statements behind it, in the same text, are bound with.

use crate::ast::{ExprKind, Set};
use crate::error::{SqlError, codes};
use crate::parse::did_you_mean;

/// The settings there are.
const NAMES: &[&str] = &["idle", "emit.coalesce"];

/// What is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// `idle`: after how long a silent shard leaves the watermark, where its stream does not say. MAX: never.
    pub(super) idle_us: Option<i64>,
}

impl Settings {
    /// With what a SET says.
    pub fn set(self, set: &Set) -> Result<Settings, SqlError> {
        match set.name.text.to_ascii_lowercase().as_str() {
            "idle" => Ok(Settings { idle_us: idle(set)? }),
            "emit.coalesce" => match word(set).as_deref() {
                // Nothing else is done.
                Some("on") => Ok(self),
                Some("off") => Err(SqlError::not_supported("emit.coalesce = off", set.value.span)
                    .detail("the changes of a key within one step come as one")),
                _ => Err(wrong(set, "on or off")),
            },
            name => Err(SqlError::new(
                codes::UNKNOWN_OPTION,
                format!("there is no setting `{}`", set.name.text),
            )
            .at(set.name.span)
            .help(
                did_you_mean(name, NAMES.iter().copied())
                    .unwrap_or_else(|| format!("the settings are {}", NAMES.join(", "))),
            )),
        }
    }
}

fn idle(set: &Set) -> Result<Option<i64>, SqlError> {
    if let ExprKind::Interval(interval) = &set.value.kind {
        let us = interval.value.fixed_us().filter(|us| *us >= 0);
        return us.map(Some).ok_or_else(|| wrong(set, "an interval of a fixed length"));
    }
    match word(set).as_deref() {
        Some("elapsed") => Ok(None),
        Some("off") => Ok(Some(i64::MAX)),
        Some("clock") => Err(SqlError::not_supported("idle = clock", set.value.span)
            .detail("event time goes on with the time that passes, and never jumps to the wall clock")),
        _ => Err(wrong(set, "elapsed, off, or an INTERVAL")),
    }
}

/// A word, in either spelling.
fn word(set: &Set) -> Option<String> {
    match &set.value.kind {
        ExprKind::Name(name) => Some(name.text.to_ascii_lowercase()),
        ExprKind::Text(text) => Some(text.to_ascii_lowercase()),
        _ => None,
    }
}

fn wrong(set: &Set, takes: &str) -> SqlError {
    SqlError::new(codes::BAD_OPTION, format!("{} takes {takes}", set.name.text)).at(set.value.span)
}
