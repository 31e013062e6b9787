//! DROP. What is used stays, and the answer says by what; FORCE drops the users first, and says which.

use std::collections::HashSet;

use headwater_store::{Catalog, CatalogError, ConnectorRow, DEFAULT_STREAM, QueryRow, QueryState, StreamRow};

use super::{done, exists, missing};
use crate::ast::{Drop, ObjectKind};
use crate::engine::Engine;
use crate::error::{SqlError, codes};
use crate::outcome::Outcome;
use crate::query::side;
use crate::view::{is_view, kind_of};

/// What reads or writes a stream.
#[derive(Clone, Copy)]
enum User<'a> {
    /// A view or table: its query is a part of it.
    View(&'a StreamRow),
    Query(&'a QueryRow),
    Connector(&'a ConnectorRow),
}

impl User<'_> {
    fn kind_and_name(&self) -> (ObjectKind, &str) {
        match self {
            User::View(view) => (kind_of(view), &view.name),
            User::Query(query) => (ObjectKind::Query, &query.name),
            User::Connector(connector) => (ObjectKind::Connector, &connector.name),
        }
    }
}

impl Engine {
    pub(super) async fn drop_object(&self, catalog: &Catalog, drop: &Drop) -> Result<Outcome, SqlError> {
        let (kind, name) = (drop.kind.name(), &drop.name.text);
        if !exists(catalog, drop.kind, name) {
            if drop.if_exists {
                return Ok(done(format!("{kind} {name} does not exist")));
            }
            return Err(missing(catalog, drop.kind, &drop.name));
        }
        refuse_other_kind(catalog, drop)?;
        let mut with = String::new();
        // The store refuses to drop the default stream: that must not cost its users.
        if let (ObjectKind::Stream | ObjectKind::View | ObjectKind::Table, Some(stream)) =
            (drop.kind, catalog.streams.get(name).filter(|_| name != DEFAULT_STREAM))
        {
            match drop.force {
                true => with = self.drop_users(catalog, stream).await?,
                false => refuse_used(catalog, drop, stream)?,
            }
        }
        let dropped = match drop.kind {
            ObjectKind::Stream => self.store().drop_stream(name).await,
            ObjectKind::Query => self.drop_query(name).await,
            ObjectKind::Connector => self.store().drop_connector(name).await,
            ObjectKind::View | ObjectKind::Table => self.drop_view(name).await,
        };
        match dropped {
            Ok(()) if drop.kind == ObjectKind::Query => Ok(done(format!("query {name} dropped, its stream stays"))),
            Ok(()) => Ok(done(format!("{kind} {name} dropped{with}"))),
            Err(CatalogError::Missing { .. }) if drop.if_exists => Ok(done(format!("{kind} {name} does not exist"))),
            Err(error) => Err(SqlError::from(error).at(drop.name.span)),
        }
    }

    /// FORCE: what uses the stream goes first, and what uses the views among that before those. Gives what went, for the
    /// answer.
    async fn drop_users(&self, catalog: &Catalog, stream: &StreamRow) -> Result<String, SqlError> {
        let (mut order, mut seen) = (Vec::new(), HashSet::new());
        users_first(catalog, stream, &mut seen, &mut order);
        let views: HashSet<_> = order
            .iter()
            .filter_map(|user| match user {
                User::View(view) => Some(view.id),
                _ => None,
            })
            .collect();
        let mut told = Vec::new();
        for user in order {
            let (kind, name) = user.kind_and_name();
            let gone = match user {
                User::View(_) => self.drop_view(name).await,
                User::Query(_) => self.drop_query(name).await,
                User::Connector(_) => self.store().drop_connector(name).await,
            };
            match gone {
                // Or dropped by somebody else meanwhile.
                Ok(()) | Err(CatalogError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let stays = match user {
                User::Query(query) if query.output != stream.id && !views.contains(&query.output) => {
                    catalog.stream_by_id(query.output)
                }
                _ => None,
            };
            let stays = stays.map_or_else(String::new, |output| format!(" (stream {} stays)", output.name));
            told.push(format!("{} {name}{stays}", kind.name()));
        }
        Ok(match told.is_empty() {
            true => String::new(),
            false => format!(", and with it {}", told.join(", ")),
        })
    }

    /// With the streams of its late rows and errors.
    async fn drop_query(&self, name: &str) -> Result<(), CatalogError> {
        self.store().drop_query(name).await?;
        side::drop(self.store(), name).await
    }

    /// Its query, and its stream.
    async fn drop_view(&self, name: &str) -> Result<(), CatalogError> {
        match self.drop_query(name).await {
            // A statement that failed half way has dropped it.
            Ok(()) | Err(CatalogError::Missing { .. }) => self.store().drop_stream(name).await,
            Err(error) => Err(error),
        }
    }
}

/// What reads or writes the stream, queries first, each in the order of names; not the query that a view is made of.
fn users<'a>(catalog: &'a Catalog, stream: &StreamRow) -> Vec<User<'a>> {
    let mut queries: Vec<_> = catalog
        .queries
        .values()
        .filter(|query| query.inputs.contains(&stream.id) || (query.output == stream.id && !is_view(stream)))
        .collect();
    queries.sort_by(|a, b| a.name.cmp(&b.name));
    let mut connectors: Vec<_> = catalog
        .connectors
        .values()
        .filter(|connector| connector.stream == stream.id)
        .collect();
    connectors.sort_by(|a, b| a.name.cmp(&b.name));
    let queries = queries
        .into_iter()
        .map(|query| match catalog.stream_by_id(query.output) {
            Some(view) if is_view(view) => User::View(view),
            _ => User::Query(query),
        });
    let connectors = connectors.into_iter().map(|connector| User::Connector(connector));
    queries.chain(connectors).collect()
}

/// All that goes with the stream, each after what uses it. What a query wrote into a plain stream is not the query's, and
/// stays.
fn users_first<'a>(
    catalog: &'a Catalog,
    stream: &StreamRow,
    seen: &mut HashSet<(&'static str, String)>,
    order: &mut Vec<User<'a>>,
) {
    for user in users(catalog, stream) {
        let (kind, name) = user.kind_and_name();
        if !seen.insert((kind.name(), name.to_owned())) {
            continue;
        }
        if let User::View(view) = user {
            users_first(catalog, view, seen, order);
        }
        order.push(user);
    }
}

/// A query that makes a view is a part of it.
fn refuse_other_kind(catalog: &Catalog, drop: &Drop) -> Result<(), SqlError> {
    let name = &drop.name.text;
    let Some(stream) = catalog.streams.get(name).filter(|stream| is_view(stream)) else {
        return Ok(());
    };
    let kind = kind_of(stream);
    if kind == drop.kind || drop.kind == ObjectKind::Connector {
        return Ok(());
    }
    let kind = kind.name();
    Err(SqlError::new(codes::NOT_ALLOWED, format!("`{name}` is a {kind}"))
        .at(drop.name.span)
        .help(format!("drop it with `DROP {} {name}`", kind.to_ascii_uppercase())))
}

/// Names all that must go first. The store refuses too, but only the stream itself: a view whose query was dropped could
/// not be dropped any more if somebody reads it.
fn refuse_used(catalog: &Catalog, drop: &Drop, stream: &StreamRow) -> Result<(), SqlError> {
    let users = users(catalog, stream);
    if users.is_empty() {
        return Ok(());
    }
    let named = users.iter().map(|user| {
        let (kind, name) = user.kind_and_name();
        format!("{} `{name}`", kind.name())
    });
    let (kind, name) = (drop.kind.name(), &drop.name.text);
    let message = format!("{kind} `{name}` is used by {}", named.collect::<Vec<_>>().join(", "));
    let error = SqlError::new(codes::IN_USE, message).at(drop.name.span);
    let force = format!("`DROP {} {name} FORCE`", kind.to_ascii_uppercase());
    Err(match users.as_slice() {
        [User::Query(own)] if own.output == stream.id && !own.inputs.contains(&stream.id) => {
            let error = error.help(format!("{force} drops both; `DROP QUERY {}` the query alone", own.name));
            match own.state {
                QueryState::Terminated => error.detail("a terminated query is kept, so that RESUME can go on with it"),
                _ => error,
            }
        }
        _ => error.help(format!("{force} drops what uses it too")),
    })
}
