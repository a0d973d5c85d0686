use super::*;

const SMALL: &str = r#"
[model_versions]
default = "ofa_base"
[model_versions.versions.ofa_base]
"#;

fn refusal(text: &str) -> String {
    Plan::from_source(&Source::from_text(text)).unwrap_err().to_string()
}

#[test]
fn the_shipped_pipeline_toml_is_read_and_explains_every_default() {
    let shipped = Plan::read(Path::new("pipeline.toml")).unwrap();
    let defaults = Plan::from_source(&Source::from_text(SMALL)).unwrap();
    assert_eq!(shipped.kafka, defaults.kafka);
    assert_eq!(shipped.limits, defaults.limits);
    assert_eq!(shipped.thresholds, defaults.thresholds);
    assert_eq!(shipped.pipeline, defaults.pipeline);
    assert_eq!(shipped.telemetry, defaults.telemetry);
    assert_eq!(shipped.devices, defaults.devices);
    let of = |plan: &Plan| VersionPlan { model_id: None, ..plan.versions["ofa_base"].clone() };
    assert_eq!(of(&shipped), of(&defaults));
    assert!(shipped.versions.len() >= 2);
}

#[test]
fn batching_and_devices_may_change_while_versions_run_and_nothing_else() {
    let plan = |text: &str| Plan::from_source(&Source::from_text(text)).unwrap();
    let before = plan(SMALL);
    let free = plan(&format!("[devices.cpu]\nthreads = 1\n{SMALL}batch_size = 2\nmax_delay_ms = 5\nqueue_size = 9"));
    assert_eq!(before.fixed_differences(&free), [""; 0]);
    assert!(free.devices != before.devices && free.versions != before.versions);
    let fixed = plan(&format!(
        "[kafka]\ngroup_id = 'x'\n{SMALL}threads = 3\n[model_versions.versions.new]\n\
         [[routing_rules]]\ncondition = 'text_length < 3'\nversion = 'new'"
    ));
    let expected = ["kafka", "routing", "model_versions.versions.ofa_base", "model_versions.versions.new"];
    assert_eq!(before.fixed_differences(&fixed), expected);
}

#[test]
fn settings_that_cannot_work_are_refused_with_line_and_remedy() {
    let with = |text: &str| refusal(&format!("{text}\n{SMALL}"));
    let cases = [
        with("[kafka]\ngrup_id = 'x'"),
        with("[kafaka]\ngroup_id = 'x'"),
        with("[kafka]\ngroup_id = ''"),
        with("[kafka]\ngroup_id = "),
        with("[kafka]\nverdicts = 'moderation.requests'"),
        with("[kafka]\nverdicts = 'moderation.dead-letters'"),
        with("[kafka.options]\n'enable.idempotence' = 'false'"),
        with("[kafka]\ndelivery = 'exactly_once'"),
        with("[kafka]\ndelivery = 'at_most_once'"),
        with("[pipeline]\n\ndecode_threads = 0"),
        with("[pipeline]\ndecode_threads = 'many'"),
        with("[decision]\napprove_confidence = 1.5"),
        with("[telemetry]\nlisten = 'here'"),
        with("[images]\npath_root = 'no/such/folder'"),
        with("[[routing_rules]]\ncondition = 'text_length <'\nversion = 'ofa_base'"),
        with("[[routing_rules]]\ncondition = 'text_length < 3'\nversion = 'ofa_huge'"),
        with("[[routing_rules]]\ncondition = 'text_length < 3'\nverison = 'ofa_base'"),
        refusal("[model_versions]\ndefault = 'ofa_base'\nversions = {}"),
        refusal(&format!("{SMALL}device = 'cuda'")),
        refusal(&format!("{SMALL}batch_size = 0")),
        refusal(&format!("{SMALL}padding_max = 2")),
        with("[kafka]\nshadows = 'moderation.verdicts'"),
        with("[devices.cpu]\nthreads = 5000"),
        with("[[routing_rules]]\ncondition = 'text_length < 3'\nversion = 'ofa_base'\nshadow = ['ofa_huge']"),
        refusal("[model_versions]\ndefault = 'a/b'\n[model_versions.versions.'a/b']"),
        refusal(""),
    ];
    insta::assert_snapshot!(cases.join("\n----\n"));
}

#[test]
fn options_from_the_environment_may_write_dots_as_underscores() {
    let text = format!("[kafka.options]\nsasl_mechanism = 'PLAIN'\n'ssl.ca.location' = 'ca.pem'\n{SMALL}");
    let options = Plan::from_source(&Source::from_text(&text)).unwrap().kafka.options;
    assert_eq!(options.keys().collect::<Vec<_>>(), ["sasl.mechanism", "ssl.ca.location"]);
}

#[test]
fn only_a_confident_answer_decides_without_a_person() {
    let thresholds = Thresholds { approve_confidence: 0.8, reject_confidence: 0.9 };
    let cases = [
        (Label::Yes, 0.8, Decision::Approve),
        (Label::Yes, 0.79, Decision::Review),
        (Label::No, 0.9, Decision::Reject),
        (Label::No, 0.89, Decision::Review),
        (Label::Maybe, 1.0, Decision::Review),
    ];
    for (label, confidence, decision) in cases {
        assert_eq!(thresholds.decide(label, confidence), decision, "{label:?} {confidence}");
    }
}
