//! What a reader of evidence starts with.

use super::{snapshots::Snapshots, store::TopicKind};
use crate::{
    kafka::Connection,
    settings::{EvidenceStorePlan, KafkaPlan},
};

/// What a reader starts with.
pub struct ReaderOptions {
    /// The cluster.
    pub connection: Connection,
    /// Topics with what they hold. Those that do not exist are left out until they do.
    pub topics: Vec<(String, TopicKind)>,
    /// The topic of snapshots, where there is one.
    pub snapshot_topic: Option<String>,
    /// The group that the evidence is of, and the name of this instance among writers of snapshots.
    pub group: String,
    /// See `group`.
    pub writer: String,
    /// How evidence is kept.
    pub plan: EvidenceStorePlan,
}

impl ReaderOptions {
    /// The topics of outcomes that settings name.
    pub fn of(connection: Connection, kafka: &KafkaPlan, plan: &EvidenceStorePlan) -> Self {
        let topics = vec![
            (kafka.verdicts.clone(), TopicKind::Verdicts),
            (kafka.shadows.clone(), TopicKind::Verdicts),
            (kafka.dead_letters.clone(), TopicKind::DeadLetters),
            (kafka.reviews.clone(), TopicKind::Reviews),
        ];
        // The embedded broker forgets everything at its end, so a file would be of no use.
        let directory = plan.directory.clone().filter(|_| !connection.embedded);
        let snapshot_topic = kafka.evidence.clone().filter(|_| !connection.embedded);
        // Without a control topic instances do not know of each other.
        let writer = match &kafka.control {
            Some(_) => "instances".to_owned(),
            None => kafka.instance_id.clone().unwrap_or_else(|| "instance".to_owned()),
        };
        let group = kafka.group_id.clone();
        Self {
            connection,
            topics,
            snapshot_topic,
            group,
            writer,
            plan: EvidenceStorePlan { directory, ..plan.clone() },
        }
    }

    pub(super) fn snapshots(&self, is_instance: bool) -> Snapshots {
        let writer = if is_instance { &self.writer } else { "reader" };
        let interval = self.plan.snapshot_interval;
        Snapshots::new(self.connection.clone(), self.snapshot_topic.clone(), interval, &self.group, writer)
    }
}
