//! The one door for HTTP: everything that speaks it goes through here. Knows no routes.
//!
//! * [`serve_connections`]: serves a router within [`HttpLimits`], in `server`.
//! * [`Door`]: what every request must fulfil before a route sees it, and the headers of every answer.

mod door;
mod server;

pub use door::{Door, HostRule};
pub use server::{HttpLimits, serve_connections};
