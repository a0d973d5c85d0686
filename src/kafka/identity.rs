//! Who a member is in its group at one moment: what a transaction's offsets are committed with.

use std::{
    ffi::{CStr, CString},
    sync::Arc,
};

use rdkafka::{
    bindings::{
        rd_kafka_consumer_group_metadata, rd_kafka_consumer_group_metadata_destroy,
        rd_kafka_consumer_group_metadata_generation_id, rd_kafka_consumer_group_metadata_member_id,
    },
    consumer::{Consumer as _, ConsumerGroupMetadata},
};

use super::member::Member;

/// A member's identity in one generation of its group. Brokers refuse offsets that come with one of an earlier generation.
pub struct Identity {
    pub(super) metadata: Arc<ConsumerGroupMetadata>,
    generation: i32,
    member: CString,
}

impl Identity {
    /// None while the member is in no generation: with such an identity brokers would take offsets from anybody.
    pub(super) fn of(member: &Member) -> Option<Self> {
        let (generation, name) = names(member)?;
        let metadata = Arc::new(member.group_metadata()?);
        // What was read apart must be of one moment.
        let is_the_same = names(member).as_ref() == Some(&(generation, name.clone()));
        is_the_same.then_some(Self { metadata, generation, member: name })
    }

    /// Grows whenever the group shares its partitions out anew.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// The name that the brokers gave this member when it joined: another one is another member to them.
    pub fn member(&self) -> &CStr {
        &self.member
    }
}

/// Generation and name. rdkafka gives the metadata away without letting anybody look into it.
fn names(member: &Member) -> Option<(i32, CString)> {
    // SAFETY: the client lives as long as it is borrowed; what it gives is ours until it is destroyed here, once, and the name in it is
    // copied before.
    #[allow(unsafe_code, reason = "rdkafka has no safe call for it")]
    let (generation, name) = unsafe {
        let metadata = rd_kafka_consumer_group_metadata(member.client().native_ptr());
        if metadata.is_null() {
            return None;
        }
        let generation = rd_kafka_consumer_group_metadata_generation_id(metadata);
        let name = CStr::from_ptr(rd_kafka_consumer_group_metadata_member_id(metadata)).to_owned();
        rd_kafka_consumer_group_metadata_destroy(metadata);
        (generation, name)
    };
    (generation > 0).then_some((generation, name))
}
