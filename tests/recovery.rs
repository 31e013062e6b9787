//! kill -9, and what must be there afterwards.

mod acknowledged;
mod over_http;
mod under_load;
