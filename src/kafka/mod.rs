//! The only room that names rdkafka: reading, publishing, committing, and the embedded broker.
//!
//! * [`Connection`]: where the cluster is, and the options passed through to librdkafka; [`Credentials`]: who we are there.
//! * [`Consumer`]: the group member that reads requests; [`Change`]: which partitions come and go; `member`: its client, `inbox`: a
//!   queue for each of its partitions.
//! * [`Publisher`]: verdicts and dead letters out, acknowledgements back.
//! * [`TransactionalPublisher`]: the same in transactions, with the offsets that they answer; [`Identity`]: who commits them;
//!   `marks`: whether brokers have marked a transaction's end.
//! * [`ControlReader`], [`ControlWriter`]: operators' changes, to and from every instance of the group.
//! * [`EmbeddedBroker`]: a broker inside the process, for trying things out.
//! * [`Feeder`]: publishes requests, never more than an embedded broker's log can hold.
//! * `limits`: how large records may be in a topic; `backlog`: what a topic holds now, an [`Extent`] of it.
//! * [`TopicPlan`]: topics that are to be created.
//! * `topic_ids`: whether a topic is still the one that was read.
//! * [`Follower`]: follows whole topics from offsets that the caller keeps.
//! * [`Tail`]: reads whole topics from the beginning, outside any group.

mod backlog;
mod connection;
mod consumer;
mod control;
mod creation;
mod embedded;
mod feeder;
mod follower;
mod identity;
mod inbox;
mod limits;
mod marks;
mod member;
mod publisher;
mod security;
mod tail;
mod topic_ids;
mod transactional_client;
mod transactions;

pub use backlog::Extent;
pub use connection::{Connection, KafkaError};
pub use consumer::Consumer;
pub use control::{ControlEvent, ControlReader, ControlRecord, ControlWriter};
pub use creation::TopicPlan;
pub use embedded::EmbeddedBroker;
pub use feeder::{Feeder, FeederOptions};
pub use follower::{Followed, Follower, TopicPartition};
pub use identity::Identity;
pub use member::{Change, ConsumerOptions, Fetched, GroupProtocol, GroupStatistics};
pub use publisher::{PublishError, Publisher, RecordLimits, RecordRefusal};
pub use security::Credentials;
pub use tail::Tail;
pub use transactions::{TransactionError, TransactionOptions, TransactionalPublisher};
