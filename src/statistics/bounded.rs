//! The mean of values between 0 and 1, at any time and without a normal approximation
//! (Waudby-Smith & Ramdas, JRSS-B 2024): for few observations, and for confidences.

use super::special::first_true;

/// The predictable bets and the running centre, both before an observation is seen.
#[derive(Clone, Copy, Debug)]
struct Running {
    t: f64,
    sum: f64,
    squares: f64,
}

impl Running {
    const START: Self = Self { t: 0.0, sum: 0.0, squares: 0.0 };

    fn mean(&self) -> f64 {
        (0.5 + self.sum) / (self.t + 1.0)
    }

    fn variance(&self) -> f64 {
        (0.25 + self.squares) / (self.t + 1.0)
    }

    /// √(2 ln(1/a) / (σ̂² t ln(1 + t))) for the next observation.
    fn bet(&self, a: f64) -> f64 {
        let t = self.t + 1.0;
        (-2.0 * a.ln() / (self.variance() * t * libm::log1p(t))).sqrt()
    }

    fn add(&mut self, x: f64) {
        self.t += 1.0;
        self.sum += x;
        self.squares += (x - self.mean()).powi(2);
    }
}

/// The empirical Bernstein interval (theorem 2), one observation after the other.
#[derive(Clone, Copy, Debug)]
pub struct EmpiricalBernstein {
    running: Running,
    a: f64,
    bets: f64,
    weighted: f64,
    variance: f64,
}

impl EmpiricalBernstein {
    /// An interval of a level, such as α = 0.05 for both sides.
    pub fn new(alpha: f64) -> Self {
        Self { running: Running::START, a: 0.5 * alpha, bets: 0.0, weighted: 0.0, variance: 0.0 }
    }

    /// Adds an observation between 0 and 1.
    pub fn add(&mut self, x: f64) {
        let bet = self.running.bet(self.a).min(0.5);
        let psi = -libm::log1p(-bet) - bet;
        self.variance += (x - self.running.mean()).powi(2) * psi;
        self.bets += bet;
        self.weighted += bet * x;
        self.running.add(x);
    }

    /// The interval so far.
    pub fn interval(&self) -> [f64; 2] {
        if self.bets == 0.0 {
            return [0.0, 1.0];
        }
        let centre = self.weighted / self.bets;
        let half = (self.variance - self.a.ln()) / self.bets;
        [(centre - half).max(0.0), (centre + half).min(1.0)]
    }
}

/// The betting interval with hedged capital (theorem 3). It is tighter, and needs all observations.
#[derive(Clone, Debug)]
pub struct Betting {
    running: Running,
    alpha: f64,
    /// Observations with the bet that was made on each.
    bets: Vec<(f64, f64)>,
}

/// No bet risks more than this share of the capital.
const STAKE_MAX: f64 = 0.5;

impl Betting {
    /// An interval of a level.
    pub fn new(alpha: f64) -> Self {
        Self { running: Running::START, alpha, bets: Vec::new() }
    }

    /// Adds an observation between 0 and 1.
    pub fn add(&mut self, x: f64) {
        self.bets.push((x, self.running.bet(0.5 * self.alpha)));
        self.running.add(x);
    }

    /// ln of the capital of betting that the mean is above `m`, and below it.
    pub fn ln_capital(&self, m: f64) -> [f64; 2] {
        let (mut up, mut down) = (0.0, 0.0);
        for (x, bet) in &self.bets {
            let stake_up = if m > 0.0 { bet.min(STAKE_MAX / m) } else { *bet };
            let stake_down = if m < 1.0 { bet.min(STAKE_MAX / (1.0 - m)) } else { *bet };
            up += libm::log1p(stake_up * (x - m));
            down += libm::log1p(-stake_down * (x - m));
        }
        [up, down]
    }

    /// The means that are not ruled out.
    pub fn interval(&self) -> [f64; 2] {
        // Half of the capital bets on each side.
        let limit = (2.0 / self.alpha).ln();
        let lower = first_true(0.0, 1.0, |m| self.ln_capital(m)[0] < limit);
        let upper = first_true(0.0, 1.0, |m| self.ln_capital(m)[1] >= limit);
        let lower = if self.ln_capital(0.0)[0] < limit { 0.0 } else { lower };
        let upper = if self.ln_capital(1.0)[1] < limit { 1.0 } else { upper };
        [lower, upper]
    }
}
