//! One experiment's way to divide units, checked, its shares turned into integers once.

use super::{
    Method, Scheme, Spot, flagd,
    m3v1::{self, PARTS, WEIGHT_PARTS},
    optimizely::{self, BUCKETS},
    unleash,
};
use crate::routing::{
    refused::{Refused, refused, refused_variant},
    spec::{ExperimentSpec, VariantSpec},
};

const WEIGHT_MAX: f64 = 1_000_000.0;
/// Shares are counted in these: a smaller one would take nobody, or more than it says.
const RATIO_MIN: f64 = 1.0 / PARTS as f64;

/// How an experiment divides its units.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::routing) struct Division {
    salt: String,
    arms: Arms,
}

#[derive(Clone, Debug, PartialEq)]
enum Arms {
    Cumulative { ratio: u32, weights: Vec<u64> },
    Rendezvous { ratio: u32, variants: Vec<(String, f64)> },
    Unleash { percent: u32, weights: Vec<u64> },
    Optimizely(Vec<[u32; 2]>),
    Flagd(Vec<u64>),
}

/// Where a unit falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::routing) struct Placement {
    /// Where it falls on the scale of exposure, and below what it is exposed; none in a scheme without one.
    pub(in crate::routing) exposure: Option<(Spot, u64)>,
    /// The index of its variant, and the hash that decided with its place, where it has one.
    pub(in crate::routing) arm: Option<(usize, Spot)>,
}

impl Division {
    /// The field that cannot work and the reason, for the caller to put the experiment's place before.
    pub(in crate::routing) fn new(spec: &ExperimentSpec) -> Result<Self, Refused> {
        let ratio_is = |reason: String| refused(".traffic_ratio", format!("is {}, {reason}", spec.traffic_ratio));
        if !(0.0..=1.0).contains(&spec.traffic_ratio) {
            return Err(ratio_is("it must lie between 0 and 1".to_owned()));
        }
        if spec.traffic_ratio > 0.0 && spec.traffic_ratio < RATIO_MIN {
            return Err(ratio_is("shares are in steps of one millionth".to_owned()));
        }
        let foreign = spec.scheme != Scheme::M3v1;
        let name = spec.scheme.as_str();
        if foreign && spec.assignment != Method::Cumulative {
            let reason = format!("scheme `{name}` has its own way to assign: leave it out");
            return Err(refused(".assignment", reason));
        }
        if foreign && spec.epoch != 1 {
            let reason = format!("scheme `{name}` has no epochs: change `salt` to assign anew");
            return Err(refused(".epoch", reason));
        }
        if spec.salt.is_some() && spec.epoch != 1 {
            let reason = "is only hashed where there is no `salt`: change that to assign anew";
            return Err(refused(".epoch", reason.to_owned()));
        }
        if let Some((index, variant)) = spec.variants.iter().enumerate().find(|(_, variant)| variant.range.is_some())
            && spec.scheme != Scheme::Optimizely
        {
            let reason = "only scheme `optimizely` has ranges, give a weight";
            return Err(refused_variant(index, ".range", format!("variant `{}`: {reason}", variant.name)));
        }
        let ratio = (spec.traffic_ratio * f64::from(PARTS)).round() as u32;
        let whole = |share: f64, parts: u32| {
            let scaled = share * f64::from(parts);
            ((scaled - scaled.round()).abs() < 1e-9).then_some(scaled.round() as u32)
        };
        let arms = match (spec.scheme, spec.assignment) {
            (Scheme::M3v1, Method::Cumulative) => Arms::Cumulative { ratio, weights: weights(spec, WEIGHT_PARTS)? },
            (Scheme::M3v1, Method::Rendezvous) => {
                weights(spec, WEIGHT_PARTS)?;
                let variants = spec.variants.iter().map(|it| (it.name.clone(), it.weight.unwrap_or_default()));
                Arms::Rendezvous { ratio, variants: variants.collect() }
            }
            (Scheme::Unleash, _) => {
                let percent = whole(spec.traffic_ratio, unleash::PERCENT)
                    .ok_or_else(|| ratio_is(format!("scheme `{name}` has whole percents only")))?;
                Arms::Unleash { percent, weights: weights(spec, 1)? }
            }
            (Scheme::Optimizely, _) => Arms::Optimizely(ranges(spec)?),
            (Scheme::Flagd, _) => {
                if spec.traffic_ratio < 1.0 {
                    return Err(ratio_is(format!("scheme `{name}` has no exposure of its own: it must be 1")));
                }
                let weights = weights(spec, 1)?;
                if weights.iter().sum::<u64>() > flagd::WEIGHTS_MAX {
                    let reason = format!("scheme `{name}` has no weights that sum to more than {}", flagd::WEIGHTS_MAX);
                    return Err(refused(".variants", reason));
                }
                Arms::Flagd(weights)
            }
        };
        Ok(Self { salt: salt(spec), arms })
    }

    pub(in crate::routing) fn salt(&self) -> &str {
        &self.salt
    }

    /// Where a unit falls in a layer.
    pub(in crate::routing) fn in_layer(&self, layer: &str, unit: &str) -> Spot {
        match self.arms {
            Arms::Optimizely(_) => optimizely::bucket(unit, layer),
            _ => m3v1::layer(layer, unit),
        }
    }

    /// What decides where units fall in a layer: experiments of a layer exclude each other only where this is the same.
    pub(in crate::routing) fn layer_scheme(&self) -> Scheme {
        if matches!(self.arms, Arms::Optimizely(_)) { Scheme::Optimizely } else { Scheme::M3v1 }
    }

    /// Where a unit falls.
    pub(in crate::routing) fn place(&self, unit: &str) -> Placement {
        let salt = &self.salt;
        let exposed = |spot: Spot, below: u32| (Some((spot, u64::from(below))), spot.place < below.into());
        let picked = |(index, spot): (Option<usize>, Spot)| index.map(|index| (index, spot));
        let (exposure, arm) = match &self.arms {
            Arms::Cumulative { ratio, weights } => {
                let (exposure, is) = exposed(m3v1::exposure(salt, unit), *ratio);
                (exposure, is.then(|| picked(m3v1::cumulative(salt, unit, weights))).flatten())
            }
            Arms::Rendezvous { ratio, variants } => {
                let (exposure, is) = exposed(m3v1::exposure(salt, unit), *ratio);
                let variants = variants.iter().map(|(name, weight)| (name.as_str(), *weight));
                let arm = is.then(|| m3v1::rendezvous(salt, unit, variants)).flatten();
                (exposure, arm.map(|(index, hash)| (index, Spot::spread(hash, PARTS.into()))))
            }
            Arms::Unleash { percent, weights } => {
                let (exposure, is) = exposed(unleash::rollout(salt, unit), *percent);
                (exposure, is.then(|| picked(unleash::variant(salt, unit, weights))).flatten())
            }
            Arms::Optimizely(ranges) => {
                let spot = optimizely::bucket(unit, salt);
                let within = |[from, to]: &[u32; 2]| (u64::from(*from)..u64::from(*to)).contains(&spot.place);
                (Some((spot, BUCKETS.into())), ranges.iter().position(within).map(|index| (index, spot)))
            }
            Arms::Flagd(weights) => (None, picked(flagd::fractional(salt, unit, weights))),
        };
        Placement { exposure, arm }
    }

    /// What each variant draws for a unit, for people, where the highest wins.
    pub(in crate::routing) fn scores(&self, unit: &str) -> Option<String> {
        let Arms::Rendezvous { variants, .. } = &self.arms else { return None };
        let drawn = variants.iter().map(|(name, weight)| {
            let (score, hash) = m3v1::score(&self.salt, unit, name, *weight);
            format!("{name} {score:.4} (hash {hash:#010x})")
        });
        Some(drawn.collect::<Vec<_>>().join(", "))
    }

    /// The share of units that it takes.
    pub(in crate::routing) fn exposure(&self) -> f64 {
        match &self.arms {
            Arms::Cumulative { ratio, .. } | Arms::Rendezvous { ratio, .. } => f64::from(*ratio) / f64::from(PARTS),
            Arms::Unleash { percent, .. } => f64::from(*percent) / f64::from(unleash::PERCENT),
            Arms::Optimizely(ranges) => {
                let buckets: u32 = ranges.iter().map(|[from, to]| to - from).sum();
                f64::from(buckets) / f64::from(BUCKETS)
            }
            Arms::Flagd(_) => 1.0,
        }
    }

    /// The share of each variant among the units that the experiment takes.
    pub(in crate::routing) fn propensities(&self) -> Vec<f64> {
        let shares: Vec<f64> = match &self.arms {
            Arms::Cumulative { weights, .. } | Arms::Unleash { weights, .. } | Arms::Flagd(weights) => {
                weights.iter().map(|weight| *weight as f64).collect()
            }
            Arms::Rendezvous { variants, .. } => variants.iter().map(|(_, weight)| *weight).collect(),
            Arms::Optimizely(ranges) => ranges.iter().map(|[from, to]| f64::from(to - from)).collect(),
        };
        let total: f64 = shares.iter().sum();
        // Where nobody is taken there is no share to speak of.
        shares.iter().map(|share| if total > 0.0 { share / total } else { 0.0 }).collect()
    }
}

fn salt(spec: &ExperimentSpec) -> String {
    match (&spec.salt, spec.scheme) {
        (Some(salt), _) => salt.clone(),
        (None, Scheme::M3v1) => format!("{}#{}", spec.name, spec.epoch),
        (None, _) => spec.name.clone(),
    }
}

/// Weights times `parts`; with one part they must be whole.
fn weights(spec: &ExperimentSpec, parts: u32) -> Result<Vec<u64>, Refused> {
    let scheme = spec.scheme.as_str();
    let highest = if spec.scheme == Scheme::Flagd { flagd::WEIGHTS_MAX as f64 } else { WEIGHT_MAX };
    let mut weights = Vec::new();
    for (index, VariantSpec { name, weight, .. }) in spec.variants.iter().enumerate() {
        let refuse = |field, reason| refused_variant(index, field, format!("variant `{name}`: {reason}"));
        let weight = weight.ok_or_else(|| refuse("", "has no weight".to_owned()))?;
        if !(0.0..=highest).contains(&weight) {
            return Err(refuse(".weight", format!("is {weight}, it must lie between 0 and {highest}")));
        }
        if parts == 1 && weight.fract() != 0.0 {
            return Err(refuse(".weight", format!("is {weight}, scheme `{scheme}` has whole ones only")));
        }
        let scaled = (weight * f64::from(parts)).round() as u64;
        if weight > 0.0 && scaled == 0 {
            return Err(refuse(".weight", format!("is {weight}, weights are in steps of one millionth")));
        }
        weights.push(scaled);
    }
    match weights.iter().any(|weight| *weight > 0) {
        true => Ok(weights),
        false => Err(refused(".variants", "none has a weight above 0".to_owned())),
    }
}

/// Ranges of buckets: those that are given, or those of weights. Each variant has its own part of the whole for that, and takes of it
/// the share that the traffic ratio says, from its beginning: so raising the ratio moves nobody.
fn ranges(spec: &ExperimentSpec) -> Result<Vec<[u32; 2]>, Refused> {
    if spec.variants.iter().all(|variant| variant.range.is_none()) {
        let weights = weights(spec, 1)?;
        let total: u64 = weights.iter().sum();
        let mut before = 0;
        let mut ranges = Vec::new();
        for (index, weight) in weights.into_iter().enumerate() {
            let bucket = |share: f64| (f64::from(BUCKETS) * share / total as f64).round() as u32;
            let from = bucket(before as f64);
            let to = bucket(before as f64 + spec.traffic_ratio * weight as f64);
            if weight > 0 && spec.traffic_ratio > 0.0 && from == to {
                let reason =
                    format!("scheme `optimizely` has {BUCKETS} buckets, and this share is less than half of one");
                return Err(refused_variant(index, ".weight", reason));
            }
            before += weight;
            ranges.push([from, to]);
        }
        return Ok(ranges);
    }
    if spec.traffic_ratio < 1.0 {
        return Err(refused(".traffic_ratio", "must be 1: ranges say how much traffic there is".to_owned()));
    }
    let mut ranges: Vec<[u32; 2]> = Vec::new();
    for (index, VariantSpec { name, weight, range, .. }) in spec.variants.iter().enumerate() {
        let refuse = |reason| refused_variant(index, "", format!("variant `{name}`: {reason}"));
        let (Some([from, to]), None) = (range, weight) else {
            return Err(refuse("give all variants a range and none a weight".to_owned()));
        };
        if from >= to || *to > BUCKETS {
            return Err(refuse(format!("the range must go up, within 0 and {BUCKETS}")));
        }
        if ranges.iter().any(|[other_from, other_to]| from < other_to && other_from < to) {
            return Err(refuse("its range overlaps another's".to_owned()));
        }
        ranges.push([*from, *to]);
    }
    Ok(ranges)
}
