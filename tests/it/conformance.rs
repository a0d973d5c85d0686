//! Other platforms' published vectors, which are read in place and not part of this repository: whoever shares
//! assignments with one of them gets the same.

use std::{borrow::Cow, collections::BTreeMap, env, fs, path::PathBuf};

use ofa_stream::{
    message::{AttributeValue, Attributes},
    routing::{
        Features, Table,
        condition::{Condition, Truth},
        scheme::{optimizely, unleash},
    },
};
use serde_json::{Value, json};

use crate::support::{json as read_json, repository};

/// A folder with `unleash_murmur3.json`, `optimizely_bucketing.json` and `unleash-client-specification`.
const FOLDER: &str = "OFA_STREAM_THIRD_PARTY_VECTORS";

/// The vectors; none where they are not at hand. Never a failure: they may not be copied here, so a clone elsewhere
/// cannot have them.
fn folder() -> Option<PathBuf> {
    let folder = env::var_os(FOLDER).map_or_else(|| repository("../shared/vectors/third_party"), PathBuf::from);
    if !folder.is_dir() {
        eprintln!("\n*** SKIPPED: no vectors of other platforms; set {FOLDER} to a folder with them ***\n");
        return None;
    }
    Some(folder)
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} of {value}"))
}

#[test]
fn unleash_divides_units_as_its_client_specification_says() {
    let cases = cases_of("unleash_murmur3");
    for case in &cases {
        let (group, unit) = (text(case, "group"), text(case, "identifier"));
        let (spot, answer): (_, Value) = match text(case, "kind") {
            "rollout" => {
                let spot = unleash::rollout(group, unit);
                (spot, (spot.place < case["percentage"].as_u64().unwrap()).into())
            }
            _ => {
                let pairs: Vec<(String, u64)> = serde_json::from_value(case["weights"].clone()).unwrap();
                let weights: Vec<u64> = pairs.iter().map(|(_, weight)| *weight).collect();
                let (variant, spot) = unleash::variant(group, unit, &weights);
                (spot, pairs[variant.unwrap()].0.clone().into())
            }
        };
        assert_eq!(u64::from(spot.hash), case["hash"].as_u64().unwrap(), "{case}");
        assert_eq!(spot.place + 1, case["normalized"].as_u64().unwrap(), "{case}");
        assert_eq!(answer, case["expected"], "{case}");
    }
    eprintln!("Unleash: {} hashes", cases.len());
    assert!(cases.is_empty() || cases.len() >= 38, "{}", cases.len());
}

#[test]
fn optimizely_buckets_units_as_its_clients_do() {
    let cases = cases_of("optimizely_bucketing");
    for case in &cases {
        let spot = optimizely::bucket(text(case, "bucketing_id"), text(case, "parent_id"));
        if let Some(hash) = case["hash"].as_u64() {
            assert_eq!(u64::from(spot.hash), hash, "{case}");
        }
        assert_eq!(spot.place, case["bucket"].as_u64().unwrap(), "{case}");
    }
    eprintln!("Optimizely: {} buckets", cases.len());
    assert!(cases.is_empty() || cases.len() >= 6, "{}", cases.len());
}

/// Through settings and the function that routes: a variant for each entity, its buckets up to the end that is given.
#[test]
fn optimizely_allocates_units_as_its_clients_do() {
    let allocations = values_of("optimizely_bucketing", "allocation_cases");
    let mut compared = 0;
    for allocation in &allocations {
        let ends: Vec<(String, u32)> = serde_json::from_value(allocation["ranges"].clone()).unwrap();
        let mut from = 0;
        let mut variants = Vec::new();
        for (entity, to) in ends {
            if !entity.is_empty() && from < to {
                variants.push(json!({"name": entity, "model_version": "v", "range": [from, to]}));
            }
            from = to;
        }
        for (key, entity) in allocation["expect"].as_object().unwrap() {
            // What is hashed is unit and salt joined; wherever it is cut.
            let (unit, salt) = key.split_at(key.len() / 2);
            let experiment =
                json!({"name": "e", "scheme": "optimizely", "salt": salt, "traffic_ratio": 1, "variants": variants});
            let chosen = variant_of(&experiment, unit).unwrap_or_default();
            assert_eq!(json!(chosen), *entity, "{key}");
            compared += 1;
        }
    }
    eprintln!("Optimizely: {compared} allocations");
    assert!(allocations.is_empty() || compared >= 4, "{compared}");
}

/// Vectors of flagd's `fractional`, where they are at hand: `cases` of a flag's `key`, a `unit`, `weights` with the names of variants, and
/// the `expected` variant.
#[test]
fn flagd_divides_units_as_its_test_bed_says() {
    let published = [
        // From the table of the test bed's own scenario of corner hashes: the variant of a half each.
        ("ejOoVL", "lower"),
        ("bY9fO-", "lower"),
        ("SI7p-", "lower"),
        ("6LvT0", "upper"),
        ("ceQdGm", "upper"),
    ];
    let corners = published.map(|(unit, expected)| {
        json!({"key": "", "unit": unit, "weights": [["lower", 50], ["upper", 50]], "expected": expected})
    });
    let cases: Vec<Value> = corners.into_iter().chain(cases_of("flagd_fractional")).collect();
    for case in &cases {
        let weights: Vec<(String, u64)> = serde_json::from_value(case["weights"].clone()).unwrap();
        let variants: Vec<Value> = weights
            .iter()
            .map(|(name, weight)| json!({"name": name, "model_version": "v", "weight": weight}))
            .collect();
        let experiment =
            json!({"name": "e", "scheme": "flagd", "salt": case["key"], "traffic_ratio": 1, "variants": variants});
        assert_eq!(json!(variant_of(&experiment, text(case, "unit"))), case["expected"], "{case}");
    }
    eprintln!("flagd: {} variants", cases.len());
}

/// The variant that an experiment, as settings write it, gives to a unit.
fn variant_of(experiment: &Value, unit: &str) -> Option<String> {
    let spec =
        json!({"versions": ["v"], "default": "v", "allow_forced": false, "rules": [], "experiments": [experiment]});
    let table = Table::new(&serde_json::from_value(spec).unwrap()).unwrap_or_else(|error| panic!("{error}"));
    let attributes = Attributes::new();
    let route = table.decide(&Features { request_id: unit, ..features(&attributes) }, &mut ()).unwrap();
    route.variant.map(|(_, variant)| variant)
}

fn features(attributes: &Attributes) -> Features<'_> {
    Features {
        request_id: "r",
        key: None,
        texts: &[],
        caption: None,
        text_length: 0,
        non_latin_share: 0.0,
        image_width: 1,
        image_height: 1,
        image_bytes: 1,
        image_format: "png",
        time_ms: None,
        attributes,
        forced_version: None,
    }
}

/// A list of all files whose names begin so; none where there are no vectors.
fn values_of(prefix: &str, list: &str) -> Vec<Value> {
    let Some(folder) = folder() else { return Vec::new() };
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(prefix) && name.ends_with(".json")
    });
    paths.sort();
    paths.iter().flat_map(|path| read_json(path)[list].as_array().cloned().unwrap_or_default()).collect()
}

fn cases_of(prefix: &str) -> Vec<Value> {
    values_of(prefix, "cases")
}

/// A question of the specification: whether a feature is on for a context.
struct Question<'v> {
    feature: &'v Value,
    segments: &'v [Value],
    context: &'v Value,
}

/// Why an answer is not compared.
enum Apart {
    /// A part of Unleash that conditions do not have.
    NotOurs,
    /// Unleash lets a negation hold for a field that is missing, or cannot be read; here that holds for nobody, on purpose.
    NegationOfMissing,
}

/// As Unleash reads what should be text.
fn as_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(_) | Value::Bool(_) => Some(Cow::Owned(value.to_string())),
        _ => None,
    }
}

impl<'v> Question<'v> {
    fn field(&self, name: &str) -> Option<Cow<'v, str>> {
        let context = self.context;
        as_text(&context[name]).or_else(|| as_text(&context["properties"][name]))
    }

    fn answer(&self) -> Result<bool, Apart> {
        let none = Vec::new();
        let strategies = self.feature["strategies"].as_array().unwrap_or(&none);
        if !self.feature["dependencies"].is_null() {
            return Err(Apart::NotOurs);
        }
        let mut on = strategies.is_empty();
        for strategy in strategies {
            on |= self.strategy(strategy)?;
        }
        Ok(on && self.feature["enabled"] == true)
    }

    fn strategy(&self, strategy: &Value) -> Result<bool, Apart> {
        let none = Vec::new();
        let mut constraints: Vec<&Value> = strategy["constraints"].as_array().unwrap_or(&none).iter().collect();
        for id in strategy["segments"].as_array().unwrap_or(&none) {
            match self.segments.iter().find(|segment| segment["id"] == *id) {
                Some(segment) => constraints.extend(segment["constraints"].as_array().unwrap_or(&none)),
                None => return Ok(false),
            }
        }
        for constraint in constraints {
            if !self.holds(constraint)? {
                return Ok(false);
            }
        }
        let parameter = |name: &str| as_text(&strategy["parameters"][name]);
        let name = strategy["name"].as_str().unwrap_or_default();
        let rollout = |percentage: Option<Cow<'_, str>>, unit: Option<Cow<'_, str>>| {
            let percentage: u64 = percentage.as_deref().unwrap_or("0").parse().unwrap_or(0);
            let feature = self.feature["name"].as_str().filter(|_| name == "flexibleRollout");
            let group = parameter("groupId").or(feature.map(Cow::Borrowed)).unwrap_or_default();
            unit.is_some_and(|unit| unleash::rollout(&group, &unit).place < percentage)
        };
        let among = |name: &str, list: &str, operator: &str| {
            let values = parameter(list).unwrap_or_default();
            let values: Vec<&str> = values.split(',').map(str::trim).filter(|value| !value.is_empty()).collect();
            self.holds(&json!({"contextName": name, "operator": operator, "values": values}))
        };
        match name {
            "default" => Ok(true),
            "userWithId" => among("userId", "userIds", "IN"),
            "remoteAddress" => among("remoteAddress", "IPs", "IN_CIDR"),
            "gradualRolloutUserId" => Ok(rollout(parameter("percentage"), self.field("userId"))),
            "gradualRolloutSessionId" => Ok(rollout(parameter("percentage"), self.field("sessionId"))),
            "flexibleRollout" => match parameter("stickiness").as_deref().unwrap_or("default") {
                "random" => Err(Apart::NotOurs),
                "default" => match self.field("userId").or(self.field("sessionId")) {
                    Some(unit) => Ok(rollout(parameter("rollout"), Some(unit))),
                    // Without a unit it is by chance.
                    None => Err(Apart::NotOurs),
                },
                field => Ok(rollout(parameter("rollout"), self.field(field))),
            },
            _ => Err(Apart::NotOurs),
        }
    }

    fn holds(&self, constraint: &Value) -> Result<bool, Apart> {
        let (name, operator) = (text(constraint, "contextName"), text(constraint, "operator"));
        let inverted = constraint["inverted"] == true;
        let is_time = name == "currentTime";
        if (inverted || operator == "NOT_IN") && self.field(name).is_none() && !is_time {
            return Err(Apart::NegationOfMissing);
        }
        let Some(condition) = condition(constraint, if is_time { "time" } else { "attributes.it" })? else {
            // What cannot be read holds for nobody there, and its negation for all; here it is refused when settings are read.
            return Ok((operator == "NOT_IN") != inverted);
        };
        let Ok(plain) = Condition::parse(&condition) else { return Ok(inverted) };
        let condition = if inverted { format!("not ({condition})") } else { condition };
        let Ok(parsed) = Condition::parse(&condition) else { return Ok(inverted) };
        let value = self.field(name).and_then(|value| {
            if operator.starts_with("NUM_") {
                value.trim().parse().ok().map(AttributeValue::Number)
            } else {
                Some(AttributeValue::Text(value.into_owned()))
            }
        });
        let attributes: Attributes = BTreeMap::from([("it".to_owned(), value)]);
        // Without a time of its own a context is of now.
        let time = || self.field(name).map_or(Some(jiff::Timestamp::now()), |time| time.parse().ok());
        let time_ms = is_time.then(time).flatten().map(jiff::Timestamp::as_millisecond);
        let features = Features { time_ms, ..features(&attributes) };
        if (inverted || operator == "NOT_IN") && matches!(plain.evaluate(&features), Truth::Missing(_)) {
            return Err(Apart::NegationOfMissing);
        }
        Ok(parsed.evaluate(&features) == Truth::True)
    }
}

/// A constraint as a condition; none where nothing of it can be read.
fn condition(constraint: &Value, field: &str) -> Result<Option<String>, Apart> {
    let quoted = |text: &str| if text.contains('\'') { format!("\"{text}\"") } else { format!("'{text}'") };
    let none = Vec::new();
    let read: Vec<Cow<'_, str>> = constraint["values"].as_array().unwrap_or(&none).iter().filter_map(as_text).collect();
    let operator = text(constraint, "operator");
    // Of what is searched for, an empty text would be in every one: Unleash leaves it out.
    let searches = operator.starts_with("STR_");
    let values = read.iter().map(AsRef::as_ref).filter(|value| !searches || !value.is_empty());
    let list = |values: Vec<&str>| {
        let quoted: Vec<String> = values.into_iter().map(quoted).collect();
        (!quoted.is_empty()).then(|| format!("[{}]", quoted.join(", ")))
    };
    let all = || list(values.clone().collect());
    let value = as_text(&constraint["value"]).unwrap_or_default();
    let insensitive = constraint["caseInsensitive"] == true;
    let compare = |operator: &str| match operator {
        "EQ" => Ok("=="),
        "GT" | "AFTER" => Ok(">"),
        "GTE" => Ok(">="),
        "LT" | "BEFORE" => Ok("<"),
        "LTE" => Ok("<="),
        _ => Err(Apart::NotOurs),
    };
    let searched = |word: &str, before: &str, after: &str| {
        if insensitive {
            let escaped: Vec<String> = values.clone().map(regex::escape).collect();
            (!escaped.is_empty()).then(|| {
                format!("{field} matches {}", quoted(&format!("(?is){before}(?:{}){after}", escaped.join("|"))))
            })
        } else {
            all().map(|list| format!("{field} {word} {list}"))
        }
    };
    Ok(match operator.split_once('_').unwrap_or((operator, "")) {
        ("IN", "") => all().map(|list| format!("{field} in {list}")),
        ("NOT", "IN") => all().map(|list| format!("{field} not in {list}")),
        ("IN", "CIDR") => {
            let readable = |value: &&str| Condition::parse(&format!("{field} in cidr {}", quoted(value))).is_ok();
            list(values.filter(readable).collect()).map(|list| format!("{field} in cidr {list}"))
        }
        ("STR", "CONTAINS") => searched("contains", "", ""),
        ("STR", "STARTS_WITH") => searched("starts_with", "^", ""),
        ("STR", "ENDS_WITH") => searched("ends_with", "", "$"),
        // Ways to write a number that conditions do not have.
        ("NUM", operator) => match value.trim().parse::<f64>() {
            Ok(number) => Some(format!("{field} {} {number}", compare(operator)?)),
            Err(_) => None,
        },
        ("SEMVER", operator) => Some(format!("{field} {} semver {}", compare(operator)?, quoted(&value))),
        ("DATE", operator) => Some(format!("{field} {} date {}", compare(operator)?, quoted(&value))),
        ("REGEX", "") => {
            let flag = if insensitive { "(?i)" } else { "" };
            Some(format!("{field} matches {}", quoted(&format!("{flag}{value}"))))
        }
        _ => return Err(Apart::NotOurs),
    })
}

#[test]
fn unleash_constraints_hold_for_whom_its_client_specification_says() {
    let Some(folder) = folder() else { return };
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut wrong = Vec::new();
    for entry in fs::read_dir(folder.join("unleash-client-specification")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "json") || name == "index" {
            continue;
        }
        let specification = read_json(&path);
        if !specification["state"]["features"].is_array() {
            eprintln!("*** {name} is about something else than features, and is not compared ***");
            continue;
        }
        let none = Vec::new();
        let features = specification["state"]["features"].as_array().unwrap_or(&none);
        let segments = specification["state"]["segments"].as_array().unwrap_or(&none);
        for test in specification["tests"].as_array().unwrap_or(&none) {
            let feature = features.iter().find(|feature| feature["name"] == test["toggleName"]);
            let answer = match feature {
                Some(feature) => Question { feature, segments, context: &test["context"] }.answer(),
                None => Ok(false),
            };
            let counted = counts.entry(name.clone()).or_default();
            match answer {
                Ok(answer) => {
                    counted[0] += 1;
                    if test["expectedResult"] != answer {
                        wrong.push(format!("{name}: {}: {answer}", test["description"]));
                    }
                }
                Err(Apart::NegationOfMissing) => counted[1] += 1,
                Err(Apart::NotOurs) => counted[2] += 1,
            }
        }
    }
    eprintln!("specification: [compared, negations of what is missing, not ours]: {counts:#?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, at_least) in [
        ("09-strategy-constraints", 14),
        ("11-strategy-constraints-edge-cases", 5),
        ("14-constraint-semver-operators", 25),
        ("15-global-constraints", 5),
        ("21-regex-constraint-operators", 36),
        ("22-cidr-constraint-operators", 12),
    ] {
        match counts.get(name) {
            Some(counts) => assert!(counts[0] >= at_least, "{name}: {counts:?}"),
            None => eprintln!("*** {name} is not at hand, and is not compared ***"),
        }
    }
}
