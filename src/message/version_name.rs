//! Names of versions.

use std::fmt;

/// A version's name. It becomes a folder, a metric label and a header, and can be nothing else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionName(String);

/// A name that no version can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot name a version: letters, digits, `_`, `-` and `.` can, the first no `.`, at most {CHARACTERS_MAX} of them"
)]
pub struct VersionNameError(String);

const CHARACTERS_MAX: usize = 100;

impl std::str::FromStr for VersionName {
    type Err = VersionNameError;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        match (1..=CHARACTERS_MAX).contains(&written.len()) && !written.starts_with('.') && written.chars().all(good) {
            true => Ok(Self(written.to_owned())),
            false => Err(VersionNameError(written.to_owned())),
        }
    }
}

impl VersionName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VersionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
