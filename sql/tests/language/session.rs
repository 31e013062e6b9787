//! A catalog without a store: statements are bound against it, and what CREATE makes is put into it.

use std::fmt::Write as _;
use std::sync::Arc;

use headwater_sql::ast::{Insert, InsertValues, StatementKind};
use headwater_sql::plan::physical::Plan;
use headwater_sql::plan::{Binder, Settings, explain};
use headwater_sql::types::TimestampUs;
use headwater_sql::{SqlError, parse};
use headwater_store::{
    Ack, Catalog, GroupId, Placement, QueryRow, QueryState, StreamForm, StreamId, StreamOptions, StreamRow, StreamSpec,
    StreamState,
};

/// Data groups of the session: the shards of a stream that is placed by topic.
const GROUPS: u16 = 4;

pub struct Session {
    catalog: Catalog,
}

impl Default for Session {
    fn default() -> Session {
        let mut session = Session {
            catalog: Catalog::default(),
        };
        session.add(
            StreamSpec {
                name: "mqtt".to_owned(),
                placement: Placement::Topic,
                shards: 1,
                columns: Vec::new(),
                captures: vec!["#".to_owned()],
                form: StreamForm::Append,
                options: StreamOptions::default(),
                ack: Ack::default(),
                sql: String::new(),
            },
            None,
        );
        session
    }
}

impl Session {
    /// Binds the statements and says what came of it.
    pub fn run(&mut self, text: &str) -> String {
        match self.try_run(text) {
            Ok(answer) => answer,
            Err(error) => error.locate(text).to_string(),
        }
    }

    fn try_run(&mut self, text: &str) -> Result<String, SqlError> {
        let mut answers = Vec::new();
        for statement in parse(text)? {
            let catalog = self.catalog.clone();
            let binder = Binder::new(&catalog, text);
            let sql = statement.span.of(text);
            answers.push(match &statement.kind {
                StatementKind::CreateStream(create) => {
                    let bound = binder.create_stream(create, sql)?;
                    let mut answer = describe(&bound.spec);
                    for line in bound.plan.iter().flat_map(plan) {
                        write!(answer, "\n{line}").unwrap();
                    }
                    for warning in &bound.warnings {
                        write!(answer, "\nwarning: {warning}").unwrap();
                    }
                    self.add(bound.spec, bound.plan);
                    answer
                }
                StatementKind::CreateConnector(create) => {
                    let spec = binder.create_connector(create, sql)?;
                    format!(
                        "connector {} to {} from {}: {:?}",
                        spec.name, spec.kind, spec.stream, spec.options
                    )
                }
                StatementKind::Select(select) => {
                    let bound = binder.select(select)?;
                    let warnings = bound.warnings.iter().map(|warning| format!("warning: {warning}"));
                    plan(&bound.plan)
                        .into_iter()
                        .chain(warnings)
                        .collect::<Vec<_>>()
                        .join("\n")
                }
                StatementKind::Insert(Insert {
                    stream,
                    values: InsertValues::Query { columns, select },
                }) => {
                    let bound = binder.feed(stream, columns.as_deref(), select)?;
                    plan(&bound.plan).join("\n")
                }
                StatementKind::Insert(insert) => {
                    let bound = binder.insert(insert, TimestampUs(1_767_225_600_000_000))?;
                    let mut lines = Vec::new();
                    for row in &bound.rows {
                        let topic = row.topic.as_ref().map(|topic| format!("{topic} ")).unwrap_or_default();
                        lines.push(format!("{topic}{}", String::from_utf8_lossy(&row.payload)));
                    }
                    lines.join("\n")
                }
                StatementKind::Describe(name) => format!("stream {}", binder.stream(name)?.name),
                StatementKind::Set(set) => {
                    Settings::default().set(set)?;
                    "ok".to_owned()
                }
                // Carried out by the engine; nothing of them is bound.
                _ => "ok".to_owned(),
            });
        }
        Ok(answers.join("\n"))
    }

    /// With the query that writes it.
    fn add(&mut self, spec: StreamSpec, plan: Option<Plan>) {
        let StreamSpec {
            name,
            placement,
            shards,
            columns,
            captures,
            form,
            options,
            ack,
            sql,
        } = spec;
        // Of names that are made again as well, each has one of its own.
        let id = StreamId(self.catalog.stream_names.len() as u64 + 1);
        let shards = if placement == Placement::Topic { GROUPS } else { shards };
        let row = StreamRow {
            id,
            name: name.clone(),
            state: StreamState::Active,
            placement,
            shards: (0..shards).map(|shard| GroupId(shard % GROUPS + 1)).collect(),
            columns,
            captures,
            form,
            options,
            query: plan.as_ref().map(|_| name.clone()),
            created_at_ms: 0,
            sql,
            ack,
        };
        self.catalog.stream_names.insert(id, name.clone());
        if let Some(plan) = plan {
            let query = QueryRow {
                name: name.clone(),
                id: id.0,
                sql: row.sql.clone(),
                inputs: plan.inputs(),
                plan: plan.encode(),
                output: id,
                state: QueryState::Running,
                created_at_ms: 0,
            };
            self.catalog.queries.insert(name.clone(), Arc::new(query));
        }
        self.catalog.streams.insert(name, Arc::new(row));
    }
}

/// EXPLAIN, after the plan went to bytes and back.
fn plan(plan: &Plan) -> Vec<String> {
    let stored = Plan::decode(&plan.encode()).expect("a bound plan keeps the rules of plans");
    assert_eq!(stored, *plan);
    explain(plan)
}

fn describe(spec: &StreamSpec) -> String {
    let mut line = format!(
        "stream {} placed by {:?}, {} shard(s), {:?}",
        spec.name, spec.placement, spec.shards, spec.form
    );
    if !spec.captures.is_empty() {
        write!(line, ", captures {}", spec.captures.join(" ")).unwrap();
    }
    for column in &spec.columns {
        let not_null = if column.not_null { " NOT NULL" } else { "" };
        let key = if column.key { " KEY" } else { "" };
        write!(line, "\n  {} {}{not_null}{key}", column.name, column.data_type).unwrap();
    }
    let plain = options(&StreamOptions::default());
    let mut set: Vec<String> = options(&spec.options)
        .into_iter()
        .filter(|option| !plain.contains(option))
        .collect();
    if spec.ack != Ack::default() {
        set.push(format!("ack {:?}", spec.ack));
    }
    if !set.is_empty() {
        write!(line, "\n  {}", set.join(", ")).unwrap();
    }
    line
}

fn options(options: &StreamOptions) -> Vec<String> {
    let StreamOptions {
        format,
        key,
        timestamp,
        delay_ms,
        idle_ms,
        duration_ms,
        topic,
        qos,
        retain,
        on_error,
    } = options;
    vec![
        format!("format {format:?}"),
        format!("key {key:?}"),
        format!("timestamp {timestamp:?}"),
        format!("delay {delay_ms:?} ms"),
        format!("idle {idle_ms:?} ms"),
        format!("duration {duration_ms:?} ms"),
        format!("topic {topic:?}"),
        format!("{qos:?}"),
        format!("retain {retain}"),
        format!("on error {on_error:?}"),
    ]
}
