//! The end of a query: rows become records.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use headwater_store::{Change, encode_control};

use super::{Operator, Place, Port, report};
use crate::change::{Delta, Diff, RecordId};
use crate::column::{Column, Columns};
use crate::expression::{Expression, Faults};
use crate::function::Scope;
use crate::json;
use crate::plan::physical::{OrderBy, PlanError, Sink, SinkItem};
use crate::record_key::RecordKey;
use crate::step::{Key, SinkRow, Step, Stop};
use crate::template::CompiledTemplate;
use crate::types::TimestampUs;
use crate::value::{Fault, Value, decode_key, encode_key, write_json_string};

/// The table of a view's rows.
pub(crate) const VIEW_ROWS: u8 = 0;

/// A row of a view, as it is stored under its key.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub(crate) struct ViewRow {
    /// The key of the record that it became.
    pub key: Vec<u8>,
    /// JSON.
    pub payload: String,
}

/// The rows that are there now are kept.
#[derive(Debug)]
pub(super) struct View {
    /// Rows of windows are dropped so long after the window's start.
    pub retention_us: Option<i64>,
}

/// What a key has in the end of a step.
#[derive(Debug)]
struct Changed {
    row: SinkRow,
    /// It had a row when the step began: the first thing that happened to it was that the row went.
    had_row: bool,
}

#[derive(Debug)]
pub(super) struct RecordSink {
    items: Vec<SinkItem>,
    /// `"name":` of each column item, ready to be written.
    labels: Vec<String>,
    key: RecordKey,
    /// How many of the key's first parts place the row.
    placed_by: usize,
    /// What places it, where the key does not begin with that.
    placement: Option<RecordKey>,
    topic: Option<CompiledTemplate>,
    order: Vec<Expression>,
    /// The rows of this step whose key may come again: by key, in the order of their first coming.
    changed: Vec<Changed>,
    by_key: HashMap<Bytes, usize>,
    view: Option<View>,
    /// Somebody reads along, and is told which row is gone: a record says it by its key alone.
    tells_old: bool,
}

impl RecordSink {
    pub fn new(sink: &Sink, order_by: &[OrderBy], view: Option<View>, place: &Place) -> Result<RecordSink, PlanError> {
        let label = |item: &SinkItem| {
            let mut label = String::new();
            if let SinkItem::Column { name, .. } = item {
                write_json_string(name, &mut label);
                label.push(':');
            }
            label
        };
        Ok(RecordSink {
            items: sink.items.clone(),
            labels: sink.items.iter().map(label).collect(),
            key: RecordKey::compile(&sink.key, Expression::compile)?,
            placed_by: sink.routing.key.len().min(sink.key.len()),
            placement: match sink.key.starts_with(&sink.routing.key) {
                true => None,
                false => Some(RecordKey::compile(&sink.routing.key, Expression::compile)?),
            },
            topic: sink
                .routing
                .topic
                .as_ref()
                .map(|topic| CompiledTemplate::compile(topic, &Expression::compile))
                .transpose()?,
            order: order_by
                .iter()
                .map(|item| Expression::compile(&item.expr))
                .collect::<Result<_, _>>()?,
            changed: Vec::new(),
            by_key: HashMap::new(),
            view,
            tells_old: place.in_memory(),
        })
    }

    /// What places each row: its key without the window. None: without a window both are the same.
    fn placements(
        &self,
        delta: &Delta,
        keys: &[Arc<Column>],
        scope: &Scope,
        faults: &mut Faults,
    ) -> Option<Vec<Bytes>> {
        let own = self
            .placement
            .as_ref()
            .map(|key| (key, key.evaluate(&delta.rows, scope, faults)));
        let (key, values) = match &own {
            Some((key, values)) => (*key, &values[..]),
            None if self.placed_by == keys.len() => return None,
            None => (&self.key, &keys[..self.placed_by]),
        };
        Some(
            (0..delta.len())
                .map(|row| key.of(values, row, delta.origin[row]))
                .collect(),
        )
    }

    /// The place of a row in a view: by its key's values, in their order; what places the row places it here too.
    fn place(&self, keys: &[Arc<Column>], row: usize, origin: RecordId) -> Option<Key> {
        self.view.as_ref()?;
        let mut bytes = Vec::new();
        let mut spread_by = 0;
        for (number, column) in keys.iter().enumerate() {
            column.encode_key(row, &mut bytes);
            if number < self.placed_by {
                spread_by = bytes.len();
            }
        }
        if keys.is_empty() {
            let RecordId { shard, offset } = origin;
            for number in [shard.stream.0, u64::from(shard.number), offset.0] {
                encode_key(&Value::Integer(number as i64), &mut bytes);
            }
            spread_by = bytes.len();
        }
        Some(Key::new(bytes, spread_by))
    }

    /// A row leaves the query, and is what its key has from now on.
    fn put_out(&self, row: SinkRow, step: &mut Step<'_>) -> Result<(), Stop> {
        if let (Some(view), Some(place)) = (&self.view, &row.place) {
            match &row.payload {
                Some(payload) => {
                    let stored = ViewRow {
                        key: row.key.to_vec(),
                        payload: payload.to_string(),
                    };
                    step.put(VIEW_ROWS, place, encode_control(&stored));
                    if let (Some(retention_us), Some(start)) = (view.retention_us, window_start(place)) {
                        step.set_timer(TimestampUs(start).plus_us(retention_us), place);
                    }
                }
                None => step.delete(VIEW_ROWS, place),
            }
        }
        step.write(row);
        Ok(())
    }

    /// What a row does that comes without the old one going. In a view it may take the place of one that is stored, which
    /// is looked up for those that are told, MQTT subscribers.
    fn change_of_added(&self, place: Option<&Key>, step: &mut Step<'_>) -> Result<Option<Change>, Stop> {
        let (Some(_), Some(place)) = (&self.view, place) else {
            return Ok(Some(Change::Insert));
        };
        if self.topic.is_none() {
            return Ok(None);
        }
        Ok(Some(match step.get(VIEW_ROWS, place)? {
            Some(_) => Change::Update,
            None => Change::Insert,
        }))
    }

    /// The payloads and keys of all rows, one behind the other in one buffer: where each payload ends, and each key. What
    /// goes has none, unless it is told.
    fn write_all(&self, delta: &Delta, keys: &[Arc<Column>]) -> (ByteString, Vec<(usize, usize)>) {
        let mut text = String::new();
        let mut ends = Vec::with_capacity(delta.len());
        for row in 0..delta.len() {
            if delta.weight(row) > 0 || self.tells_old {
                self.write_payload(&delta.rows, row, &mut text);
            }
            let payload_end = text.len();
            self.key.write(keys, row, delta.origin[row], &mut text);
            ends.push((payload_end, text.len()));
            // The first rows tell how large the others will be.
            if row == 15 {
                text.reserve(text.len() / 16 * (delta.len() - row) * 9 / 8);
            }
        }
        (text.into(), ends)
    }

    fn write_payload(&self, rows: &Columns, row: usize, out: &mut String) {
        // `SELECT *` alone passes the record's text on.
        if let [SinkItem::Star(column)] = self.items[..]
            && let Value::Json(text) = &*rows.column(column.index()).get(row)
        {
            return out.push_str(text);
        }
        out.push('{');
        let begin = out.len();
        for (item, label) in self.items.iter().zip(&self.labels) {
            match item {
                SinkItem::Column { column, .. } => {
                    if out.len() > begin {
                        out.push(',');
                    }
                    out.push_str(label);
                    rows.column(column.index()).write_json(row, out);
                }
                SinkItem::Star(column) => self.write_star(&rows.column(column.index()).get(row), begin, out),
            }
        }
        out.push('}');
    }

    fn write_star(&self, star: &Value, begin: usize, out: &mut String) {
        let Value::Json(text) = star else { return };
        let named = |name: &str| {
            self.items
                .iter()
                .any(|item| matches!(item, SinkItem::Column { name: item, .. } if item == name))
        };
        for (name, value) in json::members(text).unwrap_or_default() {
            if !named(&name) {
                if out.len() > begin {
                    out.push(',');
                }
                write_json_string(&name, out);
                out.push(':');
                out.push_str(&value);
            }
        }
    }

    /// Of the changes of one key within a step only what is left of them goes out.
    fn coalesce(&mut self, row: SinkRow, step: &mut Step<'_>) {
        match self.by_key.get(&row.key) {
            // -old, +new: a going after a coming of the same step is a later change of the same key.
            Some(at) => {
                let Changed { row: kept, had_row } = &mut self.changed[*at];
                step.hold(&row, kept.written_bytes());
                let old = kept.old.take().or(row.old.clone());
                let change = match row.change {
                    Some(Change::Insert) if *had_row => Some(Change::Update),
                    change => change,
                };
                *kept = SinkRow { old, change, ..row };
            }
            None => {
                step.hold(&row, 0);
                self.by_key.insert(row.key.clone(), self.changed.len());
                let had_row = row.payload.is_none();
                self.changed.push(Changed { row, had_row });
            }
        }
    }
}

impl Operator for RecordSink {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let mut faults = Faults::default();
        let scope = step.scope();
        let keys = self.key.evaluate(&delta.rows, &scope, &mut faults);
        let orders: Vec<_> = self
            .order
            .iter()
            .map(|part| part.evaluate(&delta.rows, &scope, &mut faults))
            .collect();
        let mut placements = self.placements(delta, &keys, &scope, &mut faults);
        let topics = self
            .topic
            .as_ref()
            .map(|topic| topic.topics(&delta.rows, &scope, &mut faults));
        report(&faults, &delta.origin, step);
        let (text, ends) = self.write_all(delta, &keys);
        step.reserve_rows(delta.len());
        let mut begin = 0;
        for (row, (payload_end, key_end)) in ends.into_iter().enumerate() {
            let (origin, weight) = (delta.origin[row], delta.weight(row));
            let topic = topics.as_ref().and_then(|topics| topics[row].clone());
            if topics.is_some() && topic.is_none() && weight > 0 {
                step.error(origin, Fault::BadTopic);
            }
            let payload = || text.slice_ref(&text[begin..payload_end]);
            let place = self.place(&keys, row, origin);
            let change = match (&delta.diff, weight > 0) {
                (_, false) => Some(Change::Delete),
                (Diff::Weights(_), true) => Some(Change::Insert),
                (Diff::Append, true) => self.change_of_added(place.as_ref(), step)?,
            };
            let made = SinkRow {
                payload: (weight > 0).then(payload),
                change,
                old: (weight <= 0 && self.tells_old).then(payload),
                key: text.as_bytes().slice(payload_end..key_end),
                placement: placements
                    .as_mut()
                    .map(|placements| std::mem::take(&mut placements[row])),
                topic,
                order: orders.iter().map(|column| column.get(row).into_owned()).collect(),
                origin,
                place,
            };
            begin = key_end;
            match delta.diff {
                Diff::Append => self.put_out(made, step)?,
                Diff::Weights(_) => self.coalesce(made, step),
            }
        }
        Ok(())
    }

    fn advance(&mut self, _: Port, _: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        self.by_key.clear();
        for changed in std::mem::take(&mut self.changed) {
            self.put_out(changed.row, step)?;
        }
        Ok(())
    }

    /// A window is past the view's retention.
    fn timer(&mut self, _: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        step.delete(VIEW_ROWS, key);
        step.weigh_timer(key.bytes.len());
        Ok(())
    }
}

/// Where a key ends with a time, that is its window's start.
fn window_start(key: &Key) -> Option<i64> {
    const TIME_BYTES: usize = 9;
    let at = key.bytes.len().checked_sub(TIME_BYTES)?;
    match decode_key(&mut &key.bytes[at..])? {
        Value::Timestamp(us) => Some(us),
        _ => None,
    }
}
