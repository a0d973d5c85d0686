//! Versions that judge the same requests beside the live ones, for comparison.

use super::{
    refused::{Refused, refused},
    scheme::m3v1::{self, PARTS},
};

/// The shadows of one rule or experiment, and the share of its units that they judge.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shadows {
    versions: Vec<String>,
    salt: String,
    parts: u32,
}

impl Shadows {
    /// The field that cannot work and the reason, for the caller to put the place of whose they are before.
    pub(super) fn new(
        versions: &[String],
        fraction: f64,
        salt: String,
        version_exists: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Self, Refused> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(refused(".shadow_fraction", format!("is {fraction}, it must lie between 0 and 1")));
        }
        for (index, version) in versions.iter().enumerate() {
            let refuse = |reason| (format!(".shadow[{index}]"), reason);
            version_exists(version).map_err(refuse)?;
            if versions[..index].contains(version) {
                return Err(refuse(format!("`{version}` appears twice")));
            }
        }
        let parts = (fraction * f64::from(PARTS)).round() as u32;
        Ok(Self { versions: versions.to_vec(), salt, parts })
    }

    /// The versions that judge a unit beside `live`, which does not shadow itself. By hash, so that all texts and
    /// repetitions of a unit are compared, or none.
    pub(super) fn of(&self, unit: &str, live: &str) -> Vec<String> {
        let exposed = m3v1::shadow(&self.salt, unit).place < self.parts.into();
        match exposed {
            true => self.versions.iter().filter(|version| *version != live).cloned().collect(),
            false => Vec::new(),
        }
    }

    /// The versions that judge anything.
    pub(super) fn versions(&self) -> impl Iterator<Item = &str> {
        self.versions.iter().filter(|_| self.parts > 0).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shadows(fraction: f64) -> Shadows {
        Shadows::new(&["a".to_owned(), "b".to_owned()], fraction, "salt".to_owned(), |_| Ok(())).unwrap()
    }

    #[test]
    fn a_version_does_not_shadow_itself() {
        assert_eq!(shadows(1.0).of("unit", "a"), ["b"]);
        assert_eq!(shadows(1.0).of("unit", "c"), ["a", "b"]);
        assert!(shadows(0.0).of("unit", "c").is_empty());
    }

    #[test]
    fn the_share_is_kept_and_raising_it_only_adds_units() {
        let units: Vec<String> = (0..20_000).map(|unit| format!("unit-{unit}")).collect();
        let of = |fraction: f64| {
            let shadows = shadows(fraction);
            units.iter().map(|unit| !shadows.of(unit, "c").is_empty()).collect::<Vec<_>>()
        };
        let (tenth, third) = (of(0.1), of(0.3));
        let count = |exposed: &[bool]| exposed.iter().filter(|exposed| **exposed).count();
        // Five standard deviations of a binomial count.
        assert!(count(&tenth).abs_diff(2_000) < 213 && count(&third).abs_diff(6_000) < 325);
        assert!(tenth.iter().zip(&third).all(|(tenth, third)| *third || !*tenth));
    }

    #[test]
    fn unknown_versions_and_impossible_shares_are_refused() {
        let new = |versions: &[&str], fraction| {
            let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
            let exists = |name: &str| if name == "a" { Ok(()) } else { Err(format!("there is no version `{name}`")) };
            Shadows::new(&versions, fraction, String::new(), exists).map(drop)
        };
        let said = |versions: &[&str], fraction| {
            let (field, reason) = new(versions, fraction).unwrap_err();
            format!("{field} {reason}")
        };
        assert_eq!(said(&["z"], 1.0), ".shadow[0] there is no version `z`");
        assert_eq!(said(&["a", "a"], 1.0), ".shadow[1] `a` appears twice");
        assert_eq!(said(&["a"], 1.5), ".shadow_fraction is 1.5, it must lie between 0 and 1");
        assert!(new(&["a"], f64::NAN).is_err());
    }
}
