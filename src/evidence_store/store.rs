//! Sums and what they rest on, in one file. Each write has the offsets of the records that it
//! counts, so a record counts exactly once, whenever the process ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, WriteTransaction,
    backends::InMemoryBackend,
};

use super::{
    error::StoreError,
    guards::GuardMemory,
    identity::Identity,
    names::{Name, Names},
    snapshot::Snapshot,
    tables::{
        Current, EXPERIMENTS, FORMAT, GENERATIONS, HOURS, META, NAMES, OFFSETS, PAIRS, StoredIndex, decode, encode,
    },
};
use crate::{
    evidence::{ArmKey, ExperimentSums, Hour, Ledger, Sums, Touched},
    message::Record,
};

/// The name of the file in `evidence.directory`.
pub const FILE: &str = "evidence.redb";

/// What a topic holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicKind {
    /// Verdicts or shadow verdicts.
    Verdicts,
    /// Dead letters.
    DeadLetters,
    /// Answers of people to verdicts.
    Reviews,
}

/// Sums, and the offset up to which each partition was read.
#[derive(Debug)]
pub struct Store {
    database: Database,
    names: Names,
    sums: Sums,
    offsets: BTreeMap<(String, i32), i64>,
    current: Current,
}

impl Store {
    /// Opens the store in a directory, or makes an empty one; without a directory in memory.
    /// `topics` are names and ids; an id may be empty, where it is not known. A store of another
    /// format is emptied, and so is one that read a topic whose id is another now: the topic was
    /// deleted and created again.
    ///
    /// # Errors
    /// When another process uses it, or it cannot be read.
    pub fn open(
        directory: Option<&Path>,
        cache_bytes: usize,
        topics: &BTreeMap<String, String>,
        now_ms: i64,
    ) -> Result<Self, StoreError> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes);
        let database = match directory {
            Some(directory) => {
                std::fs::create_dir_all(directory).map_err(|error| StoreError::Storage(error.to_string()))?;
                builder.create(directory.join(FILE))?
            }
            None => builder.create_with_backend(InMemoryBackend::new())?,
        };

        let identity = Identity { format: FORMAT, topics: topics.clone() };
        let known = meta(&database, "identity")?.map(|bytes| decode::<Identity>(&bytes)).transpose()?;
        match known.and_then(|known| known.joined(&identity)) {
            Some(joined) => write_meta(&database, "identity", &encode(&joined))?,
            None => empty(&database, &identity, Current { generation: 0, since_ms: now_ms })?,
        }
        Self::load(database)
    }

    /// What guards knew before a restart.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn guard_memory(&self) -> Result<GuardMemory, StoreError> {
        meta(&self.database, "guards")?.map_or_else(|| Ok(GuardMemory::default()), |bytes| decode(&bytes))
    }

    /// Keeps what guards must know after a restart.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(super) fn set_guard_memory(&self, memory: &GuardMemory) -> Result<(), StoreError> {
        write_meta(&self.database, "guards", &encode(memory))
    }

    /// All sums with their offsets.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let bytes = meta(&self.database, "identity")?.ok_or(StoreError::Damaged("there is no identity"))?;
        let identity: Identity = decode(&bytes)?;
        Ok(Snapshot::new(identity.topics, self.offsets.clone(), &self.sums))
    }

    /// Takes the sums and offsets of a snapshot. Returns false if it read topics that are others
    /// now, or less of a partition than this store: the store is as before then.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(super) fn restore(&mut self, snapshot: &Snapshot) -> Result<bool, StoreError> {
        let bytes = meta(&self.database, "identity")?.ok_or(StoreError::Damaged("there is no identity"))?;
        let known = Identity { format: FORMAT, topics: snapshot.topics.clone() };
        let is_behind = |(partition, offset): (&(String, i32), &i64)| {
            snapshot.offsets.get(partition).is_none_or(|of_snapshot| of_snapshot < offset)
        };
        if known.joined(&decode(&bytes)?).is_none() || self.offsets.iter().any(is_behind) {
            return Ok(false);
        }

        self.sums = snapshot.sums();
        self.offsets.clone_from(&snapshot.offsets);
        let write = self.database.begin_write()?;
        self.write_offsets(&write, snapshot.offsets.keys().cloned())?;
        // Rows that the snapshot lacks would come back at the next start.
        write.delete_table(EXPERIMENTS)?;
        write.delete_table(HOURS)?;
        write.delete_table(PAIRS)?;
        self.write_sums(&write, &Touched::all(&self.sums))?;
        self.write_names(&write)?;
        write.commit()?;
        Ok(true)
    }

    /// Notes where partitions begin of which nothing was read.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(super) fn note_beginnings(&mut self, beginnings: &BTreeMap<(String, i32), i64>) -> Result<(), StoreError> {
        for (partition, first) in beginnings {
            self.offsets.entry(partition.clone()).or_insert(*first);
        }
        let write = self.database.begin_write()?;
        self.write_offsets(&write, beginnings.keys().cloned())?;
        write.commit()?;
        Ok(())
    }

    /// The sums.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// The next offset of each partition.
    pub fn offsets(&self) -> &BTreeMap<(String, i32), i64> {
        &self.offsets
    }

    /// Adds records and the offsets behind them, in one write. After an error, open the store
    /// again.
    ///
    /// # Errors
    /// When the store cannot be read or written. It is as before the call then.
    pub fn add(&mut self, records: &[(TopicKind, Record)]) -> Result<(), StoreError> {
        let write = self.database.begin_write()?;
        let touched = {
            let index = StoredIndex::open(&write, self.current, &mut self.names)?;
            let mut ledger = Ledger::new(std::mem::take(&mut self.sums), index);
            for (kind, record) in records {
                add_record(&mut ledger, *kind, record)?;
                let next = self.offsets.entry((record.topic.clone(), record.partition)).or_default();
                *next = (*next).max(record.offset + 1);
            }
            let (sums, touched) = ledger.finish();
            self.sums = sums;
            touched
        };

        let partitions = records.iter().map(|(_, record)| (record.topic.clone(), record.partition));
        self.write_offsets(&write, partitions)?;
        self.write_sums(&write, &touched)?;
        // Names last: writing sums may give a new one.
        self.write_names(&write)?;
        write.commit()?;
        Ok(())
    }

    /// Drops the older generation if the current one has lasted for `keep_ms`. Returns true if so.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn rotate(&mut self, keep_ms: i64, now_ms: i64) -> Result<bool, StoreError> {
        if now_ms.saturating_sub(self.current.since_ms) < keep_ms {
            return Ok(false);
        }
        let current = Current { generation: 1 - self.current.generation, since_ms: now_ms };
        let write = self.database.begin_write()?;
        drop_generation(&write, current.generation)?;
        write.open_table(META)?.insert("generation", encode(&current).as_slice())?;
        write.commit()?;
        self.current = current;
        Ok(true)
    }

    /// How many requests are remembered.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn requests(&self) -> Result<u64, StoreError> {
        let read = self.database.begin_read()?;
        let mut requests = 0;
        for generation in GENERATIONS {
            requests += read.open_table(generation.requests)?.len()?;
        }
        Ok(requests)
    }

    /// Bytes of the pages that hold entries. It reads every page, so it is for measurements.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn page_bytes(&self) -> Result<u64, StoreError> {
        let write = self.database.begin_write()?;
        let stats = write.stats()?;
        let bytes = stats.allocated_pages() * stats.page_size() as u64;
        write.abort()?;
        Ok(bytes)
    }

    fn load(database: Database) -> Result<Self, StoreError> {
        let read = database.begin_read()?;
        let mut names = Names::default();
        for entry in read.open_table(NAMES)?.iter()? {
            let (number, name) = entry?;
            names.restore(number.value(), decode(name.value())?);
        }

        let mut offsets = BTreeMap::new();
        for entry in read.open_table(OFFSETS)?.iter()? {
            let (partition, offset) = entry?;
            let (topic, partition) = partition.value();
            offsets.insert((topic.to_owned(), partition), offset.value());
        }

        let sums = load_sums(&read, &names)?;
        let generation = meta(&database, "generation")?.ok_or(StoreError::Damaged("there is no generation"))?;
        let current: Current = decode(&generation)?;
        if usize::from(current.generation) >= GENERATIONS.len() {
            return Err(StoreError::Damaged("there is no such generation"));
        }
        drop(read);
        Ok(Self { database, names, sums, offsets, current })
    }

    fn write_names(&mut self, write: &WriteTransaction) -> Result<(), StoreError> {
        let mut table = write.open_table(NAMES)?;
        for (number, name) in self.names.take_new() {
            table.insert(number, encode(&name).as_slice())?;
        }
        Ok(())
    }

    fn write_offsets(
        &self,
        write: &WriteTransaction,
        partitions: impl Iterator<Item = (String, i32)>,
    ) -> Result<(), StoreError> {
        let mut table = write.open_table(OFFSETS)?;
        let partitions: BTreeSet<(String, i32)> = partitions.collect();
        for (topic, partition) in partitions {
            if let Some(offset) = self.offsets.get(&(topic.clone(), partition)) {
                table.insert((topic.as_str(), partition), *offset)?;
            }
        }
        Ok(())
    }

    fn write_sums(&mut self, write: &WriteTransaction, touched: &Touched) -> Result<(), StoreError> {
        let mut experiments = write.open_table(EXPERIMENTS)?;
        for key in &touched.experiments {
            if let Some(sums) = self.sums.experiments.get(key) {
                let number = self.names.number(Name::Experiment(key.clone()));
                experiments.insert(number, encode(sums).as_slice())?;
            }
        }

        let mut hours = write.open_table(HOURS)?;
        for (arm, hour) in &touched.hours {
            let number = self.names.number(Name::Arm(arm.clone()));
            let of_arm = self.sums.experiments.get(&arm.experiment).and_then(|sums| sums.arms.get(&arm.variant));
            match of_arm.and_then(|of_arm| of_arm.hours.get(hour)) {
                Some(sums) => drop(hours.insert((number, *hour), encode(sums).as_slice())?),
                None => drop(hours.remove((number, *hour))?),
            }
        }

        let mut pairs = write.open_table(PAIRS)?;
        for versions in &touched.pairs {
            if let Some(labels) = self.sums.pairs.get(versions) {
                let number = self.names.number(Name::Versions(versions.0.clone(), versions.1.clone()));
                pairs.insert(number, encode(labels).as_slice())?;
            }
        }
        let mut meta = write.open_table(META)?;
        meta.insert("excluded", encode(&self.sums.excluded).as_slice())?;
        meta.insert("reviews", encode(&self.sums.reviews).as_slice())?;
        Ok(())
    }
}

fn add_record(ledger: &mut Ledger<StoredIndex<'_, '_>>, kind: TopicKind, record: &Record) -> Result<(), StoreError> {
    match (kind, &record.payload) {
        // A tombstone that was forwarded is no verdict.
        (TopicKind::Verdicts, None) => Ok(()),
        (TopicKind::Verdicts, Some(value)) => ledger.add_value(value),
        (TopicKind::Reviews, None) => Ok(()),
        (TopicKind::Reviews, Some(value)) => ledger.add_review(value),
        (TopicKind::DeadLetters, _) => ledger.add_dead_letter(record),
    }
}

fn load_sums(read: &redb::ReadTransaction, names: &Names) -> Result<Sums, StoreError> {
    const UNKNOWN: StoreError = StoreError::Damaged("a number has no name");
    let mut sums = Sums::default();
    for entry in read.open_table(EXPERIMENTS)?.iter()? {
        let (number, bytes) = entry?;
        let Some(Name::Experiment(key)) = names.name(number.value()) else { return Err(UNKNOWN) };
        sums.experiments.insert(key.clone(), decode::<ExperimentSums>(bytes.value())?);
    }

    for entry in read.open_table(HOURS)?.iter()? {
        let (key, bytes) = entry?;
        let (number, hour) = key.value();
        let Some(Name::Arm(ArmKey { experiment, variant })) = names.name(number) else { return Err(UNKNOWN) };
        let of_hour: Hour = decode(bytes.value())?;
        if let Some(arm) = sums.experiments.get_mut(experiment).and_then(|sums| sums.arms.get_mut(variant)) {
            arm.hours.insert(hour, of_hour);
        }
    }

    for entry in read.open_table(PAIRS)?.iter()? {
        let (number, bytes) = entry?;
        let Some(Name::Versions(live, shadow)) = names.name(number.value()) else { return Err(UNKNOWN) };
        sums.pairs.insert((live.clone(), shadow.clone()), decode(bytes.value())?);
    }

    if let Some(bytes) = read.open_table(META)?.get("excluded")? {
        sums.excluded = decode(bytes.value())?;
    }
    if let Some(bytes) = read.open_table(META)?.get("reviews")? {
        sums.reviews = decode(bytes.value())?;
    }
    Ok(sums)
}

/// An entry of the first table; none where there is no such table yet.
fn meta(database: &Database, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let read = database.begin_read()?;
    let table = match read.open_table(META) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(table.get(key)?.map(|entry| entry.value().to_vec()))
}

fn write_meta(database: &Database, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let write = database.begin_write()?;
    write.open_table(META)?.insert(key, bytes)?;
    write.commit()?;
    Ok(())
}

/// Deletes everything, and makes every table.
fn empty(database: &Database, identity: &Identity, current: Current) -> Result<(), StoreError> {
    let write = database.begin_write()?;
    write.delete_table(META)?;
    write.delete_table(OFFSETS)?;
    write.delete_table(NAMES)?;
    write.delete_table(EXPERIMENTS)?;
    write.delete_table(HOURS)?;
    write.delete_table(PAIRS)?;
    drop_generation(&write, 0)?;
    drop_generation(&write, 1)?;

    write.open_table(OFFSETS)?;
    write.open_table(NAMES)?;
    write.open_table(EXPERIMENTS)?;
    write.open_table(HOURS)?;
    write.open_table(PAIRS)?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert("identity", encode(identity).as_slice())?;
        meta.insert("generation", encode(&current).as_slice())?;
    }
    write.commit()?;
    Ok(())
}

/// Empties the tables of a generation.
fn drop_generation(write: &WriteTransaction, generation: u8) -> Result<(), StoreError> {
    let generation = GENERATIONS[usize::from(generation)];
    write.delete_table(generation.requests)?;
    write.delete_table(generation.clusters)?;
    write.delete_table(generation.firsts)?;
    write.delete_table(generation.answers)?;
    write.delete_table(generation.reviewed)?;
    write.open_table(generation.requests)?;
    write.open_table(generation.clusters)?;
    write.open_table(generation.firsts)?;
    write.open_table(generation.answers)?;
    write.open_table(generation.reviewed)?;
    Ok(())
}
