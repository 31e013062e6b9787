//! An engine in memory that can crash.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Engine, Family, Row, Writes};
use crate::error::EngineError;

type Rows = BTreeMap<(Family, Vec<u8>), Bytes>;

#[derive(Debug, Default)]
struct State {
    visible: Rows,
    durable: Rows,
}

/// Keeps everything visible; [`MemoryEngine::crash`] goes back to the last flush.
#[derive(Debug, Default)]
pub struct MemoryEngine(Mutex<State>);

impl MemoryEngine {
    /// Forgets what was not flushed.
    pub fn crash(&self) {
        let mut state = self.state();
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
        for (family, key, value) in writes.rows {
            match value {
                Some(value) => drop(state.visible.insert((family, key), value)),
                None => drop(state.visible.remove(&(family, key))),
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut state = self.state();
        state.durable = state.visible.clone();
        Ok(())
    }
}
