//! What can go wrong with the store.

/// A store that cannot be used. It can be made again from the topics.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process uses it.
    #[error(
        "another process uses the evidence in this directory: give each instance an `evidence.directory` of its own"
    )]
    InUse,
    /// It cannot be read or written.
    #[error("the evidence store cannot be used: {0}")]
    Storage(String),
    /// An entry makes no sense.
    #[error("the evidence store is damaged: {0}")]
    Damaged(&'static str),
}

impl StoreError {
    /// The stable code of this error: a metric label.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::Storage(_) => "storage",
            Self::Damaged(_) => "damaged",
        }
    }
}

macro_rules! from_redb {
    ($($error:ident),+) => {
        $(impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::of(redb::Error::from(error))
            }
        })+
    };
}

from_redb!(StorageError, TableError, TransactionError, CommitError);

impl StoreError {
    /// A file that is not whole is made again. A disk that is full, or may not be written, is not:
    /// it may be right again later, and the topics may not hold any more what the file holds.
    fn of(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            redb::Error::Corrupted(_) | redb::Error::RepairAborted | redb::Error::UpgradeRequired(_) => {
                Self::Damaged("the file is not whole, or of another version")
            }
            other => Self::Storage(other.to_string()),
        }
    }
}

impl From<redb::DatabaseError> for StoreError {
    fn from(error: redb::DatabaseError) -> Self {
        Self::of(error.into())
    }
}

impl From<postcard::Error> for StoreError {
    fn from(_: postcard::Error) -> Self {
        Self::Damaged("an entry cannot be decoded")
    }
}
