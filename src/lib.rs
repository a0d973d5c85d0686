//! tour to come

pub mod engine;
pub mod kafka;
pub mod message;
pub mod ofa;
pub mod routing;
pub mod settings;
pub mod text;
pub mod vision;
