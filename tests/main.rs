//! Tests of the whole: the real binary, started on a data folder and free loopback ports, talked to over MQTT and HTTP
//! by clients that nobody here wrote wherever there are some, and killed without warning.
//!
//! One test program, because linking it takes longer than running most of it. No test asserts a time; every wait ends
//! with a message that says what did not come (see [`harness::wait_for`]).

mod architecture;
mod end_to_end;
mod harness;
mod recovery;
