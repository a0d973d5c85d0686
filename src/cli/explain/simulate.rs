//! The shares that a configuration gives, on units from a file or made up, and what moves between two configurations.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ASSUMED_BYTES, Arguments, By, CliError, failed, output};
use crate::{
    message::{AttributeValue, Attributes, Texts},
    routing::{Features, Table, TableSpec, Unit},
    settings::Plan,
};

#[derive(Debug, Default, PartialEq, Serialize)]
struct Simulated {
    units: usize,
    config_digest: String,
    versions: Vec<Share>,
    routes: Vec<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Moved>,
}

/// A part of the units.
#[derive(Debug, PartialEq, Serialize)]
struct Share {
    name: String,
    units: usize,
    share: f64,
}

/// What would be otherwise.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Moved {
    config_digest: String,
    versions: Vec<Share>,
    /// Units that another version would answer.
    moved: Share,
    /// From one version to another, the most first.
    moves: Vec<Share>,
}

impl Default for Share {
    fn default() -> Self {
        Self::of("units", 0, 1)
    }
}

impl Share {
    fn of(name: impl Into<String>, units: usize, total: usize) -> Self {
        Self { name: name.into(), units, share: units as f64 / total.max(1) as f64 }
    }
}

/// A unit to be routed.
struct Simulation {
    key: String,
    attributes: Attributes,
    texts: Vec<String>,
    caption: Option<String>,
    model_version: Option<String>,
}

pub(super) fn run(arguments: &Arguments, by: &By, units: usize) -> Result<(), CliError> {
    let other = arguments.against.as_deref().map(Plan::read).transpose()?.map(By::from);
    let specs = [Some(&by.spec), other.as_ref().map(|by| &by.spec)];
    let names: BTreeSet<String> = specs.into_iter().flatten().flat_map(hashed_attributes).collect();
    let simulations = simulations(arguments, &names, units)?;
    let time_ms = arguments.time.unwrap_or_else(Timestamp::now).as_millisecond();
    let route = |table: &Table| {
        let features = |simulation: &Simulation| route(table, arguments, simulation, time_ms);
        simulations.iter().map(features).collect::<Vec<_>>()
    };
    let before = route(&by.table);
    let total = before.len();
    let mut simulated = Simulated {
        units: total,
        config_digest: by.config_digest.clone(),
        versions: shares(before.iter().map(|(version, _)| version.clone()), total),
        routes: shares(before.iter().map(|(_, route)| route.clone()), total),
        against: None,
    };
    if let Some(other) = other {
        let after = route(&other.table);
        let moves = before.iter().zip(&after).filter(|((one, _), (two, _))| one != two);
        let moves: Vec<String> = moves.map(|((one, _), (two, _))| format!("{one} → {two}")).collect();
        simulated.against = Some(Moved {
            config_digest: other.config_digest,
            versions: shares(after.iter().map(|(version, _)| version.clone()), total),
            moved: Share::of("moved", moves.len(), total),
            moves: shares(moves.into_iter(), total),
        });
    }
    match arguments.json {
        true => output::json(&simulated),
        false => output::line(simulated.text()),
    }
    Ok(())
}

/// Attributes that are hashed: a made-up unit is each of them, unless it is given.
fn hashed_attributes(spec: &TableSpec) -> Vec<String> {
    let units = spec.experiments.iter().map(|it| &it.unit).chain(spec.holdouts.iter().map(|it| &it.unit));
    let attribute = |unit: &String| match Unit::from_name(unit) {
        Unit::Attribute(name) => Some(name),
        Unit::RequestId | Unit::Key => None,
    };
    units.filter_map(attribute).collect()
}

fn simulations(arguments: &Arguments, names: &BTreeSet<String>, units: usize) -> Result<Vec<Simulation>, CliError> {
    let given = arguments.attributes();
    let made = |key: String| {
        let mut attributes: Attributes =
            names.iter().map(|name| (name.clone(), Some(AttributeValue::Text(key.clone())))).collect();
        attributes.extend(given.clone());
        let (texts, model_version) = (vec![arguments.text.clone()], arguments.model_version.clone());
        Simulation { key, attributes, texts, caption: None, model_version }
    };
    let Some(path) = &arguments.keys else {
        return Ok((1..=units).map(|number| made(format!("unit-{number:07}"))).collect());
    };
    let place = |number: usize, reason: String| failed(format!("{}:{}: {reason}", path.display(), number + 1));
    let mut simulations = Vec::new();
    for (number, line) in lines(path)?.enumerate() {
        let line = line.map_err(|error| place(number, error.to_string()))?;
        match line.trim() {
            "" => {}
            text if text.starts_with('{') => {
                simulations.push(request(text, arguments).map_err(|reason| place(number, reason))?);
            }
            key => simulations.push(made(key.to_owned())),
        }
        if simulations.len() == units {
            break;
        }
    }
    Ok(simulations)
}

fn lines(path: &Path) -> Result<impl Iterator<Item = std::io::Result<String>>, CliError> {
    let file = File::open(path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    Ok(BufReader::new(file).lines())
}

/// What routing reads of a request; the image may be missing.
#[derive(Deserialize)]
struct Line {
    request_id: String,
    text: Option<Texts>,
    caption: Option<String>,
    #[serde(default)]
    attributes: Attributes,
    model_version: Option<String>,
}

fn request(json: &str, arguments: &Arguments) -> Result<Simulation, String> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let line: Line = serde_path_to_error::deserialize(&mut reader).map_err(|error| error.to_string())?;
    let Line { request_id, text, caption, attributes, model_version } = line;
    let texts = text.map_or_else(|| vec![arguments.text.clone()], |texts| texts.as_slice().to_vec());
    Ok(Simulation { key: request_id, attributes, texts, caption, model_version })
}

/// The version, and the way to it.
fn route(table: &Table, arguments: &Arguments, simulation: &Simulation, time_ms: i64) -> (String, String) {
    let features = Features {
        request_id: &simulation.key,
        key: Some(&simulation.key),
        texts: &simulation.texts,
        caption: simulation.caption.as_deref(),
        text_length: simulation.texts.iter().map(|text| text.chars().count()).max().unwrap_or_default(),
        image_width: arguments.image_size.0,
        image_height: arguments.image_size.1,
        image_bytes: ASSUMED_BYTES,
        image_format: "jpeg",
        time_ms: Some(time_ms),
        attributes: &simulation.attributes,
        forced_version: simulation.model_version.as_deref(),
    };
    match table.decide(&features, &mut ()) {
        Err(error) => ("refused".to_owned(), error.code().to_owned()),
        Ok(route) => {
            let way = match (route.variant, route.rule) {
                (Some((experiment, variant)), _) => format!("experiment {experiment}, {variant}"),
                (None, Some(name)) => format!("{} {name}", route.reason.as_str()),
                (None, None) => route.reason.as_str().to_owned(),
            };
            (route.version, way)
        }
    }
}

/// How often each comes, the most first.
fn shares(names: impl Iterator<Item = String>, total: usize) -> Vec<Share> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    let mut shares: Vec<Share> = counts.into_iter().map(|(name, units)| Share::of(name, units, total)).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.units));
    shares
}

impl Simulated {
    fn text(&self) -> String {
        let table = |column: &str, shares: &[Share]| {
            let bar = |share: f64| "█".repeat((share * 40.0).round() as usize);
            let rows = shares.iter().map(|it| {
                vec![it.name.clone(), it.units.to_string(), format!("{:.2} %", it.share * 100.0), bar(it.share)]
            });
            output::table(&[column, "units", "share", ""], &["units", "share"], rows).to_string()
        };
        let mut parts = vec![
            format!("{} units by {}", self.units, output::digest(&self.config_digest)),
            table("version", &self.versions),
            table("by", &self.routes),
        ];
        if let Some(against) = &self.against {
            parts.push(format!("the same units by {}", output::digest(&against.config_digest)));
            parts.push(table("version", &against.versions));
            parts.push(format!("{:.2} % of units would change version", against.moved.share * 100.0));
            if !against.moves.is_empty() {
                parts.push(table("from → to", &against.moves));
            }
        }
        parts.join("\n")
    }
}
