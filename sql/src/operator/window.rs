//! TUMBLING: appends `window_start` and `window_end`, and drops what comes too late.

use std::sync::Arc;

use super::{Operator, Port};
use crate::change::Delta;
use crate::column::Column;
use crate::plan::physical::{PlanError, Window, WindowKind};
use crate::step::{Step, Stop};

#[derive(Debug)]
pub(super) struct TumblingWindow {
    size_us: i64,
    grace_us: i64,
}

impl TumblingWindow {
    pub fn new(window: &Window) -> Result<TumblingWindow, PlanError> {
        let WindowKind::Tumbling { size_us } = window.kind;
        if size_us <= 0 || window.grace_us < 0 {
            return Err(PlanError::Invalid(
                "a window without length, or with a negative grace".into(),
            ));
        }
        Ok(TumblingWindow {
            size_us,
            grace_us: window.grace_us,
        })
    }
}

impl Operator for TumblingWindow {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let start = |row: u32| {
            let at = delta.time[row as usize].0;
            at.saturating_sub(at.rem_euclid(self.size_us))
        };
        let end = |row: u32| start(row).saturating_add(self.size_us);
        let in_time = |row: &u32| end(*row).saturating_add(self.grace_us) > delta.frontier[*row as usize].0;
        let kept: Vec<u32> = (0..delta.len() as u32).filter(in_time).collect();
        step.late((delta.len() - kept.len()) as u64);
        let starts = Column::timestamps(kept.iter().map(|row| start(*row)).collect());
        let ends = Column::timestamps(kept.iter().map(|row| end(*row)).collect());
        let delta = delta.take(&kept);
        step.emit(delta.with_rows(delta.rows.with([Arc::new(starts), Arc::new(ends)])));
        Ok(())
    }
}
