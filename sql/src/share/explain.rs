//! What EXPLAIN says of sharing: with whom a query would read its stream, and whether its filter is in the index.

use headwater_store::{Catalog, QueryState};

use super::Share;
use super::hub::mapped;
use crate::plan::physical::{Expr, Plan};

/// Names that are listed; of more only the number is told.
const NAMES_MAX: usize = 5;

/// Lines for a query that would write the stream `output`.
pub(crate) fn explain(plan: &Plan, output: &str, catalog: &Catalog) -> Vec<String> {
    let Some(share) = Share::of(plan) else {
        return vec!["Shared: nothing, the query reads its streams alone".to_owned()];
    };
    let stream = &share.source.name;
    let others: Vec<(&str, Share)> = others(&share, output, catalog);
    let mut lines = vec![match &others[..] {
        [] => format!("Shared: nobody else reads {stream} now"),
        others => {
            let (queries, names) = (
                count(others.len(), "query", "queries"),
                listed(others.iter().map(|(name, _)| *name)),
            );
            format!("Shared: one reader and one decode of {stream} with {queries} ({names})")
        }
    }];
    if let Some(filter) = &share.filter {
        let same = others.iter().filter(|(_, other)| other.has_filter(&share, filter));
        lines.push(match listed(same.map(|(name, _)| *name)) {
            names if names.is_empty() => "Filter: in the predicate index".to_owned(),
            names => format!("Filter: in the predicate index, as one with that of {names}"),
        });
    }
    lines
}

/// The other running queries that read the stream together, by name.
fn others<'c>(share: &Share, output: &str, catalog: &'c Catalog) -> Vec<(&'c str, Share)> {
    let reads = |query: &&std::sync::Arc<headwater_store::QueryRow>| {
        query.state == QueryState::Running && query.name != output && query.inputs == [share.stream()]
    };
    let queries = catalog.queries.values().filter(reads);
    let mut others: Vec<(&str, Share)> = queries
        .filter_map(|query| Some((query.name.as_str(), Share::of(&Plan::decode(&query.plan).ok()?)?)))
        .collect();
    others.sort_by_key(|(name, _)| *name);
    others
}

impl Share {
    /// Its filter is that one, which is over the columns of another source.
    fn has_filter(&self, other: &Share, filter: &Expr) -> bool {
        let place = |column| other.source.columns.iter().position(|known| known == column);
        // A column that the other has not is none that its filter names.
        let place = |column| place(column).unwrap_or(u32::MAX as usize);
        let columns: Vec<usize> = self.source.columns.iter().map(place).collect();
        self.filter.as_ref().is_some_and(|own| mapped(own, &columns) == *filter)
    }
}

fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.len().checked_sub(NAMES_MAX) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMES_MAX].join(", ")),
    }
}

fn count(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}
