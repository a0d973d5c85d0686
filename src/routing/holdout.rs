//! Shares of units that take part in no experiment.

use super::{
    features::{Features, Unit},
    refused::{Refused, refused},
    scheme::m3v1::{self, PARTS},
    spec::HoldoutSpec,
};

/// A holdout, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Holdout {
    pub(super) name: String,
    pub(super) unit: Unit,
    salt: String,
    parts: u32,
}

impl Holdout {
    /// The field that cannot work and the reason.
    pub(super) fn new(spec: &HoldoutSpec) -> Result<Self, Refused> {
        if spec.name.is_empty() {
            return Err(refused(".name", "is empty".to_owned()));
        }
        if !(0.0..=1.0).contains(&spec.ratio) {
            return Err(refused(".ratio", format!("is {}, it must lie between 0 and 1", spec.ratio)));
        }
        Ok(Self {
            name: spec.name.clone(),
            unit: Unit::from_name(&spec.unit).map_err(|reason| refused(".unit", reason))?,
            salt: spec.salt.clone().unwrap_or_else(|| spec.name.clone()),
            parts: (spec.ratio * f64::from(PARTS)).round() as u32,
        })
    }

    /// Whether it keeps this request out of experiments.
    pub(super) fn keeps(&self, features: &Features<'_>) -> bool {
        let unit = self.unit.of(features);
        unit.is_some_and(|unit| m3v1::holdout(&self.salt, &unit).place < self.parts.into())
    }

    /// The share of units that it keeps; none where the request has no such unit.
    pub(super) fn share(&self, features: &Features<'_>) -> Option<f64> {
        self.unit.of(features).map(|_| f64::from(self.parts) / f64::from(PARTS))
    }

    /// What its hash depends on.
    pub(super) fn hash_input(&self) -> (&'static str, &str, String) {
        ("holdout", &self.salt, self.unit.to_string())
    }

    /// What it does with the request, for people.
    pub(super) fn in_words(&self, features: &Features<'_>) -> String {
        let Self { unit, parts, .. } = self;
        match unit.of(features) {
            None => format!("not held out: {}", unit.lack(features)),
            Some(value) => {
                let spot = m3v1::holdout(&self.salt, &value);
                let held = if spot.place < (*parts).into() { "held out" } else { "not held out" };
                format!("{held}: {unit} has {spot}, held out below {parts}")
            }
        }
    }
}
