//! What the engine tells of itself.

use std::time::Duration;

use metrics::{counter, histogram};

use crate::query::ReadyStep;
use crate::value::Fault;

/// A step of a persistent query.
pub(crate) fn step(query: &str, records: usize, step: &ReadyStep, took: Duration) {
    let query = || query.to_owned();
    counter!("headwater_sql_records_read_total", "query" => query()).increment(records as u64);
    counter!("headwater_sql_rows_written_total", "query" => query()).increment(step.rows);
    if step.late > 0 {
        counter!("headwater_sql_rows_late_total", "query" => query()).increment(step.late as u64);
    }
    step.errors.iter().for_each(|(_, fault)| error(&query(), *fault));
    histogram!("headwater_sql_step_seconds", "query" => query()).record(took.as_secs_f64());
}

/// A value or record that could not be used.
pub(crate) fn error(query: &str, fault: Fault) {
    counter!("headwater_sql_errors_total", "query" => query.to_owned(), "fault" => fault.label()).increment(1);
}

/// A task that dropped its memory and begins again.
pub(crate) fn task_restarted(query: &str) {
    counter!("headwater_sql_task_restarts_total", "query" => query.to_owned()).increment(1);
}

/// A task that gave up.
pub(crate) fn task_failed(query: &str) {
    counter!("headwater_sql_task_failures_total", "query" => query.to_owned()).increment(1);
}
