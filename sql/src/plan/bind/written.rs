//! What a query writes into its stream, as those who read that stream may name it.

use headwater_store::{Catalog, StreamRow};

use crate::plan::physical::{Plan, SinkItem};

/// The plan of the query that writes a stream. None: clients write it, or a later version made the plan.
pub fn plan(catalog: &Catalog, stream: &StreamRow) -> Option<Plan> {
    let query = catalog.queries.get(stream.query.as_ref()?)?;
    Plan::decode(&query.plan).ok()
}

/// What the fields of its rows are called, in order. None: `*` of an open stream is among them, so any name may be one.
pub fn columns(plan: &Plan) -> Option<Vec<String>> {
    let (_, sink) = plan.sink()?;
    let name = |item: &SinkItem| match item {
        SinkItem::Column { name, .. } => Some(name.clone()),
        SinkItem::Star(_) => None,
    };
    sink.items.iter().map(name).collect()
}
