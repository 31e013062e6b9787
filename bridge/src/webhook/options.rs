//! The WITH options of a webhook connector: checked when it is created, read again when it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use headwater_config::{Millis, WebhookConfig};
use headwater_sql::did_you_mean;
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
) -> impl Fn(&str, bool, &BTreeMap<String, String>) -> Result<(), String> + Send + Sync + use<> {
    let allowed = Allowed::new(&config.allow_private);
    move |kind, sink, options| {
        if !KINDS.contains(&kind) {
            return Err(format!(
                "connectors to {kind} are not supported yet, {} are",
                KINDS.join(", ")
            ));
        }
        if !sink {
            return Err("a webhook is a sink: write CREATE SINK CONNECTOR".to_owned());
        }
        let host = WebhookOptions::parse(options)?.host;
        allowed.check_written(&host).map_err(|error| format!("URL: {error}"))
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
    pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<WebhookOptions, String> {
        if let Some(unknown) = options.keys().find(|name| !NAMES.contains(&name.as_str())) {
            let help = did_you_mean(unknown, NAMES);
            let help = help.unwrap_or_else(|| format!("it has {}", NAMES.join(", ")));
            return Err(format!("a webhook has no option `{unknown}`; {help}"));
        }
        let option = |name: &str| options.get(name).map(String::as_str);
        let url = option("URL").ok_or("a webhook needs the option URL, as in URL = 'https://example.com/hook'")?;
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

fn parse_url(text: &str) -> Result<(Uri, Host), String> {
    let uri: Uri = text
        .parse()
        .map_err(|error| format!("URL: `{text}` is not a URL: {error}"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(other) => {
            return Err(format!(
                "URL: `{other}` is not a scheme for webhooks, use https or http"
            ));
        }
        None => return Err(format!("URL: `{text}` has no scheme; write 'https://{text}'")),
    }
    let authority = uri.authority().ok_or_else(|| format!("URL: `{text}` names no host"))?;
    if authority.as_str().contains('@') {
        let help = r#"send it as a header: HEADERS = '{"authorization": "Bearer …"}'"#;
        return Err(format!("URL: a user name or password cannot stand in it; {help}"));
    }
    // A port of more than 16 bits is left out by the parser rather than refused.
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(format!("URL: `{text}` has no valid port"));
    }
    let host = Host::parse(authority.host()).ok_or_else(|| format!("URL: `{}` is not a host", authority.host()))?;
    Ok((uri, host))
}

fn parse_method(text: &str) -> Result<Method, String> {
    match text.to_ascii_uppercase().as_str() {
        "POST" => Ok(Method::POST),
        "PUT" => Ok(Method::PUT),
        "PATCH" => Ok(Method::PATCH),
        _ => Err(format!("METHOD: `{text}` is not one of POST, PUT and PATCH")),
    }
}

fn parse_headers(text: &str) -> Result<HeaderMap, String> {
    let object: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
        format!(r#"HEADERS: not a JSON object: {error}; write HEADERS = '{{"authorization": "Bearer …"}}'"#)
    })?;
    let mut headers = HeaderMap::new();
    for (name, value) in &object {
        let parsed = HeaderName::try_from(name).map_err(|_| format!("HEADERS: `{name}` is not a header's name"))?;
        if OWN_HEADERS.contains(&parsed.as_str()) {
            return Err(format!("HEADERS: `{name}` is set by headwater itself"));
        }
        // The value may be a secret: errors leave it out.
        let value = value.as_str().and_then(|value| HeaderValue::from_str(value).ok());
        let value =
            value.ok_or_else(|| format!("HEADERS: the value of `{name}` must be a string without line ends"))?;
        headers.insert(parsed, value);
    }
    Ok(headers)
}

fn parse_batch(text: &str) -> Result<usize, String> {
    let rows = text.parse().ok().filter(|rows| (1..=WEBHOOK_BATCH_MAX).contains(rows));
    rows.ok_or_else(|| format!("BATCH: `{text}` is not a number from 1 to {WEBHOOK_BATCH_MAX}"))
}

/// `whsec_` and base64, as the Standard Webhooks specification writes secrets.
fn parse_secret(text: &str) -> Result<Vec<u8>, String> {
    let key = text
        .strip_prefix("whsec_")
        .and_then(|encoded| STANDARD.decode(encoded).ok());
    key.filter(|key| (24..=64).contains(&key.len()))
        .ok_or_else(|| "SECRET: write 'whsec_…': `whsec_`, then 24 to 64 bytes in base64".to_owned())
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let duration = text
        .parse::<Millis>()
        .map_err(|message| format!("TIMEOUT: {message}"))?
        .duration();
    if duration.is_zero() || duration > WEBHOOK_TIMEOUT_MAX {
        let most = WEBHOOK_TIMEOUT_MAX.as_secs();
        return Err(format!("TIMEOUT: must be longer than nothing and at most {most} s"));
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

    fn refusal(pairs: &[(&str, &str)]) -> String {
        check("webhook", true, pairs).unwrap_err()
    }

    fn check(kind: &str, sink: bool, pairs: &[(&str, &str)]) -> Result<(), String> {
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
            (vec![url, ("METHOD", "GET")], "POST, PUT and PATCH"),
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
            let refusal = refusal(&pairs);
            assert!(refusal.contains(wanted), "{pairs:?} gave {refusal}");
            assert!(!refusal.contains("hunter2"), "a secret does not go into messages");
        }
        assert!(check("mysql", true, &[url]).unwrap_err().contains("webhook"));
        assert!(check("webhook", false, &[url]).unwrap_err().contains("SINK"));
    }
}
