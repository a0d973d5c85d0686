//! Schedules that once went wrong, each with the right outcome. The letters are those of the findings.

use super::{
    ANNOUNCE_WAIT, AuditResult, Event, Sync,
    world::{World, apply, pause, request, set_default, settings},
};
use crate::control::{Command, FileMode, Outcome, RecordFormat};

#[test]
fn d1_a_topic_turned_on_later_keeps_a_pause() {
    let mut world = World::new(0, 1);
    let one = world.start(&settings("a", ""), false);
    world.carry_out(one, pause("e0"));
    world.restart(one, true, 0);
    world.settle();
    let two = world.start(&settings("a", ""), true);
    world.settle();
    assert!(world.is_paused(one, "e0") && world.is_paused(two, "e0"));
}

#[test]
fn d3_a_command_does_not_forget_a_reload() {
    let mut world = World::settled(1);
    world.instances[0].weights = 7;
    world.step(0, Event::Reload);
    let reply = world.command(0, pause("e0"));
    world.settle();
    world.answer(reply).unwrap();
    assert_eq!(world.instances[0].serving.weights, 7, "new weights are loaded after the pause");
}

#[test]
fn d4_a_new_comment_is_nothing_to_roll_back() {
    let mut world = World::settled(1);
    world.carry_out(0, pause("e0"));
    world.write_file(0, &settings("a", "another comment"));
    world.settle();
    world.carry_out(0, Command::Rollback);
    assert!(!world.is_paused(0, "e0"), "the rollback undoes the pause");
    assert_eq!(world.memory(0).file.mode, FileMode::Followed, "the file is not pinned");
}

#[test]
fn d5_a_peers_command_keeps_the_history_of_the_local_file() {
    let mut world = World::settled(2);
    world.write_file(1, &settings("b", ""));
    world.settle();
    world.carry_out(0, pause("e0"));
    world.carry_out(1, Command::Rollback);
    assert!(!world.is_paused(1, "e0") && world.default(1) == "b", "first the pause");
    world.carry_out(1, Command::Rollback);
    assert_eq!(world.default(1), "a", "then the change of the file");
    // The reverse: a command of the instance with the new file does not publish its old file.
    let mut world = World::settled(2);
    world.write_file(1, &settings("b", ""));
    world.settle();
    world.carry_out(1, pause("e0"));
    assert!(world.memory(0).accepted.history.iter().all(|snapshot| snapshot.config.is_none()));
}

#[test]
fn d6_a_dry_run_does_not_block_a_rollback() {
    let mut world = World::settled(1);
    world.carry_out(0, set_default("large"));
    let mut tried = request(Command::Rollback);
    tried.dry_run = true;
    let tried = world.send(0, tried);
    let rollback = world.command(0, Command::Rollback);
    assert_eq!(world.code(tried), "superseded");
    world.settle();
    assert_eq!(world.answer(rollback).unwrap().outcome, Outcome::Switched);
    assert_eq!(world.default(0), "a");
}

#[test]
fn a_retry_of_a_rollback_that_cancelled_undoes_nothing() {
    let mut world = World::settled(1);
    world.carry_out(0, pause("e0"));
    world.command(0, set_default("large"));
    let rollback = request(Command::Rollback);
    let first = world.send(0, rollback.clone());
    assert_eq!(world.answer(first).unwrap().outcome, Outcome::Cancelled);
    let retry = world.send(0, rollback);
    world.settle();
    assert_eq!(world.answer(retry).unwrap().outcome, Outcome::Cancelled);
    assert!(world.is_paused(0, "e0"));
}

#[test]
fn a_dry_run_delays_neither_the_group_nor_the_file() {
    let mut world = World::settled(2);
    let mut tried = request(set_default("large"));
    tried.dry_run = true;
    let tried_first = world.send(0, tried.clone());
    world.command(1, pause("e0"));
    world.finish_load(1, 0);
    world.deliver(1);
    world.read(0);
    assert_eq!(world.code(tried_first), "superseded");
    world.settle();
    assert!(world.is_paused(0, "e0"));
    let tried_second = world.send(0, tried);
    world.write_file(0, &settings("b", ""));
    assert_eq!(world.code(tried_second), "superseded");
}

#[test]
fn a_crossing_rollback_keeps_the_newer_record_format() {
    let mut world = World::settled(2);
    world.carry_out(0, pause("e0"));
    let (upgrade, rollback) = (world.command(0, Command::UpgradeFormat), world.command(1, Command::Rollback));
    world.settle();
    world.answer(upgrade).unwrap();
    world.answer(rollback).unwrap();
    assert_eq!(world.memory(0).record_format, RecordFormat::V2);
}

#[test]
fn d7_a_revision_at_the_limit_is_refused_and_another_topic_begins_at_1() {
    let mut world = World::settled(1);
    world.carry_out(0, pause("e0"));
    let limit = crate::control::group_state::REVISION_MAX;
    let mut state = world.memory(0).accepted.clone();
    state.revision = limit;
    world.log.push(crate::control::wire::write(&state, RecordFormat::V1));
    state.revision = 1 << 60;
    world.log.push(crate::control::wire::write(&state, RecordFormat::V1));
    world.read(0);
    world.read(0);
    let reply = world.command(0, pause("e1"));
    assert_eq!(world.code(reply), "revision_limit");
    // The documented remedy: another topic.
    let mut saved = world.memory(0).clone();
    "the old topic".clone_into(&mut saved.topic);
    world.log.clear();
    world.instances[0].disk = crate::control::state_file::write(&saved);
    world.restart(0, true, 0);
    world.settle();
    assert!(world.memory(0).revision() <= 2 && world.is_paused(0, "e0"));
    world.carry_out(0, pause("e1"));
}

#[test]
fn d8_garbage_does_not_block_emergencies() {
    let mut world = World::settled(2);
    world.carry_out(0, pause("e0"));
    world.log.push(b"{".to_vec());
    world.read(0);
    world.read(1);
    let reply = world.command(1, pause("e1"));
    world.settle();
    world.answer(reply).unwrap();
    assert!(world.is_paused(0, "e1"));
    // A newer record that cannot be read does block, unless the operator forces it.
    let revision = world.memory(0).revision() + 1;
    world.log.push(format!(r#"{{"revision": {revision}, "format": 9}}"#).into_bytes());
    world.settle();
    assert!(matches!(world.instances[0].machine.sync(), Sync::OutOfSync(_)));
    let reply = world.command(0, Command::Rollback);
    assert_eq!(world.code(reply), "unknown_state");
    let mut forced = request(Command::Rollback);
    forced.force = true;
    let reply = world.send(0, forced);
    world.settle();
    world.answer(reply).unwrap();
    assert!(!world.is_paused(1, "e1"));
    let audited = world.instances[0].audit.last().unwrap();
    assert!(audited.change.forced && audited.result == AuditResult::Switched);
}

#[test]
fn d9_superseded_loads_are_cancelled() {
    let mut world = World::settled(1);
    world.command(0, set_default("large"));
    let rollback = world.command(0, Command::Rollback);
    assert!(world.instances[0].loads[0].cancelled);
    assert_eq!(world.answer(rollback).unwrap().outcome, Outcome::Cancelled);
    for version in ["a", "b", "large"] {
        world.write_file(0, &settings(version, ""));
    }
    let loading = world.instances[0].loads.iter().filter(|load| !load.cancelled).count();
    assert_eq!(loading, 1, "only the latest text is being loaded");
    world.settle();
    assert_eq!(world.default(0), "large");
}

#[test]
fn d10_no_secret_is_saved() {
    let mut world = World::new(0, 1);
    let file = settings("a", "") + "[kafka]\nsasl_password = \"secret\"\n[admin]\nwrite_token = \"secret\"\n";
    world.start(&file, true);
    world.settle();
    world.write_file(0, &file.replace("default = \"a\"", "default = \"b\""));
    world.settle();
    world.carry_out(0, apply(&file));
    assert_eq!(world.default(0), "a");
    let disk = String::from_utf8(world.instances[0].disk.clone()).unwrap();
    assert!(disk.contains("versions") && !disk.contains("secret"), "{disk}");
}

#[test]
fn d11_an_instance_that_finds_an_empty_topic_asks_before_it_takes_commands() {
    let mut world = World::settled(2);
    world.carry_out(0, pause("e0"));
    world.log.clear();
    world.instances.iter_mut().for_each(|instance| instance.position = 0);
    let new = world.start(&settings("a", ""), true);
    let replies = [world.command(new, pause("e1")), world.command(new, pause("e2"))];
    world.settle();
    for reply in replies {
        world.answer(reply).unwrap();
    }
    for at in 0..3 {
        assert!(["e0", "e1", "e2"].iter().all(|experiment| world.is_paused(at, experiment)), "{at}");
    }
    // Alone, it does not wait for ever.
    let mut world = World::new(1, 1);
    world.command(0, pause("e0"));
    assert!(world.instances[0].loads.is_empty());
    world.wait(ANNOUNCE_WAIT);
    assert_eq!(world.instances[0].loads.len(), 1);
}

#[test]
fn d12_every_change_has_an_audit_line() {
    let results = |world: &World, at: usize| -> Vec<(String, AuditResult)> {
        let entry = |entry: &super::AuditEntry| (entry.change.action.in_words(), entry.result.clone());
        world.instances[at].audit.iter().map(entry).collect()
    };
    let mut world = World::settled(2);
    // A rollback that cancels, and the command that it cancels.
    world.command(0, set_default("large"));
    world.command(0, Command::Rollback);
    let refused = AuditResult::Refused("superseded");
    let lines = results(&world, 0);
    assert_eq!(
        lines[lines.len() - 2..],
        [("set default large".to_owned(), refused), ("rollback".to_owned(), AuditResult::Unchanged)]
    );
    // Two changes of a peer before the first is prepared here, and one that changes nothing.
    for command in [pause("e0"), pause("e1"), pause("e1")] {
        let reply = world.command(0, command);
        while !world.answers.contains_key(&reply) {
            while !world.instances[0].loads.is_empty() {
                world.finish_load(0, 0);
            }
            while !world.instances[0].sent.is_empty() {
                world.deliver(0);
            }
            world.read(0);
        }
        if world.memory(0).revision() < 3 {
            world.read(1);
        }
    }
    world.settle();
    let lines = results(&world, 1);
    assert_eq!(lines[lines.len() - 3].1, AuditResult::Overtaken, "{lines:?}");
    // The caller of a queued command leaves.
    let first = world.command(0, pause("e2"));
    let second = world.command(0, pause("e3"));
    world.step(0, Event::ClientGone(second));
    world.settle();
    world.answer(first).unwrap();
    assert!(results(&world, 0).contains(&("pause e3".to_owned(), AuditResult::Abandoned)));
    assert!(!world.is_paused(0, "e3"));
}
