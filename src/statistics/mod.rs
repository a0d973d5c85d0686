//! Statistics of A/B evidence: pure functions of counts and sums, each with its source.
//!
//! Nothing here reads a clock, draws a random number or knows of verdicts.
//!
//! * [`special`]: distribution functions; [`Moments`]: mean and variance of an arm.
//! * [`Difference`], [`Welch`]: differences of means; [`mixture`]: intervals of them that hold at
//!   any time; [`bounded`]: without a normal approximation; [`UnitSums`]: where a user is the
//!   observation.
//! * [`proportion`]: shares, for a fixed number; [`sample_ratio`]: whether arms get their shares,
//!   and whether rare events are equally frequent.
//! * [`excess`]: whether a treatment has rare events more often.
//! * [`Histogram`], [`quantile`]: latency.
//! * [`paired`]: two versions on the same requests; [`agreement`]: of versions and of reviewers.
//! * [`strata`]: several hours or segments; [`weighting`]: labels of a sample.
//! * [`off_policy`]: the value of another policy, from logs; [`choice`]: which version a policy
//!   chooses; [`risk_control`], [`selective`]: what may be decided automatically; [`drift`]: whether
//!   that still holds. The rooms that use these four come with policies.
//! * [`multiplicity`]: several questions at once; [`bayes`]: a second opinion; [`plan`]: how much
//!   traffic is needed.

pub mod agreement;
pub mod bayes;
pub mod bounded;
pub mod choice;
mod difference;
pub mod drift;
pub mod excess;
mod histogram;
pub mod mixture;
mod moments;
pub mod multiplicity;
pub mod off_policy;
#[cfg(test)]
mod oracles;
pub mod paired;
pub mod plan;
pub mod proportion;
pub mod quantile;
pub mod risk_control;
pub mod sample_ratio;
pub mod selective;
#[cfg(test)]
mod simulations;
pub mod special;
pub mod strata;
mod units;
pub mod weighting;

pub use difference::{Difference, Welch};
pub use histogram::{Histogram, bin_of, edges, rank_of};
pub use moments::Moments;
pub use quantile::Band;
pub use units::UnitSums;
