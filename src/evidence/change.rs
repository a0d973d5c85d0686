//! Adding to sums, and taking back.

/// Adding or removing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A record counts from now on.
    Add,
    /// An earlier record of the same request was read.
    Remove,
}

impl Change {
    /// `total` with, or without, `part`.
    pub(super) fn apply(self, total: u64, part: u64) -> u64 {
        match self {
            Self::Add => total.saturating_add(part),
            Self::Remove => total.saturating_sub(part),
        }
    }

    pub(super) fn apply_wide(self, total: u128, part: u128) -> u128 {
        match self {
            Self::Add => total.saturating_add(part),
            Self::Remove => total.saturating_sub(part),
        }
    }
}
