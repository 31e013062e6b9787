//! Payloads of all formats as columns, and what is wrong with those that do not parse.

use super::*;
use crate::plan::physical::{ColumnId, Start};
use headwater_store::{GroupId, Offset, Qos, ShardId, StreamForm, StreamId, TimestampMs};

fn source(columns: Vec<SourceColumn>) -> Source {
    Source {
        stream: StreamId(1),
        name: "s".into(),
        format: Format::Json,
        on_error: OnError::Null,
        form: StreamForm::Append,
        columns,
        captures: vec!["plant/{site}/+/{what}".into(), "#".into()],
        timestamp: None,
        delay_us: 0,
        idle_us: None,
        start: Start::Latest,
    }
}

fn field(name: &str, data_type: DataType) -> SourceColumn {
    SourceColumn::Field {
        path: vec![PathStep::Member(name.into())],
        data_type,
    }
}

fn records(payloads: &[&str]) -> Vec<(RecordId, Record)> {
    let shard = ShardId {
        group: GroupId(1),
        stream: StreamId(1),
        number: 0,
    };
    let record = |(offset, payload): (usize, &&str)| {
        let record = Record {
            timestamp: TimestampMs(1_000 + offset as i64),
            topic: Some(TopicName::new("plant/berlin/7/temp").unwrap()),
            qos: Qos::AtLeastOnce,
            headers: vec![
                Header::ClientId("c1".into()),
                Header::User("a".into(), "1".into()),
                Header::User("a".into(), "2".into()),
            ],
            ..Record::new(payload.to_string())
        };
        (
            RecordId {
                shard,
                offset: Offset(offset as u64),
            },
            record,
        )
    };
    payloads.iter().enumerate().map(record).collect()
}

fn decode(source: &Source, payloads: &[&str]) -> Result<(Vec<String>, Decoded), BadRecord> {
    let decoded = Decoder::new(source)
        .unwrap()
        .decode(&records(payloads), &Scope { now: TimestampUs(0) })?;
    let row = |row| {
        let mut out = String::new();
        for column in 0..decoded.rows.width() {
            decoded.rows.column(column).write_json(row, &mut out);
            out.push('|');
        }
        out
    };
    Ok(((0..decoded.rows.rows()).map(row).collect(), decoded))
}

#[test]
fn fields_keep_their_spelling_and_missing_ones_are_null() {
    let source = source(vec![
        field("a", DataType::Any),
        field("b", DataType::Any),
        SourceColumn::Star,
    ]);
    let (rows, decoded) = decode(&source, &["{\"b\": 9001.0, \"a\":1}", "{\"b\":1.50e1}", "7"]).unwrap();
    assert_eq!(
        rows,
        [
            "1|9001.0|{\"b\":9001.0,\"a\":1}|",
            "null|1.50e1|{\"b\":1.50e1}|",
            "null|null|{\"value\":7}|"
        ]
    );
    assert!(decoded.errors.is_empty());
}

#[test]
fn declared_types_are_cast_to_and_told_where_they_cannot() {
    let source = source(vec![field("t", DataType::Timestamp), field("n", DataType::Integer)]);
    let (rows, decoded) = decode(&source, &[r#"{"t":"2010/01/01 00:00","n":"5"}"#, r#"{"t":0,"n":"x"}"#]).unwrap();
    assert_eq!(rows, ["\"2010-01-01T00:00:00Z\"|5|", "\"1970-01-01T00:00:00Z\"|null|"]);
    assert_eq!(
        decoded
            .errors
            .iter()
            .map(|(id, fault)| (id.offset.0, *fault))
            .collect::<Vec<_>>(),
        [(1, Fault::BadCast)]
    );
}

#[test]
fn system_columns_come_from_the_record() {
    let source = source(vec![
        SourceColumn::Capture("site".into()),
        SourceColumn::Topic,
        SourceColumn::TopicLevel(-1),
        SourceColumn::TopicLevel(9),
        SourceColumn::Key,
        SourceColumn::ClientId,
        SourceColumn::Username,
        SourceColumn::Qos,
        SourceColumn::Retain,
        SourceColumn::AppendTime,
        SourceColumn::Offset,
        SourceColumn::Properties,
    ]);
    let (rows, _) = decode(&source, &["not json, and nobody asks"]).unwrap();
    assert_eq!(
        rows,
        [
            "\"berlin\"|\"plant/berlin/7/temp\"|\"temp\"|null|null|\"c1\"|null|1|false|\"1970-01-01T00:00:01Z\"|0|{\"a\":\"2\"}|"
        ]
    );
}

#[test]
fn a_record_that_does_not_parse_is_null_dropped_or_the_end() {
    let mut source = source(vec![field("a", DataType::Any)]);
    let payloads = ["{\"a\":1,", "{\"a\":2}"];
    let (rows, decoded) = decode(&source, &payloads).unwrap();
    assert_eq!(rows, ["null|", "2|"]);
    assert_eq!(decoded.errors.len(), 1);
    source.on_error = OnError::Drop;
    let (rows, decoded) = decode(&source, &payloads).unwrap();
    assert_eq!((rows, decoded.errors.len()), (vec!["2|".to_owned()], 1));
    source.on_error = OnError::Fail;
    assert_eq!(decode(&source, &payloads).unwrap_err().0.offset, Offset(0));
}

#[test]
fn event_time_is_the_streams_timestamp_or_the_append_time() {
    let mut source = source(vec![field("t", DataType::Any)]);
    let (_, decoded) = decode(&source, &["{}"]).unwrap();
    assert_eq!(decoded.time, [Some(TimestampUs(1_000_000))]);
    source.timestamp = Some(Expr::Column(ColumnId(0)));
    let (_, decoded) = decode(&source, &[r#"{"t":"1970-01-01 00:00:05"}"#, "{}", r#"{"t":"soon"}"#]).unwrap();
    assert_eq!(decoded.time, [Some(TimestampUs(5_000_000)), None, None]);
    assert_eq!(decoded.errors.len(), 1, "a missing time is no error, a wrong one is");
}

#[test]
fn text_and_raw_payloads_are_the_field_value() {
    let mut source = source(vec![
        field("value", DataType::Any),
        SourceColumn::Star,
        field("x", DataType::Any),
    ]);
    source.format = Format::Text;
    assert_eq!(
        decode(&source, &["a\"b"]).unwrap().0,
        ["\"a\\\"b\"|{\"value\":\"a\\\"b\"}|null|"]
    );
    source.format = Format::Raw;
    assert_eq!(
        decode(&source, &["ab"]).unwrap().0,
        ["\"YWI=\"|{\"value\":\"YWI=\"}|null|"]
    );
}
