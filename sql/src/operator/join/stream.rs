//! A join of two streams, WITHIN a time of each other.
//!
//! What stands behind another join or a subquery may give several rows of one record; where that may be, the place of a
//! row that waits has a number among those of its record.

use super::*;

/// Two streams, WITHIN a time of each other.
#[derive(Debug)]
pub(in crate::operator) struct StreamJoin {
    sides: Sides,
    kind: JoinKind,
    within_us: i64,
    inputs: [Input; 2],
    /// Rows that wait, where there is no disk behind them, and how many may.
    held: usize,
    held_max: Option<usize>,
    out: Joined,
}

/// What a join knows of one of its inputs.
#[derive(Debug)]
pub(in crate::operator) struct Input {
    /// Its columns.
    pub names: Vec<String>,
    /// It may give several rows of one record at one time.
    pub multiplied: bool,
    /// How much older than its frontier a row may be because of what stands before it.
    pub behind_us: i64,
}

/// A row that waits for the other side.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
struct Waiting {
    values: Vec<StoredValue>,
    matched: bool,
}

impl StreamJoin {
    pub fn new(
        sides: Sides,
        join: &Join,
        within_us: i64,
        inputs: [Input; 2],
        place: &Place,
    ) -> Result<StreamJoin, PlanError> {
        if within_us < 0 {
            return Err(PlanError::Invalid("a join within less than no time".into()));
        }
        Ok(StreamJoin {
            sides,
            kind: join.kind,
            within_us,
            inputs,
            held: 0,
            held_max: place.in_memory().then_some(GROUPS_IN_MEMORY_MAX),
            out: Joined::default(),
        })
    }

    fn arrive(
        &mut self,
        side: u8,
        key: Option<&[u8]>,
        delta: &Delta,
        row: usize,
        step: &mut Step<'_>,
    ) -> Result<(), Stop> {
        let (time, origin, frontier) = (delta.time[row], delta.origin[row], self.frontier(side, delta, row));
        let due = self.due(time);
        if due <= frontier {
            step.late(self.late(side, delta, row));
            return Ok(());
        }
        let values = values_of(delta, row);
        let behind = frontier.plus_us(self.within_us.saturating_neg());
        let Some(key) = key else {
            if is_outer(self.kind, side) {
                let row = self.alone(side, &values);
                self.out.push(row, 1, time, origin, behind);
            }
            return Ok(());
        };
        let other = LEFT + RIGHT - side;
        let under = Key::new(key.to_vec(), key.len());
        let (mut places, mut rows) = (Vec::new(), Vec::new());
        for (place, stored) in step.rows(other, &under)? {
            self.out.looked_at += 1;
            let their_time = time_of(&place, key.len()).ok_or(Stop::State(self.sides.operator))?;
            let near = time.0.abs_diff(their_time.0) <= self.within_us.unsigned_abs();
            if !near || self.due(their_time) <= frontier {
                continue;
            }
            let theirs: Waiting = decode_control(&stored).map_err(|_| Stop::State(self.sides.operator))?;
            places.push((place, their_time, theirs.matched));
            rows.push(theirs.values);
        }
        let holds = self.sides.holds(side, &values, &rows, Some(origin), step);
        let found = places.into_iter().zip(rows).zip(&holds).filter(|(_, holds)| **holds);
        for (((place, their_time, their_matched), theirs), _) in found {
            let (left, right) = match side {
                LEFT => (&values, &theirs),
                _ => (&theirs, &values),
            };
            let row = self.sides.joined(Some(left), Some(right));
            self.out.push(row, 1, time.max(their_time), origin, behind);
            if is_outer(self.kind, other) && !their_matched {
                let theirs = Waiting {
                    values: theirs,
                    matched: true,
                };
                step.put(other, &place, encode_control(&theirs));
            }
        }
        let matched = holds.contains(&true);
        if self.held_max.is_some_and(|max| self.held >= max) {
            return Err(Stop::TooManyGroups(self.held));
        }
        self.held += 1;
        let place = self.place(side, key, time, origin, step)?;
        step.put(side, &place, encode_control(&Waiting { values, matched }));
        step.set_timer(due, &timer_key(side, &place));
        Ok(())
    }

    /// The watermark at which nothing can match a row of that time any more: beyond its time + WITHIN, since rows may yet
    /// come that have the watermark's own time.
    fn due(&self, time: TimestampUs) -> TimestampUs {
        time.plus_us(self.within_us).plus_us(1)
    }

    /// Both sides are judged by the frontier of the one that is further behind: a pair of a join before this one comes by
    /// that join's WITHIN later than the records that it is made of.
    fn frontier(&self, side: u8, delta: &Delta, row: usize) -> TimestampUs {
        let behind = self.inputs.iter().map(|input| input.behind_us).max().unwrap_or(0);
        let own = self.inputs[usize::from(side)].behind_us;
        delta.frontier[row].plus_us(own.saturating_sub(behind))
    }

    /// Where a row is to wait.
    fn place(&self, side: u8, key: &[u8], time: TimestampUs, origin: RecordId, step: &Step<'_>) -> Result<Key, Stop> {
        if !self.inputs[usize::from(side)].multiplied {
            return Ok(place(key, time, None, origin));
        }
        let mut number = 0;
        loop {
            let place = place(key, time, Some(number), origin);
            if step.get(side, &place)?.is_none() {
                return Ok(place);
            }
            number += 1;
        }
    }

    fn alone(&self, side: u8, values: &[StoredValue]) -> Vec<Value> {
        match side {
            LEFT => self.sides.joined(Some(values), None),
            _ => self.sides.joined(None, Some(values)),
        }
    }

    fn late(&self, side: u8, delta: &Delta, row: usize) -> LateRow {
        LateRow {
            origin: delta.origin[row],
            time: delta.time[row],
            watermark: delta.frontier[row],
            row: object(&self.inputs[usize::from(side)].names, &delta.rows, row),
        }
    }
}

/// Where a row waits; `number` is that among those of its record. The key alone spreads.
fn place(key: &[u8], time: TimestampUs, number: Option<i64>, origin: RecordId) -> Key {
    let mut bytes = key.to_vec();
    encode_key(&Value::Timestamp(time.0), &mut bytes);
    if let Some(number) = number {
        encode_key(&Value::Integer(number), &mut bytes);
    }
    let RecordId { shard, offset } = origin;
    for number in [shard.stream.0, u64::from(shard.number), offset.0] {
        encode_key(&Value::Integer(number as i64), &mut bytes);
    }
    Key::new(bytes, key.len())
}

/// The time of the row that waits there.
fn time_of(place: &Key, key_bytes: usize) -> Option<TimestampUs> {
    match decode_key(&mut place.bytes.get(key_bytes..)?)? {
        Value::Timestamp(us) => Some(TimestampUs(us)),
        _ => None,
    }
}

fn timer_key(side: u8, place: &Key) -> Key {
    Key {
        bytes: [&[side][..], &place.bytes].concat().into(),
        slot: place.slot,
    }
}

impl PieceJoin for StreamJoin {
    fn sides(&self) -> &Sides {
        &self.sides
    }

    fn work_off(&mut self, input: &mut Unjoined, step: &mut Step<'_>) -> Result<(), Stop> {
        while !self.out.is_full()
            && let Some((row, key)) = input.keys.next()
        {
            self.arrive(input.port, key.as_deref(), &input.delta, row, step)?;
        }
        let joined = self.out.delta();
        step.emit(joined);
        Ok(())
    }

    fn advance(&mut self, _: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        let joined = self.out.delta();
        step.emit(joined);
        Ok(())
    }

    /// Nothing can match the row any more.
    fn timer(&mut self, at: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        let Some((side, place)) = key.bytes.split_first() else {
            return Err(Stop::State(self.sides.operator));
        };
        let place = Key {
            bytes: key.bytes.slice_ref(place),
            slot: key.slot,
        };
        let Some(stored) = step.get(*side, &place)? else {
            return Ok(());
        };
        step.delete(*side, &place);
        self.held = self.held.saturating_sub(1);
        if is_outer(self.kind, *side) {
            let waiting: Waiting = decode_control(&stored).map_err(|_| Stop::State(self.sides.operator))?;
            if !waiting.matched {
                let row = self.alone(*side, &waiting.values);
                let time = at.plus_us(-1).plus_us(self.within_us.saturating_neg());
                let origin = origin_of(&place).ok_or(Stop::State(self.sides.operator))?;
                self.out.push(row, 1, time, origin, TimestampUs::MIN);
            }
        }
        step.weigh_timer(stored.len() + place.bytes.len());
        Ok(())
    }
}

/// The record of the row that waits there: the last three parts of its place.
fn origin_of(place: &Key) -> Option<RecordId> {
    const NUMBER_BYTES: usize = 17;
    let at = place.bytes.len().checked_sub(3 * NUMBER_BYTES)?;
    let mut rest = &place.bytes[at..];
    let mut number = || match decode_key(&mut rest)? {
        Value::Integer(number) => Some(number as u64),
        _ => None,
    };
    let (stream, shard, offset) = (number()?, number()?, number()?);
    Some(RecordId {
        shard: headwater_store::ShardId {
            // The group is no part of what names a record.
            group: headwater_store::GroupId(0),
            stream: headwater_store::StreamId(stream),
            number: shard as u16,
        },
        offset: headwater_store::Offset(offset),
    })
}
