//! The rows of a view as records, for those who know it by its name and its rows by their keys: MQTT clients.

use bytes::Bytes;
use headwater_store::{Catalog, Store, decode_control, slot, tables};

use super::{View, is_view, of_view, state_prefix};
use crate::error::{SqlError, codes};
use crate::limits::VIEW_ROWS_BYTES_MAX;
use crate::operator::ViewRow;
use crate::plan::physical::Plan;
use crate::value::{Value, encode_key};

impl View {
    /// The view or table of that name.
    pub fn named(catalog: &Catalog, name: &str) -> Option<View> {
        let stream = catalog.stream(name).filter(|stream| is_view(stream))?.clone();
        let query = catalog.queries.get(stream.query.as_ref()?)?;
        let plan = Plan::decode(&query.plan).ok()?;
        plan.view()?;
        Some(View {
            query: query.id,
            plan,
            stream,
        })
    }

    /// The key and payload that each row has as a record; with `key`, the row of that key.
    pub async fn records(&self, store: &Store, key: Option<&str>) -> Result<Vec<(Bytes, Bytes)>, SqlError> {
        let Some(node) = self.plan.view() else {
            return Ok(Vec::new());
        };
        let operator = node.id.0;
        let wanted = |row: &ViewRow| key.is_none_or(|key| row.key == key.as_bytes());
        // A key that is one text or one whole number is looked up; any other is found among all.
        for value in key.into_iter().flat_map(values) {
            let mut place = Vec::new();
            encode_key(&value, &mut place);
            let prefix = [&state_prefix(self.query, slot(&place), operator)[..], &place].concat();
            let found = self.scan(store, prefix, |_| true, wanted).await?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let all = self.query.to_be_bytes().to_vec();
        self.scan(store, all, |key| of_view(key, node).is_some(), wanted).await
    }

    async fn scan(
        &self,
        store: &Store,
        prefix: Vec<u8>,
        is_row: impl Fn(&[u8]) -> bool,
        wanted: impl Fn(&ViewRow) -> bool,
    ) -> Result<Vec<(Bytes, Bytes)>, SqlError> {
        let mut groups = self.stream.shards.clone();
        groups.sort_unstable();
        groups.dedup();
        let (mut records, mut bytes) = (Vec::new(), 0);
        for group in groups {
            let (table, prefix) = (store.table(group, tables::QUERY_STATE), prefix.clone());
            let found = store.blocking(move || table.scan(&prefix, &[], usize::MAX)).await?;
            for (_, row) in found.iter().filter(|(key, _)| is_row(key)) {
                let row: ViewRow =
                    decode_control(row).map_err(|error| SqlError::new(codes::DAMAGED, error.to_string()))?;
                bytes += row.key.len() + row.payload.len();
                if wanted(&row) {
                    records.push((row.key.into(), row.payload.into()));
                }
            }
            if bytes > VIEW_ROWS_BYTES_MAX {
                let message = format!("the view has more than {} MiB of rows", VIEW_ROWS_BYTES_MAX >> 20);
                return Err(SqlError::new(codes::TOO_LARGE, message));
            }
        }
        Ok(records)
    }
}

fn values(key: &str) -> impl Iterator<Item = Value> {
    let number = key.parse().ok().map(Value::Integer);
    number.into_iter().chain([Value::String(key.into())])
}
