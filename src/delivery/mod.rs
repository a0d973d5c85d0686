//! What is promised about delivery, without Kafka: every request gets its outcome, in order, once. Pure.
//!
//! * [`Ledger`]: which records are in flight, what may leave, what may be committed.
//! * [`ExactlyOnce`]: outcomes and offsets in one transaction, over any log that has [`Transactions`].
//! * [`Flow`]: which sources are read now.
//! * [`Breaker`]: stops reading when too much fails.

mod breaker;
mod exactly_once;
mod flow;
mod ledger;

pub use breaker::{Breaker, BreakerLimits};
pub use exactly_once::{ExactlyOnce, Fault, Step, Transactions, Window};
pub use flow::Flow;
pub use ledger::{Ledger, Reached, Ticket};
