use proptest::prelude::*;

use super::*;

fn serving() -> TableSpec {
    serde_json::from_str(
        r#"{"versions": ["base", "large"], "default": "base", "allow_forced": false, "rules": [],
            "experiments": [{"name": "e", "traffic_ratio": 0.5, "variants": [
                {"name": "control", "model_version": "base", "weight": 1},
                {"name": "treatment", "model_version": "large", "weight": 1}]}]}"#,
    )
    .unwrap()
}

fn after(state: &State, command: &Command) -> Result<State, ControlError> {
    state.after(command, Change::default(), &serving(), 10)
}

fn run(commands: &[Command]) -> State {
    commands.iter().fold(State::default(), |state, command| after(&state, command).unwrap())
}

fn apply(text: &str) -> Command {
    Command::Apply { text: text.to_owned() }
}

fn pause() -> Command {
    Command::Pause { experiment: "e".to_owned() }
}

#[test]
fn a_rollback_undoes_the_last_change_and_the_next_one_the_change_before() {
    let default = Command::SetDefault { version: "large".to_owned() };
    let state = run(&[pause(), default.clone(), apply("x = 1"), Command::Rollback]);
    assert_eq!(state.current, run(&[pause(), default.clone()]).current);
    assert_eq!(state.revision, 4);
    let state = after(&state, &Command::Rollback).unwrap();
    assert_eq!(state.current, run(&[pause()]).current);
    let state = after(&state, &Command::Rollback).unwrap();
    assert_eq!(state.current, Snapshot::default());
    assert_eq!(after(&state, &Command::Rollback).unwrap_err().code(), "no_history");
}

#[test]
fn what_operators_changed_stays_when_another_configuration_is_applied() {
    let state = run(&[pause(), apply("x = 1"), Command::UseFile]);
    assert_eq!(state.current.config, None);
    assert_eq!(state.current.overrides.experiments["e"], Position::Paused);
    let resumed = after(&state, &Command::Resume { experiment: "e".to_owned() }).unwrap();
    assert_eq!(resumed.current.overrides.experiments["e"], Position::Running);
}

#[test]
fn what_changes_nothing_is_nothing_to_go_back_to() {
    let state = run(&[pause(), pause(), pause()]);
    assert_eq!((state.revision, state.history.len()), (3, 1));
    assert_eq!(after(&state, &Command::Rollback).unwrap().current, Snapshot::default());
}

#[test]
fn names_that_are_not_there_are_refused_with_those_that_are() {
    let refused = |command: Command| after(&State::default(), &command).unwrap_err().to_string();
    let shown = [
        refused(Command::SetDefault { version: "huge".to_owned() }),
        refused(Command::Pause { experiment: "f".to_owned() }),
        refused(Command::Promote { experiment: "f".to_owned(), variant: "control".to_owned() }),
        refused(Command::Promote { experiment: "e".to_owned(), variant: "third".to_owned() }),
        refused(Command::Rollback),
    ];
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn a_changed_file_can_be_rolled_back_to_what_it_was() {
    let paused = run(&[pause()]);
    let changed = paused.after_file_changed("before = 1", 10);
    assert_eq!((changed.revision, &changed.current), (paused.revision, &paused.current));
    let back = after(&changed, &Command::Rollback).unwrap();
    let before = Some("before = 1\n".to_owned());
    assert_eq!(back.current.config, before);
    let further = after(&back, &Command::Rollback).unwrap();
    assert_eq!(further.current, Snapshot { config: before, ..Snapshot::default() });
}

#[test]
fn a_rollback_from_applied_settings_goes_to_the_file_as_it_was_when_they_were_applied() {
    let mut applied = run(&[apply("x = 1")]);
    applied.remember_file("then = 1");
    let back = after(&applied, &Command::Rollback).unwrap();
    assert_eq!(back.current.config.as_deref(), Some("then = 1\n"), "whatever became of the file meanwhile");
    applied.remember_file("no toml [");
    assert_eq!(after(&applied, &Command::Rollback).unwrap(), back);
}

#[test]
fn secrets_of_applied_settings_and_of_files_are_left_at_home() {
    let secret =
        "[admin]\nwrite_token = 'secret'\n[kafka.options]\nsasl_password = 'secret'\n[model_versions]\ndefault = 'a'\n";
    let applied = run(&[apply(secret)]);
    let changed = State::default().after_file_changed(secret, 10);
    for state in [applied, changed] {
        let json = String::from_utf8(state.to_json()).unwrap();
        assert!(json.contains("model_versions") && !json.contains("secret"), "{json}");
    }
}

#[test]
fn what_operators_changed_can_be_cleared() {
    let state = run(&[pause(), Command::SetDefault { version: "large".to_owned() }, Command::Clear]);
    assert_eq!((state.current, state.history.len()), (Snapshot::default(), 3));
}

#[test]
fn a_state_is_bounded_in_count_and_bytes() {
    let mut state = State::default();
    for index in 0..50 {
        state = after(&state, &apply(&format!("x{index} = '{}'", "x".repeat(300_000)))).unwrap();
        assert!(state.to_json().len() <= STATE_BYTES_MAX && state.history.len() <= 10);
    }
    assert_eq!(state.history.len(), 1, "as many as fit");
    assert!(state.history[0].config.as_ref().unwrap().starts_with("x48 "), "the latest");
    let error = after(&state, &apply(&format!("x = '{}'", "x".repeat(STATE_BYTES_MAX)))).unwrap_err();
    assert_eq!(error.code(), "too_large");
    assert_eq!(after(&state, &apply("no toml [")).unwrap_err().code(), "unreadable");
}

#[test]
fn what_is_no_state_is_refused_with_its_place() {
    for json in ["", "{", "[]", r#"{"revision": -1, "current": {}}"#, r#"{"revision": 1, "current": {"x": 1}}"#] {
        let error = State::read(json.as_bytes(), "record 7").unwrap_err();
        assert!(error.code() == "unreadable" && error.to_string().starts_with("record 7"), "{json}: {error}");
    }
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        "[a-c]".prop_map(|text| apply(&format!("{text} = 1"))),
        Just(Command::UseFile),
        Just(Command::Clear),
        Just(Command::Rollback),
        "base|large|huge".prop_map(|version| Command::SetDefault { version }),
        "e|f".prop_map(|experiment| Command::Pause { experiment }),
        "e|f".prop_map(|experiment| Command::Resume { experiment }),
        ("e|f", "control|treatment|x").prop_map(|(experiment, variant)| Command::Promote { experiment, variant }),
    ]
}

proptest! {
    #[test]
    fn each_change_can_be_undone_and_states_read_back(commands in proptest::collection::vec(any_command(), 0..12)) {
        let mut state = State::default();
        for command in &commands {
            let Ok(next) = after(&state, command) else { continue };
            prop_assert_eq!(next.revision, state.revision + 1);
            prop_assert_eq!(&State::read(&next.to_json(), "here").unwrap(), &next);
            if *command != Command::Rollback && next.history.len() > state.history.len() {
                prop_assert_eq!(after(&next, &Command::Rollback).unwrap().current, state.current.clone());
            }
            state = next;
        }
    }
}
