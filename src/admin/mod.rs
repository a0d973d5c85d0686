//! The admin API: what operators do from outside, over HTTP with a bearer token.
//!
//! * [`serve`]: serves the routes; [`serve_evidence`]: that of evidence alone; `routes` has the
//!   table of routes and roles, and the routes that read; `changes`: those that change the
//!   configuration.
//! * [`Tokens`]: whose tokens there are, and what they may do.
//! * [`openapi()`]: the description that is published as `schemas/openapi.json`.
//! * [`Client`]: what the program's own commands use.

mod answer;
mod api;
mod auth;
mod caller;
mod changes;
mod client;
mod evidence;
mod openapi;
mod routes;
mod trials;

pub use answer::Refusal;
pub use auth::{Token, Tokens};
pub use changes::ChangeRequest;
pub use client::{ANSWER_MAX, Client, ClientError, Conditions};
pub use openapi::document as openapi;
pub use routes::{Served, serve, serve_evidence};
