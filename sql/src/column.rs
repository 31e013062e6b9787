//! Columns: the values of one field over the rows of a micro-batch.
//!
//! JSON has no schema, so a column finds its representation while it is filled: it begins typed with its first value,
//! and falls back to plain [`Value`]s when another type comes. Nearly all columns stay typed, and kernels run over
//! them at memory speed; the mixed ones are right and slower.
//!
//! Text is where it stands in the payloads ([`Texts`]): to filter it or to pass it on copies places, not bytes. A number that
//! only passes through keeps the spelling it had in the payload: the column remembers where it stood ([`Spelling`]), and
//! writing it out copies those bytes.

mod field;

use std::borrow::Cow;
use std::sync::Arc;

use bytestring::ByteString;

use crate::value::{Value, encode_key, encode_text_key};
pub(crate) use field::FieldBuilder;

/// The rows of a micro-batch, by column. Columns are shared: to pass one on is to count a reference.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    columns: Vec<Arc<Column>>,
    rows: usize,
}

impl Columns {
    /// All columns have `rows` rows.
    pub fn new(columns: Vec<Arc<Column>>, rows: usize) -> Columns {
        debug_assert!(columns.iter().all(|column| column.len() == rows));
        Columns { columns, rows }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// A column by its number.
    pub fn column(&self, number: usize) -> &Arc<Column> {
        &self.columns[number]
    }

    /// The same rows with the first ones of the columns.
    pub fn first(self, width: usize) -> Columns {
        Columns::new(self.columns.into_iter().take(width).collect(), self.rows)
    }

    /// The same rows with more columns.
    pub fn with(&self, more: impl IntoIterator<Item = Arc<Column>>) -> Columns {
        let columns = self.columns.iter().cloned().chain(more).collect();
        Columns::new(columns, self.rows)
    }

    /// Only these rows, in this order.
    pub fn take(&self, selection: &[u32]) -> Columns {
        let columns = self
            .columns
            .iter()
            .map(|column| Arc::new(column.take(selection)))
            .collect();
        Columns {
            columns,
            rows: selection.len(),
        }
    }
}

/// The values of one field.
#[derive(Debug, Clone)]
pub struct Column {
    pub(crate) data: Data,
    spelling: Option<Spelling>,
}

/// How the values are held.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// The same for all rows.
    Constant(Value, usize),
    /// INTEGER
    Integer(Cells<i64>),
    /// FLOAT
    Float(Cells<f64>),
    /// BOOLEAN
    Boolean(Cells<bool>),
    /// TIMESTAMP
    Timestamp(Cells<i64>),
    /// STRING, out of payloads.
    Text(Texts),
    /// Other types, and whatever is mixed.
    Values(Vec<Value>),
}

/// A typed vector; a row that is not valid is NULL.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cells<T> {
    pub values: Vec<T>,
    /// None: all are valid.
    pub valid: Option<Vec<bool>>,
}

impl<T: Copy + Default> Cells<T> {
    /// The value, None for NULL.
    pub fn get(&self, row: usize) -> Option<T> {
        self.is_valid(row).then(|| self.values[row])
    }

    /// Is it not NULL?
    pub fn is_valid(&self, row: usize) -> bool {
        self.valid.as_ref().is_none_or(|valid| valid[row])
    }

    fn with_nulls(rows: usize) -> Cells<T> {
        Cells {
            values: vec![T::default(); rows],
            valid: (rows > 0).then(|| vec![false; rows]),
        }
    }

    fn push(&mut self, value: Option<T>) {
        match (&mut self.valid, value) {
            (None, Some(_)) => {}
            (Some(valid), _) => valid.push(value.is_some()),
            (None, None) => {
                let mut valid = vec![true; self.values.len()];
                valid.push(false);
                self.valid = Some(valid);
            }
        }
        self.values.push(value.unwrap_or_default());
    }

    fn take(&self, selection: &[u32]) -> Cells<T> {
        Cells {
            values: selection.iter().map(|row| self.values[*row as usize]).collect(),
            valid: self
                .valid
                .as_ref()
                .map(|valid| selection.iter().map(|row| valid[*row as usize]).collect()),
        }
    }
}

/// Where something stands in one of several payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    payload: u32,
    start: u32,
    end: u32,
}

impl Place {
    /// Nothing stands there.
    pub const NOWHERE: Place = Place {
        payload: u32::MAX,
        start: 0,
        end: 0,
    };

    /// In that payload, from byte `start` to before byte `end`.
    pub fn new(payload: usize, start: usize, end: usize) -> Place {
        Place {
            payload: payload as u32,
            start: start as u32,
            end: end as u32,
        }
    }

    fn text(self, payloads: &[ByteString]) -> Option<&str> {
        payloads
            .get(self.payload as usize)?
            .get(self.start as usize..self.end as usize)
    }

    /// The text, sharing the payload's buffer.
    fn shared(self, payloads: &[ByteString]) -> Option<ByteString> {
        let text = self.text(payloads)?;
        Some(payloads[self.payload as usize].slice_ref(text))
    }
}

/// Text, where it stands in the payloads it came from, without anything escaped.
#[derive(Debug, Clone)]
pub(crate) struct Texts {
    payloads: Arc<Vec<ByteString>>,
    /// Per row; NULL is nowhere.
    places: Vec<Place>,
}

impl Texts {
    /// The text of a row, None for NULL.
    pub fn get(&self, row: usize) -> Option<&str> {
        self.places[row].text(&self.payloads)
    }
}

/// Where numbers stood in the payloads they came from.
#[derive(Debug, Clone)]
pub(crate) struct Spelling {
    payloads: Arc<Vec<ByteString>>,
    /// Per row; nowhere: the value is written from its data.
    places: Vec<Place>,
}

impl Spelling {
    fn text(&self, row: usize) -> Option<&str> {
        self.places[row].text(&self.payloads)
    }
}

impl Column {
    /// One value for all rows.
    pub fn constant(value: Value, rows: usize) -> Column {
        Column {
            data: Data::Constant(value, rows),
            spelling: None,
        }
    }

    /// Of any values; typed if they are of one type.
    pub fn from_values(values: impl IntoIterator<Item = Value>) -> Column {
        let values = values.into_iter();
        let mut builder = ColumnBuilder::with_capacity(values.size_hint().0);
        values.for_each(|value| builder.push(value));
        builder.finish()
    }

    /// TIMESTAMPs, none NULL.
    pub fn timestamps(us: Vec<i64>) -> Column {
        Column {
            data: Data::Timestamp(Cells {
                values: us,
                valid: None,
            }),
            spelling: None,
        }
    }

    pub(crate) fn from_data(data: Data) -> Column {
        Column { data, spelling: None }
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Constant(_, rows) => *rows,
            Data::Integer(cells) | Data::Timestamp(cells) => cells.values.len(),
            Data::Float(cells) => cells.values.len(),
            Data::Boolean(cells) => cells.values.len(),
            Data::Text(texts) => texts.places.len(),
            Data::Values(values) => values.len(),
        }
    }

    /// No rows?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a row; borrowed where it is held as one.
    pub fn get(&self, row: usize) -> Cow<'_, Value> {
        fn typed<T>(value: Option<T>, wrap: fn(T) -> Value) -> Cow<'static, Value> {
            Cow::Owned(value.map_or(Value::Null, wrap))
        }
        match &self.data {
            Data::Constant(value, _) => Cow::Borrowed(value),
            Data::Values(values) => Cow::Borrowed(&values[row]),
            Data::Integer(cells) => typed(cells.get(row), Value::Integer),
            Data::Float(cells) => typed(cells.get(row), Value::Float),
            Data::Boolean(cells) => typed(cells.get(row), Value::Boolean),
            Data::Timestamp(cells) => typed(cells.get(row), Value::Timestamp),
            Data::Text(texts) => typed(texts.places[row].shared(&texts.payloads), Value::String),
        }
    }

    /// The text of a row, None where it is none.
    pub fn text(&self, row: usize) -> Option<&str> {
        match &self.data {
            Data::Text(texts) => texts.get(row),
            Data::Values(values) => values[row].as_str(),
            Data::Constant(value, _) => value.as_str(),
            _ => None,
        }
    }

    /// The TIMESTAMP of a row in microseconds, None where it is none.
    pub fn timestamp(&self, row: usize) -> Option<i64> {
        match &self.data {
            Data::Timestamp(cells) => cells.get(row),
            _ => match *self.get(row) {
                Value::Timestamp(us) => Some(us),
                _ => None,
            },
        }
    }

    /// It may hold a FLOAT or DECIMAL that equals an INTEGER.
    pub(crate) fn has_numbers_of_two_spellings(&self) -> bool {
        match &self.data {
            Data::Float(_) => true,
            Data::Integer(_) | Data::Boolean(_) | Data::Timestamp(_) | Data::Text(_) => false,
            Data::Constant(value, _) => matches!(value, Value::Float(_) | Value::Decimal(_)),
            Data::Values(values) => values
                .iter()
                .any(|value| matches!(value, Value::Float(_) | Value::Decimal(_))),
        }
    }

    /// TRUE?
    pub fn is_true(&self, row: usize) -> bool {
        match &self.data {
            Data::Boolean(cells) => cells.get(row) == Some(true),
            _ => *self.get(row) == Value::Boolean(true),
        }
    }

    /// The rows that are TRUE.
    pub fn selection(&self) -> Vec<u32> {
        let rows = 0..self.len() as u32;
        rows.filter(|row| self.is_true(*row as usize)).collect()
    }

    /// Only these rows, in this order.
    pub fn take(&self, selection: &[u32]) -> Column {
        let data = match &self.data {
            Data::Constant(value, _) => Data::Constant(value.clone(), selection.len()),
            Data::Integer(cells) => Data::Integer(cells.take(selection)),
            Data::Float(cells) => Data::Float(cells.take(selection)),
            Data::Boolean(cells) => Data::Boolean(cells.take(selection)),
            Data::Timestamp(cells) => Data::Timestamp(cells.take(selection)),
            Data::Text(texts) => Data::Text(Texts {
                payloads: texts.payloads.clone(),
                places: selection.iter().map(|row| texts.places[*row as usize]).collect(),
            }),
            Data::Values(values) => Data::Values(selection.iter().map(|row| values[*row as usize].clone()).collect()),
        };
        let spelling = self.spelling.as_ref().map(|spelling| Spelling {
            payloads: spelling.payloads.clone(),
            places: selection.iter().map(|row| spelling.places[*row as usize]).collect(),
        });
        Column { data, spelling }
    }

    /// Appends a row as JSON, a number that came from a payload as it was spelled there.
    pub fn write_json(&self, row: usize, out: &mut String) {
        if let Some(text) = self.spelling.as_ref().and_then(|spelling| spelling.text(row)) {
            out.push_str(text);
            return;
        }
        match &self.data {
            // It stood between quotes in a payload.
            Data::Text(texts) => match texts.get(row) {
                Some(text) => {
                    out.push('"');
                    out.push_str(text);
                    out.push('"');
                }
                None => out.push_str("null"),
            },
            _ => self.get(row).write_json(out),
        }
    }

    /// Appends a row as a part of a key (see [`crate::value`]).
    pub(crate) fn encode_key(&self, row: usize, out: &mut Vec<u8>) {
        match &self.data {
            Data::Text(texts) => match texts.get(row) {
                Some(text) => encode_text_key(text, out),
                None => encode_key(&Value::Null, out),
            },
            _ => encode_key(&self.get(row), out),
        }
    }
}

/// Fills a column from the top.
#[derive(Debug)]
pub(crate) struct ColumnBuilder {
    data: Option<Data>,
    /// NULLs before the first value.
    nulls: usize,
    capacity: usize,
    places: Vec<Place>,
}

impl ColumnBuilder {
    /// For about so many rows.
    pub fn with_capacity(rows: usize) -> ColumnBuilder {
        ColumnBuilder {
            data: None,
            nulls: 0,
            capacity: rows,
            places: Vec::new(),
        }
    }

    fn len(&self) -> usize {
        match &self.data {
            None => self.nulls,
            Some(Data::Values(values)) => values.len(),
            Some(Data::Integer(cells) | Data::Timestamp(cells)) => cells.values.len(),
            Some(Data::Float(cells)) => cells.values.len(),
            Some(Data::Boolean(cells)) => cells.values.len(),
            Some(Data::Text(texts)) => texts.places.len(),
            Some(Data::Constant(_, rows)) => *rows,
        }
    }

    /// Adds a value.
    pub fn push(&mut self, value: Value) {
        match (&mut self.data, value) {
            (None, Value::Null) => self.nulls += 1,
            (None, first) => {
                self.data = Some(self.begin(&first));
                self.push(first);
            }
            (Some(Data::Integer(cells)), Value::Integer(number)) => cells.push(Some(number)),
            (Some(Data::Float(cells)), Value::Float(number)) => cells.push(Some(number)),
            (Some(Data::Boolean(cells)), Value::Boolean(truth)) => cells.push(Some(truth)),
            (Some(Data::Timestamp(cells)), Value::Timestamp(us)) => cells.push(Some(us)),
            (Some(Data::Integer(cells) | Data::Timestamp(cells)), Value::Null) => cells.push(None),
            (Some(Data::Float(cells)), Value::Null) => cells.push(None),
            (Some(Data::Boolean(cells)), Value::Null) => cells.push(None),
            (Some(Data::Values(values)), value) => values.push(value),
            (Some(_), value) => {
                let mixed = Column::from_data(self.data.take().unwrap_or(Data::Values(Vec::new())));
                let mut values: Vec<Value> = (0..mixed.len()).map(|row| mixed.get(row).into_owned()).collect();
                values.push(value);
                self.data = Some(Data::Values(values));
            }
        }
    }

    fn begin(&self, first: &Value) -> Data {
        fn cells<T: Copy + Default>(nulls: usize, capacity: usize) -> Cells<T> {
            let mut cells = Cells::with_nulls(nulls);
            cells.values.reserve(capacity.saturating_sub(nulls));
            cells
        }
        match first {
            Value::Integer(_) => Data::Integer(cells(self.nulls, self.capacity)),
            Value::Float(_) => Data::Float(cells(self.nulls, self.capacity)),
            Value::Boolean(_) => Data::Boolean(cells(self.nulls, self.capacity)),
            Value::Timestamp(_) => Data::Timestamp(cells(self.nulls, self.capacity)),
            _ => {
                let mut values = Vec::with_capacity(self.capacity);
                values.resize(self.nulls, Value::Null);
                Data::Values(values)
            }
        }
    }

    /// Adds a number that stands in a payload, so that it is written as it is spelled there.
    pub fn push_spelled(&mut self, value: Value, place: Place) {
        self.places.resize(self.len(), Place::NOWHERE);
        self.places.push(place);
        self.push(value);
    }

    /// The column; `payloads` are those that [`ColumnBuilder::push_spelled`] meant.
    pub fn finish_with(mut self, payloads: &Arc<Vec<ByteString>>) -> Column {
        let rows = self.len();
        let mut places = std::mem::take(&mut self.places);
        let mut column = self.finish();
        if !places.is_empty() {
            places.resize(rows, Place::NOWHERE);
            column.spelling = Some(Spelling {
                payloads: payloads.clone(),
                places,
            });
        }
        column
    }

    /// The column.
    pub fn finish(self) -> Column {
        Column::from_data(self.data.unwrap_or(Data::Constant(Value::Null, self.nulls)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(column: &Column) -> Vec<Value> {
        (0..column.len()).map(|row| column.get(row).into_owned()).collect()
    }

    #[test]
    fn a_column_is_typed_until_another_type_comes() {
        let (one, two) = (Value::Integer(1), Value::Float(2.5));
        let typed = Column::from_values([Value::Null, one.clone(), Value::Null]);
        assert!(matches!(typed.data, Data::Integer(_)));
        assert_eq!(values(&typed), [Value::Null, one.clone(), Value::Null]);
        let mixed = Column::from_values([Value::Null, one.clone(), two.clone(), Value::Null]);
        assert!(matches!(mixed.data, Data::Values(_)));
        assert_eq!(values(&mixed), [Value::Null, one, two.clone(), Value::Null]);
        assert_eq!(values(&mixed.take(&[2, 0])), [two, Value::Null]);
        assert_eq!(
            values(&Column::from_values([Value::Null, Value::Null])),
            [Value::Null, Value::Null]
        );
    }

    #[test]
    fn a_number_keeps_its_spelling_through_selection() {
        let payloads = Arc::new(vec![ByteString::from_static("1.50"), ByteString::from_static("x2e0")]);
        let mut builder = ColumnBuilder::with_capacity(3);
        builder.push(Value::Integer(7));
        builder.push_spelled(Value::Float(1.5), Place::new(0, 0, 4));
        builder.push_spelled(Value::Float(2.0), Place::new(1, 1, 4));
        builder.push(Value::Null);
        let column = builder.finish_with(&payloads).take(&[3, 2, 1, 0]);
        let text = |row| {
            let mut out = String::new();
            column.write_json(row, &mut out);
            out
        };
        assert_eq!([0, 1, 2, 3].map(text), ["null", "2e0", "1.50", "7"]);
    }
}
