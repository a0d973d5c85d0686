use std::collections::BTreeMap;

use super::*;
use crate::message::{AttributeValue, Attributes};
use crate::routing::VariantSpec;

fn rule(name: Option<&str>, condition: &str, version: &str) -> RuleSpec {
    RuleSpec {
        name: name.map(Into::into),
        condition: condition.into(),
        version: version.into(),
        shadow: vec![],
        shadow_fraction: 1.0,
    }
}

fn spec() -> TableSpec {
    let variant =
        |name: &str, version: &str| VariantSpec { name: name.into(), model_version: version.into(), weight: 0.5 };
    TableSpec {
        versions: vec!["large".into(), "base".into(), "small".into()],
        default: "base".into(),
        allow_forced: true,
        rules: vec![rule(Some("tiny"), "image_resolution < 64", "small"), rule(None, "user_role == 'admin'", "large")],
        experiments: vec![ExperimentSpec {
            name: "compare".into(),
            description: String::new(),
            traffic_ratio: 0.5,
            unit: "request_id".into(),
            salt: None,
            epoch: 1,
            scheme: "m3v1".into(),
            variants: vec![variant("control", "large"), variant("treatment", "small")],
            shadow: vec![],
            shadow_fraction: 1.0,
        }],
    }
}

fn features<'r>(request_id: &'r str, attributes: &'r Attributes) -> Features<'r> {
    Features {
        request_id,
        key: None,
        text_length: 10,
        image_width: 100,
        image_height: 90,
        image_bytes: 1000,
        image_format: "png",
        attributes,
        forced_version: None,
    }
}

#[test]
fn forced_before_rule_before_experiment_before_default() {
    let table = Table::new(&spec()).unwrap();
    let none = Attributes::new();
    let admin = BTreeMap::from([("user_role".to_owned(), Some(AttributeValue::Text("admin".into())))]);
    let decide = |features: Features<'_>| table.decide(&features, None).unwrap();

    let forced = decide(Features { forced_version: Some("small"), ..features("r1", &admin) });
    assert_eq!((forced.version.as_str(), forced.reason), ("small", Reason::Forced));
    let rule = decide(features("r1", &admin));
    assert_eq!((rule.version.as_str(), rule.rule.as_deref()), ("large", Some("user_role == 'admin'")));
    let mut seen = BTreeMap::new();
    for index in 0..400 {
        let route = decide(features(&format!("r{index}"), &none));
        *seen.entry((route.reason.as_str(), route.version)).or_insert(0) += 1;
    }
    let count = |reason, version: &str| seen.get(&(reason, version.to_owned())).copied().unwrap_or_default();
    assert!((150..250).contains(&count("default", "base")), "{seen:?}");
    assert!((70..130).contains(&count("experiment", "large")), "{seen:?}");
    assert!((70..130).contains(&count("experiment", "small")), "{seen:?}");
}

#[test]
fn versions_that_a_request_may_not_have_are_refused_by_code() {
    let none = Attributes::new();
    let decide = |spec: &TableSpec, version| {
        let features = Features { forced_version: Some(version), ..features("r1", &none) };
        Table::new(spec).unwrap().decide(&features, None).unwrap_err().code()
    };
    assert_eq!(decide(&spec(), "huge"), "unknown_version");
    assert_eq!(decide(&TableSpec { allow_forced: false, ..spec() }, "small"), "forced_version_refused");
}

#[test]
fn an_empty_unit_is_not_in_the_experiment_and_the_steps_say_so() {
    let table = Table::new(&TableSpec { rules: vec![], ..spec() }).unwrap();
    let mut steps = Vec::new();
    let route = table.decide(&features("", &Attributes::new()), Some(&mut steps)).unwrap();
    assert_eq!(route.reason, Reason::Default);
    assert_eq!(steps[0].outcome, "no unit: request_id is missing or empty");
    assert!(steps[1].decided);
}

#[test]
fn a_table_that_cannot_work_is_refused_with_its_place() {
    let with = |change: fn(&mut TableSpec)| {
        let mut spec = spec();
        change(&mut spec);
        Table::new(&spec).unwrap_err().to_string()
    };
    let cases = [
        with(|spec| spec.default = "tiny".into()),
        with(|spec| spec.rules[1].version = "tiny".into()),
        with(|spec| spec.rules[0].condition = "text_length <".into()),
        with(|spec| spec.experiments[0].traffic_ratio = 1.5),
        with(|spec| spec.experiments[0].traffic_ratio = f64::NAN),
        with(|spec| spec.experiments[0].variants[1].name = "control".into()),
        with(|spec| spec.experiments[0].variants[1].weight = -1.0),
        with(|spec| spec.experiments[0].variants[1].model_version = "tiny".into()),
        with(|spec| spec.experiments[0].variants.clear()),
        with(|spec| spec.experiments[0].scheme = "md5".into()),
        with(|spec| spec.experiments.push(spec.experiments[0].clone())),
    ];
    insta::assert_snapshot!(cases.join("\n"));
}

#[test]
fn the_digest_changes_with_the_table_and_only_with_it() {
    let digest = |spec: &TableSpec| Table::new(spec).unwrap().digest().to_owned();
    assert_eq!(digest(&spec()), digest(&spec()));
    assert_ne!(digest(&spec()), digest(&TableSpec { allow_forced: false, ..spec() }));
}
