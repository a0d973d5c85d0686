//! What passes may cost at the same time on one device, all versions together.
//!
//! Live passes go in the order in which they came. A shadow pass goes only where no live one runs or waits, and is
//! asked to give up as soon as one comes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::ofa::Interrupt;

/// What a pass takes of a device, or what a device has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Threads of the CPU.
    pub threads: usize,
    /// Positions, padding included.
    pub tokens: usize,
    /// Memory beside the weights, in bytes.
    pub bytes: u64,
}

impl Cost {
    fn with(self, other: Self) -> Self {
        Self {
            threads: self.threads + other.threads,
            tokens: self.tokens.saturating_add(other.tokens),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    fn without(self, other: Self) -> Self {
        Self {
            threads: self.threads - other.threads,
            tokens: self.tokens.saturating_sub(other.tokens),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn within(self, limits: Self) -> bool {
        self.threads <= limits.threads && self.tokens <= limits.tokens && self.bytes <= limits.bytes
    }
}

/// The budget of one device.
#[derive(Debug)]
pub struct Budget {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    limits: Cost,
    used: Cost,
    /// Passes that run.
    running: usize,
    /// Live ones that run or wait.
    live: usize,
    /// Tickets are served in order.
    next_ticket: u64,
    serving: u64,
    /// Shadow passes that run, by number.
    shadows: Vec<(u64, Interrupt)>,
}

impl State {
    /// One pass alone may exceed the budget: it would wait for ever otherwise.
    fn fits(&self, cost: Cost) -> bool {
        self.running == 0 || self.used.with(cost).within(self.limits)
    }

    fn begin(&mut self, cost: Cost) {
        self.used = self.used.with(cost);
        self.running += 1;
    }
}

/// A pass that runs; it leaves the budget when it is dropped.
#[must_use = "the pass leaves the budget when this is dropped"]
pub struct Pass<'b> {
    budget: &'b Budget,
    cost: Cost,
    shadow: Option<u64>,
}

impl Budget {
    /// A budget with these limits.
    pub fn new(limits: Cost) -> Self {
        let state = State {
            limits,
            used: Cost::default(),
            running: 0,
            live: 0,
            next_ticket: 0,
            serving: 0,
            shadows: Vec::new(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Changes the limits; passes that run finish as they are.
    pub fn set_limits(&self, limits: Cost) {
        self.lock().limits = limits;
        self.changed.notify_all();
    }

    /// Waits until there is room for a live pass. Shadow passes that run are asked to give up.
    pub fn enter(&self, cost: Cost) -> Pass<'_> {
        let mut state = self.lock();
        state.live += 1;
        for (_, interrupt) in &state.shadows {
            interrupt.raise();
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        while state.serving != ticket || !state.fits(cost) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.serving += 1;
        state.begin(cost);
        drop(state);
        // The next in line may fit too.
        self.changed.notify_all();
        Pass { budget: self, cost, shadow: None }
    }

    /// Room for a shadow pass, where there is some now. The interrupt is raised when a live pass comes.
    pub fn enter_shadow(&self, cost: Cost, interrupt: &Interrupt) -> Option<Pass<'_>> {
        let mut state = self.lock();
        if state.live > 0 || !state.fits(cost) {
            return None;
        }
        state.begin(cost);
        let number = state.next_ticket;
        state.shadows.push((number, interrupt.clone()));
        // A number of its own, which nobody waits for: it is served already, because no live pass waits.
        state.next_ticket += 1;
        state.serving += 1;
        Some(Pass { budget: self, cost, shadow: Some(number) })
    }

    /// What the passes that run take.
    pub fn used(&self) -> Cost {
        self.lock().used
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters are changed under the lock in steps that cannot panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.used = state.used.without(self.cost);
        state.running -= 1;
        match self.shadow {
            Some(number) => state.shadows.retain(|(running, _)| *running != number),
            None => state.live -= 1,
        }
        drop(state);
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
        time::Duration,
    };

    use super::*;

    fn cost(threads: usize, tokens: usize) -> Cost {
        Cost { threads, tokens, bytes: 0 }
    }

    #[test]
    fn passes_never_exceed_the_budget_together_and_all_get_their_turn() {
        let budget = Arc::new(Budget::new(cost(4, 1_000)));
        let (threads, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        thread::scope(|scope| {
            for worker in 0..8 {
                let (budget, threads, most) = (budget.clone(), threads.clone(), most.clone());
                scope.spawn(move || {
                    for _ in 0..50 {
                        let wanted = 1 + worker % 3;
                        let pass = budget.enter(cost(wanted, 100));
                        most.fetch_max(threads.fetch_add(wanted, Ordering::SeqCst) + wanted, Ordering::SeqCst);
                        thread::sleep(Duration::from_micros(50));
                        threads.fetch_sub(wanted, Ordering::SeqCst);
                        drop(pass);
                    }
                });
            }
        });
        let most = most.load(Ordering::SeqCst);
        assert!(most <= 4, "{most} threads at once");
        assert_eq!(budget.used(), Cost::default());
    }

    #[test]
    fn passes_that_fit_run_side_by_side() {
        let budget = Budget::new(cost(4, 1_000));
        let passes = [budget.enter(cost(2, 400)), budget.enter(cost(2, 400))];
        assert_eq!(budget.used(), cost(4, 800));
        drop(passes);
    }

    #[test]
    fn a_pass_that_alone_exceeds_the_budget_goes_alone() {
        let budget = Budget::new(cost(2, 100));
        let large = budget.enter(cost(2, 1_000));
        assert!(budget.enter_shadow(cost(0, 1), &Interrupt::default()).is_none());
        drop(large);
        drop(budget.enter(cost(2, 50)));
    }

    #[test]
    fn a_live_pass_does_not_wait_behind_a_small_one_that_came_later() {
        let budget = Arc::new(Budget::new(cost(2, 1_000)));
        let first = budget.enter(cost(1, 0));
        let order = Arc::new(Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for (name, threads) in [("large", 2), ("small", 1)] {
                let (inside, order) = (budget.clone(), order.clone());
                scope.spawn(move || {
                    let pass = inside.enter(cost(threads, 0));
                    order.lock().unwrap().push(name);
                    drop(pass);
                });
                // Until it stands in line.
                while budget.lock().live < if name == "large" { 2 } else { 3 } {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(*order.lock().unwrap(), ["large", "small"]);
    }

    #[test]
    fn a_shadow_pass_goes_only_where_nobody_else_does_and_is_asked_to_give_up() {
        let budget = Budget::new(cost(4, 1_000));
        let interrupt = Interrupt::default();
        let shadow = budget.enter_shadow(cost(2, 0), &interrupt).unwrap();
        assert!(!interrupt.is_raised());
        let live = budget.enter(cost(2, 0));
        assert!(interrupt.is_raised());
        drop(shadow);
        assert!(budget.enter_shadow(cost(0, 0), &interrupt).is_none(), "a live pass runs");
        drop(live);
        assert!(budget.enter_shadow(cost(0, 0), &interrupt).is_some());
        assert_eq!(budget.used(), Cost::default());
    }

    #[test]
    fn raised_limits_let_in_who_waits() {
        let budget = Arc::new(Budget::new(cost(1, 1_000)));
        let first = budget.enter(cost(1, 0));
        let waiting = budget.clone();
        let second = thread::spawn(move || drop(waiting.enter(cost(1, 0))));
        budget.set_limits(cost(2, 1_000));
        second.join().unwrap();
        drop(first);
    }
}
