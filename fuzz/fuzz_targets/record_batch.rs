//! Record batches: no bytes make their decoder panic or allocate more than they are worth.
//!
//! The checksums would stop nearly every input at the door, so the body is also decoded behind them, as if a disk had
//! damaged it and the checksum by luck agreed.
#![no_main]

use bytes::Bytes;
use headwater_store::fuzzing::{RecordBatchHeader, decode_records, open_body, parse_header};
use headwater_store::{Offset, TimestampMs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let batch = Bytes::copy_from_slice(input);
    if let (Ok(header), Ok(body)) = (parse_header(&batch), open_body(&batch)) {
        let _ = decode_records(&header, body);
    }
    let Some((&count, body)) = input.split_first() else {
        return;
    };
    let header = RecordBatchHeader {
        codec: 0,
        body_crc: 0,
        length: body.len() as u32,
        raw_length: body.len() as u32,
        count: u32::from(count),
        base_offset: Offset(0),
        base_timestamp: TimestampMs(0),
        max_timestamp: TimestampMs(0),
    };
    if let Ok(records) = decode_records(&header, batch.slice(1..)) {
        assert_eq!(records.len(), usize::from(count));
    }
});
