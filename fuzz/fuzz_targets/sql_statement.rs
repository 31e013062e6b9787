//! The SQL parser: no text makes it panic or recurse without end, and every error can be shown, caret and all.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = headwater_sql::parse(text) {
        assert!(!error.to_string().is_empty());
        assert!(error.to_json().is_object());
    }
});
