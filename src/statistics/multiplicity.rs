//! Several questions at once: p-values and e-values adjusted for how many were asked.

/// Indices of `values`, smallest first; equal ones keep their order.
fn ascending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    order
}

/// Adjusted p-values, in the order given, of a procedure that multiplies the i-th smallest by a
/// factor. It keeps a running maximum from the smallest on, or a running minimum from the largest.
fn adjusted(p: &[f64], is_step_down: bool, factor: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut order = ascending(p);
    let mut result = vec![1.0; p.len()];
    let ranks: Vec<usize> = (1..=p.len()).collect();
    let mut pairs: Vec<(usize, usize)> = ranks.into_iter().zip(order.drain(..)).collect();
    if !is_step_down {
        pairs.reverse();
    }
    let mut running = if is_step_down { 0.0_f64 } else { 1.0 };
    for (rank, at) in pairs {
        let value = (p[at] * factor(rank)).min(1.0);
        running = if is_step_down { running.max(value) } else { running.min(value) };
        result[at] = running;
    }
    result
}

/// Bonferroni's adjustment.
pub fn bonferroni(p: &[f64]) -> Vec<f64> {
    p.iter().map(|p_value| (p_value * p.len() as f64).min(1.0)).collect()
}

/// Holm's adjustment (1979), which holds under any dependence.
pub fn holm(p: &[f64]) -> Vec<f64> {
    adjusted(p, true, |rank| (p.len() + 1 - rank) as f64)
}

/// Hochberg's adjustment (1988), for independent or positively dependent tests.
pub fn hochberg(p: &[f64]) -> Vec<f64> {
    adjusted(p, false, |rank| (p.len() + 1 - rank) as f64)
}

/// Benjamini & Hochberg's adjustment (1995): the false discovery rate.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    adjusted(p, false, |rank| p.len() as f64 / rank as f64)
}

/// Benjamini & Yekutieli's adjustment (2001): the false discovery rate under any dependence.
pub fn benjamini_yekutieli(p: &[f64]) -> Vec<f64> {
    let harmonic: f64 = (1..=p.len()).map(|rank| 1.0 / rank as f64).sum();
    adjusted(p, false, |rank| harmonic * p.len() as f64 / rank as f64)
}

/// Which e-values the e-BH procedure rejects at a false discovery rate of `alpha` (Wang & Ramdas
/// 2022): the k largest, where k is the largest i with i e₍ᵢ₎ / m ≥ 1/α. Valid under any
/// dependence, and at any time.
pub fn e_benjamini_hochberg(e: &[f64], alpha: f64) -> Vec<bool> {
    let mut order = ascending(e);
    order.reverse();
    let m = e.len() as f64;
    let passes = |rank: usize| rank as f64 * e[order[rank - 1]] / m >= 1.0 / alpha;
    let rejected = (1..=e.len()).rev().find(|rank| passes(*rank)).unwrap_or(0);
    let mut mask = vec![false; e.len()];
    order[..rejected].iter().for_each(|at| mask[*at] = true);
    mask
}

/// An e-value of a p-value of a fixed number of observations, once: the average over all
/// calibrators κ p^(κ-1) (Vovk & Wang 2021).
pub fn e_of_p_average(p: f64) -> f64 {
    if p == 1.0 {
        return 0.5;
    }
    let ln = p.ln();
    (1.0 - p + p * ln) / (p * ln * ln)
}

/// An e-value of a p-value: the calibrator with κ = 1/2.
pub fn e_of_p_half(p: f64) -> f64 {
    0.5 / p.sqrt()
}

/// The p-value that an e-value bounds.
pub fn p_of_e(e: f64) -> f64 {
    (1.0 / e).min(1.0)
}
