//! A join of two tables: it follows both. When a row of either side comes or goes, so do its pairs; a row of an outer
//! side stands alone as long as nothing on the other side matches it.

use super::*;
use crate::plan::physical::Emit;

/// Two tables.
#[derive(Debug)]
pub(in crate::operator) struct TableJoin {
    sides: Sides,
    kind: JoinKind,
    /// A read that ends says what is left at the end.
    at_end: bool,
    held: usize,
    held_max: Option<usize>,
    out: Joined,
}

/// A row that comes or goes.
struct Change<'a> {
    side: u8,
    values: &'a [StoredValue],
    weight: i32,
    time: TimestampUs,
    origin: RecordId,
}

impl TableJoin {
    pub fn new(sides: Sides, join: &Join, emit: Emit, place: &Place) -> TableJoin {
        TableJoin {
            sides,
            kind: join.kind,
            at_end: emit == Emit::AtEnd,
            held: 0,
            held_max: place.in_memory().then_some(GROUPS_IN_MEMORY_MAX),
            out: Joined::default(),
        }
    }

    fn change(&mut self, change: &Change<'_>, key: Option<&[u8]>, step: &mut Step<'_>) -> Result<(), Stop> {
        let Some(key) = key else {
            if is_outer(self.kind, change.side) {
                self.push(change, None, change.weight);
            }
            return Ok(());
        };
        let other = LEFT + RIGHT - change.side;
        let under = Key::new(key.to_vec(), key.len());
        let partners = self.matching(change, &under, step)?;
        let (was_there, is_there) = self.keep(change, key, step)?;
        if partners.is_empty() {
            if is_outer(self.kind, change.side) {
                self.push(change, None, change.weight);
            }
            return Ok(());
        }
        // What goes is said before what comes: under one key the last word counts.
        let lonely = match is_outer(self.kind, other) && was_there != is_there {
            true => self.without_others(change, key, &partners, step)?,
            false => Vec::new(),
        };
        if is_there {
            lonely.iter().for_each(|partner| self.alone(change, partner, -1));
        }
        for partner in &partners {
            self.push(change, Some(partner), change.weight * weight_of(partner));
        }
        if was_there {
            lonely.iter().for_each(|partner| self.alone(change, partner, 1));
        }
        Ok(())
    }

    /// The rows of the other side that make a pair with it.
    fn matching(&mut self, change: &Change<'_>, under: &Key, step: &mut Step<'_>) -> Result<Vec<Counted>, Stop> {
        let mut partners = self.partners(LEFT + RIGHT - change.side, under, step)?;
        self.out.looked_at += partners.len();
        let mut holds = self
            .sides
            .holds(change.side, change.values, &partners, Some(change.origin), step)
            .into_iter();
        partners.retain(|_| holds.next().unwrap_or(false));
        Ok(partners)
    }

    /// Those of the partners that no other row of its side makes a pair with.
    fn without_others<'p>(
        &mut self,
        change: &Change<'_>,
        key: &[u8],
        partners: &'p [Counted],
        step: &mut Step<'_>,
    ) -> Result<Vec<&'p Counted>, Stop> {
        let own = by_value(key, change.values);
        let mut others: Vec<Counted> = Vec::new();
        for (place, row) in step.rows(change.side, &Key::new(key.to_vec(), key.len()))? {
            if place.bytes != own.bytes {
                others.push(decode_control(&row).map_err(|_| Stop::State(self.sides.operator))?);
            }
        }
        let mut lonely = Vec::new();
        if !others.is_empty() && !self.sides.asks_more() {
            return Ok(lonely);
        }
        for partner in partners {
            self.out.looked_at += others.len();
            let side = LEFT + RIGHT - change.side;
            // Its faults were told when those rows came.
            if !self
                .sides
                .holds(side, &partner.values, &others, None, step)
                .contains(&true)
            {
                lonely.push(partner);
            }
        }
        Ok(lonely)
    }

    fn partners(&self, side: u8, under: &Key, step: &Step<'_>) -> Result<Vec<Counted>, Stop> {
        let damaged = |_| Stop::State(self.sides.operator);
        let rows = step.rows(side, under)?;
        rows.iter()
            .map(|(_, row)| decode_control(row).map_err(damaged))
            .collect()
    }

    /// Takes the row in, or out. Gives whether it was there, and whether it is.
    fn keep(&mut self, change: &Change<'_>, key: &[u8], step: &mut Step<'_>) -> Result<(bool, bool), Stop> {
        let place = by_value(key, change.values);
        let mut row = match step.get(change.side, &place)? {
            Some(row) => decode_control(&row).map_err(|_| Stop::State(self.sides.operator))?,
            None => Counted {
                values: change.values.to_vec(),
                count: 0,
            },
        };
        let was_there = row.count > 0;
        row.count += i64::from(change.weight);
        if row.count <= 0 {
            self.held = self.held.saturating_sub(1);
            step.delete(change.side, &place);
            return Ok((was_there, false));
        }
        if self.held_max.is_some_and(|max| self.held >= max) {
            return Err(Stop::TooManyGroups(self.held));
        }
        self.held += 1;
        step.put(change.side, &place, encode_control(&row));
        Ok((was_there, true))
    }

    /// The changed row with a row of the other side, or alone.
    fn push(&mut self, change: &Change<'_>, partner: Option<&Counted>, weight: i32) {
        let (own, theirs) = (Some(change.values), partner.map(|partner| partner.values.as_slice()));
        let row = match change.side {
            LEFT => self.sides.joined(own, theirs),
            _ => self.sides.joined(theirs, own),
        };
        self.out.push(row, weight, change.time, change.origin, TimestampUs::MIN);
    }

    /// A row of the other side stands alone from now on, or no longer.
    fn alone(&mut self, change: &Change<'_>, partner: &Counted, sign: i32) {
        let theirs = Some(partner.values.as_slice());
        let row = match change.side {
            LEFT => self.sides.joined(None, theirs),
            _ => self.sides.joined(theirs, None),
        };
        let weight = sign * weight_of(partner);
        self.out.push(row, weight, change.time, change.origin, TimestampUs::MIN);
    }
}

fn weight_of(row: &Counted) -> i32 {
    i32::try_from(row.count).unwrap_or(i32::MAX)
}

impl PieceJoin for TableJoin {
    fn sides(&self) -> &Sides {
        &self.sides
    }

    fn work_off(&mut self, input: &mut Unjoined, step: &mut Step<'_>) -> Result<(), Stop> {
        let before = self.out.bytes;
        self.out.looked_at = 0;
        while self.out.looked_at < JOIN_PIECE_ROWS
            && self.out.bytes - before < JOIN_PIECE_BYTES
            && let Some((row, key)) = input.keys.next()
        {
            let delta = &input.delta;
            let values = values_of(delta, row);
            let change = Change {
                side: input.port,
                values: &values,
                weight: delta.weight(row),
                time: delta.time[row],
                origin: delta.origin[row],
            };
            self.change(&change, key.as_deref(), step)?;
        }
        if !self.at_end {
            step.emit(self.out.changes());
        } else if self.out.bytes > SORT_BYTES_MAX {
            return Err(Stop::TooManyPairs);
        }
        Ok(())
    }

    fn advance(&mut self, watermark: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        if self.at_end && watermark == TimestampUs::MAX {
            step.emit(self.out.changes());
        }
        Ok(())
    }
}
