//! Records to columns: schema on read.
//!
//! A [`Decoder`] is made once per task from the plan's source. It knows which fields the plan needs and takes nothing
//! else out of a payload. What cannot be read is told, never guessed: ON_ERROR says whether such a record is a row of
//! NULLs, no row, or the end of the query.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use bytestring::ByteString;
use headwater_store::{Format, Header, OnError, Record, ShardId, TopicFilter, TopicName};

use crate::change::RecordId;
use crate::column::{Column, Columns, FieldBuilder, Place};
use crate::expression::{Expression, Faults};
use crate::function::Scope;
use crate::json::{self, FieldTree, Found, Kind, Shape};
use crate::plan::physical::{Expr, PathStep, PlanError, Source, SourceColumn};
use crate::types::{DataType, TimestampUs};
use crate::value::{Fault, Value, cast, write_json_string};
use crate::watermark::marker;

/// Reads the records of one stream for one plan.
#[derive(Debug)]
pub struct Decoder {
    format: Format,
    on_error: OnError,
    columns: Vec<SourceColumn>,
    /// The paths of the `Field` columns, numbered by column.
    fields: FieldTree,
    /// Some column needs the payload parsed.
    parses: bool,
    captures: Vec<TopicFilter>,
    timestamp: Option<Expression>,
    /// Tombstones are rows.
    tombstones: bool,
    /// Only what was published to these topics, and lies at home here, is a row.
    home: Option<TopicFilter>,
    /// How many of the columns come out: what is behind them is for the event time alone.
    width: usize,
}

/// Rows, and what was wrong with some.
#[derive(Debug)]
pub struct Decoded {
    /// One column per column of the source.
    pub rows: Columns,
    /// Event times; None: the row has none of its own, and its append time stands in.
    pub time: Vec<Option<TimestampUs>>,
    /// Append times.
    pub appended: Vec<TimestampUs>,
    /// The record of each row.
    pub origin: Vec<RecordId>,
    /// Records and fields that could not be read.
    pub errors: Vec<(RecordId, Fault)>,
    /// What moves watermarks: before which row, of which shard, to where.
    pub markers: Vec<(usize, ShardId, TimestampUs)>,
}

/// A record that does not parse, where ON_ERROR is fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("record {0} does not parse, and the stream's ON_ERROR is 'fail'")]
pub struct BadRecord(pub RecordId);

impl Decoder {
    /// For this source.
    pub fn new(source: &Source) -> Result<Decoder, PlanError> {
        let mut fields = FieldTree::default();
        for (number, column) in source.columns.iter().enumerate() {
            if let SourceColumn::Field { path, .. } = column {
                fields.insert(path, number);
            }
        }
        let wanted = |column: &SourceColumn| matches!(column, SourceColumn::Field { .. } | SourceColumn::Star);
        let captures = source
            .captures
            .iter()
            .map(|filter| TopicFilter::capture(filter.as_str()).map_err(|error| PlanError::Invalid(error.to_string())));
        let as_timestamp = |expr: &Expr| {
            Expression::compile(&Expr::Cast {
                operand: Box::new(expr.clone()),
                to: DataType::Timestamp,
            })
        };
        Ok(Decoder {
            format: source.format,
            on_error: source.on_error,
            columns: source.columns.clone(),
            fields,
            parses: source.on_error != OnError::Null || source.columns.iter().any(wanted),
            captures: captures.collect::<Result<_, _>>()?,
            tombstones: source.columns.contains(&SourceColumn::Gone),
            timestamp: source.timestamp.as_ref().map(as_timestamp).transpose()?,
            home: None,
            width: source.columns.len(),
        })
    }

    /// For a stream that is home to messages of a topic filter: `source` has the `width` columns that are wanted of each
    /// of them, and behind them what its event time needs.
    pub fn of_home(source: &Source, filter: TopicFilter, width: usize) -> Result<Decoder, PlanError> {
        Ok(Decoder {
            home: Some(filter),
            width,
            ..Decoder::new(source)?
        })
    }

    /// Not a copy of a message that lies elsewhere, nor one of other topics.
    fn is_row(&self, record: &Record) -> bool {
        self.home.as_ref().is_none_or(|filter| {
            let topic = record.topic.as_ref();
            !record.copy && topic.is_some_and(|topic| filter.matches(topic))
        })
    }

    /// The rows of these records. Tombstones are no rows, unless the plan asks which rows are some.
    pub fn decode(&self, records: &[(RecordId, Record)], scope: &Scope) -> Result<Decoded, BadRecord> {
        let mut batch = Batch::new(self, records.len());
        for (id, record) in records {
            match &record.payload {
                Some(payload) if self.is_row(record) => batch.add(*id, record, payload)?,
                Some(_) => {}
                // A marker has no key.
                None if self.tombstones && record.key.is_some() => batch.add_tombstone(*id, record),
                None => {
                    let to = marker(record).map(|to| (batch.origin.len(), id.shard, to));
                    batch.markers.extend(to);
                }
            }
        }
        Ok(batch.finish(scope))
    }
}

/// A micro-batch being filled.
struct Batch<'d> {
    decoder: &'d Decoder,
    builders: Vec<FieldBuilder>,
    slots: Vec<Option<Found>>,
    shape: Shape,
    /// Of each row; empty where it is no text, or nothing looks into it.
    payloads: Vec<ByteString>,
    appended: Vec<TimestampUs>,
    origin: Vec<RecordId>,
    errors: Vec<(RecordId, Fault)>,
    markers: Vec<(usize, ShardId, TimestampUs)>,
}

impl<'d> Batch<'d> {
    fn new(decoder: &'d Decoder, rows: usize) -> Batch<'d> {
        let width = decoder.columns.len();
        Batch {
            decoder,
            builders: (0..width).map(|_| FieldBuilder::with_capacity(rows)).collect(),
            slots: vec![None; width],
            shape: Shape::default(),
            payloads: Vec::with_capacity(rows),
            appended: Vec::with_capacity(rows),
            origin: Vec::with_capacity(rows),
            errors: Vec::new(),
            markers: Vec::new(),
        }
    }

    fn add(&mut self, id: RecordId, record: &Record, payload: &Bytes) -> Result<(), BadRecord> {
        self.slots.fill(None);
        let text = match self.decoder.parses {
            true => ByteString::try_from(payload.clone()).ok(),
            false => None,
        };
        let mut top = None;
        if self.decoder.parses {
            match self.parse(text.as_ref()) {
                Some(found) => top = found,
                None => {
                    self.errors.push((id, Fault::BadRecord));
                    match self.decoder.on_error {
                        OnError::Fail => return Err(BadRecord(id)),
                        OnError::Drop => return Ok(()),
                        // A broken document may have shown some fields before it broke.
                        OnError::Null => self.slots.fill(None),
                    }
                }
            }
        }
        let is_text = text.is_some();
        self.payloads.push(text.unwrap_or_default());
        self.add_row(id, record, payload, (is_text, top));
        Ok(())
    }

    /// The JSON value that a payload is. None: it does not parse.
    fn parse(&mut self, text: Option<&ByteString>) -> Option<Option<Found>> {
        match self.decoder.format {
            Format::Raw => Some(None),
            Format::Text => text.map(|_| None),
            Format::Json => json::extract(text?, &self.decoder.fields, &mut self.shape, &mut self.slots).map(Some),
        }
    }

    /// Adds the row of the last payload: whether that is text, and which JSON value it is.
    fn add_row(&mut self, id: RecordId, record: &Record, payload: &Bytes, (is_text, top): (bool, Option<Found>)) {
        let Batch {
            decoder,
            builders,
            slots,
            payloads,
            errors,
            ..
        } = self;
        let row = Row {
            id,
            record,
            payload,
            text: payloads.last().filter(|_| is_text),
            top,
        };
        for (number, (builder, column)) in builders.iter_mut().zip(&decoder.columns).enumerate() {
            let value = match column {
                SourceColumn::Field { path, data_type } => {
                    let found = slots[number];
                    if add_in_place(builder, found, data_type, payloads) {
                        continue;
                    }
                    let value = row.field(decoder.format, path, found);
                    let value = value.and_then(|value| declared(value, data_type));
                    value.unwrap_or_else(|fault| {
                        errors.push((id, fault));
                        Value::Null
                    })
                }
                system => row.system(system, decoder),
            };
            builder.push(value, payloads);
        }
        self.appended.push(TimestampUs::from_ms(record.timestamp));
        self.origin.push(id);
    }

    /// NULLs, but for its key.
    fn add_tombstone(&mut self, id: RecordId, record: &Record) {
        let payload = Bytes::new();
        let row = Row {
            id,
            record,
            payload: &payload,
            text: None,
            top: None,
        };
        for (builder, column) in self.builders.iter_mut().zip(&self.decoder.columns) {
            let value = match column {
                SourceColumn::Key => row.system(column, self.decoder),
                SourceColumn::Gone => Value::Boolean(true),
                _ => Value::Null,
            };
            builder.push(value, &self.payloads);
        }
        self.payloads.push(ByteString::default());
        self.appended.push(TimestampUs::from_ms(record.timestamp));
        self.origin.push(id);
    }

    fn finish(self, scope: &Scope) -> Decoded {
        let payloads = Arc::new(self.payloads);
        let columns: Vec<Arc<Column>> = self
            .builders
            .into_iter()
            .map(|builder| Arc::new(builder.finish(&payloads)))
            .collect();
        let rows = Columns::new(columns, self.origin.len());
        let mut errors = self.errors;
        let time = match &self.decoder.timestamp {
            None => self.appended.iter().map(|at| Some(*at)).collect(),
            Some(timestamp) => {
                let mut faults = Faults::default();
                let column = timestamp.evaluate(&rows, scope, &mut faults);
                errors.extend(faults.iter().map(|(row, fault)| (self.origin[row], fault)));
                (0..rows.rows())
                    .map(|row| column.timestamp(row).map(TimestampUs))
                    .collect()
            }
        };
        let rows = match self.decoder.width {
            width if width < rows.width() => rows.first(width),
            _ => rows,
        };
        Decoded {
            rows,
            time,
            appended: self.appended,
            origin: self.origin,
            errors,
            markers: self.markers,
        }
    }
}

/// Adds a value of the last payload that can stay where it stands: text without escapes, a number with its spelling.
/// False: it cannot.
fn add_in_place(
    builder: &mut FieldBuilder,
    found: Option<Found>,
    data_type: &DataType,
    payloads: &[ByteString],
) -> bool {
    let (Some(found), Some((text, before))) = (found, payloads.split_last()) else {
        return false;
    };
    match (found.kind, data_type) {
        (Kind::String { escaped: false }, DataType::Any | DataType::Jsonb | DataType::String) => {
            builder.push_text(Place::new(before.len(), found.start + 1, found.end - 1), payloads);
            true
        }
        (Kind::Float, DataType::Any | DataType::Jsonb | DataType::Float) => {
            match json::float(&text[found.start..found.end]) {
                Some(float) => {
                    builder.push_float(float, Place::new(before.len(), found.start, found.end), payloads);
                    true
                }
                None => false,
            }
        }
        (Kind::Integer, DataType::Any | DataType::Jsonb | DataType::Integer) => {
            match json::integer(&text[found.start..found.end]) {
                Some(integer) => {
                    builder.push_integer(integer, payloads);
                    true
                }
                None => false,
            }
        }
        _ => false,
    }
}

/// The value of a column of that type. Of JSON alone it is text where BYTEA is wanted: base64, as BYTEA is printed. What
/// stands in JSON is a JSONB as it is: a string there is no text that holds JSON.
fn declared(value: Value, data_type: &DataType) -> Result<Value, Fault> {
    match (data_type, &value) {
        (DataType::Bytea, Value::String(text)) => match BASE64.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Value::Bytea(bytes.into())),
            Err(_) => Err(Fault::BadCast),
        },
        (DataType::Any | DataType::Jsonb, _)
        | (DataType::Integer, Value::Integer(_))
        | (DataType::Boolean, Value::Boolean(_)) => Ok(value),
        _ => cast(&value, data_type),
    }
}

/// One record on its way to a row.
struct Row<'a> {
    id: RecordId,
    record: &'a Record,
    payload: &'a Bytes,
    /// The payload, if it is UTF-8.
    text: Option<&'a ByteString>,
    /// The JSON value that it is.
    top: Option<Found>,
}

impl Row<'_> {
    /// What a field holds; `found`: where it stands in the JSON that the payload is.
    fn field(&self, format: Format, path: &[PathStep], found: Option<Found>) -> Result<Value, Fault> {
        Ok(match (format, found, self.text) {
            (Format::Json, Some(found), Some(text)) => return json::in_range(found, json::read_shared(text, found)),
            (Format::Json, ..) => Value::Null,
            _ if *path != [PathStep::Member("value".into())] => Value::Null,
            (Format::Text, _, text) => text.cloned().map_or(Value::Null, Value::String),
            (Format::Raw, ..) => Value::Bytea(self.payload.clone()),
        })
    }

    fn system(&self, column: &SourceColumn, decoder: &Decoder) -> Value {
        let text = |text: &ByteString| Value::String(text.clone());
        let level = |level: Option<&str>| level.map_or(Value::Null, |level| Value::String(level.into()));
        let topic = self.record.topic.as_ref();
        match column {
            // Fields are added by their caller, which has their slots.
            SourceColumn::Field { .. } => Value::Null,
            SourceColumn::Star => self.star(decoder.format),
            SourceColumn::Payload => Value::Bytea(self.payload.clone()),
            SourceColumn::Capture(name) => level(topic.and_then(|topic| captured(&decoder.captures, topic, name))),
            SourceColumn::Topic => topic.map_or(Value::Null, |topic| Value::String(topic.to_byte_string())),
            SourceColumn::TopicLevel(number) => level(topic.and_then(|topic| {
                let at = json::position(i64::from(*number), topic.levels().count())?;
                topic.levels().nth(at)
            })),
            SourceColumn::Key => self.record.key.as_ref().map_or(Value::Null, |key| {
                ByteString::try_from(key.clone()).map_or_else(|_| Value::Bytea(key.clone()), Value::String)
            }),
            SourceColumn::ClientId => self.header(|header| match header {
                Header::ClientId(id) => Some(text(id)),
                _ => None,
            }),
            SourceColumn::Username => self.header(|header| match header {
                Header::Username(name) => Some(text(name)),
                _ => None,
            }),
            SourceColumn::Qos => Value::Integer(self.record.qos.bits().into()),
            SourceColumn::Retain => Value::Boolean(self.record.retain),
            SourceColumn::AppendTime => Value::Timestamp(TimestampUs::from_ms(self.record.timestamp).0),
            SourceColumn::Offset => Value::Integer(i64::try_from(self.id.offset.0).unwrap_or(i64::MAX)),
            SourceColumn::Shard => Value::Integer(self.id.shard.number.into()),
            SourceColumn::Properties => self.properties(),
            SourceColumn::Gone => Value::Boolean(false),
        }
    }

    fn header(&self, find: impl Fn(&Header) -> Option<Value>) -> Value {
        self.record.headers.iter().find_map(find).unwrap_or(Value::Null)
    }

    fn properties(&self) -> Value {
        let mut properties = indexmap::IndexMap::new();
        for header in &self.record.headers {
            if let Header::User(name, value) = header {
                properties.insert(name, value);
            }
        }
        let mut out = String::from("{");
        for (at, (name, value)) in properties.into_iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            write_json_string(name, &mut out);
            out.push(':');
            write_json_string(value, &mut out);
        }
        out.push('}');
        Value::Json(out.into())
    }

    /// The object that `SELECT *` gives; what is no object is its one member `value`.
    fn star(&self, format: Format) -> Value {
        let value = match (format, self.top, self.text) {
            (Format::Json, Some(top), Some(text)) if top.kind == Kind::Object => {
                return json::read_shared(text, top);
            }
            (Format::Json, Some(top), Some(text)) => json::compact(text, top).into_owned(),
            (Format::Json, ..) => return Value::Null,
            _ => {
                let value = match (format, self.text) {
                    (Format::Text, Some(text)) => Value::String(text.clone()),
                    (Format::Text, None) => Value::Null,
                    _ => Value::Bytea(self.payload.clone()),
                };
                let mut out = String::new();
                value.write_json(&mut out);
                out
            }
        };
        Value::Json(format!("{{\"value\":{value}}}").into())
    }
}

/// The level that the first matching capture calls `name`.
fn captured<'a>(captures: &'a [TopicFilter], topic: &'a TopicName, name: &str) -> Option<&'a str> {
    let capture = captures.iter().find(|capture| capture.matches(topic))?;
    capture
        .captured(topic)
        .find(|(captured, _)| *captured == name)
        .map(|(_, level)| level)
}

#[cfg(test)]
mod tests;
