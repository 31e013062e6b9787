//! Reading and writing the hand-written layouts: little-endian integers, varints and length-prefixed bytes.
//!
//! The reader never trusts a length: it slices what is there, or says that the input is short.

use bytes::{Buf, Bytes};

/// The input ended early, or an integer does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes end early or hold an impossible number")]
pub struct Short;

/// A cursor over shared bytes; slices it hands out share the buffer.
#[derive(Debug, Clone)]
pub struct Reader(Bytes);

impl Reader {
    pub fn new(bytes: Bytes) -> Reader {
        Reader(bytes)
    }

    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, count: usize) -> Result<Bytes, Short> {
        if self.0.len() < count {
            return Err(Short);
        }
        Ok(self.0.split_to(count))
    }

    pub fn u8(&mut self) -> Result<u8, Short> {
        self.0.try_get_u8().map_err(|_| Short)
    }

    pub fn u16(&mut self) -> Result<u16, Short> {
        self.0.try_get_u16_le().map_err(|_| Short)
    }

    pub fn u32(&mut self) -> Result<u32, Short> {
        self.0.try_get_u32_le().map_err(|_| Short)
    }

    pub fn u64(&mut self) -> Result<u64, Short> {
        self.0.try_get_u64_le().map_err(|_| Short)
    }

    pub fn i64(&mut self) -> Result<i64, Short> {
        self.0.try_get_i64_le().map_err(|_| Short)
    }

    /// LEB128, at most ten bytes.
    pub fn varint(&mut self) -> Result<u64, Short> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                return Err(Short);
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Short)
    }

    /// A varint length, then that many bytes.
    pub fn prefixed(&mut self) -> Result<Bytes, Short> {
        let length = usize::try_from(self.varint()?).map_err(|_| Short)?;
        self.bytes(length)
    }

    /// 0 for None, else the length plus one and the bytes.
    pub fn optional(&mut self) -> Result<Option<Bytes>, Short> {
        match self.varint()? {
            0 => Ok(None),
            more => self.bytes(usize::try_from(more - 1).map_err(|_| Short)?).map(Some),
        }
    }
}

/// LEB128.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A varint length, then the bytes.
pub fn put_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// 0 for None, else the length plus one and the bytes.
pub fn put_optional(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            put_varint(out, bytes.len() as u64 + 1);
            out.extend_from_slice(bytes);
        }
    }
}

/// Folds a signed number so that small ones of either sign are short varints.
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, signed: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_varint(&mut out, zigzag(signed));
            let mut reader = Reader::new(out.into());
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.varint().map(unzigzag), Ok(signed));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn bytes_come_back(bytes: Option<Vec<u8>>) {
            let mut out = Vec::new();
            put_optional(&mut out, bytes.as_deref());
            let read = Reader::new(out.into()).optional().unwrap();
            prop_assert_eq!(read.as_deref(), bytes.as_deref());
        }
    }

    #[test]
    fn short_input_is_an_error_not_a_panic() {
        assert_eq!(Reader::new(Bytes::from_static(&[0x80])).varint(), Err(Short));
        assert_eq!(Reader::new(Bytes::from_static(&[0xff; 11])).varint(), Err(Short));
        assert_eq!(Reader::new(Bytes::from_static(&[5, 1])).prefixed(), Err(Short));
    }
}
