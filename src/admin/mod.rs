//! The admin API: what operators do from outside, over HTTP with a bearer token.
//!
//! * [`serve`]: binds and answers; `routes` has a function for each address.
//! * [`Tokens`]: who may look, and who may change.
//! * [`openapi()`]: the description that is published as `schemas/openapi.json`.
//! * [`Client`]: what the program's own commands use.

mod auth;
mod client;
mod openapi;
mod routes;

pub use auth::Tokens;
pub use client::{ANSWER_MAX, Client, ClientError, Conditions};
pub use openapi::document as openapi;
pub use routes::{ChangeRequest, Refusal, serve};
