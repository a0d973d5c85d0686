use super::*;
use crate::settings::{Reach, shareable};

const SMALL: &str = r#"
[model_versions]
default = "ofa_base"
[model_versions.versions.ofa_base]
"#;

fn read(text: &str) -> Result<Plan, SettingsError> {
    Plan::from_text("pipeline.toml".as_ref(), text.to_owned(), &Overrides::default())
}

fn refusal(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

#[test]
fn the_shipped_pipeline_toml_is_read_and_explains_every_default() {
    let shipped = Plan::read(Path::new("pipeline.toml")).unwrap();
    let defaults = read(SMALL).unwrap();
    assert_eq!(shipped.kafka, defaults.kafka);
    assert_eq!(shipped.limits, defaults.limits);
    assert_eq!(shipped.thresholds, defaults.thresholds);
    assert_eq!(shipped.pipeline, defaults.pipeline);
    assert_eq!(shipped.breaker, defaults.breaker);
    assert_eq!(shipped.telemetry, defaults.telemetry);
    assert_eq!(shipped.devices, defaults.devices);
    assert_eq!(shipped.control, defaults.control);
    assert_eq!(shipped.admin, defaults.admin);
    assert_eq!(shipped.keep_warm, defaults.keep_warm);
    let of = |plan: &Plan| VersionPlan { model_id: None, ..plan.versions["ofa_base"].clone() };
    assert_eq!(of(&shipped), of(&defaults));
    assert!(shipped.versions.len() >= 2);
}

#[test]
fn one_folder_may_serve_as_several_versions() {
    let plan =
        read(&format!("{SMALL}[model_versions.versions.quick]\nfolder = 'ofa_base'\nprecision = 'int8'")).unwrap();
    let [base, quick] = ["ofa_base", "quick"].map(|name| &plan.versions[name]);
    assert_eq!((&base.folder, base.precision.as_str()), (&quick.folder, "f32"));
    assert_eq!(quick.precision.as_str(), "int8");
    let error = refusal(&format!("{SMALL}folder = '../elsewhere'"));
    assert!(error.contains("model_versions.versions.ofa_base.folder"), "{error}");
}

#[test]
fn what_a_request_meets_may_change_while_the_program_runs_and_nothing_else() {
    let plan = |text: &str| read(text).unwrap();
    let before = plan(SMALL);
    let free = plan(&format!(
        "[devices.cpu]\nthreads = 1\n[decision]\napprove_confidence = 0.5\n[images]\nbytes_max = 1000\n\
         {SMALL}batch_size = 2\nthreads = 3\n[model_versions.versions.new]\n\
         [[routing_rules]]\ncondition = 'text_length < 3'\nversion = 'new'"
    ));
    assert_eq!(before.fixed_differences(&free), [""; 0]);
    assert_ne!(before.config_digest, free.config_digest);
    let fixed = plan(&format!(
        "[kafka]\ngroup_id = 'x'\n[pipeline]\ndecode_threads = 3\n[telemetry]\nlog_level = 'debug'\n\
         [control]\nhistory = 3\n[admin]\nlisten = 'off'\n{SMALL}"
    ));
    assert_eq!(before.fixed_differences(&fixed), ["kafka", "pipeline", "telemetry", "control", "admin"]);
    assert_eq!(before.config_digest, fixed.config_digest, "none of these decides on a request");
}

#[test]
fn the_digest_changes_with_what_decides_and_with_what_operators_change() {
    let digest = |overrides: &Overrides| {
        Plan::from_text("pipeline.toml".as_ref(), format!("{SMALL}[model_versions.versions.other]"), overrides)
            .unwrap()
            .config_digest
    };
    let plain = digest(&Overrides::default());
    assert_eq!(plain, digest(&Overrides::default()));
    assert_ne!(plain, digest(&Overrides { default: Some("other".into()), ..Overrides::default() }));
    let of = |more: &str| read(&format!("{SMALL}{more}")).unwrap().config_digest;
    for decides in
        ["precision = 'int8'", "folder = 'other'", "[images]\npixels_max = 1000", "[requests]\ntexts_max = 1"]
    {
        assert_ne!(of(""), of(decides), "{decides}");
    }
    for does_not in ["threads = 1", "device = 'ndarray'", "batch_size = 2", "[devices.cpu]\nthreads = 1"] {
        assert_eq!(of(""), of(does_not), "{does_not}");
    }
    let unknown = Overrides { default: Some("gone".into()), ..Overrides::default() };
    let error = Plan::from_text("pipeline.toml".as_ref(), SMALL.to_owned(), &unknown).unwrap_err();
    assert!(error.to_string().contains("there is no version `gone`"), "{error}");
}

#[test]
fn what_travels_to_other_instances_holds_no_secret_and_takes_the_rest_from_their_own_file() {
    let text = format!(
        "[kafka.options]\nsasl_password = 'x'\n[admin]\nwrite_token = 'a-very-secret-token'\n[decision]\napprove_confidence = 0.5\n{SMALL}"
    );
    let text = format!("\"admin.read_token\" = 'another-token'\n{text}");
    let shared = shareable(&text).unwrap();
    assert!(!shared.contains("sasl") && !shared.contains("token"), "{shared}");
    let own = format!("[kafka]\ngroup_id = 'mine'\n[telemetry]\nlog_level = 'debug'\n{SMALL}");
    let plan = Plan::from_shared("pipeline.toml".as_ref(), shared, own.clone(), &Overrides::default(), None).unwrap();
    assert_eq!((plan.kafka.group_id.as_str(), plan.thresholds.approve_confidence), ("mine", 0.5));
    assert_eq!(plan.fixed_differences(&read(&own).unwrap()), [""; 0]);
    assert_eq!(shareable("no toml ["), None);
}

#[test]
fn operators_reach_an_instance_whose_file_is_broken_elsewhere() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "[control]\ndirectory = 'here'\n[kafaka]\nx = 1\n[admin]\nlisten = '127.0.0.1:1'\n").unwrap();
    let reach = Reach::read(file.path()).unwrap();
    assert_eq!(
        (reach.control.directory, reach.admin.listen),
        (Some("here".into()), Some("127.0.0.1:1".parse().unwrap()))
    );
}

#[test]
fn tokens_are_never_shown() {
    let plan = read(&format!("[admin]\nwrite_token = 'a-very-secret-token'\n{SMALL}")).unwrap();
    assert_eq!(plan.admin.write_token.as_ref().unwrap().reveal(), "a-very-secret-token");
    assert!(!format!("{plan:?}").contains("secret-token"));
}

#[test]
fn options_are_never_shown_and_may_lie_in_files() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "pass phrase\n").unwrap();
    let file = file.path().display();
    let text =
        format!("[kafka.options]\nsasl_username = 'me'\n[kafka.secret_files]\n'sasl.password' = '{file}'\n{SMALL}");
    let plan = read(&text).unwrap();
    assert_eq!(plan.kafka.options["sasl.password"].reveal(), "pass phrase");
    assert_eq!(plan.kafka.options["sasl.username"].reveal(), "me");
    assert!(!format!("{plan:?}").contains("pass phrase") && !format!("{plan:?}").contains("\"me\""));
    let twice = refusal(&text.replace("sasl_username", "sasl_password"));
    assert!(twice.contains("is in `kafka.options` too") && !twice.contains("me'"), "{twice}");
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
        with("[kafka.options]\n'enable.ssl.certificate.verification' = 'false'"),
        with("[kafka.secret_files]\n'sasl.password' = '/no/such/file'"),
        with("[kafka]\ninstance_id = ''"),
        with("[kafka]\ngroup_protocol = 'eager'"),
        with("[kafka]\ntombstones = 'drop'"),
        with("[kafka]\npublish_timeout_ms = 60_000\ntransaction_timeout_ms = 60_000"),
        with("[kafka]\ngroup_protocol = 'consumer'\n[kafka.options]\n'session.timeout.ms' = '9000'"),
        with("[kafka.options]\n'auto.offset.reset' = 'latest'"),
        with("[kafka]\nretries = [{ topic = 'moderation.verdicts', delay_ms = 5 }]"),
        with("[kafka]\nretries = [{ topic = 'again', delay_ms = 0 }]"),
        with("[breaker]\nshare_max = 1.5"),
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
        with("[kafka]\ncontrol = 'moderation.shadows'"),
        with("[admin]\nlisten = 'everywhere'"),
        with("[admin]\nwrite_token = 'short'"),
        with("[control]\nhistory = 0"),
        with("[[experiments]]\nname = 'e'\ntraffic_ratio = 1.0\nscheme = 'md5'\nvariants = []"),
        with("[[experiments]]\nname = 'e'\ntraffic_ratio = 1.0\nassignment = 'random'\nvariants = []"),
        with("[[holdouts]]\nname = 'h'\nratio = 2.0"),
        refusal(""),
    ];
    insta::assert_snapshot!(cases.join("\n----\n"));
}

#[test]
fn options_from_the_environment_may_write_dots_as_underscores() {
    let text = format!("[kafka.options]\nsasl_mechanism = 'PLAIN'\n'ssl.ca.location' = 'ca.pem'\n{SMALL}");
    let options = read(&text).unwrap().kafka.options;
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

#[test]
fn a_rotated_secret_and_a_share_that_is_away_do_not_stand_in_the_way_of_a_rollback() {
    let folder = tempfile::tempdir().unwrap();
    let (secret, root) = (folder.path().join("secret"), folder.path().join("images"));
    std::fs::write(&secret, "first\n").unwrap();
    std::fs::create_dir(&root).unwrap();
    let text = format!(
        "[kafka.secret_files]\n'sasl.password' = '{}'\n[images]\npath_root = '{}'\n{SMALL}",
        secret.display(),
        root.display()
    );
    let running = read(&text).unwrap();
    assert_eq!(running.kafka.options["sasl.password"].reveal(), "first");
    std::fs::write(&secret, "second").unwrap();
    std::fs::remove_dir(&root).unwrap();
    let again = || {
        Plan::from_text_while("pipeline.toml".as_ref(), text.clone(), &Overrides::default(), Some(&running)).unwrap()
    };
    assert_eq!(running.fixed_differences(&again()), [""; 0]);
    std::fs::remove_file(&secret).unwrap();
    assert_eq!(running.fixed_differences(&again()), [""; 0]);
    assert!(read(&text).is_err(), "a start looks at both");
}

#[test]
fn names_with_control_characters_and_options_that_undo_a_promise_are_refused() {
    for (text, field) in [
        (format!("[kafka]\ngroup_id = \"a\\nb\"\n{SMALL}"), "kafka.group_id"),
        (format!("[kafka.options]\n'ssl.endpoint.identification.algorithm' = 'none'\n{SMALL}"), "ssl.endpoint"),
        (format!("[kafka.options]\npartitioner = 'random'\n{SMALL}"), "partitioner"),
        (format!("[images.fetch]\nhosts = ['Example.com']\n{SMALL}"), "images.fetch.hosts[0]"),
        (format!("[images.fetch]\nschemes = ['file']\n{SMALL}"), "images.fetch.schemes[0]"),
        (format!("[images.fetch]\nnetworks = ['10.0.0.1/99']\n{SMALL}"), "images.fetch.networks[0]"),
        (format!("[requests]\ntruncated = 'maybe'\n{SMALL}"), "requests.truncated"),
    ] {
        let error = refusal(&text);
        assert!(error.contains(field), "{error}");
    }
}
