//! Which version answers, and why. Pure: no clock, no randomness, no input or output, so the same
//! request and table give the same version on every machine, today and next year.
//!
//! * [`Table`]: the versions, rules and experiments of one configuration; [`Table::decide`] is the
//!   one function that routes, for live requests and for `explain` alike.
//! * [`Features`]: what it may look at.
//! * `shadow`: versions that judge the same requests beside the live ones.
//! * [`condition`]: the language of rules.
//! * [`hash`]: the frozen assignment scheme `m3v1`.

pub mod condition;
mod experiment;
mod features;
pub mod hash;
mod shadow;
mod table;

pub use experiment::{ExperimentSpec, VariantSpec};
pub use features::{Features, Unit};
pub use table::{Reason, Route, RouteError, RuleSpec, Step, Table, TableError, TableSpec};
