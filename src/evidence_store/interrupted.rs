//! Why reading begins again.

use super::error::StoreError;
use crate::kafka::KafkaError;

/// Why reading has to begin again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Interrupted {
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A topic has other partitions, or exists now.
    #[error("the topics have changed")]
    TopicsChanged,
}
