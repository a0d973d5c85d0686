//! First verdicts of pictures: a picture that is sent often is evidence once.

/// The first verdict of a picture in an experiment, or in a pair of versions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct First<T> {
    /// Milliseconds since 1970.
    pub time_ms: i64,
    /// What it was. Of two at the same moment, the lesser one is the first.
    pub what: T,
}

/// The first verdict of a picture in an experiment.
pub type FirstVerdict = First<FirstOutcome>;
/// The labels of the first pair of verdicts of a picture: live and shadow, 0 to 2.
pub type FirstPair = First<(u8, u8)>;

/// The content of the first verdict of a picture.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FirstOutcome {
    /// The variant that it was of.
    pub variant: String,
    /// Whether the label is `no`.
    pub is_no: bool,
    /// Whether it goes to a person.
    pub is_review: bool,
    /// Its latency; none where the answer came from the cache.
    pub latency_us: Option<u64>,
}
