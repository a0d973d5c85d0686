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
    text::{Script, foreign_share},
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
    routes: Vec<Share>,
    /// Units that another version would answer.
    moved: Share,
    /// From one version to another, the most first.
    moves: Vec<Share>,
    /// Units that would be counted elsewhere: in another variant or experiment, by another rule, or by none.
    regrouped: Share,
    /// From one such place to another, the most first.
    regroups: Vec<Share>,
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
    request_id: String,
    key: String,
    attributes: Attributes,
    texts: Vec<String>,
    caption: Option<String>,
    model_version: Option<String>,
}

/// How often each comes. Nothing is kept of a unit, however many there are.
#[derive(Default)]
struct Counts(BTreeMap<String, usize>);

impl Counts {
    fn count(&mut self, name: &str) {
        match self.0.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(name.to_owned(), 1)),
        }
    }

    fn units(&self) -> usize {
        self.0.values().sum()
    }

    /// The most first.
    fn shares(self, total: usize) -> Vec<Share> {
        let mut shares: Vec<Share> = self.0.into_iter().map(|(name, units)| Share::of(name, units, total)).collect();
        shares.sort_by_key(|share| std::cmp::Reverse(share.units));
        shares
    }
}

pub(super) fn run(arguments: &Arguments, by: &By, units: usize) -> Result<(), CliError> {
    let other = arguments.against.as_deref().map(Plan::read).transpose()?.map(By::from);
    let specs = [Some(&by.spec), other.as_ref().map(|by| &by.spec)];
    let names: BTreeSet<String> = specs.into_iter().flatten().flat_map(hashed_attributes).collect();
    let time_ms = arguments.time.unwrap_or_else(Timestamp::now).as_millisecond();
    let (mut versions, mut routes) = (Counts::default(), Counts::default());
    let (mut versions_there, mut routes_there) = (Counts::default(), Counts::default());
    let (mut moves, mut regroups) = (Counts::default(), Counts::default());
    for simulation in simulations(arguments, &names)?.take(units) {
        let simulation = simulation?;
        let (version, way) = route(&by.table, arguments, &simulation, time_ms);
        if let Some(other) = &other {
            let (version_there, way_there) = route(&other.table, arguments, &simulation, time_ms);
            if version != version_there {
                moves.count(&format!("{version} → {version_there}"));
            }
            if way != way_there {
                regroups.count(&format!("{way} → {way_there}"));
            }
            versions_there.count(&version_there);
            routes_there.count(&way_there);
        }
        versions.count(&version);
        routes.count(&way);
    }
    let total = versions.units();
    let simulated = Simulated {
        units: total,
        config_digest: by.config_digest.clone(),
        versions: versions.shares(total),
        routes: routes.shares(total),
        against: other.map(|other| Moved {
            config_digest: other.config_digest,
            versions: versions_there.shares(total),
            routes: routes_there.shares(total),
            moved: Share::of("moved", moves.units(), total),
            moves: moves.shares(total),
            regrouped: Share::of("regrouped", regroups.units(), total),
            regroups: regroups.shares(total),
        }),
    };
    if arguments.json {
        output::json(&simulated);
    } else {
        output::raw(simulated.text());
    }
    Ok(())
}

/// Attributes that are hashed: a made-up unit is each of them, unless it is given.
fn hashed_attributes(spec: &TableSpec) -> Vec<String> {
    let units = spec.experiments.iter().map(|it| &it.unit).chain(spec.holdouts.iter().map(|it| &it.unit));
    let attribute = |unit: &String| match Unit::from_name(unit) {
        Ok(Unit::Attribute(name)) => Some(name),
        _ => None,
    };
    units.filter_map(attribute).collect()
}

type Simulations<'a> = Box<dyn Iterator<Item = Result<Simulation, CliError>> + 'a>;

/// Made-up units without end, or those of a file.
fn simulations<'a>(arguments: &'a Arguments, names: &'a BTreeSet<String>) -> Result<Simulations<'a>, CliError> {
    let given = arguments.attributes();
    let made = move |key: String| {
        let mut attributes: Attributes =
            names.iter().map(|name| (name.clone(), Some(AttributeValue::Text(key.clone())))).collect();
        attributes.extend(given.clone());
        Simulation {
            request_id: key.clone(),
            key,
            attributes,
            texts: vec![arguments.text.clone()],
            caption: arguments.caption.clone(),
            model_version: arguments.model_version.clone(),
        }
    };
    let Some(path) = &arguments.keys else {
        return Ok(Box::new((1..).map(move |number: usize| Ok(made(format!("unit-{number:07}"))))));
    };
    let place = |number: usize, reason: String| failed(format!("{}:{}: {reason}", path.display(), number + 1));
    let simulation = move |(number, line): (usize, std::io::Result<String>)| match line {
        Err(error) => Some(Err(place(number, error.to_string()))),
        Ok(line) => match line.trim() {
            "" => None,
            text if text.starts_with('{') => Some(request(text, arguments).map_err(|reason| place(number, reason))),
            key => Some(Ok(made(key.to_owned()))),
        },
    };
    Ok(Box::new(lines(path)?.enumerate().filter_map(simulation)))
}

fn lines(path: &Path) -> Result<impl Iterator<Item = std::io::Result<String>>, CliError> {
    let file = File::open(path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    Ok(BufReader::new(file).lines())
}

/// What routing reads of a request; the image may be missing, and the record key beside it.
#[derive(Deserialize)]
struct Line {
    request_id: String,
    key: Option<String>,
    text: Option<Texts>,
    caption: Option<String>,
    #[serde(default)]
    attributes: Attributes,
    model_version: Option<String>,
}

fn request(json: &str, arguments: &Arguments) -> Result<Simulation, String> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let line: Line = serde_path_to_error::deserialize(&mut reader).map_err(|error| error.to_string())?;
    let Line { request_id, key, text, caption, attributes, model_version } = line;
    let texts = text.map_or_else(|| vec![arguments.text.clone()], |texts| texts.as_slice().to_vec());
    // What the arguments say is about all of them; what a line says is about it.
    let mut all = arguments.attributes();
    all.extend(attributes);
    Ok(Simulation {
        key: key.unwrap_or_else(|| request_id.clone()),
        request_id,
        attributes: all,
        texts,
        caption: caption.or_else(|| arguments.caption.clone()),
        model_version: model_version.or_else(|| arguments.model_version.clone()),
    })
}

/// The version, and the way to it.
fn route(table: &Table, arguments: &Arguments, simulation: &Simulation, time_ms: i64) -> (String, String) {
    let features = Features {
        request_id: &simulation.request_id,
        key: Some(&simulation.key),
        texts: &simulation.texts,
        caption: simulation.caption.as_deref(),
        text_length: simulation.texts.iter().map(|text| text.chars().count()).max().unwrap_or_default(),
        non_latin_share: simulation.texts.iter().map(|text| foreign_share(text, &[Script::Latin])).fold(0.0, f64::max),
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
            parts.push(table("by", &against.routes));
            parts.push(format!("{:.2} % of units would change version", against.moved.share * 100.0));
            if !against.moves.is_empty() {
                parts.push(table("from → to", &against.moves));
            }
            let regrouped = against.regrouped.share * 100.0;
            parts.push(format!("{regrouped:.2} % would be counted elsewhere, by variant, experiment or rule"));
            if !against.regroups.is_empty() {
                parts.push(table("from → to", &against.regroups));
            }
        }
        parts.join("\n")
    }
}
