//! tour to come

pub mod cli;
pub mod engine;
pub mod kafka;
pub mod message;
pub mod ofa;
pub mod pipeline;
pub mod routing;
pub mod settings;
pub mod telemetry;
pub mod text;
pub mod vision;
