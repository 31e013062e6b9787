//! Payloads as JSON, for webhooks and for reading records over HTTP.
//!
//! Where a payload is JSON it goes out as it was written, spelling of numbers included.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use serde_json::value::RawValue;

/// The text of a payload that is one JSON value, without the white space around it.
pub(crate) fn as_json(payload: &[u8]) -> Option<&str> {
    serde_json::from_slice::<&RawValue>(payload).ok().map(RawValue::get)
}

/// A payload as a JSON value whatever it is: itself, else a string, else `{"base64": "…"}`. None is `null`.
pub(crate) fn to_json(payload: Option<&[u8]>) -> Cow<'_, str> {
    let Some(payload) = payload else {
        return Cow::Borrowed("null");
    };
    if let Some(json) = as_json(payload) {
        return Cow::Borrowed(json);
    }
    Cow::Owned(match std::str::from_utf8(payload) {
        Ok(text) => json!(text).to_string(),
        Err(_) => json!({ "base64": STANDARD.encode(payload) }).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_and_the_rest_becomes_json() {
        assert_eq!(to_json(Some(b" {\"a\": 9001.0} ")), "{\"a\": 9001.0}");
        assert_eq!(to_json(Some(b"22.50")), "22.50");
        assert_eq!(to_json(Some(b"say \"hi\"")), r#""say \"hi\"""#);
        assert_eq!(to_json(Some(b"")), r#""""#);
        assert_eq!(to_json(Some(&[0xff, 0])), r#"{"base64":"/wA="}"#);
        assert_eq!(to_json(None), "null");
    }
}
