//! What a guard concludes about a treatment, and the evidence for it in words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::routing::GuardMetric;

/// The conclusion of a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardState {
    /// A variant has no verdicts.
    NoData,
    /// The treatment is not worse by more than the margin.
    Safe,
    /// The evidence allows harm, and allows none.
    Undecided,
    /// Evidence is missing or too old, so nothing is called safe.
    Blind,
    /// The treatment is worse by more than the margin.
    Harm,
}

impl GuardState {
    /// The state as logs spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoData => "without data",
            Self::Safe => "safe",
            Self::Undecided => "undecided",
            Self::Blind => "without current evidence",
            Self::Harm => "harmful",
        }
    }

    /// The number that stands for it in metrics.
    pub fn number(self) -> u8 {
        match self {
            Self::NoData => 0,
            Self::Undecided => 1,
            Self::Safe => 2,
            Self::Harm => 3,
            Self::Blind => 4,
        }
    }
}

/// What a guard concludes about one treatment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Judgement {
    /// The guard's name.
    pub guard: String,
    /// What it watches.
    pub metric: GuardMetric,
    /// The treatment's variant.
    pub treatment: String,
    /// The control's variant.
    pub control: String,
    /// The conclusion.
    pub state: GuardState,
    /// Events of control and treatment.
    pub events: [u64; 2],
    /// Units of control and treatment.
    pub units: [u64; 2],
    /// The rates of control and treatment; those of reviewed verdicts are weighted.
    #[serde(default)]
    pub rates: [f64; 2],
    /// The bounds of the difference of the rates, treatment less control, that hold at any time.
    /// Each is one-sided.
    pub difference: [f64; 2],
    /// Logarithm of the evidence that the treatment has events more often than the margin allows.
    pub ln_e_value: f64,
    /// The evidence that is enough for harm.
    pub ln_e_value_needed: f64,
    /// The margin.
    pub margin: f64,
    /// The part of α that this judgement has.
    pub alpha: f64,
    /// What it waits for before it calls anything harmful, if anything.
    pub waits_for: Option<String>,
}

impl Judgement {
    /// The evidence in words, for the audit.
    pub fn in_words(&self) -> String {
        let [control_events, treatment_events] = self.events;
        let [control_units, treatment_units] = self.units;
        let e_value = self.ln_e_value.exp();
        if self.metric == GuardMetric::SampleRatio {
            return format!(
                "{}: {} has {control_units} units, the other variants {treatment_units}, and settings divide them otherwise; \
                 e-value {e_value:.3e}, α = {}",
                self.guard, self.control, self.alpha
            );
        }

        if self.metric == GuardMetric::Disagreement {
            let [low, high] = self.difference.map(|end| 100.0 * end);
            return format!(
                "{}: {} and {} label {treatment_events} of {treatment_units} pictures differently ({low:.2} to {high:.2} %); \
                 at most {} % is no harm, e-value {e_value:.3e}, α = {}",
                self.guard,
                self.control,
                self.treatment,
                100.0 * self.margin,
                self.alpha
            );
        }

        let [control_rate, treatment_rate] = self.rates.map(|rate| 100.0 * rate);
        let [low, high] = self.difference.map(|end| 100.0 * end);
        format!(
            "{}: {} has {treatment_events} of {treatment_units} ({:.2} %), {} {control_events} of {control_units} \
             ({:.2} %); difference {low:.2} to {high:.2} points, e-value {:.3e}, margin {} points, α = {}",
            self.guard,
            self.treatment,
            treatment_rate,
            self.control,
            control_rate,
            e_value,
            100.0 * self.margin,
            self.alpha,
        )
    }
}

impl Judgement {
    pub(super) fn without_data(margin: f64, alpha: f64) -> Self {
        Self {
            guard: String::new(),
            metric: GuardMetric::NoRate,
            treatment: String::new(),
            control: String::new(),
            state: GuardState::NoData,
            events: [0; 2],
            units: [0; 2],
            rates: [0.0; 2],
            difference: [-1.0, 1.0],
            ln_e_value: 0.0,
            ln_e_value_needed: -alpha.ln(),
            margin,
            alpha,
            waits_for: None,
        }
    }

    /// Concludes from the bounds of the difference alone.
    pub(super) fn conclude(&mut self) {
        let [low, high] = self.difference;
        self.state = if low > self.margin {
            GuardState::Harm
        } else if high < self.margin {
            GuardState::Safe
        } else {
            GuardState::Undecided
        };
    }

    /// Turns a conclusion into a wait where the guard must see more first.
    pub(super) fn wait(&mut self, events_min: u64, delay_ms: u64, lasted_ms: u64) {
        let events: u64 = self.events.iter().sum();
        let waits_for = if events < events_min {
            Some(format!("{events} of {events_min} events"))
        } else if lasted_ms < delay_ms {
            Some(format!("{lasted_ms} of {delay_ms} ms"))
        } else {
            None
        };
        // Before its delay is over a guard calls nothing safe either.
        let is_early = lasted_ms < delay_ms && self.state == GuardState::Safe;
        if (self.state == GuardState::Harm && waits_for.is_some()) || is_early {
            self.state = GuardState::Undecided;
        }
        self.waits_for = waits_for;
    }

    /// The same judgement of evidence that is missing or too old: harm stays, safety does not.
    #[must_use]
    pub fn blinded(self) -> Self {
        let state = if self.state == GuardState::Harm { GuardState::Harm } else { GuardState::Blind };
        Self { state, ..self }
    }
}
