//! A row of a table: `t | group u16 | table u16 | key` -> the row.

use crate::batch::TableId;
use crate::ids::GroupId;
use crate::wire::Short;

const TAG: u8 = b't';
const PREFIX_BYTES: usize = 1 + 2 + 2;

/// `t | group | table | key`; with an empty key, what all rows of the table begin with.
pub fn key(group: GroupId, table: TableId, row: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_BYTES + row.len());
    key.push(TAG);
    key.extend_from_slice(&group.0.to_be_bytes());
    key.extend_from_slice(&table.0.to_be_bytes());
    key.extend_from_slice(row);
    key
}

/// The row's own key.
pub fn row(key: &[u8]) -> Result<&[u8], Short> {
    key.get(PREFIX_BYTES..).ok_or(Short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_within_a_table_is_key_order(a: Vec<u8>, b: Vec<u8>) {
            let full = |row: &[u8]| key(GroupId(2), TableId(18), row);
            prop_assert_eq!(full(&a).cmp(&full(&b)), a.cmp(&b));
            let key = full(&a);
            prop_assert_eq!(row(&key), Ok(&a[..]));
        }
    }
}
