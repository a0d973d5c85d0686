//! The shares that a configuration gives to versions and arms, on many units, and what moves between two
//! configurations. Pure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Features, Table, TableSpec, Unit};
use crate::message::Attributes;

/// What routing reads of a request that is only assumed.
#[derive(Clone, Debug, Default)]
pub struct AssumedRequest {
    /// The request's id.
    pub request_id: String,
    /// The record's key.
    pub key: String,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its texts.
    pub texts: Vec<String>,
    /// The share of the texts' letters that are not Latin; the highest.
    pub non_latin_share: f64,
    /// Its caption.
    pub caption: Option<String>,
    /// The version that it asks for.
    pub model_version: Option<String>,
    /// Columns and rows of its image.
    pub image_size: (u32, u32),
    /// Encoded bytes of its image.
    pub image_bytes: usize,
    /// The record's time, in milliseconds since 1970.
    pub time_ms: i64,
}

/// The shares of one configuration, and what moves to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Shares {
    /// Units that were routed.
    pub units: usize,
    /// The digest of the configuration.
    pub config_digest: String,
    /// Units of each version, the most first.
    pub versions: Vec<Share>,
    /// Units of each rule, arm and reason, the most first.
    pub routes: Vec<Share>,
    /// The same units by other settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Moved>,
}

/// A part of the units.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Share {
    /// What has it.
    pub name: String,
    /// Its units.
    pub units: usize,
    /// Its share of all, 0 to 1.
    pub share: f64,
}

/// The same units by another configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Moved {
    /// The digest of the other configuration.
    pub config_digest: String,
    /// Units of each version there.
    pub versions: Vec<Share>,
    /// Units of each rule, arm and reason there.
    pub routes: Vec<Share>,
    /// Units that another version would answer.
    pub moved: Share,
    /// From one version to another, the most first.
    pub moves: Vec<Share>,
    /// Units that would be counted elsewhere: in another variant or experiment, by another rule, or by none.
    pub regrouped: Share,
    /// From one such place to another, the most first.
    pub regroups: Vec<Share>,
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

/// How often each name comes. Nothing is kept of a unit, however many there are.
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

/// A configuration under simulation: its table and its digest.
pub(super) type Configuration<'t> = (&'t Table, &'t str);

/// Routes units by one configuration, or by two.
pub struct ShareCounter<'t> {
    by: Configuration<'t>,
    against: Option<Configuration<'t>>,
    versions: Counts,
    routes: Counts,
    versions_there: Counts,
    routes_there: Counts,
    moves: Counts,
    regroups: Counts,
}

impl<'t> ShareCounter<'t> {
    /// Counts shares of one configuration, and compares them with another one.
    pub fn new(by: Configuration<'t>, against: Option<Configuration<'t>>) -> Self {
        Self {
            by,
            against,
            versions: Counts::default(),
            routes: Counts::default(),
            versions_there: Counts::default(),
            routes_there: Counts::default(),
            moves: Counts::default(),
            regroups: Counts::default(),
        }
    }

    /// Routes one request.
    pub fn add(&mut self, request: &AssumedRequest) {
        let (version, way) = route(self.by.0, request);
        if let Some((table, _)) = self.against {
            let (version_there, way_there) = route(table, request);
            if version != version_there {
                self.moves.count(&format!("{version} → {version_there}"));
            }
            if way != way_there {
                self.regroups.count(&format!("{way} → {way_there}"));
            }
            self.versions_there.count(&version_there);
            self.routes_there.count(&way_there);
        }
        self.versions.count(&version);
        self.routes.count(&way);
    }

    /// The shares.
    pub fn finish(self) -> Shares {
        let total = self.versions.units();
        let (versions_there, routes_there) = (self.versions_there, self.routes_there);
        let (moves, regroups) = (self.moves, self.regroups);
        let against = self.against.map(|(_, digest)| Moved {
            config_digest: digest.to_owned(),
            versions: versions_there.shares(total),
            routes: routes_there.shares(total),
            moved: Share::of("moved", moves.units(), total),
            moves: moves.shares(total),
            regrouped: Share::of("regrouped", regroups.units(), total),
            regroups: regroups.shares(total),
        });
        Shares {
            units: total,
            config_digest: self.by.1.to_owned(),
            versions: self.versions.shares(total),
            routes: self.routes.shares(total),
            against,
        }
    }
}

/// Attributes that are hashed: a made-up unit is each of them, unless it is given.
pub fn hashed_attributes(spec: &TableSpec) -> Vec<String> {
    let units = spec.experiments.iter().map(|it| &it.unit).chain(spec.holdouts.iter().map(|it| &it.unit));
    let attribute = |unit: &String| match Unit::from_name(unit) {
        Ok(Unit::Attribute(name)) => Some(name),
        _ => None,
    };
    units.filter_map(attribute).collect()
}

/// The version, and the way to it.
fn route(table: &Table, request: &AssumedRequest) -> (String, String) {
    let features = Features {
        request_id: &request.request_id,
        key: Some(&request.key),
        texts: &request.texts,
        caption: request.caption.as_deref(),
        text_length: request.texts.iter().map(|text| text.chars().count()).max().unwrap_or_default(),
        non_latin_share: request.non_latin_share,
        image_width: request.image_size.0,
        image_height: request.image_size.1,
        image_bytes: request.image_bytes,
        image_format: "jpeg",
        time_ms: Some(request.time_ms),
        attributes: &request.attributes,
        forced_version: request.model_version.as_deref(),
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
