//! Which requests go into the next pass, and when. Pure: no threads, and the clock is told.
//!
//! * live: requests that somebody waits for.
//! * retry: requests that a broken version handed back. They are older than all others, so they go first, and each
//!   alone, so that one which breaks the version again takes nobody along.
//! * shadow: requests judged for comparison. They go when nobody else waits.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Where a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Somebody waits for it.
    Live,
    /// It was handed back by a version that broke.
    Retry,
    /// It is judged for comparison.
    Shadow,
}

impl Lane {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Live, Self::Retry, Self::Shadow];

    /// The lane as metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Retry => "retry",
            Self::Shadow => "shadow",
        }
    }
}

/// What decides over batches. All of it may change while the version runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Knobs {
    /// Requests in a pass, at most.
    pub batch_size: usize,
    /// How long the first request of a pass waits for others.
    pub max_delay: Duration,
    /// Positions in a pass, padding included, at most; a single request goes whatever it has.
    pub tokens_max: usize,
    /// Share of padding among the positions of a pass, at most.
    pub padding_max: f64,
    /// Live requests that may wait; more of them hold up whoever brings them.
    pub queue_size: usize,
    /// Shadow requests that may wait; more of them are dropped.
    pub shadow_queue_size: usize,
}

/// What a request adds to a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its texts, each a row of the pass.
    pub rows: usize,
    /// Tokens of its longest text.
    pub tokens: usize,
}

/// How a network's passes are shaped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Positions before each text.
    pub patches: usize,
    /// Texts are padded to a multiple of this many tokens.
    pub token_multiple: usize,
    /// Whether rows are padded to a power of two: every other number would cost the device a kernel.
    pub powers_of_two: bool,
}

/// Positions of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// All of them.
    pub padded: usize,
    /// Those that hold something.
    pub held: usize,
}

impl Positions {
    /// Share of padding.
    pub fn padding(&self) -> f64 {
        match self.padded {
            0 => 0.0,
            padded => 1.0 - self.held as f64 / padded as f64,
        }
    }
}

impl Shape {
    /// The positions of a pass over these requests.
    pub fn positions(&self, requests: impl Iterator<Item = Size> + Clone) -> Positions {
        let rows: usize = requests.clone().map(|size| size.rows).sum();
        let longest = requests.clone().map(|size| size.tokens).max().unwrap_or_default();
        let held = requests.map(|size| size.rows * (self.patches + size.tokens)).sum();
        let rows = if self.powers_of_two && rows > 0 { rows.next_power_of_two() } else { rows };
        Positions { padded: rows * (self.patches + longest.next_multiple_of(self.token_multiple.max(1))), held }
    }
}

/// Why a pass goes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No more fit.
    Full,
    /// The first has waited as long as it may.
    Delay,
    /// Nobody is to be waited for.
    Idle,
    /// It was handed back, and goes alone.
    Retry,
    /// Nothing comes any more.
    Drain,
}

impl Reason {
    /// The reason as metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Delay => "delay",
            Self::Idle => "idle",
            Self::Retry => "retry",
            Self::Drain => "drain",
        }
    }
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing waits.
    Nothing,
    /// Look again then, or when something comes.
    Until(Instant),
    /// These go, by their places in the lane, ascending.
    Go {
        /// The lane.
        lane: Lane,
        /// Why now.
        reason: Reason,
        /// Their places.
        places: Vec<usize>,
    },
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    /// What waits.
    pub(super) item: T,
    /// Since when.
    pub(super) since: Instant,
    /// What it adds to a pass.
    pub(super) size: Size,
    /// Passes in which the version broke under it.
    pub(super) breakages: u8,
}

/// Requests that wait for one version.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    live: VecDeque<Waiting<T>>,
    retry: VecDeque<Waiting<T>>,
    shadow: VecDeque<Waiting<T>>,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { live: VecDeque::new(), retry: VecDeque::new(), shadow: VecDeque::new() }
    }
}

impl<T> Lanes<T> {
    /// Requests in a lane.
    pub(super) fn len(&self, lane: Lane) -> usize {
        self.of(lane).len()
    }

    /// Whether none of those wait that somebody waits for.
    pub(super) fn is_idle(&self) -> bool {
        self.live.is_empty() && self.retry.is_empty()
    }

    /// Puts a request at the end of a lane.
    pub(super) fn push(&mut self, lane: Lane, waiting: Waiting<T>) {
        self.of_mut(lane).push_back(waiting);
    }

    /// Puts requests back in front of a lane, in their order.
    pub(super) fn put_back(&mut self, lane: Lane, requests: Vec<Waiting<T>>) {
        for waiting in requests.into_iter().rev() {
            self.of_mut(lane).push_front(waiting);
        }
    }

    /// Takes every request of a lane.
    pub(super) fn clear(&mut self, lane: Lane) -> Vec<Waiting<T>> {
        self.of_mut(lane).drain(..).collect()
    }

    /// Decides what goes. `closing` says that nothing comes any more.
    pub(super) fn decide(&self, now: Instant, knobs: &Knobs, shape: &Shape, closing: bool) -> Decision {
        if !self.retry.is_empty() {
            return Decision::Go { lane: Lane::Retry, reason: Reason::Retry, places: vec![0] };
        }
        if let Some(first) = self.live.front() {
            let (places, full) = chosen(&self.live, knobs, shape);
            let due = first.since + knobs.max_delay;
            let reason = match () {
                () if full => Reason::Full,
                () if closing => Reason::Drain,
                () if knobs.max_delay.is_zero() => Reason::Idle,
                () if now >= due => Reason::Delay,
                () => return Decision::Until(due),
            };
            return Decision::Go { lane: Lane::Live, reason, places };
        }
        if self.shadow.is_empty() {
            return Decision::Nothing;
        }
        let (places, full) = chosen(&self.shadow, knobs, shape);
        Decision::Go { lane: Lane::Shadow, reason: if full { Reason::Full } else { Reason::Idle }, places }
    }

    /// Takes the requests at these places, ascending, out of a lane.
    pub(super) fn take(&mut self, lane: Lane, places: &[usize]) -> Vec<Waiting<T>> {
        let lane = self.of_mut(lane);
        let mut taken: Vec<Waiting<T>> = places.iter().rev().filter_map(|&place| lane.remove(place)).collect();
        taken.reverse();
        taken
    }

    fn of(&self, lane: Lane) -> &VecDeque<Waiting<T>> {
        match lane {
            Lane::Live => &self.live,
            Lane::Retry => &self.retry,
            Lane::Shadow => &self.shadow,
        }
    }

    fn of_mut(&mut self, lane: Lane) -> &mut VecDeque<Waiting<T>> {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Retry => &mut self.retry,
            Lane::Shadow => &mut self.shadow,
        }
    }
}

/// The oldest request, and behind it, in order, those that fit: within the batch, the positions and the share of
/// padding. Texts of about one length so come together, without a queue for each. Also whether the pass is full: no
/// request fits any more, or the batch has its size.
fn chosen<T>(lane: &VecDeque<Waiting<T>>, knobs: &Knobs, shape: &Shape) -> (Vec<usize>, bool) {
    let mut places: Vec<usize> = Vec::new();
    let mut sizes: Vec<Size> = Vec::new();
    let mut full = false;
    for (place, waiting) in lane.iter().enumerate() {
        if places.len() >= knobs.batch_size.max(1) {
            break;
        }
        sizes.push(waiting.size);
        let positions = shape.positions(sizes.iter().copied());
        // Rows that only round a batch up say nothing against whoever is in it.
        let unrounded = Shape { powers_of_two: false, ..*shape }.positions(sizes.iter().copied());
        let fits = positions.padded <= knobs.tokens_max && unrounded.padding() <= knobs.padding_max;
        if places.is_empty() || fits {
            places.push(place);
        } else {
            full |= positions.padded > knobs.tokens_max;
            sizes.pop();
        }
    }
    full |= places.len() >= knobs.batch_size.max(1);
    (places, full)
}

#[cfg(test)]
mod tests;
