//! Windows: which of them a row is in, by its event time. Rows that come too late for all of them are told.
//!
//! Lateness is judged by the row's own frontier (see [`Delta::frontier`]), never by what happens to be open: so which
//! rows a window takes depends on the logs alone. A session may begin before its row and end after it, so only GROUP BY
//! can tell whether a row is too late for it: here they all pass.

use std::sync::Arc;

use super::{Operator, Port};
use crate::change::Delta;
use crate::column::{Column, Columns};
use crate::plan::physical::{Node, PlanError, Window, WindowKind};
use crate::step::{LateRow, Step, Stop};
use crate::value::write_json_string;

#[derive(Debug)]
pub(super) struct Windows {
    kind: WindowKind,
    grace_us: i64,
    late: Late,
}

/// Tells of rows that came too late.
#[derive(Debug)]
pub(super) struct Late {
    /// The names of the columns of those rows.
    names: Vec<String>,
}

impl Late {
    /// Of that window operator.
    pub fn of(window: &Node) -> Late {
        let width = window.schema.columns.len().saturating_sub(2);
        let names = window.schema.columns[..width].iter().map(|column| column.name.clone());
        Late { names: names.collect() }
    }

    pub fn tell(&self, delta: &Delta, row: usize, step: &mut Step<'_>) {
        step.late(LateRow {
            origin: delta.origin[row],
            time: delta.time[row],
            watermark: delta.frontier[row],
            row: object(&self.names, &delta.rows, row),
        });
    }
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The values of the two columns.
    In(i64, i64),
    /// Between two hopping windows.
    Outside,
    Late,
}

impl Windows {
    pub fn new(node: &Node, window: &Window) -> Result<Windows, PlanError> {
        let steps = match window.kind {
            WindowKind::Tumbling { size_us } => size_us,
            WindowKind::Hopping { size_us, advance_us } => size_us.min(advance_us),
            WindowKind::Session { gap_us } => gap_us,
        };
        if steps <= 0 || window.grace_us < 0 {
            let what = "a window without length, or with a negative grace";
            return Err(PlanError::Invalid(what.into()));
        }
        Ok(Windows {
            kind: window.kind.clone(),
            grace_us: window.grace_us,
            late: Late::of(node),
        })
    }

    fn judge(&self, at: i64, frontier: i64) -> Verdict {
        let in_time = |end: i64| end.saturating_add(self.grace_us) > frontier;
        let (start, end) = match self.kind {
            WindowKind::Tumbling { size_us } => {
                let start = floor(at, size_us);
                (start, start.saturating_add(size_us))
            }
            WindowKind::Session { gap_us } => return Verdict::In(at, at.saturating_add(gap_us)),
            WindowKind::Hopping { size_us, advance_us } => return self.hopping(at, frontier, size_us, advance_us),
        };
        match in_time(end) {
            true => Verdict::In(start, end),
            false => Verdict::Late,
        }
    }

    /// The pane that holds the row, and the first window that still takes it.
    fn hopping(&self, at: i64, frontier: i64, size_us: i64, advance_us: i64) -> Verdict {
        let after = |time: i64| floor(time, advance_us).saturating_add(advance_us);
        let last = floor(at, advance_us);
        if last.saturating_add(size_us) <= at {
            return Verdict::Outside;
        }
        let first = after(at.saturating_sub(size_us));
        let open = after(frontier.saturating_sub(self.grace_us).saturating_sub(size_us));
        match first.max(open) {
            from if from <= last => Verdict::In(floor(at, pane_us(size_us, advance_us)), from),
            _ => Verdict::Late,
        }
    }
}

/// Both the size and the advance of hopping windows are whole numbers of panes.
pub(super) fn pane_us(size_us: i64, advance_us: i64) -> i64 {
    let (mut a, mut b) = (size_us, advance_us);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The largest multiple of `unit` that is not after `at`.
fn floor(at: i64, unit: i64) -> i64 {
    at.saturating_sub(at.rem_euclid(unit))
}

pub(super) fn object(names: &[String], rows: &Columns, row: usize) -> String {
    let mut out = String::from("{");
    for (number, name) in names.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        write_json_string(name, &mut out);
        out.push(':');
        rows.column(number).write_json(row, &mut out);
    }
    out.push('}');
    out
}

impl Operator for Windows {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let (mut kept, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..delta.len() {
            match self.judge(delta.time[row].0, delta.frontier[row].0) {
                Verdict::In(start, end) => {
                    kept.push(row as u32);
                    starts.push(start);
                    ends.push(end);
                }
                Verdict::Outside => {}
                // That a row goes whose window is over changes nothing, and is nothing to tell.
                Verdict::Late if delta.weight(row) < 0 => {}
                Verdict::Late => self.late.tell(delta, row, step),
            }
        }
        let delta = delta.take(&kept);
        let columns = [starts, ends].map(|us| Arc::new(Column::timestamps(us)));
        step.emit(delta.with_rows(delta.rows.with(columns)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::physical::{Form, Op, OperatorId, Schema, StateBound};

    fn windows(kind: WindowKind, grace_us: i64) -> Windows {
        let window = Window { kind, grace_us };
        let node = Node {
            id: OperatorId(0),
            op: Op::Window(window.clone()),
            inputs: Vec::new(),
            schema: Schema::default(),
            form: Form::Append,
            key: Vec::new(),
            partition: Vec::new(),
            bound: StateBound::Stateless,
        };
        Windows::new(&node, &window).unwrap()
    }

    #[test]
    fn a_row_is_late_when_its_last_window_is_over() {
        let tumbling = windows(WindowKind::Tumbling { size_us: 10 }, 5);
        assert_eq!(tumbling.judge(12, 24), Verdict::In(10, 20));
        assert_eq!(tumbling.judge(12, 25), Verdict::Late);
        assert_eq!(tumbling.judge(-1, i64::MIN), Verdict::In(-10, 0));
    }

    #[test]
    fn a_hopping_row_knows_its_pane_and_the_first_window_that_is_open() {
        let hopping = windows(
            WindowKind::Hopping {
                size_us: 10,
                advance_us: 4,
            },
            0,
        );
        // Windows 4..14, 8..18 and 12..22; panes are of 2.
        assert_eq!(hopping.judge(13, i64::MIN), Verdict::In(12, 4));
        assert_eq!(hopping.judge(13, 13), Verdict::In(12, 4));
        assert_eq!(hopping.judge(13, 14), Verdict::In(12, 8));
        assert_eq!(hopping.judge(13, 21), Verdict::In(12, 12));
        assert_eq!(hopping.judge(13, 22), Verdict::Late);
        let gaps = windows(
            WindowKind::Hopping {
                size_us: 3,
                advance_us: 10,
            },
            0,
        );
        assert_eq!(gaps.judge(12, i64::MIN), Verdict::In(12, 10));
        assert_eq!(gaps.judge(13, i64::MIN), Verdict::Outside);
        assert_eq!(pane_us(10, 4), 2);
    }
}
