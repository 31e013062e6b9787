//! The codec of MQTT 3.1: see `mqtt/mod.rs`.
#![no_main]

mod mqtt;

use headwater_broker::packet::Version;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| mqtt::check(Version::V3_1, input));
