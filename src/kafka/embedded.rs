//! A broker inside the process, for trying things out without installing Kafka.
//!
//! It is librdkafka's mock cluster on a loopback port: any Kafka client can join in. It keeps
//! everything in memory, knows no transactions worth the name, and holds about 5 MiB per partition:
//! beyond that it drops the oldest records without a word. [`super::Feeder`] therefore keeps what
//! waits far below that, and the pipeline says when records were dropped before it read them.

use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};

use super::KafkaError;

/// A running embedded broker; it ends when this is dropped.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl EmbeddedBroker {
    /// Bytes per partition that may wait unread. The log holds about 5 MiB; records are also counted
    /// with their overhead there, so a good margin stays.
    pub const BACKLOG_BYTES_MAX: usize = 3 << 20;

    /// Starts a broker on a free loopback port, with these topics.
    ///
    /// # Errors
    /// When the broker does not start.
    pub fn start(topics: &[&str], partitions: i32) -> Result<Self, KafkaError> {
        let cluster = MockCluster::new(1)?;
        for topic in topics {
            cluster.create_topic(topic, partitions, 1)?;
        }
        Ok(Self { cluster })
    }

    /// Where clients find it, `host:port`.
    pub fn bootstrap_servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Whether the cluster of this id is an embedded broker, this process's or another's.
    pub fn is_embedded(cluster_id: &str) -> bool {
        cluster_id.starts_with("mockCluster")
    }
}
