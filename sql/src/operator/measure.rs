//! What each operator of a read does, for EXPLAIN ANALYZE.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Operator, Port};
use crate::change::Delta;
use crate::plan::physical::OperatorId;
use crate::step::{Key, Step, Stop};
use crate::types::TimestampUs;

/// By operator.
#[derive(Debug, Default)]
pub(crate) struct Measures {
    of: Mutex<BTreeMap<OperatorId, Measure>>,
}

/// What one operator has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    /// Row changes that it took in.
    pub rows_in: u64,
    /// Row changes that it put out.
    pub rows_out: u64,
    /// How long it worked.
    pub took: Duration,
}

impl Measures {
    /// The same operator, measured.
    pub fn watch(self: &Arc<Measures>, id: OperatorId, operator: Box<dyn Operator>) -> Watched {
        Watched {
            id,
            operator,
            measures: self.clone(),
        }
    }

    /// What an operator has done so far; None: it had nothing to do.
    pub fn of(&self, id: OperatorId) -> Option<Measure> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }

    fn add(&self, id: OperatorId, more: Measure) {
        let mut all = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let measure = all.entry(id).or_default();
        measure.rows_in += more.rows_in;
        measure.rows_out += more.rows_out;
        measure.took += more.took;
    }
}

#[derive(Debug)]
pub(crate) struct Watched {
    id: OperatorId,
    operator: Box<dyn Operator>,
    measures: Arc<Measures>,
}

impl Watched {
    fn measured(
        &mut self,
        rows_in: usize,
        step: &mut Step<'_>,
        run: impl FnOnce(&mut dyn Operator, &mut Step<'_>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        // A sink writes rows, all others pass them on.
        let rows = |step: &Step<'_>| step.emitted.iter().map(Delta::len).sum::<usize>() + step.gathered.rows.len();
        let (began, before) = (Instant::now(), rows(step));
        let result = run(self.operator.as_mut(), step);
        let measure = Measure {
            rows_in: rows_in as u64,
            rows_out: rows(step).saturating_sub(before) as u64,
            took: began.elapsed(),
        };
        self.measures.add(self.id, measure);
        result
    }
}

impl Operator for Watched {
    fn apply(&mut self, port: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        self.measured(delta.len(), step, |operator, step| operator.apply(port, delta, step))
    }

    fn has_more(&self) -> bool {
        self.operator.has_more()
    }

    fn go_on(&mut self, step: &mut Step<'_>) -> Result<(), Stop> {
        self.measured(0, step, |operator, step| operator.go_on(step))
    }

    fn advance(&mut self, port: Port, watermark: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        self.measured(0, step, |operator, step| operator.advance(port, watermark, step))
    }

    fn timer(&mut self, at: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        self.measured(0, step, |operator, step| operator.timer(at, key, step))
    }

    fn clock(&mut self, at: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        self.measured(0, step, |operator, step| operator.clock(at, key, step))
    }
}
