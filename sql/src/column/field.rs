//! Fills the column of a payload's field: text and numbers stay where they stand.
//!
//! Nearly every field is of one kind in all payloads. Of text only its place is kept, of a FLOAT its value and its place;
//! what is anything else, or becomes so, goes on as [`Value`]s in a [`ColumnBuilder`].

use std::sync::Arc;

use bytestring::ByteString;

use super::{Cells, Column, ColumnBuilder, Data, Place, Spelling, Texts};
use crate::value::Value;

/// Fills a column from the top. What it is given stands in payloads that it is shown each time, and that only become more.
#[derive(Debug)]
pub(crate) struct FieldBuilder {
    filled: Filled,
    capacity: usize,
}

#[derive(Debug)]
enum Filled {
    Nothing,
    /// NULL is nowhere.
    Texts(Vec<Place>),
    /// None is NULL.
    Floats(Vec<f64>, Vec<Place>),
    /// None is NULL.
    Integers(Vec<i64>),
    Other(ColumnBuilder),
}

impl FieldBuilder {
    /// For about so many rows.
    pub fn with_capacity(capacity: usize) -> FieldBuilder {
        FieldBuilder {
            filled: Filled::Nothing,
            capacity,
        }
    }

    /// Adds text as it stands there.
    pub fn push_text(&mut self, place: Place, payloads: &[ByteString]) {
        match &mut self.filled {
            Filled::Texts(places) => places.push(place),
            Filled::Nothing => {
                let mut places = Vec::with_capacity(self.capacity);
                places.push(place);
                self.filled = Filled::Texts(places);
            }
            _ => self.push(value_at(place, payloads), payloads),
        }
    }

    /// Adds a FLOAT, which is written as it is spelled there.
    pub fn push_float(&mut self, number: f64, place: Place, payloads: &[ByteString]) {
        match &mut self.filled {
            Filled::Floats(numbers, places) => {
                numbers.push(number);
                places.push(place);
            }
            Filled::Nothing => {
                let mut numbers = Vec::with_capacity(self.capacity);
                let mut places = Vec::with_capacity(self.capacity);
                numbers.push(number);
                places.push(place);
                self.filled = Filled::Floats(numbers, places);
            }
            _ => self.other(payloads).push_spelled(Value::Float(number), place),
        }
    }

    /// Adds an INTEGER.
    pub fn push_integer(&mut self, number: i64, payloads: &[ByteString]) {
        match &mut self.filled {
            Filled::Integers(numbers) => numbers.push(number),
            Filled::Nothing => {
                let mut numbers = Vec::with_capacity(self.capacity);
                numbers.push(number);
                self.filled = Filled::Integers(numbers);
            }
            _ => self.push(Value::Integer(number), payloads),
        }
    }

    /// Adds any value.
    pub fn push(&mut self, value: Value, payloads: &[ByteString]) {
        match &mut self.filled {
            Filled::Other(builder) => builder.push(value),
            Filled::Texts(places) if value.is_null() => places.push(Place::NOWHERE),
            _ => self.other(payloads).push(value),
        }
    }

    /// What came so far as values.
    fn other(&mut self, payloads: &[ByteString]) -> &mut ColumnBuilder {
        if !matches!(self.filled, Filled::Other(_)) {
            let mut builder = ColumnBuilder::with_capacity(self.capacity);
            match std::mem::replace(&mut self.filled, Filled::Nothing) {
                Filled::Texts(places) => places.iter().for_each(|place| builder.push(value_at(*place, payloads))),
                Filled::Floats(numbers, places) => {
                    let spelled = numbers.into_iter().zip(places);
                    spelled.for_each(|(number, place)| builder.push_spelled(Value::Float(number), place));
                }
                Filled::Integers(numbers) => numbers
                    .into_iter()
                    .for_each(|number| builder.push(Value::Integer(number))),
                Filled::Nothing | Filled::Other(_) => {}
            }
            self.filled = Filled::Other(builder);
        }
        match &mut self.filled {
            Filled::Other(builder) => builder,
            _ => unreachable!("it was made to be that just now"),
        }
    }

    /// The column over these payloads.
    pub fn finish(self, payloads: &Arc<Vec<ByteString>>) -> Column {
        let payloads = payloads.clone();
        match self.filled {
            Filled::Nothing => ColumnBuilder::with_capacity(0).finish(),
            Filled::Texts(places) => Column::from_data(Data::Text(Texts { payloads, places })),
            Filled::Floats(values, places) => Column {
                data: Data::Float(Cells { values, valid: None }),
                spelling: Some(Spelling { payloads, places }),
            },
            Filled::Integers(values) => Column::from_data(Data::Integer(Cells { values, valid: None })),
            Filled::Other(builder) => builder.finish_with(&payloads),
        }
    }
}

fn value_at(place: Place, payloads: &[ByteString]) -> Value {
    place.shared(payloads).map_or(Value::Null, Value::String)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Added {
        Text,
        Float,
        Integer,
        Value(Value),
    }

    fn added() -> impl Strategy<Value = Added> {
        prop_oneof![
            4 => Just(Added::Text),
            4 => Just(Added::Float),
            2 => Just(Added::Integer),
            1 => Just(Added::Value(Value::Null)),
            1 => (-3_i64..3).prop_map(|number| Added::Value(Value::Integer(number))),
        ]
    }

    proptest! {
        /// Whatever comes in which order, and whichever rows are taken: it is what plain values would be.
        #[test]
        fn a_field_is_a_column_of_its_values(
            rows in prop_oneof![
                prop::collection::vec(added(), 0..12),
                prop::collection::vec(Just(Added::Text), 0..4),
                prop::collection::vec(Just(Added::Float), 0..4),
                prop::collection::vec(Just(Added::Integer), 0..4),
            ],
            taken in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut field = FieldBuilder::with_capacity(rows.len());
            let (mut payloads, mut values, mut texts) = (Vec::new(), Vec::new(), Vec::new());
            for (row, added) in rows.iter().enumerate() {
                payloads.push(ByteString::from(format!("  {row}.50")));
                let place = Place::new(row, 2, payloads[row].len());
                match added {
                    Added::Text => {
                        field.push_text(place, &payloads);
                        values.push(Value::String(format!("{row}.50").into()));
                        texts.push(format!("\"{row}.50\""));
                    }
                    Added::Float => {
                        field.push_float(row as f64 + 0.5, place, &payloads);
                        values.push(Value::Float(row as f64 + 0.5));
                        texts.push(format!("{row}.50"));
                    }
                    Added::Integer => {
                        field.push_integer(row as i64, &payloads);
                        values.push(Value::Integer(row as i64));
                        texts.push(row.to_string());
                    }
                    Added::Value(value) => {
                        field.push(value.clone(), &payloads);
                        let mut text = String::new();
                        value.write_json(&mut text);
                        values.push(value.clone());
                        texts.push(text);
                    }
                }
            }
            let whole = field.finish(&Arc::new(payloads));
            let all: Vec<u32> = (0..rows.len() as u32).collect();
            let some: Vec<u32> = match rows.len() {
                0 => Vec::new(),
                count => taken.iter().map(|index| index.index(count) as u32).collect(),
            };
            for (column, selection) in [(whole.clone(), all), (whole.take(&some), some)] {
                prop_assert_eq!(column.len(), selection.len());
                for (row, from) in selection.iter().enumerate() {
                    let from = *from as usize;
                    prop_assert_eq!(&*column.get(row), &values[from]);
                    prop_assert_eq!(column.text(row), values[from].as_str());
                    let (mut json, mut key, mut expected) = (String::new(), Vec::new(), Vec::new());
                    column.write_json(row, &mut json);
                    prop_assert_eq!(&json, &texts[from]);
                    column.encode_key(row, &mut key);
                    crate::value::encode_key(&values[from], &mut expected);
                    prop_assert_eq!(key, expected);
                }
            }
        }
    }
}
