use std::collections::BTreeMap;

use super::*;
use crate::{
    message::{AttributeValue, Attributes},
    routing::{
        ExperimentSpec, ForcedSpec, HoldoutSpec, Overrides, Position, RuleSpec, TableSpec, Traffic,
        condition::Condition,
    },
};

fn rule(name: Option<&str>, condition: &str, version: &str) -> RuleSpec {
    RuleSpec {
        name: name.map(Into::into),
        condition: condition.into(),
        version: version.into(),
        decision: None,
        shadow: vec![],
        shadow_fraction: 1.0,
    }
}

pub(super) fn experiment(json: &str) -> ExperimentSpec {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

pub(super) fn spec() -> TableSpec {
    let compare = experiment(
        r#"{"name": "compare", "traffic_ratio": 0.5, "variants": [
            {"name": "control", "model_version": "large", "weight": 0.5},
            {"name": "treatment", "model_version": "small", "weight": 0.5}]}"#,
    );
    TableSpec {
        versions: vec!["large".into(), "base".into(), "small".into()],
        default: "base".into(),
        allow_forced: true,
        rules: vec![rule(Some("tiny"), "image_resolution < 64", "small"), rule(None, "user_role == 'admin'", "large")],
        holdouts: vec![],
        experiments: vec![compare],
    }
}

/// The experiment alone, with a change.
pub(super) fn alone(change: impl FnOnce(&mut ExperimentSpec)) -> Table {
    let mut spec = TableSpec { rules: vec![], ..spec() };
    change(&mut spec.experiments[0]);
    Table::new(&spec).unwrap_or_else(|error| panic!("{error}"))
}

fn texts(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Some(AttributeValue::Text((*value).to_owned())))).collect()
}

pub(in crate::routing) fn features<'r>(request_id: &'r str, attributes: &'r Attributes) -> Features<'r> {
    Features {
        request_id,
        key: None,
        texts: &[],
        caption: None,
        text_length: 10,
        non_latin_share: 0.0,
        image_width: 100,
        image_height: 90,
        image_bytes: 1000,
        image_format: "png",
        time_ms: None,
        attributes,
        forced_version: None,
    }
}

pub(super) fn decide(table: &Table, request_id: &str, attributes: &Attributes) -> Route {
    table.decide(&features(request_id, attributes), &mut ()).unwrap()
}

#[test]
fn forced_before_rule_before_experiment_before_default() {
    let table = Table::new(&spec()).unwrap();
    let none = Attributes::new();
    let admin = BTreeMap::from([("user_role".to_owned(), Some(AttributeValue::Text("admin".into())))]);
    let decide = |features: Features<'_>| table.decide(&features, &mut ()).unwrap();

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
        Table::new(spec).unwrap().decide(&features, &mut ()).unwrap_err().code()
    };
    assert_eq!(decide(&spec(), "huge"), "unknown_version");
    assert_eq!(decide(&TableSpec { allow_forced: false, ..spec() }, "small"), "forced_version_refused");
}

#[test]
fn an_empty_unit_is_not_in_the_experiment_and_the_steps_say_so() {
    let table = Table::new(&TableSpec { rules: vec![], ..spec() }).unwrap();
    let mut steps = Vec::new();
    let route = table.decide(&features("", &Attributes::new()), &mut steps).unwrap();
    assert_eq!(route.reason, Reason::Default);
    assert_eq!(steps[0].outcome, "no unit: request_id is missing or empty");
    assert!(steps[1].decided);
}

#[test]
fn whole_numbers_and_flags_are_units_too_as_they_are_written() {
    let of = |value: AttributeValue| {
        let table = alone(|it| {
            (it.traffic_ratio, it.unit) = (1.0, "user_id".into());
            it.forced =
                vec![ForcedSpec { attribute: "vip".into(), values: vec!["7".into()], variant: "treatment".into() }];
        });
        let attributes = BTreeMap::from([("user_id".to_owned(), Some(value))]);
        let mut steps = Vec::new();
        let route = table.decide(&features("r1", &attributes), &mut steps).unwrap();
        (route.variant.map(|(_, variant)| variant), steps.remove(0).outcome)
    };
    let (forty_two, _) = of(AttributeValue::Number(42.0));
    assert!(forty_two.is_some());
    assert_eq!(forty_two, of(AttributeValue::Text("42".into())).0);
    assert_eq!(of(AttributeValue::Flag(true)).0, of(AttributeValue::Text("true".into())).0);
    for number in [1.5, 9_007_199_254_740_992.0, f64::NAN] {
        let (variant, why) = of(AttributeValue::Number(number));
        assert!(variant.is_none() && why.contains("send it as text"), "{number}: {why}");
    }
    let vip = BTreeMap::from([("vip".to_owned(), Some(AttributeValue::Number(7.0)))]);
    let table = alone(|it| {
        it.forced = vec![ForcedSpec { attribute: "vip".into(), values: vec!["7".into()], variant: "treatment".into() }];
    });
    assert!(decide(&table, "r1", &vip).assignment.unwrap().forced);
}

#[test]
fn an_experiment_takes_only_those_it_is_about_in_its_time() {
    let table = alone(|it| {
        it.traffic_ratio = 1.0;
        it.condition = Some("region == 'cn'".into());
        it.start = Some("2026-11-01T00:00:00Z".into());
        it.end = Some("2026-12-01T00:00:00+08:00".into());
    });
    let at = |time: Option<&str>, attributes: &Attributes| {
        let time_ms = time.map(|time| time.parse::<jiff::Timestamp>().unwrap().as_millisecond());
        let mut steps = Vec::new();
        let route = table.decide(&Features { time_ms, ..features("r1", attributes) }, &mut steps).unwrap();
        (route.reason.as_str(), steps.remove(0).outcome.split(':').next().unwrap().to_owned())
    };
    let (cn, eu) = (texts(&[("region", "cn")]), texts(&[("region", "eu")]));
    assert_eq!(at(Some("2026-11-01T00:00:00Z"), &cn).0, "experiment");
    assert_eq!(at(Some("2026-11-01T00:00:00Z"), &eu), ("default", "is not about it".to_owned()));
    assert_eq!(at(Some("2026-11-01T00:00:00Z"), &Attributes::new()), ("default", "is not about it".to_owned()));
    assert_eq!(
        at(Some("2026-10-31T23:59:59.999Z"), &cn),
        ("default", "has not started at the time of the record".to_owned())
    );
    assert_eq!(at(Some("2026-11-30T16:00:00Z"), &cn), ("default", "is over at the time of the record".to_owned()));
    let promoted = alone(|it| {
        it.end = Some("2026-12-01T00:00:00Z".into());
        it.promoted = Some("treatment".into());
    });
    assert_eq!(decide(&promoted, "r1", &cn).reason, Reason::Promoted, "whatever the time, and whether there is one");
    assert_eq!(at(None, &cn).0, "default", "a record without a time is in no experiment that has one");
}

#[test]
fn experiments_of_a_layer_exclude_each_other_and_share_its_units() {
    let layered = |name: &str, slice: [f64; 2]| ExperimentSpec {
        name: name.into(),
        layer: Some("models".into()),
        slice: Some(slice),
        traffic_ratio: 1.0,
        ..spec().experiments[0].clone()
    };
    let (one, two) = (layered("one", [0.0, 0.4]), layered("two", [0.4, 1.0]));
    let table = |experiments: &[&ExperimentSpec]| {
        let experiments = experiments.iter().map(|it| (*it).clone()).collect();
        Table::new(&TableSpec { rules: vec![], experiments, ..spec() }).unwrap()
    };
    let takes = |table: &Table| -> Vec<Option<String>> {
        let none = Attributes::new();
        (0..4_000).map(|index| decide(table, &format!("r{index}"), &none).variant.map(|(name, _)| name)).collect()
    };
    let both = takes(&table(&[&one, &two]));
    assert!(both.iter().all(Option::is_some), "the slices cover the layer");
    assert_eq!(both, takes(&table(&[&two, &one])), "the order of settings does not matter");
    let alone = takes(&table(&[&one]));
    assert!(both.iter().zip(&alone).all(|(both, alone)| alone.is_none() || both == alone));
    assert!(alone.iter().flatten().count().abs_diff(1_600) < 5 * 31, "{}", alone.iter().flatten().count());
    let route = decide(&table(&[&one, &two]), "r1", &Attributes::new());
    assert_eq!(route.assignment.unwrap().layer, "models");
}

#[test]
fn testers_get_their_variant_whatever_else_says_but_pause() {
    let forced = |paused: bool| {
        let mut spec = spec();
        spec.rules.clear();
        spec.holdouts = vec![HoldoutSpec { name: "all".into(), ratio: 1.0, unit: "request_id".into(), salt: None }];
        let it = &mut spec.experiments[0];
        (it.traffic_ratio, it.condition, it.paused) = (0.0, Some("region == 'cn'".into()), paused);
        it.forced = vec![ForcedSpec {
            attribute: "user_id".into(),
            values: vec!["ann".into(), "bob".into()],
            variant: "treatment".into(),
        }];
        Table::new(&spec).unwrap()
    };
    let route = decide(&forced(false), "r1", &texts(&[("user_id", "bob")]));
    assert_eq!((route.version.as_str(), route.reason), ("small", Reason::Experiment));
    let assignment = route.assignment.unwrap();
    assert!(assignment.forced && assignment.propensity == 1.0);
    assert_eq!(decide(&forced(false), "r1", &texts(&[("user_id", "cem")])).reason, Reason::Holdout);
    assert_eq!(decide(&forced(true), "r1", &texts(&[("user_id", "bob")])).reason, Reason::Holdout);
}

#[test]
fn a_holdout_keeps_its_share_from_experiments_and_not_from_rules() {
    let mut spec = spec();
    spec.experiments[0].traffic_ratio = 1.0;
    spec.holdouts = vec![HoldoutSpec { name: "never".into(), ratio: 0.1, unit: "request_id".into(), salt: None }];
    let table = Table::new(&spec).unwrap();
    let (none, admin) = (Attributes::new(), texts(&[("user_role", "admin")]));
    let held: Vec<String> = (0..4_000)
        .map(|index| format!("r{index}"))
        .filter(|id| decide(&table, id, &none).reason == Reason::Holdout)
        .collect();
    assert!(held.len().abs_diff(400) < 5 * 19, "{}", held.len());
    let route = decide(&table, &held[0], &none);
    assert_eq!((route.version.as_str(), route.rule.as_deref()), ("base", Some("never")));
    assert_eq!(decide(&table, &held[0], &admin).reason, Reason::Rule);
}

#[test]
fn operators_pause_resume_and_promote_on_top_of_settings() {
    let with = |position: Option<Position>, paused: bool| {
        let mut spec = spec();
        spec.rules.clear();
        (spec.experiments[0].paused, spec.experiments[0].traffic_ratio) = (paused, 1.0);
        let experiments = position.map(|position| ("compare".to_owned(), position)).into_iter().collect();
        let overrides = Overrides { default: Some("large".into()), experiments, ..Overrides::default() };
        let table = Table::new(&spec.with(&overrides)).unwrap();
        let route = decide(&table, "r1", &Attributes::new());
        (route.reason.as_str(), route.version, table.named_versions().len())
    };
    let (reason, _, named) = with(None, false);
    assert_eq!((reason, named), ("experiment", 3), "requests may name any");
    assert_eq!(with(Some(Position::Paused), false).0, "default");
    assert_eq!(with(None, true), ("default", "large".to_owned(), 3));
    assert_eq!(with(Some(Position::Running), true).0, "experiment");
    let promoted = with(Some(Position::Promoted("treatment".into())), false);
    assert_eq!((promoted.0, promoted.1.as_str()), ("promoted", "small"));
}

#[test]
fn a_share_of_units_belongs_to_the_definition_that_it_was_set_for() {
    let mut spec = spec();
    let definition = spec.experiments[0].definition();
    let traffic = |definition: &str| Overrides {
        traffic: [(
            "compare".to_owned(),
            Traffic { millionths: 50_000, definition: definition.to_owned(), ramp_paused: true },
        )]
        .into(),
        ..Overrides::default()
    };
    let set = traffic(&definition);
    let changed = spec.clone().with(&set).experiments[0].clone();
    assert_eq!((changed.traffic_ratio, changed.ramp_paused), (0.05, true));
    assert!(spec.masked_by(&set)[0].contains("takes 0.05 of the units by a change"), "{:?}", spec.masked_by(&set));
    assert_eq!(spec.clone().with(&set).experiments[0].definition(), definition, "a share moves no unit");

    spec.experiments[0].epoch += 1;
    assert_eq!(spec.clone().with(&set).experiments[0].traffic_ratio, 0.5);
    assert!(spec.masked_by(&set)[0].contains("earlier definition"), "{:?}", spec.masked_by(&set));
}

#[test]
fn only_versions_that_a_route_names_are_named() {
    let named = |change: &dyn Fn(&mut TableSpec)| {
        let mut spec = TableSpec { allow_forced: false, ..spec() };
        change(&mut spec);
        Table::new(&spec).unwrap().named_versions().into_iter().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(named(&|_| {}), ["base", "large", "small"]);
    assert_eq!(named(&|spec| spec.rules.clear()), ["base", "large", "small"]);
    let paused = |spec: &mut TableSpec| {
        spec.rules.clear();
        spec.experiments[0].paused = true;
    };
    assert_eq!(named(&paused), ["base"]);
    let promoted = |spec: &mut TableSpec| {
        spec.rules.clear();
        spec.experiments[0].promoted = Some("control".into());
    };
    assert_eq!(named(&promoted), ["base", "large"]);
    let shadowed = |spec: &mut TableSpec| {
        spec.rules.remove(0);
        spec.experiments.clear();
        spec.rules[0].shadow = vec!["small".into()];
    };
    assert_eq!(named(&shadowed), ["base", "large", "small"]);
}

#[test]
fn what_is_missing_is_told_with_the_name_of_the_rule() {
    struct Missing(Vec<(String, String)>);
    impl Watch for Missing {
        fn tried(&mut self, _: impl FnOnce() -> Step) {}

        fn missing(&mut self, name: &str, field: &str) {
            self.0.push((name.to_owned(), field.to_owned()));
        }
    }
    let mut spec = spec();
    spec.experiments[0].unit = "user_id".into();
    spec.holdouts = vec![HoldoutSpec { name: "never".into(), ratio: 0.1, unit: "user_id".into(), salt: None }];
    let mut missing = Missing(vec![]);
    let none = Attributes::new();
    Table::new(&spec).unwrap().decide(&features("r1", &none), &mut missing).unwrap();
    let pair = |name: &str, field: &str| (name.to_owned(), field.to_owned());
    assert_eq!(
        missing.0,
        [pair("user_role == 'admin'", "user_role"), pair("never", "user_id"), pair("compare", "user_id")]
    );
}

#[test]
fn each_scheme_says_its_name_and_keeps_its_own_rules() {
    for (scheme, settings) in [
        (
            "unleash",
            r#""traffic_ratio": 0.37, "variants": [
            {"name": "a", "model_version": "base", "weight": 1}, {"name": "b", "model_version": "small", "weight": 2}]"#,
        ),
        (
            "optimizely",
            r#""traffic_ratio": 1, "variants": [
            {"name": "a", "model_version": "base", "range": [2500, 4999]},
            {"name": "b", "model_version": "small", "range": [4999, 5399]}]"#,
        ),
        (
            "flagd",
            r#""traffic_ratio": 1, "variants": [
            {"name": "a", "model_version": "base", "weight": 1}, {"name": "b", "model_version": "small", "weight": 2}]"#,
        ),
    ] {
        let json = format!(r#"{{"name": "e", "scheme": "{scheme}", {settings}}}"#);
        let spec = TableSpec { rules: vec![], experiments: vec![experiment(&json)], ..spec() };
        let table = Table::new(&spec).unwrap_or_else(|error| panic!("{error}"));
        let none = Attributes::new();
        let routes: Vec<Route> = (0..200).map(|index| decide(&table, &format!("r{index}"), &none)).collect();
        let assignments: Vec<_> = routes.into_iter().filter_map(|route| route.assignment).collect();
        assert!(assignments.iter().all(|assignment| assignment.scheme == scheme), "{scheme}");
        let expected = match scheme {
            "unleash" => 74,
            "optimizely" => 58,
            _ => 200,
        };
        assert!(assignments.len().abs_diff(expected) < 35, "{scheme}: {}", assignments.len());
    }
}

#[test]
fn conditions_are_evaluated_without_allocation() {
    let sources = [
        "text_length < 20 and image_resolution < 1024 or not image_format == 'jpeg'",
        "region in ['cn-east', 'cn-north'] and not device_type == 'tablet'",
        "hour('Asia/Shanghai') in 22..6 or weekday('Europe/Berlin') in ['sat', 'sun']",
        "app_version >= semver '2.3.0-a-long-identifier.of.several.parts'",
        "source_ip in cidr ['10.0.0.0/8', '2001:db8::/32'] or joined < date '2026-12-01T00:00:00Z'",
        "text contains ['casino', 'poker'] or text starts_with '赌'",
        "nobody_has_it == 'x' or time > date '2026-11-01T00:00:00Z'",
        "text matches '(?i)\\bwin(ner)?s?\\b'",
    ];
    let conditions: Vec<Condition> = sources.iter().map(|source| Condition::parse(source).unwrap()).collect();
    let attributes = texts(&[
        ("region", "cn-east"),
        ("device_type", "phone"),
        ("app_version", "2.3.0-a-long-identifier.of.other.parts+build"),
        ("source_ip", "10.1.2.3"),
        ("joined", "2026-05-01T10:00:00+02:00"),
    ]);
    let held = |conditions: &[Condition], text: &str| {
        let words = [text.to_owned()];
        let request = Features { texts: &words, time_ms: Some(1_795_300_200_000), ..features("r1", &attributes) };
        let mut held = 0;
        let counted = allocation_counter::measure(|| {
            held = conditions.iter().map(|it| it.evaluate(&request)).filter(|it| *it == Truth::True).count();
        });
        (held, counted.count_total)
    };
    let (pattern, others) = conditions.split_last().unwrap();
    // Not a single one, whatever comes first.
    assert_eq!(held(others, "A red mug with a handle"), (5, 0));
    assert_eq!(held(others, "赢家 wins"), (5, 0));
    // A pattern learns the texts that it meets, within its bound, and then needs nothing more.
    let pattern = std::slice::from_ref(pattern);
    let texts = ["A red mug with a handle", "You are a WINNER, says the mug", "赢家 wins", "windows"];
    let learned: Vec<usize> = texts.iter().map(|text| held(pattern, text).0).collect();
    assert_eq!(learned, [0, 1, 1, 0], "the engine is asked");
    assert_eq!(texts.map(|text| held(pattern, text).1), [0; 4]);
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![1])));
    assert_eq!(counted.count_total, 1, "the test can fail");
}

#[test]
fn the_steps_show_each_rule_and_why_it_failed_with_hashes_and_places() {
    let mut spec = spec();
    spec.holdouts = vec![HoldoutSpec { name: "never".into(), ratio: 0.01, unit: "request_id".into(), salt: None }];
    let mut shown = Vec::new();
    for id in ["r1", "r2", "r4"] {
        let mut steps = Vec::new();
        Table::new(&spec).unwrap().decide(&features(id, &Attributes::new()), &mut steps).unwrap();
        shown.extend(steps.iter().map(|step| format!("{id} {} | {} | {}", step.decided, step.tried, step.outcome)));
    }
    insta::assert_snapshot!(shown.join("\n"));
}
