//! Steps of a task: taken in, committed, told of.

use headwater_store::{Record, WriteError};
use tokio::time::Instant;

use super::{Ended, Serving, TICK, read_failed};
use crate::change::RecordId;
use crate::decode::BadRecord;
use crate::metrics;
use crate::query::ReadyStep;
use crate::query::size::{StepSize, TooLarge};
use crate::share::{Item, Subscription};
use crate::step::Stop;
use crate::types::TimestampUs;
use crate::value::Fault;

impl Serving<'_> {
    pub(super) async fn save_in_time(&mut self, rarely: u32) -> Result<(), Ended> {
        if self.unsaved && self.saved_at.elapsed() >= self.context.cursor_save_every * rarely {
            self.save().await?;
        }
        Ok(())
    }

    /// When to look again though nothing came.
    pub(super) fn deadline(&self, rarely: u32) -> Option<Instant> {
        let save = self
            .unsaved
            .then(|| self.saved_at + self.context.cursor_save_every * rarely);
        let tick = self.core.waits_for_time().then(|| Instant::now() + TICK);
        save.into_iter().chain(tick).min()
    }

    /// Takes in these records, or lets time pass where there are none; in as many steps as it needs.
    pub(super) async fn step(&mut self, mut records: &[(RecordId, Record)]) -> Result<(), Ended> {
        loop {
            let (now, later) = match (self.size.records_of(records), records) {
                (0, [(too_large, _), later @ ..]) => {
                    self.pass_over(*too_large).await?;
                    (&[][..], later)
                }
                (count, _) => records.split_at(count),
            };
            // Windows that are over close before anything else is read.
            let mut more = self.one_step(now).await?;
            while more {
                more = self.one_step(&[]).await?;
            }
            if later.is_empty() {
                return Ok(());
            }
            records = later;
        }
    }

    /// A step of what a hub gave, and of the timers that are due then.
    pub(super) async fn step_shared(&mut self, items: &[Item], subscription: &Subscription) -> Result<(), Ended> {
        let began = Instant::now();
        let before = self.core.cursors().to_vec();
        let now = TimestampUs::from_ms(self.context.store.now());
        // All rows of it or none: where that is too much for a Batch, the task begins again by itself, with less.
        let step = self
            .core
            .step_shared(items, &subscription.columns, now, self.size.timers_with(1));
        let step = step.map_err(|stop| self.stopped(stop, &Took::Shared(0)))?;
        let records = self.core.counted_since(&before);
        let mut more = self.take_step(step, Took::Shared(records), began).await?;
        while more {
            more = self.one_step(&[]).await?;
        }
        Ok(())
    }

    /// Gives whether timers are left that are due.
    async fn one_step(&mut self, records: &[(RecordId, Record)]) -> Result<bool, Ended> {
        let began = Instant::now();
        let now = TimestampUs::from_ms(self.context.store.now());
        let timers_max = self.size.timers_with(records.len());
        let step = self.core.step(records, now, timers_max);
        let step = step.map_err(|stop| self.stopped(stop, &Took::Records(records)))?;
        self.take_step(step, Took::Records(records), began).await
    }

    fn stopped(&mut self, stop: Stop, took: &Took<'_>) -> Ended {
        match stop {
            Stop::TooLarge => {
                // How many timers it would have fired is not known: at most as many as it was let.
                let timers = match took {
                    Took::Records(records) => self.size.timers_with(records.len()),
                    Took::Shared(_) => 0,
                };
                match took.was_too_large(self.size, timers) {
                    TooLarge::Smaller => Ended::Smaller,
                    TooLarge::Never => Ended::Failed(stop.to_string()),
                }
            }
            Stop::Read(error) => read_failed(error),
            // Nothing is saved: the pipeline is in the middle of the step.
            Stop::GivenUp => Ended::Stopped,
            Stop::BadRecord(BadRecord(record)) => {
                // Every task reads it and stops; one of them counts it.
                if self.core.tells_of(record) {
                    metrics::error(&self.context.query.name, Fault::BadRecord);
                    self.context.tell(|status| status.errors += 1);
                }
                Ended::Failed(self.core.inputs().does_not_parse(record))
            }
            other => Ended::Failed(other.to_string()),
        }
    }

    /// Writes a step, where there is something to write. Gives whether timers are left that are due.
    async fn take_step(&mut self, mut step: ReadyStep, took: Took<'_>, began: Instant) -> Result<bool, Ended> {
        let bytes = step.batch.size_bytes();
        if step.writes {
            self.commit(&mut step, &took).await?;
        } else if took.moves() || step.moved_time {
            self.unsaved = true;
        }
        let counted = match took {
            Took::Records(records) => {
                self.size.fitted(records.len(), step.timers, bytes);
                self.core.counted(records)
            }
            Took::Shared(records) => records as usize,
        };
        self.tell(&step, counted, began);
        Ok(step.more)
    }

    /// Goes on behind a record that no step can hold.
    async fn pass_over(&mut self, record: RecordId) -> Result<(), Ended> {
        let began = Instant::now();
        let mut step = self.core.pass_over(record);
        self.commit(&mut step, &Took::Records(&[])).await?;
        self.size.passed();
        let query = self.context.query.name.as_str();
        tracing::warn!(query, %record, "left out: what comes of this record is larger than a write may be");
        self.tell(&step, usize::from(self.core.tells_of(record)), began);
        Ok(())
    }

    pub(super) async fn save(&mut self) -> Result<(), Ended> {
        if self.unsaved {
            self.commit(&mut self.core.save(), &Took::Records(&[])).await
        } else {
            Ok(())
        }
    }

    async fn commit(&mut self, step: &mut ReadyStep, took: &Took<'_>) -> Result<(), Ended> {
        match self.context.store.write(step.take_batch(self.term)).await {
            Ok(_) => {
                self.core.committed(step);
                self.unsaved = false;
                self.saved_at = Instant::now();
                Ok(())
            }
            Err(WriteError::Stopped) => Err(Ended::Stopped),
            Err(error @ WriteError::TooLarge { .. }) => Err(match took.was_too_large(self.size, step.timers) {
                TooLarge::Smaller => Ended::Smaller,
                TooLarge::Never => Ended::Failed(format!("a step cannot be written: {error}")),
            }),
            Err(error) => Err(Ended::Again(error.to_string())),
        }
    }

    fn tell(&self, step: &ReadyStep, records: usize, began: Instant) {
        metrics::step(&self.context.query.name, records, step, began.elapsed());
        for (record, fault) in &step.errors {
            tracing::debug!(query = %self.context.query.name, %record, %fault, "a value could not be worked out");
        }
        self.tell_of_records(records as u64);
        self.context.tell(|status| {
            status.rows += step.rows;
            status.errors += step.errors.len() as u64;
            status.late += step.late as u64;
        });
    }

    pub(super) fn tell_of_records(&self, records: u64) {
        self.context.tell(|status| {
            status.records += records;
            if let Some(pace) = &mut status.pace {
                pace.count(records, Instant::now());
            }
            status.position = Some(self.core.position());
        });
    }
}

/// What a step took in.
enum Took<'r> {
    Records(&'r [(RecordId, Record)]),
    /// What a hub gave: so many records that this task counts.
    Shared(u64),
}

impl Took<'_> {
    /// It has moved the cursor.
    fn moves(&self) -> bool {
        match self {
            Took::Records(records) => !records.is_empty(),
            Took::Shared(_) => true,
        }
    }

    fn was_too_large(&self, size: &mut StepSize, timers: usize) -> TooLarge {
        match self {
            Took::Records(records) => size.too_large(records, timers),
            Took::Shared(_) => {
                size.halve();
                TooLarge::Smaller
            }
        }
    }
}
