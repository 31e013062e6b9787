//! A join of a stream with a table.

use super::*;

/// A stream's rows with the row that a table has under their key now.
#[derive(Debug)]
pub(in crate::operator) struct Lookup {
    sides: Sides,
    left_outer: bool,
    /// The table's rows have no records that they came from.
    by_value: bool,
    held: usize,
    held_max: Option<usize>,
}

impl Lookup {
    pub fn new(sides: Sides, join: &Join, by_value: bool, place: &Place) -> Result<Lookup, PlanError> {
        let left_outer = match join.kind {
            JoinKind::Inner => false,
            JoinKind::Left => true,
            JoinKind::Right | JoinKind::Full => {
                return Err(PlanError::Invalid("a lookup that waits for its table".into()));
            }
        };
        Ok(Lookup {
            sides,
            left_outer,
            by_value,
            held: 0,
            held_max: place.in_memory().then_some(GROUPS_IN_MEMORY_MAX),
        })
    }

    /// The table has changed: nothing comes out, later rows see it.
    fn know(&mut self, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let keys = self.sides.keys(RIGHT, delta, step);
        for (row, key) in keys.iter().enumerate() {
            let Some(key) = key else { continue };
            let values = values_of(delta, row);
            let place = match self.by_value {
                true => by_value(key, &values),
                false => of_record(key, delta.origin[row]),
            };
            if delta.weight(row) < 0 {
                step.delete(RIGHT, &place);
                self.held = self.held.saturating_sub(1);
                continue;
            }
            if self.held_max.is_some_and(|max| self.held >= max) {
                return Err(Stop::TooManyGroups(self.held));
            }
            self.held += 1;
            step.put(RIGHT, &place, encode_control(&values));
        }
        Ok(())
    }
}

/// A table has one row of its own key: the record that it came with names it.
fn of_record(key: &[u8], origin: RecordId) -> Key {
    let mut bytes = key.to_vec();
    let RecordId { shard, offset } = origin;
    for number in [shard.stream.0, u64::from(shard.number), offset.0] {
        encode_key(&Value::Integer(number as i64), &mut bytes);
    }
    Key::new(bytes, key.len())
}

impl PieceJoin for Lookup {
    fn sides(&self) -> &Sides {
        &self.sides
    }

    fn learn(&mut self, port: Port, delta: &Delta, step: &mut Step<'_>) -> Result<bool, Stop> {
        if port == RIGHT {
            self.know(delta, step)?;
        }
        Ok(port == RIGHT)
    }

    fn work_off(&mut self, input: &mut Unjoined, step: &mut Step<'_>) -> Result<(), Stop> {
        let mut out = Joined::default();
        while !out.is_full()
            && let Some((row, key)) = input.keys.next()
        {
            let delta = &input.delta;
            let left = values_of(delta, row);
            let found = match key {
                Some(key) => step.rows(RIGHT, &Key::new(key.clone(), key.len()))?,
                None => Vec::new(),
            };
            out.looked_at += found.len();
            let (weight, time, origin) = (delta.weight(row), delta.time[row], delta.origin[row]);
            let damaged = |_| Stop::State(self.sides.operator);
            let found = found.iter().map(|(_, stored)| decode_control(stored).map_err(damaged));
            let found: Vec<Vec<StoredValue>> = found.collect::<Result<_, _>>()?;
            let holds = self.sides.holds(LEFT, &left, &found, Some(origin), step);
            for (right, _) in found.iter().zip(&holds).filter(|(_, holds)| **holds) {
                let joined = self.sides.joined(Some(&left), Some(right));
                out.push(joined, weight, time, origin, delta.frontier[row]);
            }
            if !holds.contains(&true) && self.left_outer {
                let alone = self.sides.joined(Some(&left), None);
                out.push(alone, weight, time, origin, delta.frontier[row]);
            }
        }
        step.emit(out.delta());
        Ok(())
    }
}
