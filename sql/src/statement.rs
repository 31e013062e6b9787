//! What each statement does: parsed, bound, and carried out against the store's catalog and the engine's queries.

mod describe;
mod drop;
mod show;

use headwater_store::{Batch, Catalog, CatalogError, FeedSpec, QuerySpec, QueryState, StreamState};

use crate::ast::{
    CreateConnector, CreateStream, Explain, ExplainFormat, Insert, InsertValues, Name, ObjectKind, Select, Statement,
    StatementKind, Text, Trim, WithOption,
};
use crate::calendar;
use crate::connector::ConnectorError;
use crate::engine::Engine;
use crate::error::{SqlError, codes};
use crate::homes;
use crate::outcome::{Outcome, RowStream};
use crate::parse::did_you_mean;
use crate::plan::{self, Binder, BoundFeed, Settings, graph, written};
use crate::query::side;
use crate::read::resolve;
use crate::share;
use crate::types::TimestampUs;
use crate::view::{is_view, kind_of};
use crate::watermark::advance_to;

impl Engine {
    /// Carries out one statement of `source`.
    pub(crate) async fn statement(
        &self,
        statement: &Statement,
        source: &str,
        settings: Settings,
    ) -> Result<Outcome, SqlError> {
        // Taken once: what a statement is checked against does not change under it.
        let catalog = self.store().catalog().borrow().clone();
        let binder = Binder::new(&catalog, source).with(settings);
        let sql = statement.span.of(source);
        match &statement.kind {
            StatementKind::CreateStream(create) => self.create_stream(&catalog, &binder, create, sql).await,
            StatementKind::CreateConnector(create) => self.create_connector(&catalog, &binder, create, sql).await,
            StatementKind::Insert(insert) => match &insert.values {
                InsertValues::Query { columns, select } => {
                    let bound = binder.feed(&insert.stream, columns.as_deref(), select)?;
                    self.feed(bound, sql).await
                }
                _ => self.insert_statement(&binder, insert).await,
            },
            StatementKind::Select(select) => self.select(&binder, select).await,
            StatementKind::Show(show) => Ok(rows(self.show(&catalog, show).await?)),
            StatementKind::Describe(name) => {
                let stream = binder.stream(name)?;
                Ok(rows(describe::stream(stream, written::plan(&catalog, stream).as_ref())))
            }
            StatementKind::Drop(drop) => self.drop_object(&catalog, drop).await,
            StatementKind::Terminate(Some(name)) => self.run_query(&catalog, name, QueryState::Terminated).await,
            StatementKind::Terminate(None) => self.terminate_all(&catalog).await,
            StatementKind::PauseQuery(name) => self.run_query(&catalog, name, QueryState::Paused).await,
            StatementKind::ResumeQuery(name) => self.run_query(&catalog, name, QueryState::Running).await,
            StatementKind::RunConnector(name, running) => self.run_connector(&catalog, name, *running).await,
            StatementKind::Trim(trim) => self.trim_stream(&binder, trim).await,
            StatementKind::AdvanceWatermark { stream, to } => self.advance_watermark(&binder, stream, to).await,
            StatementKind::Set(set) => settings.set(set).map(|_| done(format!("{} set", set.name.text))),
            StatementKind::Explain(explain) => self.explain(&catalog, &binder, explain, source).await,
        }
    }

    async fn create_stream(
        &self,
        catalog: &Catalog,
        binder: &Binder<'_>,
        create: &CreateStream,
        sql: &str,
    ) -> Result<Outcome, SqlError> {
        let (name, kind) = (&create.name.text, create.kind.name());
        if create.if_not_exists && catalog.streams.contains_key(name) {
            return Ok(done(format!("{kind} {name} exists already")));
        }
        let bound = binder.create_stream(create, sql)?;
        let made = match bound.plan {
            None => self
                .store()
                .create_stream(bound.spec)
                .await
                .map(|_| format!("stream {name} created")),
            Some(mut plan) => {
                self.resolve_start(&mut plan).await?;
                let inputs = plan.inputs();
                let spec = QuerySpec {
                    output: bound.spec,
                    plan: plan.encode(),
                    inputs,
                    sql: sql.to_owned(),
                };
                let made = self.store().create_query(spec).await;
                if made.is_ok() {
                    self.with_side_streams(name).await;
                }
                made.map(|_| format!("{kind} {name} created, query {name} is running"))
            }
        };
        match made {
            Ok(message) => Ok(Outcome::Done {
                message,
                warnings: bound.warnings,
            }),
            // Somebody else was faster.
            Err(CatalogError::Exists { .. }) if create.if_not_exists => {
                Ok(done(format!("{kind} {name} exists already")))
            }
            Err(error) => Err(taken(error, &create.name)),
        }
    }

    /// INSERT INTO … SELECT: makes the query.
    async fn feed(&self, bound: BoundFeed, sql: &str) -> Result<Outcome, SqlError> {
        let BoundFeed {
            stream,
            mut plan,
            warnings,
        } = bound;
        self.resolve_start(&mut plan).await?;
        let spec = FeedSpec {
            output: stream.id,
            inputs: plan.inputs(),
            plan: plan.encode(),
            sql: sql.to_owned(),
        };
        let query = self.store().create_feed(spec).await?;
        self.with_side_streams(&query.name).await;
        let message = format!("query {} is running, it writes stream {}", query.name, stream.name);
        Ok(Outcome::Done { message, warnings })
    }

    /// The streams of a new query's late rows and errors.
    async fn with_side_streams(&self, query: &str) {
        if let Err(error) = side::ensure(self.store(), query).await {
            // The query is made, and its tasks try again.
            tracing::warn!(query, %error, "no streams for late rows and errors yet");
        }
    }

    /// ANALYZE runs the plan over what is stored now.
    async fn explain(
        &self,
        catalog: &Catalog,
        binder: &Binder<'_>,
        explain: &Explain,
        source: &str,
    ) -> Result<Outcome, SqlError> {
        let statement = &explain.statement;
        let plan = match &statement.kind {
            StatementKind::Select(select) => Some(binder.select(select)?.plan),
            StatementKind::CreateStream(create) => binder.create_stream(create, statement.span.of(source))?.plan,
            StatementKind::Insert(Insert {
                stream,
                values: InsertValues::Query { columns, select },
            }) => Some(binder.feed(stream, columns.as_deref(), select)?.plan),
            _ => None,
        };
        let plan =
            plan.ok_or_else(|| SqlError::not_supported("EXPLAIN of a statement without a SELECT", statement.span))?;
        let measures = match explain.analyze {
            true => Some(self.analyze(&plan).await?),
            false => None,
        };
        let measured = |id| measures.as_ref().and_then(|measures| measures.of(id));
        let shared = match &statement.kind {
            StatementKind::CreateStream(create) => share::explain(&plan, &create.name.text, catalog),
            // It has its own reader, and is gone with who asked.
            _ => Vec::new(),
        };
        let reads = match &statement.kind {
            StatementKind::Select(select) if select.emit.is_none() => homes::explain(&plan, catalog),
            _ => Vec::new(),
        };
        let lines = match explain.format {
            ExplainFormat::Text => [plan::explain_with(&plan, &measured), shared, reads].concat(),
            ExplainFormat::Dot => graph::dot(&plan, &measured, &shared),
            ExplainFormat::Json => return Ok(rows(vec![graph::json(&plan, &measured, &shared).to_string()])),
        };
        let line = |line: String| serde_json::json!({ "plan": line }).to_string();
        Ok(rows(lines.into_iter().map(line).collect()))
    }

    async fn create_connector(
        &self,
        catalog: &Catalog,
        binder: &Binder<'_>,
        create: &CreateConnector,
        sql: &str,
    ) -> Result<Outcome, SqlError> {
        let name = &create.name.text;
        let exists = || Ok(done(format!("connector {name} exists already")));
        if create.if_not_exists && catalog.connectors.contains_key(name) {
            return exists();
        }
        let spec = binder.create_connector(create, sql)?;
        self.check_connector(&spec.kind, spec.sink, &spec.options)
            .map_err(|refused| wrong_connector(refused, create))?;
        match self.store().create_connector(spec).await {
            Ok(_) => Ok(done(format!("connector {name} created"))),
            Err(CatalogError::Exists { .. }) if create.if_not_exists => exists(),
            Err(error) => Err(taken(error, &create.name)),
        }
    }

    async fn insert_statement(&self, binder: &Binder<'_>, insert: &Insert) -> Result<Outcome, SqlError> {
        let bound = binder.insert(insert, TimestampUs::from_ms(self.store().now()))?;
        let count = self
            .insert(&bound.stream, &bound.rules, bound.rows)
            .await
            .map_err(|error| error.at(insert.stream.span))?;
        Ok(done(format!(
            "{count} {} inserted",
            if count == 1 { "row" } else { "rows" }
        )))
    }

    async fn select(&self, binder: &Binder<'_>, select: &Select) -> Result<Outcome, SqlError> {
        let bound = binder.select(select)?;
        // Asked before the rows are read: they are so far at least.
        let as_of = self.as_of(binder.catalog(), &bound.plan).await;
        let with = |rows: RowStream| rows.warned(bound.warnings).reaching(as_of);
        Ok(match bound.push {
            true => Outcome::Changes(with(self.push(&bound.plan).await?)),
            false => Outcome::Rows(with(self.read(&bound.plan).await?)),
        })
    }

    /// Appends a marker to each shard.
    async fn advance_watermark(&self, binder: &Binder<'_>, stream: &Name, to: &Text) -> Result<Outcome, SqlError> {
        let row = binder.stream(stream)?;
        let to = binder.moment(to)?;
        for shard in row.shard_ids() {
            let batch = Batch::new(shard.group).append(shard, vec![advance_to(to)]);
            self.store()
                .write(batch)
                .await
                .map_err(|error| SqlError::from(error).at(stream.span))?;
        }
        let to = calendar::format_timestamp(to.0);
        Ok(done(format!("watermark of {} advanced to {to}", row.name)))
    }

    async fn trim_stream(&self, binder: &Binder<'_>, trim: &Trim) -> Result<Outcome, SqlError> {
        let (stream, to) = binder.trim(trim)?;
        let first = resolve(self.store(), stream.shard_ids().collect(), &to).await?;
        let trimmed = self.store().trim(&first).await;
        trimmed.map_err(|error| SqlError::from(error).at(trim.stream.span))?;
        Ok(done(format!("stream {} trimmed", stream.name)))
    }

    async fn run_query(&self, catalog: &Catalog, name: &Name, state: QueryState) -> Result<Outcome, SqlError> {
        if !catalog.queries.contains_key(&name.text) {
            return Err(missing(catalog, ObjectKind::Query, name));
        }
        self.store().set_query_state(&name.text, state).await?;
        let verb = match state {
            QueryState::Running => "resumed",
            QueryState::Paused => "paused",
            QueryState::Terminated => "terminated",
        };
        Ok(done(format!("query {} {verb}", name.text)))
    }

    async fn terminate_all(&self, catalog: &Catalog) -> Result<Outcome, SqlError> {
        let mut count = 0;
        for query in catalog
            .queries
            .values()
            .filter(|query| query.state != QueryState::Terminated)
        {
            match self.store().set_query_state(&query.name, QueryState::Terminated).await {
                Ok(()) => count += 1,
                Err(CatalogError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done(format!(
            "{count} {} terminated",
            if count == 1 { "query" } else { "queries" }
        )))
    }

    async fn run_connector(&self, catalog: &Catalog, name: &Name, running: bool) -> Result<Outcome, SqlError> {
        if !catalog.connectors.contains_key(&name.text) {
            return Err(missing(catalog, ObjectKind::Connector, name));
        }
        self.store().set_connector_running(&name.text, running).await?;
        Ok(done(format!(
            "connector {} {}",
            name.text,
            if running { "resumed" } else { "paused" }
        )))
    }
}

fn done(message: String) -> Outcome {
    Outcome::Done {
        message,
        warnings: Vec::new(),
    }
}

fn rows(rows: Vec<String>) -> Outcome {
    Outcome::Rows(RowStream::ready(rows))
}

fn taken(error: CatalogError, name: &Name) -> SqlError {
    let exists = matches!(error, CatalogError::Exists { .. });
    let error = SqlError::from(error).at(name.span);
    if exists {
        error.help("choose another name, or write IF NOT EXISTS")
    } else {
        error
    }
}

/// Points at the option that is wrong: at its name where there is none such, else at its value.
fn wrong_connector(refused: ConnectorError, create: &CreateConnector) -> SqlError {
    let named = |option: &&WithOption| {
        let name = refused.option.as_deref();
        name.is_some_and(|name| option.name.text.eq_ignore_ascii_case(name))
    };
    let span = match create.options.iter().find(named) {
        Some(option) if refused.code == codes::UNKNOWN_OPTION => option.name.span,
        Some(option) => option.value.span,
        None => create.kind.span,
    };
    SqlError::new(refused.code, refused.message)
        .at(span)
        .help_if(refused.help)
}

fn exists(catalog: &Catalog, kind: ObjectKind, name: &str) -> bool {
    match kind {
        ObjectKind::Stream => catalog
            .streams
            .get(name)
            .is_some_and(|stream| stream.state != StreamState::Dropping),
        ObjectKind::Query => catalog.queries.contains_key(name),
        ObjectKind::Connector => catalog.connectors.contains_key(name),
        ObjectKind::View | ObjectKind::Table => {
            let stream = catalog.streams.get(name);
            stream.is_some_and(|stream| is_view(stream) && kind_of(stream) == kind)
        }
    }
}

fn missing(catalog: &Catalog, kind: ObjectKind, name: &Name) -> SqlError {
    let (code, names): (_, Vec<&String>) = match kind {
        ObjectKind::Stream => (codes::UNKNOWN_STREAM, catalog.streams.keys().collect()),
        ObjectKind::Query => (codes::UNKNOWN_QUERY, catalog.queries.keys().collect()),
        ObjectKind::Connector => (codes::UNKNOWN_CONNECTOR, catalog.connectors.keys().collect()),
        ObjectKind::View | ObjectKind::Table => {
            let of_kind = catalog
                .streams
                .values()
                .filter(|stream| is_view(stream) && kind_of(stream) == kind);
            (codes::UNKNOWN_STREAM, of_kind.map(|stream| &stream.name).collect())
        }
    };
    SqlError::new(code, format!("{} `{}` does not exist", kind.name(), name.text))
        .at(name.span)
        .help_if(did_you_mean(&name.text, names.into_iter().map(String::as_str)))
}
