//! The bodies that `:publish` takes, and the records they become. Without I/O.
//!
//! One object, or an array of them, with HStreamDB's fields (`payload`, `flag`, `key`). What EMQX sends by itself is
//! taken as it is: the fields of its rule event `message.publish`, and those of the 4.3 webhook plugin. Names are read
//! in any case, because HStreamDB's clients disagree about them; what is not known is skipped.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use headwater_store::{Header, Qos, Record, TimestampMs, TopicName};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::PUBLISH_RECORDS_MAX;
use crate::problem::{Code, Problem, codes};

/// The records of one body, in its order. A record with a topic is one for MQTT subscribers too.
pub(crate) fn parse(body: &[u8]) -> Result<Vec<Record>, Problem> {
    let objects = if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        serde_json::from_slice::<Vec<Fields>>(body).map_err(not_json)?
    } else {
        vec![serde_json::from_slice::<Fields>(body).map_err(not_json)?]
    };
    if objects.len() > PUBLISH_RECORDS_MAX {
        let detail = format!(
            "{} records in one request, at most {PUBLISH_RECORDS_MAX} are taken",
            objects.len()
        );
        return Err(Problem::new(codes::TOO_MANY_RECORDS, detail));
    }
    let many = objects.len() > 1;
    objects
        .iter()
        .enumerate()
        .map(|(number, fields)| {
            fields.record().map_err(|Refusal { code, detail, help }| {
                let detail = if many {
                    format!("record {number}: {detail}")
                } else {
                    detail
                };
                let problem = Problem::new(code, detail);
                if help.is_empty() { problem } else { problem.help(help) }
            })
        })
        .collect()
}

fn not_json(error: serde_json::Error) -> Problem {
    Problem::new(
        codes::NOT_JSON,
        format!("the body is not a JSON object, or an array of objects: {error}"),
    )
    .help(r#"send {"payload": "{\"temperature\": 22}", "flag": 0}"#)
}

/// Why one object is not a record.
struct Refusal {
    code: Code,
    detail: String,
    help: &'static str,
}

fn refusal(code: Code, detail: impl Into<String>, help: &'static str) -> Refusal {
    Refusal {
        code,
        detail: detail.into(),
        help,
    }
}

/// The known fields of one object, as they were written.
#[derive(Default)]
struct Fields<'a> {
    payload: Option<&'a RawValue>,
    flag: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
    publish_topic: Option<&'a RawValue>,
    client_id: Option<&'a RawValue>,
    username: Option<&'a RawValue>,
    topic: Option<&'a RawValue>,
    qos: Option<&'a RawValue>,
    timestamp: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a `payload`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let place = match name.to_ascii_lowercase().as_str() {
                "payload" => &mut fields.payload,
                "flag" => &mut fields.flag,
                "key" => &mut fields.key,
                "_topic" => &mut fields.publish_topic,
                "clientid" | "client_id" | "from_client_id" => &mut fields.client_id,
                "username" | "from_username" => &mut fields.username,
                "topic" => &mut fields.topic,
                "qos" => &mut fields.qos,
                "timestamp" | "ts" => &mut fields.timestamp,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *place = Some(map.next_value::<&'de RawValue>()?).filter(|value| value.get() != "null");
        }
        Ok(fields)
    }
}

impl Fields<'_> {
    fn record(&self) -> Result<Record, Refusal> {
        let payload = self.payload.ok_or_else(|| {
            let help = r#"the message goes into "payload": a string, or a JSON object"#;
            refusal(codes::BAD_FIELD, "there is no `payload`", help)
        })?;
        let mut record = Record::new(self.payload(payload)?);
        record.key = self.key()?;
        if let Some(topic) = self.publish_topic {
            let topic = text(topic).ok_or_else(|| refusal(codes::BAD_FIELD, "`_topic` must be a string", ""))?;
            let name = TopicName::new(topic.clone());
            record.topic = Some(name.map_err(|error| refusal(codes::BAD_TOPIC, format!("`{topic}`: {error}"), ""))?);
            // Committed before it is answered: as good as QoS 1 on the way in.
            record.qos = Qos::AtLeastOnce;
        }
        // What the publisher's broker tells about the message is kept where it makes sense and never refused.
        if let Some(qos) = self
            .qos
            .and_then(number)
            .and_then(|bits| Qos::from_bits(bits.try_into().ok()?))
        {
            record.qos = qos;
        }
        record.headers = self.headers();
        Ok(record)
    }

    fn payload(&self, raw: &RawValue) -> Result<Bytes, Refusal> {
        let payload = match text(raw) {
            Some(text) => text.into_bytes(),
            None => Bytes::copy_from_slice(raw.get().as_bytes()),
        };
        let is_json = match self.flag.map(|flag| (flag, number(flag))) {
            None | Some((_, Some(0))) => true,
            Some((_, Some(1))) => false,
            Some((flag, _)) => {
                let detail = format!("`flag` is {}, it can be 0 (the payload is JSON) or 1 (raw)", flag.get());
                return Err(refusal(codes::BAD_FIELD, detail, ""));
            }
        };
        if is_json && let Err(error) = serde_json::from_slice::<IgnoredAny>(&payload) {
            let help = "send \"flag\": 1 for a payload that is not JSON";
            return Err(refusal(
                codes::PAYLOAD_NOT_JSON,
                format!("the payload is not JSON: {error}"),
                help,
            ));
        }
        Ok(payload)
    }

    fn key(&self) -> Result<Option<Bytes>, Refusal> {
        let Some(raw) = self.key else { return Ok(None) };
        let key = match text(raw) {
            Some(text) => text.into_bytes(),
            None if raw.get().starts_with(['{', '[']) => {
                return Err(refusal(codes::BAD_FIELD, "`key` must be a string or a number", ""));
            }
            None => Bytes::copy_from_slice(raw.get().as_bytes()),
        };
        // A template with nothing to fill in sends an empty key; HStreamDB reads it as none.
        Ok(Some(key).filter(|key| !key.is_empty()))
    }

    fn headers(&self) -> Vec<Header> {
        let mut headers = Vec::new();
        headers.extend(self.client_id.and_then(text).map(Header::ClientId));
        headers.extend(self.username.and_then(text).map(Header::Username));
        headers.extend(
            self.topic
                .and_then(text)
                .map(|topic| Header::User(ByteString::from_static("topic"), topic)),
        );
        let published_at = self.timestamp.and_then(number).and_then(|ms| i64::try_from(ms).ok());
        headers.extend(published_at.map(|ms| Header::PublishedAt(TimestampMs(ms))));
        headers
    }
}

/// The text of a JSON string.
fn text(raw: &RawValue) -> Option<ByteString> {
    serde_json::from_str::<String>(raw.get()).ok().map(ByteString::from)
}

/// A JSON number, or the same in a string: templates often put quotes around everything.
fn number(raw: &RawValue) -> Option<u64> {
    text(raw).as_deref().unwrap_or(raw.get()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn one(body: &str) -> Record {
        let mut records = parse(body.as_bytes()).unwrap();
        assert_eq!(records.len(), 1);
        records.remove(0)
    }

    fn code(body: &str) -> (String, String) {
        let Value::Object(members) = parse(body.as_bytes()).unwrap_err().to_json() else {
            panic!("not an object")
        };
        let member = |name: &str| members[name].as_str().unwrap().to_owned();
        (member("code"), member("detail"))
    }

    #[test]
    fn a_string_and_an_object_are_the_same_payload() {
        let text = r#"{"payload": "{\"tachometer\":9001.0}", "flag": 0}"#;
        let object = r#"{"Payload": {"tachometer":9001.0}, "FLAG": 0, "extra": [1, {"payload": 2}]}"#;
        assert_eq!(one(text).payload.as_deref(), Some(&br#"{"tachometer":9001.0}"#[..]));
        assert_eq!(one(text), one(object), "number spelling included");
        assert_eq!(
            one(r#"{"payload":"{}"}"#).payload.as_deref(),
            Some(&b"{}"[..]),
            "flag is 0 when it is missing"
        );
        assert_eq!(
            one(r#"{"payload":"not json","flag":1}"#).payload.as_deref(),
            Some(&b"not json"[..])
        );
        assert_eq!(one(r#"{"payload":"{}","flag":"0","key":""}"#).key, None);
        assert_eq!(one(r#"{"payload":"{}","key":7}"#).key.as_deref(), Some(&b"7"[..]));
    }

    #[test]
    fn an_array_is_many() {
        let records = parse(br#" [{"payload":"1"},{"payload":"2"}]"#).unwrap();
        let payloads: Vec<_> = records.iter().map(|record| record.payload.clone().unwrap()).collect();
        assert_eq!(payloads, ["1", "2"]);
        assert!(parse(b"[]").unwrap().is_empty());
        assert!(
            code(r#"[{"payload":"1"},{"payload":"x"}]"#)
                .1
                .starts_with("record 1: the payload is not JSON")
        );
    }

    /// The whole event `message.publish`, as an EMQX 5 HTTP action sends it when it has no body template.
    #[test]
    fn the_default_body_of_an_emqx_rule() {
        let record = one(include_str!("../../tests/data/emqx_rule_default.json"));
        assert_eq!(record.payload.as_deref(), Some(&br#"{"speed":32.12}"#[..]));
        assert_eq!(record.topic, None, "only `_topic` publishes");
        assert_eq!(record.qos, Qos::AtLeastOnce);
        let topic = Header::User("topic".into(), "fleet/7".into());
        let headers = [
            Header::ClientId("truck-7".into()),
            Header::Username("fleet".into()),
            topic,
        ];
        assert_eq!(record.headers[..3], headers);
        assert_eq!(record.headers[3], Header::PublishedAt(TimestampMs(1_563_268_202_000)));
    }

    #[test]
    fn the_body_of_the_emqx_4_3_webhook_plugin() {
        let record = one(include_str!("../../tests/data/emqx_4_3_webhook.json"));
        assert_eq!(record.payload.as_deref(), Some(&br#"{"speed":32.12}"#[..]));
        assert_eq!(record.headers[0], Header::ClientId("truck-7".into()));
        assert_eq!(
            record.headers.last(),
            Some(&Header::PublishedAt(TimestampMs(1_563_268_202_000)))
        );
    }

    #[test]
    fn a_topic_of_its_own_is_published() {
        let record = one(r#"{"payload":"{}","_topic":"plant/1/temp"}"#);
        assert_eq!(record.topic, Some(TopicName::new("plant/1/temp").unwrap()));
        assert_eq!(record.qos, Qos::AtLeastOnce);
        assert_eq!(one(r#"{"payload":"{}","_topic":"a","qos":0}"#).qos, Qos::AtMostOnce);
        assert_eq!(code(r#"{"payload":"{}","_topic":"a/#"}"#).0, "HW6010");
        assert_eq!(code(r#"{"payload":"{}","_topic":7}"#).0, "HW6007");
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        assert_eq!(code(r#"{"payload":"{temperature: 22}","flag":0}"#).0, "HW6008");
        assert_eq!(code(r#"{"payload":"x"}"#).0, "HW6008");
        assert_eq!(code(r#"{"payload":null}"#).0, "HW6007");
        assert_eq!(code(r#"{"x": 8, "y": 7}"#).0, "HW6007");
        assert_eq!(code(r#"{"payload":"1","flag":2}"#).0, "HW6007");
        assert_eq!(code(r#"{"payload":"1","key":{}}"#).0, "HW6007");
        assert_eq!(code("").0, "HW6006");
        assert_eq!(code("7").0, "HW6006");
        assert_eq!(code(r#"{"payload":"1""#).0, "HW6006");
        assert_eq!(code(r#"{"payload":"1"} x"#).0, "HW6006");
        assert_eq!(code("[1]").0, "HW6006");
        assert_eq!(code(&format!(r#"{{"payload":{}}}"#, "[".repeat(100_000))).0, "HW6006");
        assert_eq!(
            code(&format!(r#"{{"payload":"{}"}}"#, "[".repeat(100_000))).0,
            "HW6008",
            "no stack is that deep"
        );
        assert_eq!(code("{\"payload\":\"\u{fffd}").0, "HW6006");
    }
}
