//! Rates of labels of which each was shown to people with a known probability.
//!
//! The plain rate compares review policies, not models: what is sent to review is not a sample of
//! all. A label counts as many times as it stands for (Horvitz & Thompson 1952; Hájek 1971).

use super::special::normal_quantile;

/// Labels weighted by the probability with which each was shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weighted {
    n: f64,
    /// Σ 1/p.
    weights: f64,
    /// Σ 1/p².
    squares: f64,
    /// Σ y/p.
    labels: f64,
    /// Σ y/p².
    labels_squares: f64,
    /// Σ y²/p².
    label_squares: f64,
    /// Σ (1-p)/p², Σ y(1-p)/p² and Σ y²(1-p)/p².
    poisson: [f64; 3],
    plain: f64,
}

impl Weighted {
    /// Of pairs of a label (0 or 1, or any number) and the probability with which it was shown.
    pub fn of(labels: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut sums = Self::default();
        labels.into_iter().for_each(|(label, probability)| sums.add(label, probability));
        sums
    }

    /// Adds a label that was shown with a probability above 0.
    pub fn add(&mut self, y: f64, p: f64) {
        let (weight, square) = (1.0 / p, 1.0 / (p * p));
        self.n += 1.0;
        self.plain += y;
        self.weights += weight;
        self.squares += square;
        self.labels += y * weight;
        self.labels_squares += y * square;
        self.label_squares += y * y * square;
        let not_shown = (1.0 - p) * square;
        let terms = [not_shown, y * not_shown, y * y * not_shown];
        self.poisson.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }

    /// The estimated sum of all labels, shown or not.
    pub fn total(&self) -> f64 {
        self.labels
    }

    /// The standard error of [`Self::total`], each label having been shown independently.
    pub fn total_standard_error(&self) -> f64 {
        self.poisson[2].max(0.0).sqrt()
    }

    /// The rate: Hájek's ratio of Σ y/p to Σ 1/p.
    pub fn rate(&self) -> f64 {
        self.labels / self.weights
    }

    /// The estimated number of items that the labels stand for.
    pub fn estimated_size(&self) -> f64 {
        self.weights
    }

    /// The standard error of [`Self::rate`] as that of the process behind the log: linearized, without
    /// the factor 1 - p (HC0). This is the one that reports print.
    pub fn standard_error(&self) -> f64 {
        let rate = self.rate();
        let sum = self.label_squares - 2.0 * rate * self.labels_squares + rate * rate * self.squares;
        sum.max(0.0).sqrt() / self.weights
    }

    /// The standard error of [`Self::rate`] for the items of the log alone: with the factor 1 - p.
    pub fn standard_error_of_log(&self) -> f64 {
        let rate = self.rate();
        let [all, labels, squares] = self.poisson;
        (squares - 2.0 * rate * labels + rate * rate * all).max(0.0).sqrt() / self.weights
    }

    /// How many labels of equal weight would tell as much (Kish).
    pub fn effective_size(&self) -> f64 {
        self.weights * self.weights / self.squares
    }

    /// The rate without weights: that of what was shown.
    pub fn plain_rate(&self) -> f64 {
        self.plain / self.n
    }

    /// The interval of [`Self::rate`] at a level such as 0.95.
    pub fn interval(&self, level: f64) -> [f64; 2] {
        let half = normal_quantile(0.5 + 0.5 * level) * self.standard_error();
        [self.rate() - half, self.rate() + half]
    }
}

/// A stratum: how many items it has, and the labels of those that were drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Stratum {
    /// Items, labelled or not.
    pub population: f64,
    /// Labels of the drawn ones.
    pub labels: Vec<f64>,
}

/// The mean over strata and its standard error, without and with the correction for a finite
/// population (Cochran 1977, chapter 5). A stratum needs two labels.
pub fn stratified_mean(strata: &[Stratum]) -> (f64, f64, f64) {
    let all: f64 = strata.iter().map(|stratum| stratum.population).sum();
    let (mut mean, mut process, mut log) = (0.0, 0.0, 0.0);
    for stratum in strata {
        let moments = super::Moments::of(&stratum.labels);
        let weight = stratum.population / all;
        let variance = weight * weight * moments.variance_of_mean();
        mean += weight * moments.mean;
        process += variance;
        log += variance * (1.0 - moments.n / stratum.population);
    }
    (mean, process.sqrt(), log.sqrt())
}
