//! [`Problem`]: every refusal of the HTTP face, as `application/problem+json` (RFC 9457) with a stable `code`.
//!
//! Codes from HW6000 on are the bridge's own; the others are those of SQL, which `docs/sql.md` lists, so that an
//! unknown stream has one code on both ways in.

use headwater_sql::SqlError;
use headwater_store::{CatalogError, ReadError, WriteError};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::body::{self, Body};
use crate::limits::{RETRY_AFTER_DISK_FULL_SECONDS, RETRY_AFTER_SECONDS};

/// A stable number for one sort of refusal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Code {
    /// Never reused.
    pub number: u16,
    /// The HTTP status.
    pub status: u16,
    /// What it stands for, in a few words.
    pub title: &'static str,
}

macro_rules! codes {
    ($($name:ident = $number:literal $status:literal $title:literal;)*) => {
        /// The bridge's codes. `docs/http.md` lists the same ones; a test compares them.
        pub(crate) mod codes {
            use super::Code;
            $(pub(crate) const $name: Code = Code { number: $number, status: $status, title: $title };)*
            #[cfg(test)]
            pub(crate) const ALL: &[Code] = &[$($name),*];
        }
    };
}

codes! {
    NO_SUCH_PATH = 6001 404 "there is nothing at this path";
    METHOD_NOT_ALLOWED = 6002 405 "the path does not take this method";
    BODY_TOO_LARGE = 6003 413 "the request body is too large";
    BODY_INCOMPLETE = 6004 400 "the request body did not arrive";
    BODY_TIMEOUT = 6005 408 "the request body took too long";
    NOT_JSON = 6006 400 "the request body is not the JSON that is expected here";
    BAD_FIELD = 6007 400 "a field is missing or has a value it cannot have";
    PAYLOAD_NOT_JSON = 6008 400 "flag 0 says that the payload is JSON, and it is not";
    BAD_PARAMETER = 6009 400 "a query parameter or a header has a value it cannot have";
    BAD_TOPIC = 6010 400 "the topic is not valid";
    NOT_CAPTURED = 6011 422 "the stream does not capture this topic";
    NOT_ACCEPTABLE = 6012 406 "the answer cannot be given in a form the client accepts";
    UNSUPPORTED_MEDIA_TYPE = 6013 415 "the request body is of a type that is not taken here";
    OVERLOADED = 6014 503 "the server has too much to do, try again";
    NOT_READY = 6015 503 "the server is not ready";
    TOO_MANY_RECORDS = 6016 413 "too many records in one request";
    PARTLY_COMMITTED = 6017 409 "only a part of the records was committed";
    LOST = 6018 410 "the changes cannot be gone on with";
}

/// A refusal, on its way to the client.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A refusal of the bridge's own. `detail` is one line, lower case, no full stop.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Problem {
        let status = StatusCode::from_u16(code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Problem::build(status, format!("HW{:04}", code.number), code.title, detail.into())
    }

    fn build(status: StatusCode, code: String, title: &str, detail: String) -> Problem {
        let mut members = Map::new();
        members.insert("type".into(), json!("about:blank"));
        members.insert("title".into(), json!(title));
        members.insert("status".into(), json!(status.as_u16()));
        members.insert("code".into(), json!(code));
        members.insert("detail".into(), json!(detail));
        let problem = Problem {
            status,
            members,
            headers: Vec::new(),
        };
        match status {
            StatusCode::SERVICE_UNAVAILABLE => problem.retry_after(RETRY_AFTER_SECONDS),
            _ => problem,
        }
    }

    /// Says what to do.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Problem {
        self.members.insert("help".into(), Value::String(help.into()));
        self
    }

    /// Adds a member.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Problem {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// What is wrong, in one line.
    pub(crate) fn detail(&self) -> &str {
        self.members.get("detail").and_then(Value::as_str).unwrap_or_default()
    }

    /// Leaves members out.
    pub(crate) fn without(mut self, names: &[&str]) -> Problem {
        names.iter().for_each(|name| drop(self.members.shift_remove(*name)));
        self
    }

    /// The methods that the path does take.
    pub(crate) fn allow(mut self, methods: &'static str) -> Problem {
        self.headers.push((header::ALLOW, HeaderValue::from_static(methods)));
        self
    }

    fn retry_after(mut self, seconds: u32) -> Problem {
        self.headers.retain(|(name, _)| name != header::RETRY_AFTER);
        self.headers.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
        self
    }

    /// The JSON object.
    pub(crate) fn to_json(&self) -> Value {
        Value::Object(self.members.clone())
    }

    /// The answer. What is Headwater's own fault is logged here, once.
    pub(crate) fn into_response(self) -> Response<Body> {
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(problem = %self.to_json(), "a request failed");
        }
        let mut response = Response::new(body::full(Value::Object(self.members).to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<SqlError> for Problem {
    fn from(error: SqlError) -> Problem {
        let status = StatusCode::from_u16(error.kind().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut problem = Problem::build(status, error.code.to_string(), error.code.about, error.message.clone());
        // `detail` is RFC 9457's word for the message; what SQL calls detail goes by another name.
        if let Value::Object(members) = error.to_json() {
            for (name, value) in members {
                match name.as_str() {
                    "code" | "message" => {}
                    "detail" => drop(problem.members.insert("explanation".into(), value)),
                    _ => drop(problem.members.insert(name, value)),
                }
            }
        }
        if error.code == headwater_sql::codes::DISK_FULL {
            problem = problem.retry_after(RETRY_AFTER_DISK_FULL_SECONDS);
        }
        problem
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Problem {
        match error {
            WriteError::TooLarge { .. } => Problem::new(codes::BODY_TOO_LARGE, error.to_string()),
            _ => SqlError::from(error).into(),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        SqlError::from(error).into()
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Problem {
        SqlError::from(error).into()
    }
}

/// The stream that a path names does not exist.
pub(crate) fn unknown_stream(name: &str) -> Problem {
    CatalogError::Missing {
        kind: "stream",
        name: name.to_owned(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        assert!(codes::ALL.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert!(
            codes::ALL
                .iter()
                .all(|code| StatusCode::from_u16(code.status).is_ok_and(|status| status.as_u16() >= 400))
        );
    }

    #[test]
    fn the_documentation_lists_the_codes() {
        let docs = include_str!("../../docs/http.md");
        for code in codes::ALL {
            let row = format!("| HW{} | {} | {} |", code.number, code.status, code.title);
            assert!(docs.contains(&row), "docs/http.md lacks the row {row}");
        }
    }

    #[test]
    fn a_full_disk_asks_for_a_longer_pause_and_is_never_500() {
        let retry_after = |error: WriteError| {
            let response = Problem::from(error).into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            response.headers()[header::RETRY_AFTER].to_str().unwrap().to_owned()
        };
        assert_eq!(retry_after(WriteError::DiskFull { free: 1, mark: 2 }), "30");
        assert_eq!(
            retry_after(WriteError::NotLeader {
                group: headwater_store::GroupId(1),
                leader: None
            }),
            "1"
        );
        assert_eq!(retry_after(WriteError::Stopped), "1");
        assert_eq!(retry_after(WriteError::Indefinite("leader lost")), "1");
    }
}
