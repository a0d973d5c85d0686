//! Which automatic decisions people look at, too: a uniform sample, by hash.

use super::scheme::m3v1::{self, PARTS};

/// No experiment's shadows have this salt: a name with a control character is refused.
const SALT: &str = "\u{1}review";

/// True if the audit slice of this share holds the request. Raising the share only adds requests,
/// and the slice is independent of experiments.
pub fn is_audited(request_id: &str, share: f64) -> bool {
    let parts = (share.clamp(0.0, 1.0) * f64::from(PARTS)).round() as u64;
    m3v1::shadow(SALT, request_id).place < parts
}

#[cfg(test)]
mod tests {
    use super::is_audited;

    #[test]
    fn the_share_is_kept_and_raising_it_only_adds_requests() {
        let of = |share: f64| (0..20_000).map(|number| is_audited(&format!("r-{number}"), share)).collect::<Vec<_>>();
        let (few, more) = (of(0.05), of(0.2));
        let count = |picked: &[bool]| picked.iter().filter(|picked| **picked).count();
        // Five standard deviations.
        assert!(count(&few).abs_diff(1_000) < 155 && count(&more).abs_diff(4_000) < 283);
        assert!(few.iter().zip(&more).all(|(few, more)| *more || !*few));
        assert_eq!((count(&of(0.0)), count(&of(1.0))), (0, 20_000));
    }
}
