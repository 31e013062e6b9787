//! Views for those who do not speak SQL.

use std::future::Future;

use bytes::Bytes;

use super::Engine;
use crate::error::SqlError;
use crate::view::View;

impl Engine {
    /// The rows that a view or table has now, as the key and payload that each has as a record: all, or the one of `key`.
    /// None: there is no such view.
    pub fn view_records(
        &self,
        view: &str,
        key: Option<&str>,
    ) -> Option<impl Future<Output = Result<Vec<(Bytes, Bytes)>, SqlError>> + Send + 'static> {
        let store = self.store().clone();
        let view = View::named(&store.catalog().borrow(), view)?;
        let key = key.map(str::to_owned);
        Some(async move { view.records(&store, key.as_deref()).await })
    }
}
