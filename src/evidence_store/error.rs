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
    ($($error:ty),+) => {
        $(impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::Storage(error.to_string())
            }
        })+
    };
}

from_redb!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError, redb::SetDurabilityError);

impl From<redb::DatabaseError> for StoreError {
    fn from(error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::InUse,
            other => Self::Storage(other.to_string()),
        }
    }
}

impl From<postcard::Error> for StoreError {
    fn from(_: postcard::Error) -> Self {
        Self::Damaged("an entry cannot be decoded")
    }
}
