use proptest::prelude::*;

use super::*;
use crate::control::{RecordFormat, wire};

fn table() -> TableSpec {
    let experiment = serde_json::json!({"name": "e", "traffic_ratio": 0.5, "variants": [
        {"name": "control", "model_version": "base", "weight": 1},
        {"name": "treatment", "model_version": "large", "weight": 1}]});
    let spec = serde_json::json!({"versions": ["base", "large"], "default": "base", "allow_forced": false,
        "rules": [], "experiments": [experiment]});
    serde_json::from_value(spec).unwrap()
}

fn change(id: &str) -> Change {
    Change { id: id.to_owned(), ..Change::default() }
}

fn after(state: &GroupState, command: &Command) -> Result<GroupState, ControlError> {
    check_names(command, &table())?;
    let change = change(&format!("id-{}", state.revision + 1));
    if *command == Command::Rollback {
        let mut history = state.history.clone();
        let snapshot = history.pop().ok_or(ControlError::NoHistory)?;
        return state.replaced_by(snapshot, history, change, 10);
    }
    state.followed_by(state.snapshot_after(command)?, change, 10)
}

fn run(commands: &[Command]) -> GroupState {
    commands.iter().fold(GroupState::default(), |state, command| after(&state, command).unwrap())
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
    assert_eq!(state.current, run(&[pause(), default]).current);
    assert_eq!(state.revision, 4);
    let state = after(&state, &Command::Rollback).unwrap();
    assert_eq!(state.current, run(&[pause()]).current);
    let state = after(&state, &Command::Rollback).unwrap();
    assert_eq!(state.current, Snapshot::default());
    assert_eq!(after(&state, &Command::Rollback).unwrap_err().code(), "no_history");
}

#[test]
fn overrides_stay_when_other_settings_are_applied() {
    let state = run(&[pause(), apply("x = 1"), Command::UseFile]);
    assert_eq!(state.current.config, None);
    assert_eq!(state.current.overrides.experiments["e"], Position::Paused);
    let resumed = after(&state, &Command::Resume { experiment: "e".to_owned() }).unwrap();
    assert_eq!(resumed.current.overrides.experiments["e"], Position::Running);
    let cleared = after(&resumed, &Command::Clear).unwrap();
    assert_eq!(cleared.current, Snapshot::default());
}

#[test]
fn a_change_that_changes_nothing_adds_no_history() {
    let state = run(&[pause(), pause(), pause()]);
    assert_eq!((state.revision, state.history.len()), (3, 1));
    assert_eq!(after(&state, &Command::Rollback).unwrap().current, Snapshot::default());
}

#[test]
fn unknown_names_are_refused_with_the_known_ones() {
    let refused = |command: Command| after(&GroupState::default(), &command).unwrap_err().to_string();
    let promote = |experiment: &str, variant: &str| Command::Promote {
        experiment: experiment.to_owned(),
        variant: variant.to_owned(),
    };
    let shown = [
        refused(Command::SetDefault { version: "huge".to_owned() }),
        refused(Command::Pause { experiment: "f".to_owned() }),
        refused(promote("f", "control")),
        refused(promote("e", "third")),
        refused(Command::Rollback),
    ];
    let expected = [
        "there is no version `huge`: there are base, large",
        "there is no experiment `f`: there are e",
        "there is no experiment `f`: there are e",
        "there is no variant `third`: there are control, treatment",
        "there is no earlier configuration to go back to",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn secrets_of_applied_settings_stay_on_the_instance() {
    let secret =
        "[admin]\nwrite_token = 'secret'\n[kafka.options]\nsasl_password = 'secret'\n[model_versions]\nx = 1\n";
    for format in [RecordFormat::V1, RecordFormat::V2] {
        let json = String::from_utf8(wire::write(&run(&[apply(secret)]), format)).unwrap();
        assert!(json.contains("model_versions") && !json.contains("secret"), "{json}");
    }
}

#[test]
fn a_state_is_bounded_in_entries_and_bytes() {
    let mut state = GroupState::default();
    for index in 0..50 {
        state = after(&state, &apply(&format!("x{index} = '{}'", "x".repeat(300_000)))).unwrap();
        let bytes = wire::write(&state, RecordFormat::V2).len();
        assert!(bytes <= RECORD_BYTES_MAX + 100 && state.history.len() <= 10);
    }
    assert_eq!(state.history.len(), 1, "as many as fit");
    assert!(state.history[0].config.as_ref().unwrap().starts_with("x48 "), "the latest");
    let error = after(&state, &apply(&format!("x = '{}'", "x".repeat(RECORD_BYTES_MAX)))).unwrap_err();
    assert_eq!(error.code(), "too_large");
    assert_eq!(after(&state, &apply("no toml [")).unwrap_err().code(), "unreadable");
    let many = (0..100).fold(GroupState::default(), |state, _| after(&state, &pause()).unwrap());
    assert_eq!(many.recent.len(), RECENT_MAX);
    assert_eq!(many.recent.last().unwrap(), "id-100");
}

#[test]
fn a_step_of_a_ramp_comes_from_the_share_in_force() {
    let table = table();
    let definition = table.experiments[0].definition();
    let step = |from: u32, to: u32| Command::SetTraffic {
        experiment: "e".to_owned(),
        millionths: to,
        definition: definition.clone(),
        from: Some(from),
        ramp_paused: false,
    };
    let code = |command: &Command, state: &GroupState| {
        check_step(command, &table, &state.current.overrides).map_err(|error| error.code())
    };
    let begun = GroupState::default();
    assert_eq!(code(&step(500_000, 600_000), &begun), Ok(()), "settings say 0.5");
    let stepped = after(&begun, &step(500_000, 600_000)).unwrap();
    assert_eq!(code(&step(500_000, 600_000), &stepped), Err("superseded"), "another instance was faster");
    assert_eq!(code(&step(600_000, 700_000), &stepped), Ok(()));

    let paused = after(&stepped, &pause()).unwrap();
    assert_eq!(code(&step(600_000, 700_000), &paused), Err("superseded"), "a pause was faster");

    let by_hand = Command::SetTraffic {
        experiment: "e".to_owned(),
        millionths: 600_000,
        definition: definition.clone(),
        from: None,
        ramp_paused: true,
    };
    let held = after(&stepped, &by_hand).unwrap();
    assert_eq!(code(&step(600_000, 700_000), &held), Err("superseded"), "a person holds the ramp");
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
        ("e|f", 1_u32..1_000_000).prop_map(|(experiment, millionths)| {
            let definition = table().experiments[0].definition();
            Command::SetTraffic { experiment, millionths, definition, from: None, ramp_paused: true }
        }),
        ("e|f", "control|treatment|x").prop_map(|(experiment, variant)| Command::Promote { experiment, variant }),
    ]
}

proptest! {
    #[test]
    fn each_change_can_be_undone_and_records_read_back(commands in proptest::collection::vec(any_command(), 0..12)) {
        let mut state = GroupState::default();
        for command in &commands {
            let Ok(next) = after(&state, command) else { continue };
            prop_assert_eq!(next.revision, state.revision + 1);
            let read = wire::read(&wire::write(&next, RecordFormat::V2)).unwrap();
            prop_assert_eq!(&read.0, &next);
            if *command != Command::Rollback && next.history.len() > state.history.len() {
                prop_assert_eq!(&after(&next, &Command::Rollback).unwrap().current, &state.current);
            }
            state = next;
        }
    }
}
