//! The promises that need more than one room, in one binary.

mod golden;
mod support;
