//! Who a member is in its group at one moment: what a transaction's offsets are committed with.

use std::sync::Arc;

use rdkafka::{
    bindings::{
        rd_kafka_consumer_group_metadata, rd_kafka_consumer_group_metadata_destroy,
        rd_kafka_consumer_group_metadata_generation_id,
    },
    consumer::{Consumer as _, ConsumerGroupMetadata},
};

use super::member::Member;

/// A member's identity in one generation of its group. Brokers refuse offsets that come with one of an earlier generation.
pub struct Identity {
    pub(super) metadata: Arc<ConsumerGroupMetadata>,
    generation: i32,
}

impl Identity {
    /// None while the member is in no generation: with such an identity brokers would take offsets from anybody.
    pub(super) fn of(member: &Member) -> Option<Self> {
        let generation = generation(member)?;
        let metadata = Arc::new(member.group_metadata()?);
        // What was read apart must be of one moment.
        let is_the_same = self::generation(member) == Some(generation);
        is_the_same.then_some(Self { metadata, generation })
    }

    /// Grows whenever the group shares its partitions out anew.
    pub fn generation(&self) -> i32 {
        self.generation
    }
}

/// rdkafka gives the metadata away without letting anybody look into it.
fn generation(member: &Member) -> Option<i32> {
    // SAFETY: the client lives as long as it is borrowed, and what it gives is ours until it is destroyed here, once.
    #[allow(unsafe_code, reason = "rdkafka has no safe call for it")]
    let generation = unsafe {
        let metadata = rd_kafka_consumer_group_metadata(member.client().native_ptr());
        if metadata.is_null() {
            return None;
        }
        let generation = rd_kafka_consumer_group_metadata_generation_id(metadata);
        rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    };
    (generation > 0).then_some(generation)
}
