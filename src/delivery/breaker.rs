//! Stops reading when too much fails: a bad version, a new kind of producer or a missing folder must not empty a topic into
//! the dead letters. Pure: it is told the clock.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How much may fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerLimits {
    /// Outcomes that are looked back at.
    pub window: usize,
    /// Share of dead letters among them that is too much, once so many outcomes are known.
    pub share_max: f64,
    /// Dead letters in a row that are too many.
    pub run_max: usize,
    /// How long reading stops, before it is tried again; none until somebody closes the breaker.
    pub pause: Option<Duration>,
}

/// Looks at outcomes, and opens when too many are dead letters.
#[derive(Debug)]
pub struct Breaker {
    limits: BreakerLimits,
    recent: VecDeque<bool>,
    refused: usize,
    run: usize,
    opened: Option<Instant>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(limits: BreakerLimits) -> Self {
        Self { limits, recent: VecDeque::new(), refused: 0, run: 0, opened: None }
    }

    /// Notes an outcome; true where it opens the breaker.
    pub fn note(&mut self, refused: bool, now: Instant) -> bool {
        if self.opened.is_some() {
            // What was on its way when it opened says nothing new.
            return false;
        }
        self.recent.push_back(refused);
        self.refused += usize::from(refused);
        if self.recent.len() > self.limits.window {
            self.refused -= usize::from(self.recent.pop_front().unwrap_or_default());
        }
        self.run = if refused { self.run + 1 } else { 0 };
        let full = self.recent.len() >= self.limits.window;
        let too_many = full && self.refused as f64 > self.limits.share_max * self.recent.len() as f64;
        if too_many || self.run >= self.limits.run_max {
            self.opened = Some(now);
        }
        self.opened.is_some()
    }

    /// Whether reading stops now. After its pause the breaker closes by itself, and begins anew.
    pub fn is_open(&mut self, now: Instant) -> bool {
        let over =
            |since: Instant| self.limits.pause.is_some_and(|pause| now.saturating_duration_since(since) >= pause);
        if self.opened.is_some_and(over) {
            self.close();
        }
        self.opened.is_some()
    }

    /// Closes it: somebody has done something about the cause.
    pub fn close(&mut self) {
        *self = Self::new(self.limits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BreakerLimits =
        BreakerLimits { window: 10, share_max: 0.5, run_max: 8, pause: Some(Duration::from_secs(60)) };

    #[test]
    fn it_opens_on_a_share_over_a_full_window_or_on_a_run_and_closes_after_its_pause() {
        let now = Instant::now();
        let opens_at = |outcomes: &[bool]| {
            let mut breaker = Breaker::new(LIMITS);
            outcomes.iter().position(|refused| breaker.note(*refused, now))
        };
        assert_eq!(opens_at(&[true; 7]), None, "no full window, and no run");
        assert_eq!(opens_at(&[true; 9]), Some(7), "a run");
        let half: Vec<bool> = (0..40).map(|index| index % 2 == 0).collect();
        assert_eq!(opens_at(&half), None, "half is allowed");
        let more = [true, true, false].repeat(5);
        assert_eq!(opens_at(&more), Some(9), "two thirds of ten");
        let late: Vec<bool> = [vec![false; 20], [true, true, false].repeat(9)].concat();
        assert!(opens_at(&late).is_some_and(|at| at > 25), "what is long past is forgotten");

        let mut breaker = Breaker::new(LIMITS);
        (0..8).for_each(|_| {
            breaker.note(true, now);
        });
        assert!(breaker.is_open(now + Duration::from_secs(59)) && !breaker.is_open(now + Duration::from_secs(60)));
        assert!(!breaker.note(true, now), "it begins anew");
        let mut breaker = Breaker::new(BreakerLimits { pause: None, ..LIMITS });
        (0..8).for_each(|_| {
            breaker.note(true, now);
        });
        assert!(breaker.is_open(now + Duration::from_secs(9_999)));
        breaker.close();
        assert!(!breaker.is_open(now));
    }
}
