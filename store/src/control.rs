//! Encoding of control values (catalog rows, table rows): bincode 2, here and nowhere else in the store.
//!
//! bincode is unmaintained (RUSTSEC-2025-0141), so it must be replaceable: record batches and keys do not use it, and
//! every value carries a version byte in front.

use bincode::config::{Configuration, Limit};
use bytes::Bytes;

use crate::limits::CONTROL_BYTES_MAX;

const VERSION: u8 = 1;

fn configuration() -> Configuration<bincode::config::LittleEndian, bincode::config::Varint, Limit<CONTROL_BYTES_MAX>> {
    bincode::config::standard().with_limit::<CONTROL_BYTES_MAX>()
}

/// Why bytes are not a control value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No bytes at all.
    #[error("empty control value")]
    Empty,
    /// Written by a version that this one does not know.
    #[error("control value of version {0}, this headwater reads version {VERSION}")]
    Version(u8),
    /// Not what bincode wrote.
    #[error("damaged control value: {0}")]
    Damaged(String),
}

/// `version | bincode`.
pub fn encode<T: bincode::Encode>(value: &T) -> Bytes {
    let mut bytes = vec![VERSION];
    // Encoding into memory fails only past the size limit, which every caller's input is far below.
    let body = bincode::encode_to_vec(value, configuration()).unwrap_or_default();
    bytes.extend_from_slice(&body);
    bytes.into()
}

/// Reads what [`encode`] wrote; trailing bytes are an error.
pub fn decode<T: bincode::Decode<()>>(bytes: &[u8]) -> Result<T, ControlError> {
    let (version, body) = bytes.split_first().ok_or(ControlError::Empty)?;
    if *version != VERSION {
        return Err(ControlError::Version(*version));
    }
    let (value, read) =
        bincode::decode_from_slice(body, configuration()).map_err(|error| ControlError::Damaged(error.to_string()))?;
    if read == body.len() {
        Ok(value)
    } else {
        Err(ControlError::Damaged(format!("{} bytes left over", body.len() - read)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_damage_is_told() {
        let value = (7u64, "plant".to_owned(), vec![1u8, 2]);
        let bytes = encode(&value);
        assert_eq!(decode::<(u64, String, Vec<u8>)>(&bytes).unwrap(), value);
        assert_eq!(decode::<u64>(&[]), Err(ControlError::Empty));
        assert_eq!(decode::<u64>(&[9, 1]), Err(ControlError::Version(9)));
        assert!(
            matches!(decode::<(u64, String)>(&bytes), Err(ControlError::Damaged(_))),
            "left-over bytes"
        );
        assert!(matches!(
            decode::<(u64, String, Vec<u8>)>(&bytes[..4]),
            Err(ControlError::Damaged(_))
        ));
        // A length far beyond the input must not be allocated.
        assert!(decode::<Vec<u64>>(&[1, 253, 255, 255, 255, 255, 255, 255, 255, 255]).is_err());
    }
}
