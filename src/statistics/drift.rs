//! Whether today's scores or features are those of another time.

/// How far two histograms over the same bins differ. Reference first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// Population stability index: Σ (q - p) ln(q / p), with 0.5 added to every count, so that an
    /// empty bin does not decide alone. Below 0.1 little has changed, above 0.25 much (Siddiqi
    /// 2006).
    pub psi: f64,
    /// Jensen & Shannon's divergence in nats, at most ln 2.
    pub jensen_shannon: f64,
    /// The largest difference of the cumulative shares.
    pub kolmogorov: f64,
    /// Half the sum of the differences of shares: the share that lies elsewhere now.
    pub total_variation: f64,
    /// χ² of homogeneity, without continuity correction; bins that are empty in both do not count.
    pub chi_squared: f64,
}

impl Drift {
    /// Of counts by bin. None where a side has no observation.
    pub fn of(reference: &[u64], current: &[u64]) -> Option<Self> {
        let size = |counts: &[u64]| counts.iter().sum::<u64>() as f64;
        let (n, m) = (size(reference), size(current));
        if n == 0.0 || m == 0.0 || reference.len() != current.len() {
            return None;
        }
        let bins = || reference.iter().zip(current).map(|(p, q)| (*p as f64, *q as f64));
        let shares = || bins().map(move |(p, q)| (p / n, q / m));

        let added = 0.5 * reference.len() as f64;
        let psi = bins().map(|(p, q)| ((p + 0.5) / (n + added), (q + 0.5) / (m + added)));
        let part = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
        let jensen_shannon = shares().map(|(p, q)| 0.5 * (part(p, 0.5 * (p + q)) + part(q, 0.5 * (p + q))));
        let mut gap = 0.0;
        let gaps = shares().map(|(p, q)| {
            gap += p - q;
            f64::abs(gap)
        });
        let kolmogorov = gaps.fold(0.0, f64::max);
        let chi_squared = bins().filter(|(p, q)| p + q > 0.0).map(|(p, q)| {
            let both = (p + q) / (n + m);
            (p - n * both).powi(2) / (n * both) + (q - m * both).powi(2) / (m * both)
        });
        Some(Self {
            psi: psi.map(|(p, q)| (q - p) * (q / p).ln()).sum(),
            jensen_shannon: jensen_shannon.sum(),
            kolmogorov,
            total_variation: 0.5 * shares().map(|(p, q)| (q - p).abs()).sum::<f64>(),
            chi_squared: chi_squared.sum(),
        })
    }
}

/// Kolmogorov & Smirnov's statistic of two samples, and its exact p-value: the share of all
/// divisions of the pooled values whose statistic is as large, as a count of lattice paths
/// (Gnedenko & Korolyuk 1951). With ties it is conservative. None where a sample is empty.
pub fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> Option<[f64; 2]> {
    let (n, m) = (a.len(), b.len());
    if n == 0 || m == 0 {
        return None;
    }
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (a, b) = (sorted(a), sorted(b));

    // In units of 1 / (n m), so that steps of ties are compared exactly.
    let (mut i, mut j, mut largest) = (0, 0, 0_i64);
    while i < n || j < m {
        let next = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) => x.min(*y),
            (Some(x), None) | (None, Some(x)) => *x,
            (None, None) => break,
        };
        while a.get(i).is_some_and(|x| *x <= next) {
            i += 1;
        }
        while b.get(j).is_some_and(|y| *y <= next) {
            j += 1;
        }
        largest = largest.max((i as i64 * m as i64 - j as i64 * n as i64).abs());
    }
    Some([largest as f64 / (n as f64 * m as f64), share_of_paths(n, m, largest)])
}

/// The share of paths from (0, 0) to (n, m) that touch a distance of at least `bound` from the
/// diagonal. Sums of paths that stay inside are scaled by the number of all paths to a point, so
/// that nothing overflows.
fn share_of_paths(n: usize, m: usize, bound: i64) -> f64 {
    if bound == 0 {
        return 1.0;
    }
    let is_inside = |i: usize, j: usize| (i as i64 * m as i64 - j as i64 * n as i64).abs() < bound;
    // The share of paths to each point of a column that have stayed inside.
    let mut column = vec![0.0; m + 1];
    for i in 0..=n {
        for j in 0..=m {
            let inside = if i == 0 && j == 0 {
                1.0
            } else {
                // Of all paths to a point, i / (i + j) come from the left.
                let from_left = if i > 0 { column[j] * i as f64 } else { 0.0 };
                let from_below = if j > 0 { column[j - 1] * j as f64 } else { 0.0 };
                (from_left + from_below) / (i + j) as f64
            };
            column[j] = if is_inside(i, j) { inside } else { 0.0 };
        }
    }
    (1.0 - column[m]).clamp(0.0, 1.0)
}
