//! Experiments: which units they take, and which variant each unit gets.

use std::collections::HashSet;

use jiff::Timestamp;

use super::{
    condition::{Condition, Truth},
    definition::definition,
    features::{Features, Unit},
    guard, ramp,
    refused::{Refused, refused, refused_variant},
    scheme::{Division, Placement, Scheme, Spot, m3v1::LAYER_PARTS},
    shadow::Shadows,
    spec::{ExperimentSpec, ForcedSpec, VariantSpec},
};

/// What verdicts say of an experiment that is in no layer.
pub(super) const NO_LAYER: &str = "default";

/// An experiment, checked.
#[derive(Clone, Debug)]
pub(super) struct Experiment {
    pub(super) name: String,
    pub(super) definition: String,
    pub(super) unit: Unit,
    pub(super) assigns: Assigns,
    pub(super) layer: Option<Layer>,
    pub(super) variants: Vec<Variant>,
    pub(super) shadows: Shadows,
    pub(super) paused: bool,
    condition: Option<Condition>,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    division: Division,
    forced: Vec<Forced>,
    promoted: Option<usize>,
}

/// What verdicts say of its way to assign.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assigns {
    pub(super) scheme: Scheme,
    pub(super) method: super::Method,
    pub(super) epoch: u32,
}

/// A part of a layer.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) name: String,
    /// In ten-thousandths, the second not included.
    pub(super) slice: [u32; 2],
    /// Where units fall in it depends on this.
    pub(super) scheme: Scheme,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) propensity: f64,
}

#[derive(Clone, Debug)]
struct Forced {
    field: Unit,
    values: HashSet<String>,
    variant: usize,
}

/// What an experiment does with a request.
#[derive(Debug)]
pub(super) enum Outcome<'t> {
    Paused,
    NoTime,
    NotYet,
    Over,
    NotMeant(Truth<'t>),
    NoUnit,
    OutsideSlice(Spot),
    NotExposed { spot: Spot, below: u64 },
    NoVariant(Option<Spot>),
    Promoted(&'t Variant),
    Forced { variant: &'t Variant, field: &'t Unit },
    Assigned { variant: &'t Variant, placement: Placement, spot: Spot },
}

impl Experiment {
    /// The field that cannot work and the reason, for the caller to put the experiment's place before.
    pub(super) fn new(
        spec: &ExperimentSpec,
        version_exists: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Self, Refused> {
        if spec.name.is_empty() {
            return Err(refused(".name", "is empty".to_owned()));
        }
        if spec.variants.is_empty() {
            return Err(refused(".variants", "there are none".to_owned()));
        }

        for (index, VariantSpec { name, model_version, .. }) in spec.variants.iter().enumerate() {
            if name.is_empty() {
                return Err(refused_variant(index, ".name", "is empty".to_owned()));
            }
            if spec.variants[..index].iter().any(|other| other.name == *name) {
                return Err(refused_variant(index, ".name", format!("variant `{name}` appears twice")));
            }
            version_exists(model_version).map_err(|reason| refused_variant(index, ".model_version", reason))?;
        }

        let names: Vec<&str> = spec.variants.iter().map(|variant| variant.name.as_str()).collect();
        guard::check(&spec.guards, &names, spec.unit == "request_id")?;
        ramp::check(spec)?;

        let division = Division::new(spec)?;
        let time = |field, text: &Option<String>| match text.as_deref().map(str::parse::<Timestamp>).transpose() {
            Ok(time) => Ok(time),
            Err(_) => {
                let reason = "is no time with its offset: write it as 2026-12-01T08:00:00+08:00";
                Err(refused(field, reason.to_owned()))
            }
        };

        let (start, end) = (time(".start", &spec.start)?, time(".end", &spec.end)?);
        if let (Some(start), Some(end)) = (start, end)
            && start >= end
        {
            return Err(refused(".end", "must come after `start`".to_owned()));
        }

        let condition = spec.condition.as_deref().map(Condition::parse).transpose();
        let promoted = spec.promoted.as_deref().map(|name| variant_of(spec, name)).transpose();

        let versions = spec.variants.iter().zip(division.propensities());
        let variants = versions.map(|(VariantSpec { name, model_version, .. }, propensity)| Variant {
            name: name.clone(),
            version: model_version.clone(),
            propensity,
        });

        let shadows = Shadows::new(&spec.shadow, spec.shadow_fraction, division.salt().to_owned(), &version_exists);

        Ok(Self {
            name: spec.name.clone(),
            definition: definition(spec),
            unit: Unit::from_name(&spec.unit).map_err(|reason| refused(".unit", reason))?,
            assigns: Assigns { scheme: spec.scheme, method: spec.assignment, epoch: spec.epoch },
            layer: layer(spec, &division)?,
            variants: variants.collect(),
            shadows: shadows?,
            paused: spec.paused,
            condition: condition.map_err(|error| refused(".condition", error.to_string()))?,
            start,
            end,
            division,
            forced: forced(spec)?,
            promoted: promoted.map_err(|reason| refused(".promoted", reason))?,
        })
    }

    /// The variant whose version answers instead of all, once it has won.
    pub(super) fn winner(&self) -> Option<&Variant> {
        self.promoted.and_then(|index| self.variants.get(index))
    }

    /// The variant that a tester asks for: whatever the hash, the condition, the layer and holdouts say, but not of an
    /// experiment that does not run.
    pub(super) fn forced(&self, features: &Features<'_>) -> Option<Outcome<'_>> {
        let forced = self
            .forced
            .iter()
            .find(|forced| forced.field.of(features).is_some_and(|value| forced.values.contains(value.as_ref())))?;
        if self.standstill(features).is_some() || self.promoted.is_some() {
            return None;
        }
        Some(Outcome::Forced { variant: self.variants.get(forced.variant)?, field: &forced.field })
    }

    pub(super) fn outcome(&self, features: &Features<'_>) -> Outcome<'_> {
        if let Some(standstill) = self.standstill(features) {
            return standstill;
        }
        if let Some(condition) = &self.condition {
            match condition.evaluate(features) {
                Truth::True => {}
                truth => return Outcome::NotMeant(truth),
            }
        }
        let unit = self.unit.of(features);
        if let Some(Layer { name, slice: [from, to], .. }) = &self.layer {
            let Some(unit) = &unit else { return Outcome::NoUnit };
            let spot = self.division.in_layer(name, unit);
            if !(u64::from(*from)..u64::from(*to)).contains(&spot.place) {
                return Outcome::OutsideSlice(spot);
            }
        }
        if let Some(variant) = self.winner() {
            return Outcome::Promoted(variant);
        }
        let Some(unit) = unit else { return Outcome::NoUnit };
        let placement = self.division.place(&unit);
        match (placement.arm.and_then(|(index, spot)| Some((self.variants.get(index)?, spot))), placement.exposure) {
            (Some((variant, spot)), _) => Outcome::Assigned { variant, placement, spot },
            (None, Some((spot, below))) if spot.place >= below => Outcome::NotExposed { spot, below },
            (None, exposure) => Outcome::NoVariant(exposure.map(|(spot, _)| spot)),
        }
    }

    /// The share of units in its slice, and the share of those that it takes; none where it cannot take this request.
    pub(super) fn shares(&self, features: &Features<'_>) -> Option<(f64, f64)> {
        let is_meant = self.condition.as_ref().is_none_or(|condition| condition.evaluate(features) == Truth::True);
        if !is_meant || self.standstill(features).is_some() {
            return None;
        }
        let has_unit = self.unit.of(features).is_some();
        let needs_unit = self.layer.is_some() || self.winner().is_none();
        if needs_unit && !has_unit {
            return None;
        }
        let slice = self.layer.as_ref().map_or(1.0, |layer| {
            let [from, to] = layer.slice;
            f64::from(to - from) / f64::from(LAYER_PARTS)
        });
        let exposure = if self.winner().is_some() { 1.0 } else { self.division.exposure() };
        Some((slice, exposure))
    }

    /// What its hash depends on.
    pub(super) fn hash_input(&self) -> (&'static str, &str, String) {
        (self.assigns.scheme.as_str(), self.division.salt(), self.unit.to_string())
    }

    /// Why it takes nobody at the time of this record, if so.
    fn standstill(&self, features: &Features<'_>) -> Option<Outcome<'_>> {
        if self.paused {
            return Some(Outcome::Paused);
        }
        // A winner answers from its promotion on, which often comes after the end.
        if self.promoted.is_some() || (self.start.is_none() && self.end.is_none()) {
            return None;
        }
        let Some(time) = features.time() else { return Some(Outcome::NoTime) };
        if self.start.is_some_and(|start| time < start) {
            return Some(Outcome::NotYet);
        }
        self.end.is_some_and(|end| time >= end).then_some(Outcome::Over)
    }

    /// The outcome for people, as `explain` prints it.
    pub(super) fn in_words(&self, features: &Features<'_>, outcome: &Outcome<'_>) -> String {
        let unit = &self.unit;
        match outcome {
            Outcome::Paused => "paused".to_owned(),
            Outcome::NoTime => "takes nobody: it has a start or an end, and the record has no time".to_owned(),
            Outcome::NotYet => "has not started at the time of the record".to_owned(),
            Outcome::Over => "is over at the time of the record".to_owned(),
            Outcome::NotMeant(_) => {
                let why = self.condition.as_ref().map(|condition| condition.why_not(features)).unwrap_or_default();
                format!("is not about it: {why}")
            }
            Outcome::NoUnit => format!("no unit: {}", unit.lack(features)),
            Outcome::OutsideSlice(spot) => {
                let Some(Layer { name, slice: [from, to], .. }) = &self.layer else { return String::new() };
                format!("outside its slice of layer {name}, {from} to {to}: {unit} has {spot}")
            }
            Outcome::NotExposed { spot, below } => format!("not exposed: {unit} has {spot}, exposed below {below}"),
            Outcome::NoVariant(None) => "no variant has this unit's place".to_owned(),
            Outcome::NoVariant(Some(spot)) => format!("no variant has this place: {unit} has {spot}"),
            Outcome::Promoted(variant) => format!("variant {} was promoted: all get its version", variant.name),
            Outcome::Forced { variant, field } => format!("variant {}, forced by {field}", variant.name),
            Outcome::Assigned { variant, placement, spot } => {
                let share = variant.propensity * 100.0;
                let value = unit.of(features).unwrap_or_default();
                let within = self.layer.as_ref().map_or(String::new(), |Layer { name, slice: [from, to], .. }| {
                    let spot = self.division.in_layer(name, &value);
                    format!("in its slice of layer {name}, {from} to {to}, {unit} has {spot}; ")
                });
                let exposed = placement
                    .exposure
                    .map_or(String::new(), |(spot, below)| format!("exposed, {unit} has {spot}, below {below}; "));
                let why =
                    self.division.scores(&value).map_or(spot.to_string(), |scores| format!("highest of {scores}"));
                format!("{within}{exposed}variant {} ({share:.1} % of its units), {why}", variant.name)
            }
        }
    }
}

fn variant_of(spec: &ExperimentSpec, name: &str) -> Result<usize, String> {
    let found = spec.variants.iter().position(|variant| variant.name == *name);
    found.ok_or_else(|| format!("there is no variant `{name}`"))
}

fn forced(spec: &ExperimentSpec) -> Result<Vec<Forced>, Refused> {
    let mut checked: Vec<Forced> = Vec::new();
    for (index, ForcedSpec { attribute, values, variant }) in spec.forced.iter().enumerate() {
        let refuse = |field: &str, reason| (format!(".forced[{index}]{field}"), reason);
        let field = Unit::from_name(attribute).map_err(|reason| refuse(".attribute", reason))?;
        let variant = variant_of(spec, variant).map_err(|reason| refuse(".variant", reason))?;
        if values.is_empty() {
            return Err(refuse(".values", "there are none".to_owned()));
        }
        let before = checked.iter().filter(|other| other.field == field && other.variant != variant);
        if let Some(twice) = values.iter().find(|value| before.clone().any(|other| other.values.contains(*value))) {
            return Err(refuse(".values", format!("`{twice}` is forced into another variant already")));
        }
        checked.push(Forced { field, values: values.iter().cloned().collect(), variant });
    }
    Ok(checked)
}

fn layer(spec: &ExperimentSpec, division: &Division) -> Result<Option<Layer>, Refused> {
    let Some(name) = &spec.layer else {
        return match spec.slice {
            None => Ok(None),
            Some(_) => Err(refused(".slice", "is part of a layer: name one in `layer`".to_owned())),
        };
    };
    if name.is_empty() || name == NO_LAYER {
        let reason = format!("needs another name: verdicts say `{NO_LAYER}` of experiments without a layer");
        return Err(refused(".layer", reason));
    }
    let [from, to] = spec.slice.unwrap_or([0.0, 1.0]);
    if !(0.0..=1.0).contains(&from) || !(0.0..=1.0).contains(&to) || from >= to {
        return Err(refused(".slice", format!("is {from} to {to}, it must go up, within 0 and 1")));
    }
    let slice = [from, to].map(|share| (share * f64::from(LAYER_PARTS)).round() as u32);
    if slice[0] == slice[1] {
        let reason = format!("is {from} to {to}, which takes nobody: layers are divided in {LAYER_PARTS} parts");
        return Err(refused(".slice", reason));
    }
    Ok(Some(Layer { name: name.clone(), slice, scheme: division.layer_scheme() }))
}

/// Whether two experiments could take the same unit of one layer, or divide it by different means: the field and the reason.
pub(super) fn conflict(one: &Experiment, other: &Experiment) -> Option<Refused> {
    let (Some(layer), Some(before)) = (&one.layer, &other.layer) else { return None };
    if layer.name != before.name {
        return None;
    }
    if one.unit != other.unit {
        let reason = format!(
            "layer `{}` divides units of one kind: `{}` has {}, this has {}",
            layer.name, other.name, other.unit, one.unit
        );
        return Some(refused(".unit", reason));
    }
    if layer.scheme != before.scheme {
        let reason = format!("layer `{}`: scheme `optimizely` divides layers in its own way", layer.name);
        return Some(refused(".scheme", reason));
    }
    let overlap = layer.slice[0] < before.slice[1] && before.slice[0] < layer.slice[1];
    overlap.then(|| refused(".slice", format!("its slice of layer `{}` overlaps that of `{}`", layer.name, other.name)))
}
