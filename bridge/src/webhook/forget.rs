//! Deletes the cursors of connectors that were dropped, whether or not their stream is still there.
//!
//! They are looked for by the connector's id, which no later connector has. A crash may come between the drop and the
//! deletion, so a start looks for ids that are in no row of the catalog.

use std::collections::BTreeSet;

use headwater_store::{Batch, GroupId, ReadError, Store, WriteError, tables};

use crate::limits::CURSORS_PER_BATCH;

/// Why cursors stay behind, until the next start.
#[derive(Debug, thiserror::Error)]
enum ForgetError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Forgets the connectors that have cursors and are not in the catalog.
pub(super) async fn sweep(store: Store) {
    let mut found = BTreeSet::new();
    for group in store.data_groups() {
        match connectors_in(&store, group).await {
            Ok(here) => found.extend(here),
            Err(error) => tracing::warn!(%group, %error, "cannot look for cursors of dropped connectors"),
        }
    }
    // Looked at after the cursors: a connector is in the catalog before it has any.
    let catalog = store.catalog().borrow().clone();
    for row in catalog.connectors.values() {
        found.remove(&row.id);
    }
    for connector in found {
        forget(&store, connector).await;
    }
}

/// Deletes all cursors of a connector that has stopped for good.
pub(super) async fn forget(store: &Store, connector: u64) {
    for group in store.data_groups() {
        match forget_in(store, connector, group).await {
            Ok(()) | Err(ForgetError::Write(WriteError::Stopped) | ForgetError::Read(ReadError::Stopped)) => {}
            Err(error) => tracing::warn!(connector, %group, %error, "cursors of a dropped connector stay behind"),
        }
    }
}

async fn forget_in(store: &Store, connector: u64, group: GroupId) -> Result<(), ForgetError> {
    loop {
        let cursors = store.table(group, tables::CONNECTOR_CURSOR);
        let page = store
            .blocking(move || cursors.scan(&connector.to_be_bytes(), &[], CURSORS_PER_BATCH))
            .await?;
        if page.is_empty() {
            return Ok(());
        }
        let delete = |batch: Batch, (key, _)| batch.delete(tables::CONNECTOR_CURSOR, key);
        store.write(page.into_iter().fold(Batch::new(group), delete)).await?;
    }
}

/// The connectors that have cursors in a group: one seek each.
async fn connectors_in(store: &Store, group: GroupId) -> Result<BTreeSet<u64>, ReadError> {
    let cursors = store.table(group, tables::CONNECTOR_CURSOR);
    store.blocking(move || cursors.leading_ids()).await
}
