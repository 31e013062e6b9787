//! One attempt to deliver one message, over a connection that is kept for the next.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::time::timeout;

use crate::limits::{ERROR_CHARS_MAX, WEBHOOK_ANSWER_BYTES_MAX, WEBHOOK_RETRY_AFTER_MAX};
use crate::webhook::message::Message;
use crate::webhook::options::WebhookOptions;
use crate::webhook::signature::sign;
use crate::webhook::target::{Allowed, ConnectError, connect};

const USER_AGENT: &str = concat!("headwater/", env!("CARGO_PKG_VERSION"));

/// An answer whose body is not read yet, and the connection it comes on.
type Sent = (Response<Incoming>, SendRequest<Full<Bytes>>);

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// 2xx.
    Delivered,
    /// Try again, not before `retry_after` if the far side asked for that.
    Failed {
        reason: String,
        retry_after: Option<Duration>,
    },
    /// Not sent: the target is not one that may be connected to.
    Refused(String),
    /// 410: the far side wants no more.
    Gone,
}

impl Outcome {
    fn failed(reason: String) -> Outcome {
        Outcome::Failed {
            reason,
            retry_after: None,
        }
    }
}

/// Sends the messages of one shard, one after the other.
#[derive(Debug)]
pub(crate) struct Sender {
    options: WebhookOptions,
    allowed: Allowed,
    timeout: Duration,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Sender {
    /// `timeout` is that of the configuration; the connector's own wins.
    pub(crate) fn new(options: WebhookOptions, allowed: Allowed, timeout: Duration) -> Sender {
        let timeout = options.timeout.unwrap_or(timeout);
        Sender {
            options,
            allowed,
            timeout,
            connection: None,
        }
    }

    /// One attempt.
    pub(crate) async fn attempt(&mut self, message: &Message) -> Outcome {
        let seconds = self.timeout.as_secs_f64();
        match timeout(self.timeout, self.exchange(message)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.connection = None;
                Outcome::failed(format!("no answer within {seconds} s"))
            }
        }
    }

    async fn exchange(&mut self, message: &Message) -> Outcome {
        let request = match self.request(message) {
            Ok(request) => request,
            Err(error) => return Outcome::failed(format!("cannot write the request: {error}")),
        };
        let sent = match self.send_kept(request.clone()).await {
            Some(sent) => Ok(sent),
            None => self.send_anew(request).await,
        };
        match sent {
            Ok((response, connection)) => self.read(response, connection).await,
            Err(outcome) => outcome,
        }
    }

    /// Over the connection of the last message. None: there is none, or the far side has closed it, perhaps at this
    /// very moment. That is not a failure to count.
    async fn send_kept(&mut self, request: Request<Full<Bytes>>) -> Option<Sent> {
        let mut kept = self.connection.take()?;
        kept.ready().await.ok()?;
        let response = kept.send_request(request).await.ok()?;
        Some((response, kept))
    }

    async fn send_anew(&self, request: Request<Full<Bytes>>) -> Result<Sent, Outcome> {
        let host = &self.options.host;
        let mut connection = connect(&self.options.uri, host, &self.allowed)
            .await
            .map_err(|error| match error {
                ConnectError::Refused { .. } => Outcome::Refused(error.to_string()),
                _ => Outcome::failed(error.to_string()),
            })?;
        let sent = connection.send_request(request).await;
        let response = sent.map_err(|error| Outcome::failed(format!("the connection to {host} broke: {error}")))?;
        Ok((response, connection))
    }

    async fn read(&mut self, response: Response<Incoming>, connection: SendRequest<Full<Bytes>>) -> Outcome {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, WEBHOOK_ANSWER_BYTES_MAX)
            .collect()
            .await
            .map(|body| body.to_bytes());
        if body.is_ok() {
            self.connection = Some(connection);
        }
        match head.status {
            status if status.is_success() => Outcome::Delivered,
            StatusCode::GONE => Outcome::Gone,
            status => Outcome::Failed {
                reason: describe(status, &head.headers, body.as_deref().unwrap_or_default()),
                retry_after: retry_after(&head.headers, SystemTime::now()),
            },
        }
    }

    fn request(&self, message: &Message) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let uri = &self.options.uri;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(self.options.method.clone())
            .uri(path)
            .body(Full::new(message.body.clone()))?;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(message.content_type));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        for (name, value) in &self.options.headers {
            headers.insert(name, value.clone());
        }
        let host = uri.authority().map_or("", |authority| authority.as_str());
        headers.insert(header::HOST, HeaderValue::from_str(host)?);
        // Header values are ASCII; a stream's name may be more. It is percent-encoded as in a URL.
        let id = ascii(&message.id);
        let timestamp = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs() as i64);
        headers.insert(
            HeaderName::from_static("webhook-timestamp"),
            HeaderValue::from(timestamp),
        );
        if let Some(secret) = &self.options.secret {
            let signature = sign(secret, &id, timestamp, &message.body);
            headers.insert(
                HeaderName::from_static("webhook-signature"),
                HeaderValue::from_str(&signature)?,
            );
        }
        headers.insert(HeaderName::from_static("webhook-id"), HeaderValue::from_str(&id)?);
        Ok(request)
    }
}

fn ascii(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'%' => out.push_str("%25"),
            b'!'..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

/// The status, and the beginning of what the far side said about it.
fn describe(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    if let (true, Some(location)) = (status.is_redirection(), headers.get(header::LOCATION)) {
        return format!(
            "{status}: redirects are not followed (to {})",
            String::from_utf8_lossy(location.as_bytes())
        );
    }
    let text = String::from_utf8_lossy(body);
    let text: String = text
        .trim()
        .chars()
        .take(ERROR_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.is_empty() {
        status.to_string()
    } else {
        format!("{status}: {text}")
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    Some(pause.min(WEBHOOK_RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let at = |text: &str| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers, UNIX_EPOCH + Duration::from_secs(784_111_770))
        };
        assert_eq!(at("7"), Some(Duration::from_secs(7)));
        assert_eq!(at("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(at("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(at("999999999"), Some(WEBHOOK_RETRY_AFTER_MAX));
        assert_eq!(at("soon"), None);
    }

    #[test]
    fn ids_of_streams_with_other_letters_fit_a_header() {
        assert_eq!(ascii("hot:0:7"), "hot:0:7");
        assert_eq!(ascii("温 100%:0:7"), "%E6%B8%A9%20100%25:0:7");
    }
}
