//! The only room that names rdkafka: reading, publishing, committing, and the embedded broker.
//!
//! * [`Connection`]: where the cluster is, and the options passed through to librdkafka.
//! * [`Consumer`]: the group member that reads requests; [`Ownership`] hears which partitions are its.
//! * [`Publisher`]: verdicts and dead letters out, acknowledgements back.
//! * [`ControlReader`], [`ControlWriter`]: operators' changes, to and from every instance of the group.
//! * [`EmbeddedBroker`]: a broker inside the process, for trying things out.
//! * [`Feeder`]: publishes requests, never more than an embedded broker's log can hold.
//! * [`Tail`]: reads whole topics from the beginning, outside any group.

mod connection;
mod consumer;
mod control;
mod embedded;
mod feeder;
mod publisher;
mod tail;

pub use connection::{Connection, KafkaError};
pub use consumer::{Consumer, ConsumerOptions, Ownership};
pub use control::{ControlEvent, ControlReader, ControlRecord, ControlWriter};
pub use embedded::EmbeddedBroker;
pub use feeder::{Feeder, FeederOptions};
pub use publisher::{PublishError, Publisher, Token};
pub use tail::Tail;
