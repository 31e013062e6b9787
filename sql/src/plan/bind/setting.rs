//! SET: what the statements behind it, in the same text, are bound with.

use crate::ast::{ExprKind, Set};
use crate::error::{SqlError, codes};
use crate::parse::did_you_mean;
use crate::plan::physical::{Manner, Silence};

/// The settings there are.
const NAMES: &[&str] = &["idle", "emit.coalesce"];

/// What is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// `idle`: after how long a silent shard leaves the watermark, where its stream does not say. MAX: never.
    pub(super) idle_us: Option<i64>,
    /// `idle` and `emit.coalesce`: how the query goes about its steps.
    pub(super) manner: Manner,
}

impl Settings {
    /// With what a SET says.
    pub fn set(self, set: &Set) -> Result<Settings, SqlError> {
        match set.name.text.to_ascii_lowercase().as_str() {
            "idle" => {
                let (idle_us, silence) = idle(set)?;
                let manner = Manner { silence, ..self.manner };
                Ok(Settings { idle_us, manner })
            }
            "emit.coalesce" => {
                let each_input = match word(set).as_deref() {
                    Some("on") => false,
                    Some("off") => true,
                    _ => return Err(wrong(set, "on or off")),
                };
                let manner = Manner {
                    each_input,
                    ..self.manner
                };
                Ok(Settings { manner, ..self })
            }
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

fn idle(set: &Set) -> Result<(Option<i64>, Silence), SqlError> {
    if let ExprKind::Interval(interval) = &set.value.kind {
        let us = interval.value.fixed_us().filter(|us| *us >= 0);
        let us = us.ok_or_else(|| wrong(set, "an interval of a fixed length"))?;
        return Ok((Some(us), Silence::Elapsed));
    }
    match word(set).as_deref() {
        Some("elapsed") => Ok((None, Silence::Elapsed)),
        Some("clock") => Ok((None, Silence::Clock)),
        Some("off") => Ok((Some(i64::MAX), Silence::Elapsed)),
        _ => Err(wrong(set, "elapsed, clock, off, or an INTERVAL")),
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
