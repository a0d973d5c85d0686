//! Whether brokers have marked the end of a transaction in every partition that it wrote to.
//!
//! The mark tells read-committed consumers whether the transaction's records count. Apache Kafka 4.3.1 takes a partition that has no
//! leader just then for a deleted one, and leaves its mark out (KAFKA-20734): aborted records stay undecided there until the next mark
//! of the same producer comes, and if that is of a commit, they count.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
};

use super::{
    connection::{Connection, KafkaError, Role, has_code},
    transactional_client::locked,
};

/// A partition: its topic and its number.
pub(super) type Place = (String, i32);

/// Where a transaction has written: its last offset in each partition, none where it is not known whether the last record is there.
#[derive(Default)]
pub(super) struct Touched(Mutex<BTreeMap<Place, Option<i64>>>);

impl Touched {
    /// Notes that a record was written.
    pub(super) fn delivered(&self, message: &impl Message) {
        locked(&self.0).insert(place(message), Some(message.offset()));
    }

    /// Says that it is not known whether what is written next will be there.
    pub(super) fn expect(&self, place: Place) {
        locked(&self.0).insert(place, None);
    }

    /// Whether all that was written into these partitions is there.
    pub(super) fn is_known(&self, places: &[Place]) -> bool {
        let touched = locked(&self.0);
        places.iter().all(|place| touched.get(place).is_some_and(Option::is_some))
    }

    /// Notes that a record may have been written.
    pub(super) fn perhaps_delivered(&self, message: &impl Message) {
        locked(&self.0).insert(place(message), None);
    }

    /// Forgets all of it: another transaction begins, or this one was committed.
    pub(super) fn clear(&self) {
        locked(&self.0).clear();
    }
}

fn place(message: &impl Message) -> Place {
    (message.topic().to_owned(), message.partition())
}

/// Marks are written in milliseconds; what other producers have open hides them for about as long as their transactions take.
const WAIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// The partitions in which the end of an aborted transaction is not seen within a second. That may be because another producer has
/// something open there.
pub(super) fn missing(connection: &Connection, touched: &Touched) -> Result<Vec<Place>, KafkaError> {
    let mut waiting = locked(&touched.0).clone();
    if waiting.is_empty() {
        return Ok(Vec::new());
    }
    let client = connection.config(Role::Reads, &[("isolation.level", "read_committed")]).create();
    let client: BaseConsumer = client.map_err(KafkaError::client)?;
    let deadline = Instant::now() + WAIT;
    while !waiting.is_empty() && Instant::now() < deadline {
        match ends(&client, &waiting) {
            Ok(ends) => waiting.retain(|place, last| match (ends.get(place), last) {
                (Some(Some(end)), Some(last)) => end <= last,
                // It is not there any more.
                (None, _) => false,
                (Some(None), _) | (_, None) => true,
            }),
            Err(error) => tracing::debug!(%error, "Brokers are asked again how far read-committed consumers come."),
        }
        if waiting.values().all(Option::is_none) {
            break;
        }
        thread::sleep(PAUSE);
    }
    Ok(waiting.into_keys().collect())
}

/// How far read-committed consumers come in each partition that there is; none where nobody leads it now.
fn ends(
    client: &BaseConsumer,
    places: &BTreeMap<Place, Option<i64>>,
) -> Result<BTreeMap<Place, Option<i64>>, ClientError> {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (topic, partition) in places.keys() {
        list.add_partition_offset(topic, *partition, Offset::End)?;
    }
    let found = client.offsets_for_times(list, WAIT)?;
    let mut ends = BTreeMap::new();
    for element in found.elements() {
        let is_gone = element.error().is_err_and(|error| {
            has_code(&error, RDKafkaErrorCode::UnknownTopicOrPartition)
                || has_code(&error, RDKafkaErrorCode::UnknownTopic)
        });
        if !is_gone {
            let end = if let Offset::Offset(end) = element.offset() { Some(end) } else { None };
            ends.insert((element.topic().to_owned(), element.partition()), end.filter(|_| element.error().is_ok()));
        }
    }
    Ok(ends)
}
