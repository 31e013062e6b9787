//! Reading the rows of a table: what is applied, as this node knows it. Batches write them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::TableId;
use crate::engine::{Engine, Family};
use crate::error::ReadError;
use crate::ids::GroupId;
use crate::keys::table_row;

/// A table of one group.
#[derive(Clone)]
pub struct Table {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) group: GroupId,
    pub(crate) table: TableId,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("group", &self.group)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl Table {
    /// One row.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self
            .engine
            .get(Family::State, &table_row::key(self.group, self.table, key))?)
    }

    /// The distinct big-endian u64 that the table's keys begin with: a seek for each. Ends at a key that is shorter.
    pub fn leading_ids(&self) -> Result<BTreeSet<u64>, ReadError> {
        let (mut found, mut from) = (BTreeSet::new(), Vec::new());
        while let Some((key, _)) = self.scan(&[], &from, 1)?.pop() {
            let Some((id, _)) = key.split_first_chunk::<8>() else {
                break;
            };
            let id = u64::from_be_bytes(*id);
            found.insert(id);
            let Some(next) = id.checked_add(1) else { break };
            from = next.to_be_bytes().to_vec();
        }
        Ok(found)
    }

    /// Rows whose key begins with `prefix`, from `from` on (empty: the first), at most `limit`, in key order.
    pub fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        let full = |row: &[u8]| table_row::key(self.group, self.table, row);
        let mut rows = Vec::new();
        if limit == 0 {
            return Ok(rows);
        }
        self.engine.scan(
            Family::State,
            &full(prefix),
            &full(from.max(prefix)),
            &mut |key, value| {
                let row = table_row::row(key).unwrap_or_default();
                rows.push((Bytes::copy_from_slice(row), Bytes::copy_from_slice(value)));
                rows.len() < limit
            },
        )?;
        Ok(rows)
    }
}
