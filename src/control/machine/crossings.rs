//! Commands that cross, and what callers are answered. The letters are those of the findings.

use std::time::Duration;

use super::{
    ECHO_WAIT, Event, Sync, warnings,
    world::{World, apply, pause, request, set_default, settings},
};
use crate::control::{Action, Command, FileMode, Outcome, RecordFormat};

#[test]
fn a1_an_unknown_outcome_is_not_a_refusal_and_a_retry_is_not_made_twice() {
    let mut world = World::settled(2);
    world.carry_out(0, pause("e0"));
    world.carry_out(0, pause("e1"));
    let rollback = request(Command::Rollback);
    let reply = world.send(0, rollback.clone());
    world.finish_load(0, 0);
    let late = world.instances[0].sent.remove(0);
    world.wait(ECHO_WAIT);
    assert_eq!(world.code(reply), "outcome_unknown");
    // The record arrives after all, and serves without a second load.
    world.log.push(late.payload);
    world.read(0);
    assert!(world.instances[0].loads.is_empty() && !world.is_paused(0, "e1"));
    assert!(world.instances[0].warnings.iter().any(|(event, _)| *event == warnings::LATE_RECORD));
    world.settle();
    let retry = world.send(1, rollback.clone());
    world.settle();
    assert_eq!(world.answer(retry).unwrap().outcome, Outcome::Repeated);
    assert!(world.is_paused(0, "e0") && world.is_paused(1, "e0"), "it went back once");
    // A retry while something else is being prepared does not cancel that.
    let other = world.command(0, set_default("b"));
    let retry = world.send(0, rollback);
    assert_eq!(world.answer(retry).unwrap().outcome, Outcome::Repeated);
    world.settle();
    assert_eq!(world.answer(other).unwrap().outcome, Outcome::Switched);
}

#[test]
fn a2_two_rollbacks_that_expect_the_same_go_back_once() {
    let mut world = World::settled(2);
    world.carry_out(0, pause("e0"));
    world.carry_out(0, pause("e1"));
    let conditional = |world: &World, at: usize| {
        let mut rollback = request(Command::Rollback);
        rollback.if_match = Some(world.instances[at].machine.etag());
        rollback
    };
    // At the same moment, and a second apart.
    let both = [conditional(&world, 0), conditional(&world, 1)];
    let replies = [world.send(0, both[0].clone()), world.send(1, both[1].clone())];
    let late = conditional(&world, 1);
    world.settle();
    let codes: Vec<bool> = replies.map(|reply| world.answer(reply).is_ok()).to_vec();
    assert_eq!(codes.iter().filter(|done| **done).count(), 1, "one of them gets `conflict`");
    let reply = world.send(1, late);
    assert_eq!(world.code(reply), "conflict");
    assert!(world.is_paused(0, "e0") && !world.is_paused(0, "e1"));
}

#[test]
fn a3_a_rollback_says_what_it_undid_and_conflicts_with_a_file_that_changed() {
    let mut world = World::settled(1);
    world.carry_out(0, pause("e0"));
    let mut expected = request(Command::Rollback);
    expected.if_match = Some(world.instances[0].machine.etag());
    world.write_file(0, &settings("large", ""));
    let reply = world.send(0, expected);
    assert_eq!(world.code(reply), "conflict", "the operator has not seen the new file");
    let applied = world.carry_out(0, Command::Rollback);
    assert_eq!(applied.undone.unwrap(), "the change of the settings file");
    assert!(world.is_paused(0, "e0") && world.default(0) == "a");
}

#[test]
fn a4_commands_to_one_instance_are_carried_out_in_order() {
    let mut world = World::settled(1);
    let replies = ["e0", "e1", "e2"].map(|experiment| world.command(0, pause(experiment)));
    world.settle();
    for reply in replies {
        assert_eq!(world.answer(reply).unwrap().outcome, Outcome::Switched);
    }
    assert!(["e0", "e1", "e2"].iter().all(|experiment| world.is_paused(0, experiment)));
}

#[test]
fn a5_a_crossing_rollback_says_which_change_it_also_undoes() {
    let mut world = World::settled(2);
    world.carry_out(0, pause("e0"));
    let (pausing, rollback) = (world.command(0, pause("e1")), world.command(1, Command::Rollback));
    world.settle();
    world.answer(pausing).unwrap();
    let applied = world.answer(rollback).unwrap();
    assert!(applied.warnings.iter().any(|warning| warning.contains("`pause e1` of ann")), "{applied:?}");
    assert!(!world.is_paused(0, "e0") && !world.is_paused(0, "e1"));
    let audited = world.instances[1].audit.last().unwrap();
    assert!(audited.notes.iter().any(|note| note.contains("pause e1")));
}

#[test]
fn a9_publishing_again_keeps_the_etag() {
    let mut world = World::settled(2);
    world.carry_out(0, pause("e0"));
    let etag = world.instances[1].machine.etag();
    let revision = world.memory(1).revision();
    world.log.push(b"{}".to_vec());
    world.settle();
    assert!(world.memory(1).revision() > revision);
    assert_eq!(world.instances[1].machine.etag(), etag);
}

#[test]
fn a10_applying_differs_from_out_of_sync() {
    let mut world = World::settled(2);
    world.instances[1].lacks = Some("large");
    let reply = world.command(0, set_default("large"));
    world.finish_load(0, 0);
    world.deliver(0);
    world.read(0);
    world.answer(reply).unwrap();
    world.read(1);
    assert_eq!(*world.instances[1].machine.sync(), Sync::Applying);
    world.settle();
    assert!(matches!(world.instances[1].machine.sync(), Sync::OutOfSync(reason) if reason.contains("large")));
    assert_eq!(world.default(1), "a", "it goes on serving");
    world.carry_out(0, Command::Rollback);
    assert_eq!(*world.instances[1].machine.sync(), Sync::InSync);
}

#[test]
fn a11_settings_are_compared_by_what_they_say() {
    let mut world = World::settled(1);
    world.carry_out(0, apply(&settings("b", "applied")));
    assert_eq!(world.memory(0).file.mode, FileMode::Detached);
    world.write_file(0, "versions = [\"a\", \"b\", \"large\"]\n# other order\ndefault = \"b\"\n");
    world.settle();
    assert_eq!(world.memory(0).file.mode, FileMode::Matches);
    // An explicit apply pins, also the text of the file itself.
    world.carry_out(0, apply(&settings("b", "again")));
    assert_eq!(world.memory(0).file.mode, FileMode::Detached);
    world.carry_out(0, Command::UseFile);
    assert_eq!(world.memory(0).file.mode, FileMode::Followed);
}

#[test]
fn a_file_ahead_of_the_group_is_not_undone_by_a_peers_pause() {
    let mut world = World::settled(2);
    world.carry_out(0, apply(&settings("b", "")));
    world.write_file(0, &settings("b", "became it"));
    world.write_file(0, &settings("large", "went on"));
    world.settle();
    assert_eq!((world.default(0), world.memory(0).file.mode), ("large", FileMode::Ahead));
    world.carry_out(1, pause("e0"));
    assert!(world.is_paused(0, "e0") && world.default(0) == "large");
    world.carry_out(0, pause("e1"));
    assert_eq!(world.default(1), "b", "what only one instance knows is not published");
    world.carry_out(1, Command::Rollback);
    assert_eq!((world.default(0), world.is_paused(0, "e1")), ("large", false));
}

#[test]
fn a_group_moves_to_format_2_by_command_only() {
    let mut world = World::settled(2);
    world.carry_out(0, pause("e0"));
    assert_eq!(world.memory(1).record_format, RecordFormat::V1);
    let applied = world.carry_out(0, Command::UpgradeFormat);
    assert_eq!(applied.outcome, Outcome::Unchanged);
    world.carry_out(1, pause("e1"));
    let (state, format) = crate::control::wire::read(world.log.last().unwrap()).unwrap();
    assert_eq!(
        (format, state.change.unwrap().action),
        (RecordFormat::V2, Action::Pause { experiment: "e1".to_owned() })
    );
    assert_eq!(state.recent.len(), 3);
}

#[test]
fn a_stop_answers_every_command() {
    let mut world = World::settled(1);
    let published = world.command(0, pause("e0"));
    world.finish_load(0, 0);
    let waiting = world.command(0, pause("e1"));
    world.step(0, Event::Stop);
    assert_eq!((world.code(published), world.code(waiting)), ("outcome_unknown", "stopping"));
    let late = world.command(0, pause("e2"));
    assert_eq!(world.code(late), "stopping");
    world.wait(Duration::from_secs(60));
    assert!(world.instances[0].loads.is_empty());
}
