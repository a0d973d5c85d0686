//! How fast evidence comes, and when the planned amount has come.

use super::{figures::Comparison, sums::Arms};

/// Too short a time says nothing about a day.
const PERIOD_MS_MIN: i64 = 600_000;
const DAY_MS: i64 = 86_400_000;

/// Verdicts of the last 24 hours before the last verdict, to the hour; or as many as there would be
/// at the mean rate of a shorter time.
pub(super) fn verdicts_per_day(arms: &Arms<'_>, period_ms: Option<[i64; 2]>) -> Option<f64> {
    let [first, last] = period_ms?;
    let begins = (last - DAY_MS).max(first);
    let lasted = last - begins;
    if lasted < PERIOD_MS_MIN {
        return None;
    }

    // The hour in which the 24 hours begin counts in part.
    let share = |hour: i64| {
        let (start, end) = ((hour * 3_600_000).max(first), (hour + 1) * 3_600_000);
        ((end - begins) as f64 / (end - start).max(1) as f64).clamp(0.0, 1.0)
    };
    let hours = arms.values().flat_map(|arm| arm.hours.iter());
    let verdicts: f64 = hours.map(|(hour, of)| share(*hour) * of.sums.verdicts as f64).sum();
    Some(verdicts * DAY_MS as f64 / lasted as f64)
}

/// Notes for each metric how many days are left: information grows as verdicts do.
pub(super) fn note_days_left(comparisons: &mut [Comparison], arms: &Arms<'_>, per_day: Option<f64>) {
    let verdicts: u64 = arms.values().map(|arm| arm.sums.verdicts).sum();
    let Some(per_day) = per_day.filter(|per_day| *per_day > 0.0) else { return };
    for compared in comparisons.iter_mut().flat_map(|comparison| comparison.metrics.iter_mut()) {
        let Some(information) = compared.information.filter(|information| *information > 0.0) else { continue };
        let more = verdicts as f64 * (1.0 - information) / information;
        compared.days_left = Some(more / per_day);
    }
}
