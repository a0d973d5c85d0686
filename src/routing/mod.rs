//! Which version answers, and why. Pure: no clock, no randomness, no input or output, so the same
//! request and table give the same version on every machine, today and next year.
//!
//! * [`TableSpec`], [`Overrides`]: what settings and operators write; `spec`.
//! * [`Table`]: one configuration, checked; [`Table::decide`], in `decide`, is the one function that routes.
//! * [`Features`]: what it may look at.
//! * [`condition`]: the language of rules.
//! * [`Segments`]: parts of the traffic that reports show apart.
//! * `experiment`, `holdout`, `shadow`: who is compared, who is kept out of it, who judges beside.
//! * `probability`: the probability of each version for one request, for estimates about other policies.
//! * [`ShareCounter`]: the shares that a configuration gives, on many units.
//! * [`is_audited`]: which automatic decisions people look at, too.
//! * [`GuardSpec`]: what pauses an experiment when a treatment does harm.
//! * `refused`: where an entry of the settings cannot work.
//! * [`scheme`]: how units are divided; the frozen assignment scheme `m3v1` and those of other platforms.

mod audit;
pub mod condition;
mod decide;
mod definition;
mod experiment;
mod features;
mod guard;
mod holdout;
mod probability;
mod ramp;
mod refused;
pub mod scheme;
mod segment;
mod shadow;
mod simulation;
mod spec;
mod table;

pub use audit::is_audited;
pub use decide::{Reason, Route, RouteError, Step, Watch};
pub use definition::salted_unit_hash;
pub use features::{Features, Unit};
pub use guard::{GuardAction, GuardMetric, GuardSpec};
pub use scheme::{Method, Scheme};
pub use segment::{SegmentSpec, Segments};
pub use simulation::{AssumedRequest, Moved, Share, ShareCounter, Shares, hashed_attributes};
pub use spec::{
    ExperimentSpec, ForcedSpec, HoldoutSpec, Overrides, Position, RuleDecision, RuleSpec, TableSpec, Traffic,
    VariantSpec, millionths,
};
pub use table::{Table, TableError};
