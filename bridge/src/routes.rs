//! From a method and a path to a handler. The whole table stands in [`Resource::find`] and [`dispatch`].

use std::borrow::Cow;
use std::sync::Arc;

use headwater_broker::Publisher;
use headwater_config::BridgeConfig;
use headwater_sql::Engine;
use headwater_store::Store;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::body::{Body, BodyRoom};
use crate::problem::{Problem, codes};
use crate::push::Resumable;
use crate::webhook::Statuses;
use crate::{clients, connectors, health, metrics, publish, queries, records, sql, streams};

/// What every handler works with.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) engine: Engine,
    pub(crate) publisher: Publisher,
    pub(crate) config: BridgeConfig,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) bodies: BodyRoom,
    pub(crate) webhooks: Statuses,
    pub(crate) resumable: Arc<Resumable>,
    pub(crate) stopping: CancellationToken,
}

/// A request whose body is not read yet.
pub(crate) type RawRequest = Request<Incoming>;

/// What a handler gives.
pub(crate) type Answer = Result<Response<Body>, Problem>;

/// Answers one request, and counts it.
pub(crate) async fn handle(shared: Arc<Shared>, request: RawRequest) -> Response<Body> {
    let begun = Instant::now();
    let path = request.uri().path().to_owned();
    let resource = Resource::find(&path);
    let label = resource.as_ref().map_or("unknown", Resource::label);
    let response = match resource {
        Some(resource) => dispatch(&shared, &resource, request).await,
        None => Err(Problem::new(codes::NO_SUCH_PATH, format!("there is nothing at {path}"))),
    };
    let response = response.unwrap_or_else(Problem::into_response);
    metrics::request(label, response.status().as_u16(), begun.elapsed());
    response
}

/// What paths name.
#[derive(Debug, PartialEq)]
enum Resource {
    Live,
    Ready,
    Metrics,
    Sql,
    Streams,
    Stream(String),
    Publish(String),
    Records(String),
    Queries,
    Connectors,
    Clients,
}

impl Resource {
    fn find(path: &str) -> Option<Resource> {
        let parts: Vec<_> = path.strip_prefix('/')?.split('/').map(decode).collect::<Option<_>>()?;
        let parts: Vec<&str> = parts.iter().map(Cow::as_ref).collect();
        Some(match parts.as_slice() {
            ["health", "live"] => Resource::Live,
            ["health", "ready"] => Resource::Ready,
            ["metrics"] => Resource::Metrics,
            ["v1", "sql"] => Resource::Sql,
            ["v1", "clients"] => Resource::Clients,
            ["v1", "streams", name, "records"] => Resource::Records((*name).to_owned()),
            ["streams"] => Resource::Streams,
            // No stream's name holds a colon.
            ["streams", last] => match last.split_once(':') {
                Some((name, "publish")) => Resource::Publish(name.to_owned()),
                Some(_) => return None,
                None => Resource::Stream((*last).to_owned()),
            },
            ["queries"] => Resource::Queries,
            ["connectors"] => Resource::Connectors,
            _ => return None,
        })
    }

    /// The name of the route in metrics: few, whatever clients ask for.
    fn label(&self) -> &'static str {
        match self {
            Resource::Live | Resource::Ready => "health",
            Resource::Metrics => "metrics",
            Resource::Sql => "sql",
            Resource::Streams | Resource::Stream(_) => "streams",
            Resource::Publish(_) => "publish",
            Resource::Records(_) => "records",
            Resource::Queries => "queries",
            Resource::Connectors => "connectors",
            Resource::Clients => "clients",
        }
    }

    /// The query parameters; None: any, and they mean nothing. Who publishes, scrapes or probes may have to send some that
    /// are for a proxy on the way.
    fn parameters(&self) -> Option<&'static [&'static str]> {
        match self {
            Resource::Live | Resource::Ready | Resource::Metrics | Resource::Publish(_) => None,
            Resource::Records(_) => Some(&["from", "limit", "shard", "key", "wait"]),
            Resource::Stream(_) => Some(&["ignoreNonExist"]),
            Resource::Sql => Some(&["sql"]),
            Resource::Streams | Resource::Queries | Resource::Connectors | Resource::Clients => Some(&[]),
        }
    }

    /// A parameter that would do nothing was meant to do something.
    fn refuse_unknown_parameters(&self, query: &str) -> Result<(), Problem> {
        let names = query.split('&').filter(|pair| !pair.is_empty());
        let mut names = names.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
        let Some(known) = self.parameters() else { return Ok(()) };
        let Some(unknown) = names.find(|name| !known.contains(name)) else {
            return Ok(());
        };
        let problem = Problem::new(codes::BAD_PARAMETER, format!("there is no parameter `{unknown}` here"));
        Err(match known {
            [] => problem.help("this path takes none"),
            known => problem.help(format!("this path takes {}", known.join(", "))),
        })
    }

    fn methods(&self) -> &'static str {
        match self {
            Resource::Sql => "GET, POST",
            Resource::Publish(_) => "POST",
            Resource::Streams => "GET, HEAD, POST",
            Resource::Stream(_) => "GET, HEAD, DELETE",
            _ => "GET, HEAD",
        }
    }
}

async fn dispatch(shared: &Arc<Shared>, resource: &Resource, request: RawRequest) -> Answer {
    resource.refuse_unknown_parameters(request.uri().query().unwrap_or_default())?;
    // hyper leaves out the body of an answer to HEAD.
    let method = if request.method() == Method::HEAD {
        Method::GET
    } else {
        request.method().clone()
    };
    match (resource, method) {
        (Resource::Live, Method::GET) => health::live(),
        (Resource::Ready, Method::GET) => health::ready(shared),
        (Resource::Metrics, Method::GET) => health::metrics(shared),
        // HEAD would begin a query that nobody reads.
        (Resource::Sql, Method::GET) if request.method() == Method::GET => sql::listen(shared, &request).await,
        (Resource::Sql, Method::POST) => sql::run(shared, request).await,
        (Resource::Streams, Method::GET) => streams::list(shared),
        (Resource::Streams, Method::POST) => streams::create(shared, request).await,
        (Resource::Stream(name), Method::GET) => streams::describe(shared, name),
        (Resource::Stream(name), Method::DELETE) => streams::delete(shared, name, &request).await,
        (Resource::Publish(name), Method::POST) => publish::publish(shared, name, request).await,
        (Resource::Records(name), Method::GET) => records::read(shared, name, &request).await,
        (Resource::Queries, Method::GET) => queries::list(shared),
        (Resource::Connectors, Method::GET) => connectors::list(shared).await,
        (Resource::Clients, Method::GET) => clients::list(shared),
        (resource, _) => {
            let detail = format!("{} takes {}", request.uri().path(), resource.methods());
            Err(Problem::new(codes::METHOD_NOT_ALLOWED, detail).allow(resource.methods()))
        }
    }
}

/// The value of a query parameter; the last one wins.
pub(crate) fn parameter(request: &RawRequest, name: &str) -> Option<String> {
    Some(decode(raw_parameter(request, name)?)?.into_owned())
}

/// As [`parameter`], but written as forms and a browser's URLSearchParams write: a plus is a space.
pub(crate) fn form_parameter(request: &RawRequest, name: &str) -> Option<String> {
    Some(decode(&raw_parameter(request, name)?.replace('+', " "))?.into_owned())
}

fn raw_parameter<'a>(request: &'a RawRequest, name: &str) -> Option<&'a str> {
    let pairs = request
        .uri()
        .query()?
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    Some(pairs.rev().find(|(key, _)| *key == name)?.1)
}

/// Undoes percent encoding. None where what comes out is not UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| !hex.starts_with('+'));
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        let publish = |name: &str| Some(Resource::Publish(name.to_owned()));
        assert_eq!(Resource::find("/streams/demo:publish"), publish("demo"));
        assert_eq!(
            Resource::find("/streams/demo%3Apublish"),
            publish("demo"),
            "some clients encode the colon"
        );
        assert_eq!(Resource::find("/streams/%E6%B8%A9:publish"), publish("温"));
        assert_eq!(Resource::find("/streams/demo"), Some(Resource::Stream("demo".into())));
        assert_eq!(
            Resource::find("/v1/streams/a/records"),
            Some(Resource::Records("a".into()))
        );
        for nothing in [
            "",
            "/",
            "/streams/demo:drop",
            "/streams/demo/publish",
            "/v2/sql",
            "/metrics/",
            "/streams/%ff",
        ] {
            assert_eq!(Resource::find(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_stray_percent_sign_stays() {
        assert_eq!(decode("100%").as_deref(), Some("100%"));
        assert_eq!(decode("%zz%41").as_deref(), Some("%zzA"));
        assert_eq!(decode("%+1").as_deref(), Some("%+1"));
    }
}
