//! Entries of the Raft log: no bytes make their decoder panic or allocate more than they are worth, and what was decoded
//! comes back from what it is encoded to.
#![no_main]

use bytes::Bytes;
use headwater_store::GroupId;
use headwater_store::fuzzing::{decode_entry, encode_entry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let group = GroupId(2);
    let Ok(entry) = decode_entry(group, Bytes::copy_from_slice(input)) else {
        return;
    };
    let again = decode_entry(group, encode_entry(&entry).into());
    assert_eq!(again, Ok(entry));
});
