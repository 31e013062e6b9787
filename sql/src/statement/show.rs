//! SHOW: the catalog as rows, by name; what the broker knows in [`node`].

mod node;

use std::sync::Arc;

use headwater_store::{Ack, Catalog, ConnectorRow, Format, QueryRow, StreamId, StreamRow, StreamState};
use serde_json::{Value, json};

use crate::ast::{ExprKind, Name, ObjectKind, Show, StatementKind};
use crate::calendar;
use crate::connector::ConnectorStatus;
use crate::engine::Engine;
use crate::error::SqlError;
use crate::homes;
use crate::parse::parse;
use crate::query::side::is_side_stream;
use crate::statement::{exists, missing};
use crate::view::{is_view, kind_of};

impl Engine {
    /// The rows of a SHOW.
    pub(super) async fn show(&self, catalog: &Catalog, show: &Show) -> Result<Vec<String>, SqlError> {
        let stream_name = |id: &StreamId| catalog.stream_names.get(id).cloned();
        let rows: Vec<Value> = match show {
            Show::Streams => {
                let own = sorted(&catalog.streams).filter(|stream| !is_side_stream(&stream.name) && !is_view(stream));
                own.map(stream_row).collect()
            }
            Show::Queries => {
                let mut rows = Vec::with_capacity(catalog.queries.len());
                for query in sorted(&catalog.queries) {
                    rows.push(self.query_row(catalog, query).await);
                }
                rows
            }
            Show::Connectors => sorted(&catalog.connectors)
                .map(|connector| connector_row(connector, &self.connector_status(connector), &stream_name))
                .collect(),
            Show::Views => self.view_rows(catalog, ObjectKind::View).await,
            Show::Tables => self.view_rows(catalog, ObjectKind::Table).await,
            Show::Topics => self.topic_rows(catalog).await?,
            Show::Clients => self.clients(),
            Show::Nodes => self.node_rows(),
            Show::Create(kind, name) => vec![create_row(catalog, *kind, name)?],
        };
        Ok(rows.iter().map(Value::to_string).collect())
    }

    async fn view_rows(&self, catalog: &Catalog, kind: ObjectKind) -> Vec<Value> {
        let views = sorted(&catalog.streams).filter(|stream| is_view(stream) && kind_of(stream) == kind);
        let mut rows = Vec::new();
        for view in views {
            let Some(query) = catalog.queries.get(&view.name) else {
                continue;
            };
            let position = self.query_position(catalog, query).await;
            rows.push(json!({
                "name": view.name,
                "state": self.query_status(query).state,
                "lag": position.lag,
                "as_of": position.as_of(catalog),
                "topic": view.options.topic,
                "created": time(view.created_at_ms),
                "sql": view.sql,
            }));
        }
        rows
    }

    async fn query_row(&self, catalog: &Catalog, query: &QueryRow) -> Value {
        let stream_name = |id: &StreamId| catalog.stream_names.get(id).cloned();
        let mut inputs = query.inputs.clone();
        inputs.extend(homes::of_query(catalog, query));
        inputs.sort_unstable();
        inputs.dedup();
        let status = self.query_status(query);
        let position = self.query_position(catalog, query).await;
        json!({
            "name": query.name,
            "state": status.state,
            "output": stream_name(&query.output),
            "inputs": inputs.iter().filter_map(stream_name).collect::<Vec<_>>(),
            "records": status.records,
            "rate": status.rate,
            "rows": status.rows,
            "errors": status.errors,
            "late": status.late,
            "lag": position.lag,
            "watermark": position.watermark.map(|at| calendar::format_timestamp(at.0)),
            "windows": position.windows,
            "state_bytes": position.state_bytes,
            "last_error": status.last_error,
            "created": time(query.created_at_ms),
            "sql": query.sql,
        })
    }
}

/// By name: the catalog's maps have no order.
fn sorted<'a, T: 'a>(rows: impl IntoIterator<Item = (&'a String, &'a Arc<T>)>) -> impl Iterator<Item = &'a T> {
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by_key(|(name, _)| *name);
    rows.into_iter().map(|(_, row)| &**row)
}

fn stream_row(stream: &StreamRow) -> Value {
    json!({
        "name": stream.name,
        "format": match stream.options.format {
            Format::Json => "JSON",
            Format::Text => "TEXT",
            Format::Raw => "RAW",
        },
        "shards": stream.shards.len(),
        "captures": stream.captures,
        "ack": match stream.ack {
            Ack::Quorum => "quorum",
            Ack::Memory => "memory",
        },
        "topic": stream.options.topic,
        "query": stream.query,
        "state": match stream.state {
            StreamState::Creating => "creating",
            StreamState::Active => "active",
            StreamState::Dropping => "dropping",
        },
        "created": time(stream.created_at_ms),
    })
}

/// Without the options: some are secret.
fn connector_row(
    connector: &ConnectorRow,
    status: &ConnectorStatus,
    stream_name: &dyn Fn(&StreamId) -> Option<String>,
) -> Value {
    json!({
        "name": connector.name,
        "kind": connector.kind,
        "stream": stream_name(&connector.stream),
        "state": status.state,
        "last_error": status.last_error,
        "created": time(connector.created_at_ms),
    })
}

fn time(ms: i64) -> String {
    calendar::format_timestamp(ms.saturating_mul(1_000))
}

fn create_row(catalog: &Catalog, kind: Option<ObjectKind>, name: &Name) -> Result<Value, SqlError> {
    let kinds = [
        ObjectKind::View,
        ObjectKind::Table,
        ObjectKind::Stream,
        ObjectKind::Query,
        ObjectKind::Connector,
    ];
    let kind = kind.or_else(|| kinds.into_iter().find(|kind| exists(catalog, *kind, &name.text)));
    let kind = kind.unwrap_or(ObjectKind::Stream);
    let sql = match kind {
        ObjectKind::Stream => catalog.streams.get(&name.text).map(|stream| stream.sql.clone()),
        ObjectKind::View | ObjectKind::Table => catalog
            .streams
            .get(&name.text)
            .filter(|_| exists(catalog, kind, &name.text))
            .map(|stream| stream.sql.clone()),
        ObjectKind::Query => catalog.queries.get(&name.text).map(|query| query.sql.clone()),
        ObjectKind::Connector => catalog
            .connectors
            .get(&name.text)
            .map(|connector| without_secrets(&connector.sql)),
    };
    let sql = sql.ok_or_else(|| missing(catalog, kind, name))?;
    Ok(json!({ "name": name.text, "kind": kind.name(), "sql": sql }))
}

/// A connector's statement with `'…'` for what only its owner is to know.
fn without_secrets(sql: &str) -> String {
    const SECRET: &[&str] = &["SECRET", "HEADERS"];
    let mut shown = sql.to_owned();
    let Ok(statements) = parse(sql) else {
        return "…".to_owned();
    };
    let Some(StatementKind::CreateConnector(create)) = statements.first().map(|statement| &statement.kind) else {
        return "…".to_owned();
    };
    let secret = |name: &str| SECRET.iter().any(|secret| secret.eq_ignore_ascii_case(name));
    let mut spans: Vec<_> = create
        .options
        .iter()
        .filter(|option| secret(&option.name.text) && !matches!(option.value.kind, ExprKind::Null))
        .map(|option| option.value.span)
        .collect();
    // From the last to the first, so that the earlier places stay where they are.
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
    for span in spans {
        shown.replace_range(span.start..span.end, "'…'");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let sql = "CREATE SINK CONNECTOR w TO WEBHOOK WITH (STREAM = 'hot', secret = 'whsec_abc', URL = 'https://x/', HEADERS = '{\"a\":1}')";
        let shown = without_secrets(sql);
        assert_eq!(
            shown,
            "CREATE SINK CONNECTOR w TO WEBHOOK WITH (STREAM = 'hot', secret = '…', URL = 'https://x/', HEADERS = '…')"
        );
        assert_eq!(without_secrets("SELECT"), "…");
    }
}
