//! The rows that are overwritten: each key and value is of a known kind, and together they say where every shard lies.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Findings;
use crate::batch::tables;
use crate::catalog::Catalog;
use crate::engine::{Engine, Family};
use crate::ids::{GroupId, Offset, ShardId, SliceId};
use crate::keys::applied::{self, Applied};
use crate::keys::shard::{self, ShardRow};
use crate::keys::slice::{self, SliceRow, SliceState};
use crate::keys::span::{self, Span};
use crate::keys::{record_batch, table_row};
use crate::wire::{Reader, Short};

/// What the state says of the rest.
#[derive(Debug, Default)]
pub struct Ledger {
    pub applied: BTreeMap<GroupId, Applied>,
    pub shards: BTreeMap<ShardId, ShardRow>,
    /// By the offset they begin at.
    pub spans: BTreeMap<ShardId, Vec<(Offset, Span)>>,
    slices: BTreeMap<SliceId, SliceRow>,
}

impl Ledger {
    /// Records of the shard before this offset may be gone; None: all of them.
    pub fn first(&self, shard: ShardId) -> Option<Offset> {
        self.shards.get(&shard).map(|row| row.first)
    }

    /// The spans of a shard, each with the part of it that must be there. A stream stays in its retention class, so
    /// slices go from a shard's beginning and leave no hole between spans.
    pub fn kept(&self, shard: ShardId) -> impl Iterator<Item = (SliceId, Offset, Offset)> + '_ {
        let spans = self.spans.get(&shard).map(Vec::as_slice).unwrap_or_default();
        let row = self.shards.get(&shard).copied().unwrap_or_default();
        let ends = spans.iter().skip(1).map(|(base, _)| *base).chain([row.end]);
        spans
            .iter()
            .zip(ends)
            .map(move |((base, span), end)| (span.slice, (*base).max(row.first), end))
            .filter(|(_, from, to)| from < to)
    }
}

/// Reads all of the state. None: it cannot be read, so nothing is known of what it says.
pub fn check(engine: &dyn Engine, findings: &mut Findings<'_>) -> Option<Ledger> {
    let mut ledger = Ledger::default();
    let scanned = engine.scan(Family::State, b"", b"", &mut |key, value| {
        if let Err(Short) = take(key, value, &mut ledger, findings) {
            findings.problem(place(key), "it does not decode");
        }
        true
    });
    if let Err(error) = scanned {
        findings.problem("state", format!("{error}; the rows behind it were not read"));
        return None;
    }
    if let Err(error) = Catalog::load(engine) {
        findings.problem("the catalog", error);
    }
    check_slices(engine, &ledger, findings);
    check_shards(&ledger, findings);
    Some(ledger)
}

/// A key as people read it: the tag, then hexadecimal.
pub fn place(key: &[u8]) -> String {
    match key.split_first() {
        Some((tag, rest)) if tag.is_ascii_graphic() => {
            let hex: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("state row {} {hex}", char::from(*tag))
        }
        _ => format!("state row {key:02x?}"),
    }
}

fn take(key: &[u8], value: &[u8], ledger: &mut Ledger, findings: &mut Findings<'_>) -> Result<(), Short> {
    let value = Bytes::copy_from_slice(value);
    match key.first() {
        Some(b'a') => {
            let group = group_of(key)?;
            same(&applied::key(group), key)?;
            ledger.applied.insert(group, applied::decode(value)?);
        }
        Some(b'o') => {
            let id = record_batch::shard(key)?;
            same(&shard::key(id), key)?;
            findings.summary.shards += 1;
            ledger.shards.insert(id, shard::decode(value)?);
        }
        Some(b's') => {
            let (id, base) = (record_batch::shard(key)?, span::base_offset(key)?);
            same(&span::key(id, base), key)?;
            ledger.spans.entry(id).or_default().push((base, span::decode(value)?));
        }
        Some(b'l') => {
            let id = slice::slice(key)?;
            same(&slice::key(id), key)?;
            ledger.slices.insert(id, slice::decode(value)?);
        }
        Some(b't') => {
            findings.summary.table_rows += 1;
            let group = group_of(key)?;
            table_row::row(key)?;
            if key.starts_with(&table_row::key(group, tables::FENCE, b"")) {
                Reader::new(value).u64()?;
            }
        }
        _ => return Err(Short),
    }
    Ok(())
}

/// The group of a key of the state that has one.
pub fn group_of(key: &[u8]) -> Result<GroupId, Short> {
    let bytes = key.get(1..3).and_then(|bytes| bytes.try_into().ok()).ok_or(Short)?;
    Ok(GroupId(u16::from_be_bytes(bytes)))
}

fn same(expected: &[u8], key: &[u8]) -> Result<(), Short> {
    if expected == key { Ok(()) } else { Err(Short) }
}

fn check_slices(engine: &dyn Engine, ledger: &Ledger, findings: &mut Findings<'_>) {
    let families = engine.slices();
    findings.summary.slices = families.len() as u64;
    for (id, row) in &ledger.slices {
        if row.state != SliceState::Dropped && !families.contains(id) {
            findings.problem(format!("slice {id}"), "it is in use, but its files are gone");
        }
    }
}

fn check_shards(ledger: &Ledger, findings: &mut Findings<'_>) {
    for (id, spans) in &ledger.spans {
        let place = format!("shard {id}");
        for (base, span) in spans {
            match ledger.slices.get(&span.slice) {
                None => findings.problem(
                    &place,
                    format!(
                        "from offset {base} on it lies in slice {}, which is not there",
                        span.slice
                    ),
                ),
                Some(row) if row.state == SliceState::Dropped => {
                    findings.problem(
                        &place,
                        format!(
                            "from offset {base} on it lies in slice {}, which was dropped",
                            span.slice
                        ),
                    );
                }
                Some(_) => {}
            }
        }
        match (ledger.shards.get(id), spans.last()) {
            (None, _) => findings.problem(&place, "it has records, and no row that says where it ends"),
            (Some(row), Some((base, span))) => {
                if *base >= row.end {
                    findings.problem(
                        &place,
                        format!("it ends at offset {}, and has records from {base} on", row.end),
                    );
                }
                if span.slice != row.slice {
                    findings.problem(
                        &place,
                        format!(
                            "its last records lie in slice {}, its row says {}",
                            span.slice, row.slice
                        ),
                    );
                }
            }
            (Some(_), None) => {}
        }
    }
}
