//! The promises that need more than one room, in one binary.

mod commands;
mod contract;
mod delivery;
mod golden;
mod rooms;
mod support;
mod vocabulary;
