//! The routing table of one configuration, checked as a whole.

use std::collections::BTreeSet;

use super::{
    condition::Condition,
    experiment::{self, Experiment},
    holdout::Holdout,
    refused::{Refused, refused},
    shadow::Shadows,
    spec::{HoldoutSpec, RuleDecision, RuleSpec, TableSpec},
};

/// A table that cannot work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct TableError {
    /// Where in the settings, such as `routing_rules[0].condition`.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
}

/// A checked table.
#[derive(Clone, Debug)]
pub struct Table {
    pub(super) versions: BTreeSet<String>,
    pub(super) default: String,
    pub(super) allow_forced: bool,
    pub(super) rules: Vec<Rule>,
    pub(super) holdouts: Vec<Holdout>,
    pub(super) experiments: Vec<Experiment>,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) condition: Condition,
    pub(super) version: String,
    pub(super) decision: Option<RuleDecision>,
    pub(super) shadows: Shadows,
}

impl Table {
    /// Checks a table as a whole.
    ///
    /// # Errors
    /// The first entry that cannot work, with its place in the settings.
    pub fn new(spec: &TableSpec) -> Result<Self, TableError> {
        let refuse = |place: String, reason: String| TableError { place, reason };
        let versions: BTreeSet<String> = spec.versions.iter().cloned().collect();
        let exists = |name: &str| {
            if versions.contains(name) {
                Ok(())
            } else {
                Err(format!("there is no version `{name}`: `model_versions.versions` has {}", listed(&versions)))
            }
        };
        exists(&spec.default).map_err(|reason| refuse("model_versions.default".to_owned(), reason))?;
        let mut rules: Vec<Rule> = Vec::new();
        for (index, rule) in spec.rules.iter().enumerate() {
            let refuse = |(field, reason): Refused| refuse(format!("routing_rules[{index}]{field}"), reason);
            let rule = Rule::new(rule, exists).map_err(refuse)?;
            // Verdicts, metrics and the hash of shadows know rules by their names.
            if rules.iter().any(|other| other.name == rule.name) {
                return Err(refuse(refused(".name", format!("`{}` appears twice", rule.name))));
            }
            rules.push(rule);
        }
        let holdouts = holdouts(&spec.holdouts)?;
        let mut experiments: Vec<Experiment> = Vec::new();
        for (index, spec) in spec.experiments.iter().enumerate() {
            let place = |field: &str| format!("experiments[{index}]{field}");
            let experiment = Experiment::new(spec, exists).map_err(|(field, reason)| refuse(place(&field), reason))?;
            if experiments.iter().any(|other| other.name == experiment.name) {
                return Err(refuse(place(".name"), format!("`{}` appears twice", experiment.name)));
            }
            if let Some((field, reason)) = experiments.iter().find_map(|other| experiment::conflict(&experiment, other))
            {
                return Err(refuse(place(&field), reason));
            }
            experiments.push(experiment);
        }
        let (default, allow_forced) = (spec.default.clone(), spec.allow_forced);
        Ok(Self { versions, default, allow_forced, rules, holdouts, experiments })
    }

    /// The version that answers when nothing else decides.
    pub fn default_version(&self) -> &str {
        &self.default
    }

    /// Whether any request is judged for comparison.
    pub fn has_shadows(&self) -> bool {
        self.shadows().any(|shadows| shadows.versions().next().is_some())
    }

    fn shadows(&self) -> impl Iterator<Item = &Shadows> {
        let of_experiments = self.experiments.iter().filter(|it| !it.paused && it.winner().is_none());
        self.rules.iter().map(|rule| &rule.shadows).chain(of_experiments.map(|experiment| &experiment.shadows))
    }

    /// The versions that a request could be sent to. Experiments whose time has not come, or is over, count: their
    /// clock is the records'.
    pub fn named_versions(&self) -> BTreeSet<&str> {
        if self.allow_forced {
            return self.versions.iter().map(String::as_str).collect();
        }
        let mut named: BTreeSet<&str> = self.rules.iter().map(|rule| rule.version.as_str()).collect();
        named.insert(&self.default);
        for experiment in self.experiments.iter().filter(|experiment| !experiment.paused) {
            match experiment.winner() {
                Some(winner) => named.extend([winner.version.as_str()]),
                None => named.extend(experiment.variants.iter().map(|variant| variant.version.as_str())),
            }
        }
        named.extend(self.shadows().flat_map(Shadows::versions));
        named
    }
}

impl Rule {
    fn new(spec: &RuleSpec, version_exists: impl Fn(&str) -> Result<(), String>) -> Result<Self, Refused> {
        let condition = Condition::parse(&spec.condition).map_err(|error| refused(".condition", error.to_string()))?;
        version_exists(&spec.version).map_err(|reason| refused(".version", reason))?;
        let name = spec.name.clone().unwrap_or_else(|| spec.condition.clone());
        if name.is_empty() {
            return Err(refused(".name", "is empty: leave it out to have the condition stand for it".to_owned()));
        }
        let shadows = Shadows::new(&spec.shadow, spec.shadow_fraction, format!("rule:{name}"), version_exists)?;
        Ok(Self { name, condition, version: spec.version.clone(), decision: spec.decision, shadows })
    }
}

fn holdouts(specs: &[HoldoutSpec]) -> Result<Vec<Holdout>, TableError> {
    let mut holdouts: Vec<Holdout> = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let refuse = |(field, reason): Refused| TableError { place: format!("holdouts[{index}]{field}"), reason };
        let holdout = Holdout::new(spec).map_err(refuse)?;
        if holdouts.iter().any(|other| other.name == holdout.name) {
            return Err(refuse(refused(".name", format!("`{}` appears twice", holdout.name))));
        }
        holdouts.push(holdout);
    }
    Ok(holdouts)
}

fn listed(names: &BTreeSet<String>) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
