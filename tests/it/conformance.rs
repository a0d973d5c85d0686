//! Other platforms' published vectors, which are read in place and not part of this repository: whoever shares
//! assignments with one of them gets the same.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use ofa_stream::{
    message::{AttributeValue, Attributes},
    routing::{
        Features,
        condition::{Condition, Truth},
        scheme::{optimizely, unleash},
    },
};
use serde_json::Value;

use crate::support::{json, repository};

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
    let Some(folder) = folder() else { return };
    let cases = json(&folder.join("unleash_murmur3.json"));
    let cases = cases["cases"].as_array().unwrap();
    for case in cases {
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
    assert_eq!(cases.len(), 38);
}

#[test]
fn optimizely_buckets_units_as_its_clients_do() {
    let Some(folder) = folder() else { return };
    let vectors = json(&folder.join("optimizely_bucketing.json"));
    let cases = vectors["cases"].as_array().unwrap();
    for case in cases {
        let spot = optimizely::bucket(text(case, "bucketing_id"), text(case, "parent_id"));
        assert_eq!(u64::from(spot.hash), case["hash"].as_u64().unwrap(), "{case}");
        assert_eq!(spot.place, case["bucket"].as_u64().unwrap(), "{case}");
    }
    assert!(cases.len() >= 6);
    for allocation in vectors["allocation_cases"].as_array().unwrap() {
        let ranges: Vec<(String, u64)> = serde_json::from_value(allocation["ranges"].clone()).unwrap();
        for (key, entity) in allocation["expect"].as_object().unwrap() {
            let bucket = optimizely::bucket(key, "").place;
            let found = ranges.iter().find(|(_, end)| bucket < *end).map_or("", |(entity, _)| entity);
            assert_eq!(found, entity, "{key}");
        }
    }
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
    /// Unleash lets a negation hold for a field that is missing; here that holds for nobody, on purpose.
    NegationOfMissing,
}

impl<'v> Question<'v> {
    fn field(&self, name: &str) -> Option<&'v str> {
        let context = self.context;
        context[name].as_str().or_else(|| context["properties"][name].as_str())
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
        let parameter = |name: &str| strategy["parameters"][name].as_str();
        let rollout = |percentage: Option<&str>, unit: Option<&str>| {
            let percentage: u64 = percentage.unwrap_or("0").parse().unwrap();
            let group = parameter("groupId").unwrap_or_default();
            unit.is_some_and(|unit| unleash::rollout(group, unit).place < percentage)
        };
        match strategy["name"].as_str().unwrap_or_default() {
            "default" => Ok(true),
            "gradualRolloutUserId" => Ok(rollout(parameter("percentage"), self.field("userId"))),
            "gradualRolloutSessionId" => Ok(rollout(parameter("percentage"), self.field("sessionId"))),
            "flexibleRollout" => match parameter("stickiness").unwrap_or("default") {
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
            // What cannot be read holds for nobody there; here it is refused when settings are read.
            return Ok(operator == "NOT_IN");
        };
        let condition = if inverted { format!("not ({condition})") } else { condition };
        let Ok(parsed) = Condition::parse(&condition) else { return Ok(false) };
        let value = self.field(name).and_then(|value| match operator.starts_with("NUM_") {
            true => value.parse().ok().map(AttributeValue::Number),
            false => Some(AttributeValue::Text(value.to_owned())),
        });
        let attributes: Attributes = BTreeMap::from([("it".to_owned(), value)]);
        let time_ms = is_time.then(|| self.field(name)?.parse::<jiff::Timestamp>().ok()).flatten();
        let features = Features {
            request_id: "r",
            key: None,
            texts: &[],
            caption: None,
            text_length: 0,
            image_width: 1,
            image_height: 1,
            image_bytes: 1,
            image_format: "png",
            time_ms: time_ms.map(jiff::Timestamp::as_millisecond),
            attributes: &attributes,
            forced_version: None,
        };
        Ok(parsed.evaluate(&features) == Truth::True)
    }
}

/// A constraint as a condition; none where nothing of it can be read.
fn condition(constraint: &Value, field: &str) -> Result<Option<String>, Apart> {
    let quoted = |text: &str| if text.contains('\'') { format!("\"{text}\"") } else { format!("'{text}'") };
    let none = Vec::new();
    let values = constraint["values"].as_array().unwrap_or(&none).iter().filter_map(Value::as_str);
    let list = |values: Vec<&str>| {
        let quoted: Vec<String> = values.into_iter().map(quoted).collect();
        (!quoted.is_empty()).then(|| format!("[{}]", quoted.join(", ")))
    };
    let all = || list(values.clone().collect());
    let value = constraint["value"].as_str().unwrap_or_default();
    let insensitive = constraint["caseInsensitive"] == true;
    let compare = |operator: &str| match operator {
        "EQ" => "==",
        "GT" | "AFTER" => ">",
        "GTE" => ">=",
        "LT" | "BEFORE" => "<",
        _ => "<=",
    };
    let searched = |word: &str, before: &str, after: &str| match insensitive {
        false => all().map(|list| format!("{field} {word} {list}")),
        true => {
            let escaped: Vec<String> = values.clone().map(regex::escape).collect();
            (!escaped.is_empty()).then(|| {
                format!("{field} matches {}", quoted(&format!("(?is){before}(?:{}){after}", escaped.join("|"))))
            })
        }
    };
    let operator = text(constraint, "operator");
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
        ("NUM", operator) => Some(format!("{field} {} {value}", compare(operator))),
        ("SEMVER", operator) => Some(format!("{field} {} semver {}", compare(operator), quoted(value))),
        ("DATE", operator) => Some(format!("{field} {} date {}", compare(operator), quoted(value))),
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
        let specification = json(&path);
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
        assert!(counts[name][0] >= at_least, "{name}: {:?}", counts[name]);
    }
}
