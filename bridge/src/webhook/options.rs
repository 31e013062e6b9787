//! The WITH options of a webhook connector: checked when it is created, read again when it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use headwater_config::{Millis, WebhookConfig};
use headwater_sql::{ConnectorError, codes, did_you_mean};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use serde_json::{Map, Value};

use crate::limits::{WEBHOOK_BATCH_MAX, WEBHOOK_TIMEOUT_MAX};
use crate::webhook::target::{Allowed, Host};

/// The kinds of connectors that run, in lower case.
const KINDS: [&str; 1] = ["webhook"];
/// The options of a webhook. STREAM is the catalog's, and repeated among the options.
const NAMES: [&str; 7] = ["STREAM", "URL", "METHOD", "HEADERS", "BATCH", "SECRET", "TIMEOUT"];
/// Headers that the bridge or hyper sets.
const OWN_HEADERS: [&str; 6] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "webhook-timestamp",
    "webhook-signature",
];

/// What the SQL engine asks before it makes a connector: kind in lower case, whether it is a sink, the options with
/// their names in upper case. Gives what is wrong with them. A host that is written as a private address is refused at
/// once; a name is looked up whenever there is something to send.
pub fn check_connector(
    config: &WebhookConfig,
) -> impl Fn(&str, bool, &BTreeMap<String, String>) -> Result<(), ConnectorError> + Send + Sync + use<> {
    let allowed = Allowed::new(&config.allow_private);
    move |kind, sink, options| {
        if !KINDS.contains(&kind) {
            let message = format!("connectors to {kind} are not supported yet");
            let help = format!("there are connectors to {}", KINDS.join(", "));
            return Err(ConnectorError::new(codes::NOT_SUPPORTED, message).help(help));
        }
        if !sink {
            let error = ConnectorError::new(codes::NOT_SUPPORTED, "a webhook is no source");
            return Err(error.help("write CREATE SINK CONNECTOR"));
        }
        let host = WebhookOptions::parse(options)?.host;
        allowed.check_written(&host).map_err(|error| error.of_option("URL"))
    }
}

/// What a webhook does, from its options.
#[derive(Debug, Clone)]
pub(crate) struct WebhookOptions {
    /// Where to.
    pub(crate) uri: Uri,
    /// Its host, as it stands in the URL.
    pub(crate) host: Host,
    /// POST, PUT or PATCH.
    pub(crate) method: Method,
    /// Sent with each request; may replace `content-type` and `user-agent`.
    pub(crate) headers: HeaderMap,
    /// None: each request is one row. Some: an array of at most that many.
    pub(crate) batch: Option<usize>,
    /// The key of the signature.
    pub(crate) secret: Option<Vec<u8>>,
    /// One attempt's time; None: `bridge.webhook.timeout`.
    pub(crate) timeout: Option<Duration>,
}

impl WebhookOptions {
    /// Reads the options of the catalog.
    pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<WebhookOptions, ConnectorError> {
        if let Some(unknown) = options.keys().find(|name| !NAMES.contains(&name.as_str())) {
            let help = did_you_mean(unknown, NAMES);
            let help = help.unwrap_or_else(|| format!("it has {}", NAMES.join(", ")));
            return Err(ConnectorError::unknown(unknown, format!("a webhook has no option `{unknown}`")).help(help));
        }
        let option = |name: &str| options.get(name).map(String::as_str);
        let url = option("URL").ok_or_else(|| {
            let error = ConnectorError::new(codes::BAD_OPTION, "a webhook needs the option URL");
            error.help("write URL = 'https://example.com/hook'")
        })?;
        let (uri, host) = parse_url(url)?;
        Ok(WebhookOptions {
            uri,
            host,
            method: parse_method(option("METHOD").unwrap_or("POST"))?,
            headers: option("HEADERS").map(parse_headers).transpose()?.unwrap_or_default(),
            batch: option("BATCH").map(parse_batch).transpose()?,
            secret: option("SECRET").map(parse_secret).transpose()?,
            timeout: option("TIMEOUT").map(parse_timeout).transpose()?,
        })
    }

    /// The target without what may be secret: no query string.
    pub(crate) fn shown_url(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self
            .uri
            .authority()
            .map(|authority| authority.as_str())
            .unwrap_or_default();
        format!("{scheme}://{authority}{}", self.uri.path())
    }
}

fn parse_url(text: &str) -> Result<(Uri, Host), ConnectorError> {
    let wrong = |message: String| ConnectorError::value("URL", message);
    let uri: Uri = text
        .parse()
        .map_err(|error| wrong(format!("`{text}` is not a URL: {error}")))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(other) => {
            return Err(wrong(format!("`{other}` is not a scheme for webhooks")).help("use https or http"));
        }
        None => return Err(wrong(format!("`{text}` has no scheme")).help(format!("write 'https://{text}'"))),
    }
    let authority = uri
        .authority()
        .ok_or_else(|| wrong(format!("`{text}` names no host")))?;
    if authority.as_str().contains('@') {
        let help = r#"send it as a header: HEADERS = '{"authorization": "Bearer …"}'"#;
        return Err(wrong("a user name or password cannot stand in it".to_owned()).help(help));
    }
    // A port of more than 16 bits is left out by the parser rather than refused.
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(wrong(format!("`{text}` has no valid port")));
    }
    let host = Host::parse(authority.host()).ok_or_else(|| wrong(format!("`{}` is not a host", authority.host())))?;
    Ok((uri, host))
}

fn parse_method(text: &str) -> Result<Method, ConnectorError> {
    match text.to_ascii_uppercase().as_str() {
        "POST" => Ok(Method::POST),
        "PUT" => Ok(Method::PUT),
        "PATCH" => Ok(Method::PATCH),
        _ => Err(
            ConnectorError::value("METHOD", format!("`{text}` is not a method for webhooks"))
                .help("use POST, PUT or PATCH"),
        ),
    }
}

fn parse_headers(text: &str) -> Result<HeaderMap, ConnectorError> {
    let wrong = |message: String| ConnectorError::value("HEADERS", message);
    let object: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
        wrong(format!("not a JSON object: {error}")).help(r#"write HEADERS = '{"authorization": "Bearer …"}'"#)
    })?;
    let mut headers = HeaderMap::new();
    for (name, value) in &object {
        let parsed = HeaderName::try_from(name).map_err(|_| wrong(format!("`{name}` is not a header's name")))?;
        if OWN_HEADERS.contains(&parsed.as_str()) {
            return Err(wrong(format!("`{name}` is set by headwater itself")));
        }
        // The value may be a secret: errors leave it out.
        let value = value.as_str().and_then(|value| HeaderValue::from_str(value).ok());
        let value = value.ok_or_else(|| wrong(format!("the value of `{name}` must be a string without line ends")))?;
        headers.insert(parsed, value);
    }
    Ok(headers)
}

fn parse_batch(text: &str) -> Result<usize, ConnectorError> {
    let rows = text.parse().ok().filter(|rows| (1..=WEBHOOK_BATCH_MAX).contains(rows));
    rows.ok_or_else(|| {
        ConnectorError::value(
            "BATCH",
            format!("`{text}` is not a number from 1 to {WEBHOOK_BATCH_MAX}"),
        )
    })
}

/// `whsec_` and base64, as the Standard Webhooks specification writes secrets.
fn parse_secret(text: &str) -> Result<Vec<u8>, ConnectorError> {
    let key = text
        .strip_prefix("whsec_")
        .and_then(|encoded| STANDARD.decode(encoded).ok());
    key.filter(|key| (24..=64).contains(&key.len())).ok_or_else(|| {
        ConnectorError::value("SECRET", "this is not a secret of Standard Webhooks")
            .help("write `whsec_`, then 24 to 64 bytes in base64")
    })
}

fn parse_timeout(text: &str) -> Result<Duration, ConnectorError> {
    let wrong = |message: &str| ConnectorError::value("TIMEOUT", message);
    let duration = text.parse::<Millis>().map_err(|message| wrong(&message))?.duration();
    if duration.is_zero() || duration > WEBHOOK_TIMEOUT_MAX {
        let most = WEBHOOK_TIMEOUT_MAX.as_secs();
        return Err(wrong(&format!("it must be longer than nothing and at most {most} s")));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn refusal(pairs: &[(&str, &str)]) -> ConnectorError {
        check("webhook", true, pairs).unwrap_err()
    }

    fn check(kind: &str, sink: bool, pairs: &[(&str, &str)]) -> Result<(), ConnectorError> {
        let config = headwater_config::Config::embedded().unwrap().bridge.webhook;
        check_connector(&config)(kind, sink, &options(pairs))
    }

    #[test]
    fn the_options_of_the_documentation_are_accepted() {
        let options = options(&[
            ("STREAM", "hot"),
            ("URL", "https://hooks.example.com:8443/in?token=1"),
            ("METHOD", "put"),
            ("HEADERS", r#"{"Authorization": "Bearer abc"}"#),
            ("BATCH", "100"),
            ("SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            ("TIMEOUT", "3s"),
        ]);
        let parsed = WebhookOptions::parse(&options).unwrap();
        assert_eq!(parsed.method, Method::PUT);
        assert_eq!(parsed.headers["authorization"], "Bearer abc");
        assert_eq!(parsed.batch, Some(100));
        assert_eq!(parsed.secret.as_ref().map(Vec::len), Some(24));
        assert_eq!(parsed.timeout, Some(Duration::from_secs(3)));
        assert_eq!(
            parsed.shown_url(),
            "https://hooks.example.com:8443/in",
            "a token in the query is not shown"
        );
    }

    #[test]
    fn refusals_say_what_to_write() {
        let url = ("URL", "http://a.example/");
        for (pairs, wanted) in [
            (vec![], "needs the option URL"),
            (vec![("URI", "http://a.example/")], "did you mean `URL`?"),
            (vec![url, ("COLOUR", "red")], "it has STREAM, URL"),
            (vec![("URL", "ftp://a.example/")], "`ftp` is not a scheme"),
            (vec![("URL", "a.example")], "write 'https://a.example'"),
            (vec![("URL", "http://user:pw@a.example/")], "user name or password"),
            (vec![("URL", "http://a.example:99999/")], "no valid port"),
            (vec![("URL", "/hook")], "has no scheme"),
            (vec![url, ("METHOD", "GET")], "POST, PUT or PATCH"),
            (vec![url, ("HEADERS", "a: b")], "not a JSON object"),
            (vec![url, ("HEADERS", r#"{"host": "b"}"#)], "set by headwater"),
            (vec![url, ("HEADERS", r#"{"x": "a\nb"}"#)], "without line ends"),
            (vec![url, ("BATCH", "0")], "from 1 to 1000"),
            (vec![url, ("SECRET", "hunter2")], "whsec_"),
            (vec![url, ("TIMEOUT", "5")], "not a duration"),
            (vec![url, ("TIMEOUT", "1h")], "at most 600 s"),
            (vec![("URL", "http://127.0.0.1:8080/")], "bridge.webhook.allow_private"),
            (vec![("URL", "http://[::1]/")], "bridge.webhook.allow_private"),
            (vec![("URL", "http://localhost/")], "bridge.webhook.allow_private"),
        ] {
            let refusal = refusal(&pairs).to_string();
            assert!(refusal.contains(wanted), "{pairs:?} gave {refusal}");
            assert!(!refusal.contains("hunter2"), "a secret does not go into messages");
        }
    }

    #[test]
    fn each_sort_of_mistake_has_its_code_its_option_and_its_help() {
        let url = ("URL", "http://a.example/");
        let of = |refused: ConnectorError| (refused.code, refused.option, refused.help.is_some());
        let option = |name: &str| Some(name.to_owned());
        assert_eq!(of(refusal(&[])), (codes::BAD_OPTION, None, true));
        assert_eq!(
            of(refusal(&[url, ("BACTH", "2")])),
            (codes::UNKNOWN_OPTION, option("BACTH"), true)
        );
        assert_eq!(
            of(refusal(&[url, ("BATCH", "x")])),
            (codes::BAD_OPTION, option("BATCH"), false)
        );
        assert_eq!(
            of(refusal(&[("URL", "http://localhost/")])),
            (codes::BAD_OPTION, option("URL"), true)
        );
        assert_eq!(
            of(check("mysql", true, &[url]).unwrap_err()),
            (codes::NOT_SUPPORTED, None, true)
        );
        assert_eq!(
            of(check("webhook", false, &[url]).unwrap_err()),
            (codes::NOT_SUPPORTED, None, true)
        );
    }
}
