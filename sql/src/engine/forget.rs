//! Deletes what dropped queries leave behind.
//!
//! A query may have millions of rows. They go in Batches of a bounded size, one query after the other, in a task of its
//! own: starting and stopping the other queries never waits for it. A crash in between leaves rows whose query is in no
//! catalog row; the next start finds them ([`Forgetting::find`]).

use std::collections::{BTreeSet, VecDeque};

use headwater_store::{Batch, Catalog, GroupId, ReadError, Store, TableId, WriteError, tables};
use tokio::task::JoinSet;

use crate::limits::{FORGET_BYTES_PER_BATCH, FORGET_RETRY, FORGET_ROWS_PER_BATCH};
use crate::query::Progress;

/// The dropped queries whose rows are still there.
pub(super) struct Forgetting {
    store: Store,
    waiting: VecDeque<u64>,
    /// The one that is being forgotten.
    running: JoinSet<()>,
}

/// Why a query is not forgotten yet.
#[derive(Debug, thiserror::Error)]
enum ForgetError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Forgetting {
    pub fn new(store: Store) -> Forgetting {
        Forgetting {
            store,
            waiting: VecDeque::new(),
            running: JoinSet::new(),
        }
    }

    /// Finds queries that have rows but are not in the catalog. To be called before any query of the catalog runs.
    pub async fn find(&mut self, catalog: &Catalog) {
        let alive: BTreeSet<u64> = catalog.queries.values().map(|query| query.id).collect();
        let mut gone: BTreeSet<u64> = BTreeSet::new();
        for group in self.store.data_groups() {
            for table in [tables::QUERY_PROGRESS, tables::QUERY_STATE] {
                match queries_in(&self.store, group, table).await {
                    Ok(found) => gone.extend(found.difference(&alive)),
                    Err(error) => tracing::warn!(%group, %error, "cannot look for rows of dropped queries"),
                }
            }
        }
        gone.into_iter().for_each(|query| self.add(query));
    }

    /// Forgets a query, whose tasks have ended, when its turn comes.
    pub fn add(&mut self, query: u64) {
        self.waiting.push_back(query);
        self.begin_next();
    }

    /// Waits until a query is forgotten. Never, where there is none.
    pub async fn forgotten(&mut self) {
        match self.running.join_next().await {
            Some(ended) => {
                if let Err(error) = ended {
                    // The next start finds what it has left.
                    tracing::error!(%error, "deleting the rows of a dropped query ended by a defect");
                }
                self.begin_next();
            }
            None => std::future::pending().await,
        }
    }

    /// Leaves the rest to the next start.
    pub async fn stop(&mut self) {
        self.waiting.clear();
        self.running.shutdown().await;
    }

    fn begin_next(&mut self) {
        if self.running.is_empty()
            && let Some(query) = self.waiting.pop_front()
        {
            self.running.spawn(forget(self.store.clone(), query));
        }
    }
}

/// Tries until all rows of the query are gone, or the store stops.
async fn forget(store: Store, query: u64) {
    for group in store.data_groups() {
        loop {
            match forget_in(&store, query, group).await {
                Ok(()) => break,
                Err(ForgetError::Write(WriteError::Stopped) | ForgetError::Read(ReadError::Stopped)) => return,
                Err(error) => {
                    tracing::warn!(query, %group, %error, "cannot delete the rows of a dropped query yet");
                    tokio::time::sleep(FORGET_RETRY).await;
                }
            }
        }
    }
}

async fn forget_in(store: &Store, query: u64, group: GroupId) -> Result<(), ForgetError> {
    // Progress goes first: it fences a step that is still on its way.
    let progress = Batch::new(group).delete(tables::QUERY_PROGRESS, Progress::key(query));
    store.write(progress).await?;
    // Where to go on: a page that began at the first key again would step over all that is deleted already.
    let mut from: Vec<u8> = Vec::new();
    loop {
        let (rows, begin) = (store.table(group, tables::QUERY_STATE), std::mem::take(&mut from));
        let page = store
            .blocking(move || rows.scan(&query.to_be_bytes(), &begin, FORGET_ROWS_PER_BATCH))
            .await?;
        if page.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new(group);
        for (key, _) in page {
            from = [&key[..], &[0]].concat();
            batch = batch.delete(tables::QUERY_STATE, key);
            if batch.size_bytes() >= FORGET_BYTES_PER_BATCH {
                break;
            }
        }
        store.write(batch).await?;
    }
}

/// The ids of the queries that have rows in a table: one seek each.
async fn queries_in(store: &Store, group: GroupId, table: TableId) -> Result<BTreeSet<u64>, ReadError> {
    let rows = store.table(group, table);
    store.blocking(move || rows.leading_ids()).await
}
