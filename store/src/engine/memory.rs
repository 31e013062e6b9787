//! An engine in memory that can crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Engine, Family, Row, Writes};
use crate::error::EngineError;
use crate::garbage::Garbage;
use crate::ids::SliceId;

type Rows = BTreeMap<(Family, Vec<u8>), Bytes>;

#[derive(Debug, Default)]
struct State {
    visible: Rows,
    durable: Rows,
    slices: BTreeSet<SliceId>,
    /// Changes until the power goes; after that all fail.
    changes_left: Option<u32>,
}

impl State {
    fn change(&mut self) -> Result<(), EngineError> {
        match &mut self.changes_left {
            None => Ok(()),
            Some(0) => Err(EngineError("the power is gone".to_owned())),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

/// Keeps everything visible; [`MemoryEngine::crash`] goes back to the last flush. Slices come and go at once, as
/// RocksDB's families do.
#[derive(Debug, Default)]
pub struct MemoryEngine(Mutex<State>);

impl MemoryEngine {
    /// Lets so many changes through, and fails the next ones until [`MemoryEngine::crash`].
    pub fn cut_power_after(&self, changes: u32) {
        self.state().changes_left = Some(changes);
    }

    /// Forgets what was not flushed.
    pub fn crash(&self) {
        let mut state = self.state();
        state.changes_left = None;
        state.visible = state.durable.clone();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for MemoryEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.state().visible.get(&(family, key.to_vec())).cloned())
    }

    fn get_durable(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.state().durable.get(&(family, key.to_vec())).cloned())
    }

    fn last_at_or_before(&self, family: Family, prefix: &[u8], key: &[u8]) -> Result<Option<Row>, EngineError> {
        let state = self.state();
        let last = state.visible.range(..=(family, key.to_vec())).next_back();
        Ok(last
            .filter(|((found, key), _)| *found == family && key.starts_with(prefix))
            .map(|((_, key), value)| (Bytes::copy_from_slice(key), value.clone())))
    }

    fn scan(
        &self,
        family: Family,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let state = self.state();
        let start = from.max(prefix).to_vec();
        for ((found, key), value) in state.visible.range((family, start)..) {
            if *found != family || !key.starts_with(prefix) || !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, writes: Writes) -> Result<(), EngineError> {
        let mut state = self.state();
        state.change()?;
        for (family, key, value) in writes.rows {
            if let Family::Slice(slice) = family
                && !state.slices.contains(&slice)
            {
                return Err(EngineError(format!("slice {slice} is missing")));
            }
            match value {
                Some(value) => drop(state.visible.insert((family, key), value)),
                None => drop(state.visible.remove(&(family, key))),
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut state = self.state();
        state.change()?;
        state.durable = state.visible.clone();
        Ok(())
    }

    fn slices(&self) -> Vec<SliceId> {
        self.state().slices.iter().copied().collect()
    }

    fn make_slice(&self, slice: SliceId) -> Result<(), EngineError> {
        let mut state = self.state();
        state.change()?;
        state.slices.insert(slice);
        Ok(())
    }

    fn drop_slice(&self, slice: SliceId) -> Result<(), EngineError> {
        let mut state = self.state();
        state.change()?;
        state.slices.remove(&slice);
        state.visible.retain(|(family, _), _| *family != Family::Slice(slice));
        state.durable.retain(|(family, _), _| *family != Family::Slice(slice));
        Ok(())
    }

    fn merge_slice(&self, slice: SliceId, garbage: Garbage) -> Result<(), EngineError> {
        let mut state = self.state();
        state.change()?;
        let stays =
            |family: &Family, key: &[u8], value: &[u8]| *family != Family::Slice(slice) || !garbage.holds(key, value);
        state.visible.retain(|(family, key), value| stays(family, key, value));
        state.durable.retain(|(family, key), value| stays(family, key, value));
        Ok(())
    }

    fn slice_files(&self, slice: SliceId) -> usize {
        usize::from(self.slice_bytes(slice) > 0)
    }

    fn slice_bytes(&self, slice: SliceId) -> u64 {
        self.bytes_between(slice, &[0], &[u8::MAX])
    }

    fn bytes_between(&self, slice: SliceId, from: &[u8], to: &[u8]) -> u64 {
        let family = Family::Slice(slice);
        let state = self.state();
        let rows = state.visible.range((family, from.to_vec())..(family, to.to_vec()));
        rows.map(|((_, key), value)| (key.len() + value.len()) as u64).sum()
    }
}
