//! Bodies of `POST /streams/{name}:publish`: whatever a client sends is either records or a problem that can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let _ = headwater_bridge::fuzzing::publish_body(body);
});
