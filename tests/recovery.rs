//! kill -9, and what must be there afterwards.

mod under_load;
