//! Loops over values, written so that the compiler vectorizes them for whatever the CPU has.

use pulp::Arch;

/// Runs a loop with the CPU's own vector instructions; the function must be inlined into it: a closure by
/// `#[inline(always)]`, and whatever it calls too, else it is compiled for the oldest CPU.
#[inline(always)]
pub(crate) fn vectorized<R>(run: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(run)
}

const LANES: usize = 16;

/// e^x for x ≤ 0, relative error below 3e-7; 0 below -87, where the result would leave 32 bits.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, and a polynomial in r (Cephes `expf`).
#[inline(always)]
fn exp_of_nonpositive(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    // Adding it moves the fraction out of the mantissa, which rounds to the nearest whole number.
    const ROUNDING: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUNDING;
    let n = shifted - ROUNDING;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let value = p * r * r + r + 1.0;
    // The rounded number stands in the mantissa of the shifted one; moved to the exponent it is 2^n.
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUNDING.to_bits()).wrapping_add(127) << 23);
    if x < LOWEST { 0.0 } else { value * power }
}

#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let mut most = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    for lane in lanes {
        most = most.max(lane);
    }
    most
}

/// The least and the largest of some values. Neither is a number where one of these is none, or infinite.
#[inline(always)]
pub(super) fn range(values: &[f32]) -> [f32; 2] {
    let (mut least, mut most, mut poison) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES], [0.0; LANES]);
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            least[i] = if chunk[i] < least[i] { chunk[i] } else { least[i] };
            most[i] = if chunk[i] > most[i] { chunk[i] } else { most[i] };
            // Nought times what is no number, or infinite, is no number.
            poison[i] += chunk[i] * 0.0;
        }
    }
    for (i, value) in rest.iter().enumerate() {
        least[i] = least[i].min(*value);
        most[i] = most[i].max(*value);
        poison[i] += value * 0.0;
    }
    let poison: f32 = poison.iter().sum();
    [least.iter().copied().fold(f32::INFINITY, f32::min) + poison, largest(&most) + poison]
}

/// The wider of two ranges. What is no number stays none, which `min` and `max` would pass over.
#[inline(always)]
pub(super) fn wider([least, most]: [f32; 2], [less, more]: [f32; 2]) -> [f32; 2] {
    [if less < least || less.is_nan() { less } else { least }, if more > most || more.is_nan() { more } else { most }]
}

/// Replaces logits by e^(logit - largest), and gives back the sum of these.
#[inline(always)]
pub(super) fn exponentials(row: &mut [f32]) -> f32 {
    let most = largest(row);
    let mut lanes = [0.0; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            chunk[i] = exp_of_nonpositive(chunk[i] - most);
            lanes[i] += chunk[i];
        }
    }
    let mut sum = 0.0;
    for value in chunks.into_remainder() {
        *value = exp_of_nonpositive(*value - most);
        sum += *value;
    }
    sum + lanes.iter().sum::<f32>()
}

/// The error function, absolute error below 2e-7: a quotient of polynomials on [-4, 4], beyond which it is
/// ±1 in 32 bits (as in Eigen's `erf`).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let square = x * x;
    let p = -2.726_142_3e-10;
    let p = p * square + 2.770_681_4e-8;
    let p = p * square - 2.101_024e-6;
    let p = p * square - 5.692_506_4e-5;
    let p = p * square - 7.349_906_3e-4;
    let p = p * square - 2.954_6e-3;
    let p = p * square - 1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * square - 2.133_740_5e-4;
    let q = q * square - 1.682_827e-3;
    let q = q * square - 7.373_329e-3;
    let q = q * square - 1.426_473_9e-2;
    let within = x * p / q;
    let within = if x > 4.0 { 1.0 } else { within };
    if x < -4.0 { -1.0 } else { within }
}

/// x·Φ(x), the exact GELU.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Φ(x) + x·φ(x), the slope of the exact GELU; φ is the density of the normal distribution.
#[inline(always)]
pub(super) fn gelu_slope(x: f32) -> f32 {
    const PEAK: f32 = 0.398_942_3;
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * PEAK * exp_of_nonpositive(-0.5 * x * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_within_its_error_and_ends_at_zero() {
        for step in 0..87_000 {
            let x = -(step as f32) / 1_000.0;
            let exact = f64::from(x).exp();
            let off = (f64::from(exp_of_nonpositive(x)) - exact).abs() / exact;
            assert!(off < 3e-7, "{x}: {off}");
        }
        assert_eq!(exp_of_nonpositive(-3e4), 0.0);
        assert_eq!(exp_of_nonpositive(0.0), 1.0);
        assert!(exp_of_nonpositive(f32::NAN).is_nan(), "what is no number must stay none");
    }

    #[test]
    fn gelu_is_within_its_error() {
        // Φ by its series, in 64 bits.
        let exact = |x: f64| {
            let (mut sum, mut term) = (x, x);
            for n in 1..200 {
                term *= -x * x / 2.0 / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            x * (0.5 + sum / (2.0 * std::f64::consts::PI).sqrt())
        };
        for step in -5_000..5_000 {
            let x = step as f32 / 1_000.0;
            let off = (f64::from(gelu(x)) - exact(x.into())).abs();
            assert!(off < 1e-6, "{x}: {off}");
            let around = |x: f64| (exact(x + 1e-4) - exact(x - 1e-4)) / 2e-4;
            let off = (f64::from(gelu_slope(x)) - around(x.into())).abs();
            assert!(off < 1e-6, "{x}: {off}");
        }
        assert_eq!((gelu(30.0), gelu(-30.0)), (30.0, 0.0));
        assert_eq!((gelu_slope(30.0), gelu_slope(-30.0)), (1.0, 0.0));
        assert!(gelu(f32::NAN).is_nan());
    }

    #[test]
    fn exponentials_sum_over_rows_of_any_length() {
        for length in [1, 15, 16, 17, 40, 928] {
            let logits: Vec<f32> = (0..length).map(|i| ((i * 37) % 101) as f32 / 10.0 - 5.0).collect();
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exact: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
            let mut row = logits.clone();
            let sum = vectorized(
                #[inline(always)]
                || exponentials(&mut row),
            );
            assert!((f64::from(sum) - exact).abs() / exact < 1e-6, "{length}");
        }
    }
}
