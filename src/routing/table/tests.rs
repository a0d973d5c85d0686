use super::*;
use crate::routing::{ExperimentSpec, ForcedSpec, HoldoutSpec, Method, Scheme};

fn spec() -> TableSpec {
    serde_json::from_str(
        r#"{
            "versions": ["large", "base", "small"], "default": "base", "allow_forced": true,
            "rules": [{"condition": "image_resolution < 64", "version": "small"},
                      {"condition": "user_role == 'admin'", "version": "large"}],
            "experiments": [{"name": "compare", "traffic_ratio": 0.5, "variants": [
                {"name": "control", "model_version": "large", "weight": 0.5},
                {"name": "treatment", "model_version": "small", "weight": 0.5}]}]
        }"#,
    )
    .unwrap()
}

fn forced(attribute: &str, values: &[&str], variant: &str) -> ForcedSpec {
    let values = values.iter().map(ToString::to_string).collect();
    ForcedSpec { attribute: attribute.into(), values, variant: variant.into() }
}

#[test]
fn a_table_that_cannot_work_is_refused_with_its_place() {
    let with = |change: fn(&mut TableSpec)| {
        let mut spec = spec();
        change(&mut spec);
        Table::new(&spec).unwrap_err().to_string()
    };
    let experiment = |change: fn(&mut ExperimentSpec)| {
        let mut spec = spec();
        change(&mut spec.experiments[0]);
        Table::new(&spec).unwrap_err().to_string()
    };
    let second = |change: fn(&mut ExperimentSpec)| {
        let mut spec = spec();
        let first = &mut spec.experiments[0];
        (first.layer, first.slice) = (Some("models".into()), Some([0.0, 0.5]));
        let mut second = ExperimentSpec { name: "second".into(), slice: Some([0.5, 1.0]), ..first.clone() };
        change(&mut second);
        spec.experiments.push(second);
        Table::new(&spec).unwrap_err().to_string()
    };
    let holdout = |ratio: f64| HoldoutSpec { name: "never".into(), ratio, unit: "key".into(), salt: None };
    let mut twice = spec();
    twice.holdouts = vec![holdout(0.1), holdout(0.2)];
    let mut beyond = spec();
    beyond.holdouts = vec![holdout(1.1)];
    let cases = [
        with(|spec| spec.default = "tiny".into()),
        with(|spec| spec.rules[1].version = "tiny".into()),
        with(|spec| spec.rules[0].condition = "text_length <".into()),
        with(|spec| spec.experiments.push(spec.experiments[0].clone())),
        Table::new(&twice).unwrap_err().to_string(),
        Table::new(&beyond).unwrap_err().to_string(),
        experiment(|it| it.traffic_ratio = 1.5),
        experiment(|it| it.traffic_ratio = f64::NAN),
        experiment(|it| it.variants[1].name = "control".into()),
        experiment(|it| it.variants[1].weight = Some(-1.0)),
        experiment(|it| it.variants[1].weight = None),
        experiment(|it| it.variants.iter_mut().for_each(|variant| variant.weight = Some(0.0))),
        experiment(|it| it.variants[1].model_version = "tiny".into()),
        experiment(|it| it.variants.clear()),
        experiment(|it| it.condition = Some("region = 'cn'".into())),
        experiment(|it| it.start = Some("tomorrow".into())),
        experiment(|it| {
            it.start = Some("2026-12-01T00:00:00Z".into());
            it.end = Some("2026-12-01T08:00:00+08:00".into());
        }),
        experiment(|it| it.promoted = Some("third".into())),
        experiment(|it| it.slice = Some([0.0, 0.5])),
        experiment(|it| it.layer = Some("default".into())),
        experiment(|it| (it.layer, it.slice) = (Some("models".into()), Some([0.5, 0.5]))),
        experiment(|it| (it.scheme, it.traffic_ratio) = (Scheme::Flagd, 0.5)),
        experiment(|it| (it.scheme, it.traffic_ratio) = (Scheme::Unleash, 0.125)),
        experiment(|it| (it.scheme, it.traffic_ratio) = (Scheme::Unleash, 0.12)),
        experiment(|it| (it.scheme, it.assignment) = (Scheme::Optimizely, Method::Rendezvous)),
        experiment(|it| (it.scheme, it.epoch) = (Scheme::Optimizely, 2)),
        experiment(|it| it.variants[0].range = Some([0, 10])),
        experiment(|it| {
            it.scheme = Scheme::Optimizely;
            it.traffic_ratio = 1.0;
            for variant in &mut it.variants {
                (variant.weight, variant.range) = (None, Some([0, 10]));
            }
        }),
        experiment(|it| (it.salt, it.epoch) = (Some("s".into()), 2)),
        experiment(|it| it.traffic_ratio = 4e-7),
        experiment(|it| it.variants[1].weight = Some(1e-7)),
        experiment(|it| it.unit = "requestid".into()),
        experiment(|it| it.unit = "text".into()),
        experiment(|it| it.unit = "attributes.".into()),
        experiment(|it| it.unit = "attributes[user-id]".into()),
        experiment(|it| (it.layer, it.slice) = (Some("models".into()), Some([0.1, 0.100_001]))),
        experiment(|it| {
            (it.scheme, it.traffic_ratio) = (Scheme::Optimizely, 0.01);
            (it.variants[0].weight, it.variants[1].weight) = (Some(1.0), Some(900.0));
        }),
        experiment(|it| it.forced = vec![forced("user_id", &[], "control")]),
        experiment(|it| it.forced = vec![forced("text_lenght", &["a"], "control")]),
        experiment(|it| {
            it.forced = vec![forced("user_id", &["a", "b"], "control"), forced("user_id", &["c", "b"], "treatment")];
        }),
        with(|spec| spec.rules[0].name = Some(String::new())),
        with(|spec| spec.rules[0].condition = spec.rules[1].condition.clone()),
        second(|it| it.slice = Some([0.4999, 1.0])),
        second(|it| it.unit = "key".into()),
        second(|it| {
            it.scheme = Scheme::Optimizely;
            it.variants.iter_mut().for_each(|variant| variant.weight = Some(1.0));
        }),
    ];
    insta::assert_snapshot!(cases.join("\n"));
}
