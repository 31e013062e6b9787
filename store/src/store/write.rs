//! Writing: admission, what may be written at all, and the way to the driver.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, TryAcquireError, oneshot};

use super::Store;
use crate::batch::{Batch, Committed};
use crate::error::WriteError;
use crate::ids::CATALOG_GROUP;
use crate::inbox::Ended;
use crate::limits::{BATCH_BYTES_MAX, PRODUCER_ID_BYTES_MAX, TABLE_KEY_BYTES_MAX};
use crate::proposal::Proposal;

/// What came of [`Store::submit_now`].
#[derive(Debug)]
pub enum Submission {
    /// On its way.
    Sent(Receipt),
    /// It will not be written.
    Refused(WriteError),
    /// It has to wait for admission.
    Waits(Batch),
}

/// Resolves when a submitted Batch is committed or refused.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<Committed, WriteError>>);

impl Future for Receipt {
    type Output = Result<Committed, WriteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|reply| reply.unwrap_or(Err(WriteError::Indefinite("the node stopped before it answered"))))
    }
}

impl Store {
    /// Waits for admission and commit. A [`WriteError::StaleRoute`] is the caller's to retry with a new route.
    pub async fn write(&self, batch: Batch) -> Result<Committed, WriteError> {
        self.submit(batch).await?.await
    }

    /// Waits for admission only: this is the backpressure. Batches of one caller to one group commit in the order of
    /// submission. Appends without records are left out.
    pub async fn submit(&self, batch: Batch) -> Result<Receipt, WriteError> {
        let batch = match self.submit_now(batch) {
            Submission::Sent(receipt) => return Ok(receipt),
            Submission::Refused(error) => return Err(error),
            Submission::Waits(batch) => batch,
        };
        let permits = self.permits(&batch);
        let admission = self.inner.admission.clone().acquire_many_owned(permits).await;
        self.propose(batch, admission.map_err(|_| WriteError::Stopped)?)
    }

    /// [`Store::submit`] without the waiting: gives the Batch back if it would have to.
    pub fn submit_now(&self, mut batch: Batch) -> Submission {
        batch.appends.retain(|append| !append.records.is_empty());
        batch.encoded.retain(|(_, records)| !records.is_empty());
        if let Err(error) = self.check(&batch) {
            return Submission::Refused(error);
        }
        let proposed = match self
            .inner
            .admission
            .clone()
            .try_acquire_many_owned(self.permits(&batch))
        {
            Ok(admission) => self.propose(batch, admission),
            Err(TryAcquireError::NoPermits) => return Submission::Waits(batch),
            Err(TryAcquireError::Closed) => Err(WriteError::Stopped),
        };
        proposed.map_or_else(Submission::Refused, Submission::Sent)
    }

    /// Whether `batch` may be written at all, now.
    fn check(&self, batch: &Batch) -> Result<(), WriteError> {
        let within = |bytes: usize, limit: usize| match bytes > limit {
            true => Err(WriteError::TooLarge { bytes, limit }),
            false => Ok(()),
        };
        within(batch.size_bytes(), BATCH_BYTES_MAX)?;
        let key_bytes = batch.puts.iter().map(|put| put.key.len()).max();
        within(key_bytes.unwrap_or(0), TABLE_KEY_BYTES_MAX)?;
        let id_bytes = batch.producer.as_ref().map_or(0, |producer| producer.id.len());
        within(id_bytes, PRODUCER_ID_BYTES_MAX)?;
        assert!(
            batch.group.0 <= self.inner.shared.groups,
            "a Batch is for a group that exists"
        );
        // The catalog, fences and trims stay writable: that is how a stream is dropped to make room.
        let small = batch.group == CATALOG_GROUP
            || (batch.appends.is_empty() && batch.encoded.is_empty() && batch.puts.is_empty());
        if small {
            return Ok(());
        }
        self.check_disk()?;
        let bytes = batch.size_bytes() as u64;
        self.inner.shared.taken_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// [`WriteError::DiskFull`] while records are refused for want of disk.
    pub fn check_disk(&self) -> Result<(), WriteError> {
        let shared = &self.inner.shared;
        // The disk is looked at now and then. What was taken since then is written twice: to the log, and as rows.
        let taken = shared.taken_bytes.load(Ordering::Relaxed);
        let free = shared
            .free_disk_bytes
            .load(Ordering::Relaxed)
            .saturating_sub(taken.saturating_mul(2));
        let mark = self.inner.free_disk_min;
        match free < mark {
            true => Err(WriteError::DiskFull { free, mark }),
            false => Ok(()),
        }
    }

    /// A byte each; a Batch larger than all there are takes all.
    fn permits(&self, batch: &Batch) -> u32 {
        u32::try_from(batch.size_bytes())
            .unwrap_or(u32::MAX)
            .min(self.inner.admission_bytes)
    }

    fn propose(&self, batch: Batch, admission: OwnedSemaphorePermit) -> Result<Receipt, WriteError> {
        let (reply, receiver) = oneshot::channel();
        let catalog = self.inner.shared.catalog.borrow().clone();
        let proposal = Proposal::new(batch, |stream| catalog.retention(stream), reply, admission);
        drop(catalog);
        let outlet = &self.inner.outlet;
        outlet.propose(proposal).map_err(|Ended| WriteError::Stopped)?;
        Ok(Receipt(receiver))
    }
}
