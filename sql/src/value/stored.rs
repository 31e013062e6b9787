//! Values in rows of state: as the constants of plans are stored, so that there is one encoding of values.

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

use super::Value;
use crate::types::Literal;

/// A value that can be stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredValue(pub Value);

impl Encode for StoredValue {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        Literal::from(&self.0).encode(encoder)
    }
}

impl<C> Decode<C> for StoredValue {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<StoredValue, DecodeError> {
        Ok(StoredValue(Value::from(&Literal::decode(decoder)?)))
    }
}

bincode::impl_borrow_decode!(StoredValue);
