//! Rows that are known by what they are: those of a table that a subquery works out have no record of their own.

use headwater_store::encode_control;
use sha2::{Digest, Sha256};

use crate::step::Key;
use crate::value::StoredValue;

/// A row, and how often it is there.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub(in crate::operator) struct Counted {
    pub values: Vec<StoredValue>,
    pub count: i64,
}

impl AsRef<[StoredValue]> for Counted {
    fn as_ref(&self) -> &[StoredValue] {
        &self.values
    }
}

/// The place of a row under a key, which alone spreads.
pub(in crate::operator) fn by_value(key: &[u8], values: &[StoredValue]) -> Key {
    let digest = Sha256::digest(encode_control(&values.to_vec()));
    Key::new([key, &digest[..]].concat(), key.len())
}
