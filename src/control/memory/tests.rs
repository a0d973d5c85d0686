use super::*;
use crate::control::Change;

fn accepted(memory: &mut Memory, action: Action, config: Option<&str>) {
    let change = Change { id: format!("id-{}", memory.accepted.revision), action, ..Change::default() };
    let current = Snapshot { config: config.map(str::to_owned), ..memory.accepted.current.clone() };
    let next = memory.accepted.followed_by(current, change, 10).unwrap();
    memory.accept(next, RecordFormat::V1);
}

fn go_back(memory: &mut Memory) -> RollbackTarget {
    let target = memory.rollback_target(false).unwrap();
    let change =
        Change { id: format!("id-{}", memory.accepted.revision), action: Action::Rollback, ..Change::default() };
    let next = memory.accepted.replaced_by(target.snapshot.clone(), target.history.clone(), change, 10).unwrap();
    memory.accept(next, RecordFormat::V1);
    target
}

#[test]
fn the_mode_of_the_file_follows_from_what_is_accepted() {
    let mut memory = Memory::of_file("x = 1");
    accepted(&mut memory, Action::Apply, Some("x = 2\n"));
    assert_eq!(memory.file.mode, FileMode::Detached);
    memory.file_changed("x = 3\n".to_owned(), 10);
    assert_eq!(memory.file.mode, FileMode::Detached, "another text waits");
    memory.file_changed("x = 2\n".to_owned(), 10);
    assert_eq!(memory.file.mode, FileMode::Matches);
    accepted(&mut memory, Action::Pause { experiment: "e".to_owned() }, Some("x = 2\n"));
    assert_eq!(memory.file.mode, FileMode::Matches, "a pause keeps it");
    memory.file_changed("x = 4\n".to_owned(), 10);
    assert_eq!((memory.file.mode, memory.desired().config), (FileMode::Ahead, None));
    accepted(&mut memory, Action::Other(serde_json::Map::new()), Some("x = 2\n"));
    assert_eq!(memory.file.mode, FileMode::Detached, "an unknown action means its settings");
    accepted(&mut memory, Action::UseFile, None);
    assert_eq!(memory.file.mode, FileMode::Followed);
}

#[test]
fn a_rollback_from_applied_settings_restores_the_file_as_it_was_followed() {
    let mut memory = Memory::of_file("x = 1");
    accepted(&mut memory, Action::Apply, Some("y = 1\n"));
    memory.file_changed("x = 2\n".to_owned(), 10);
    assert_eq!(go_back(&mut memory).snapshot.config.as_deref(), Some("x = 1\n"));
    // Without a change of the file it is followed again.
    let mut memory = Memory::of_file("x = 1");
    accepted(&mut memory, Action::Apply, Some("y = 1\n"));
    assert_eq!(go_back(&mut memory).snapshot.config, None);
    assert_eq!(memory.file.mode, FileMode::Followed);
}

#[test]
fn texts_of_the_file_are_restored_one_after_the_other() {
    let mut memory = Memory::of_file("x = 1");
    memory.file_changed("x = 2\n".to_owned(), 10);
    memory.file_changed("x = 3\n".to_owned(), 10);
    let pinned = |memory: &mut Memory| go_back(memory).snapshot.config;
    assert_eq!(pinned(&mut memory).as_deref(), Some("x = 2\n"));
    assert_eq!(memory.file.mode, FileMode::Detached);
    assert_eq!(pinned(&mut memory).as_deref(), Some("x = 1\n"));
    assert!(memory.rollback_target(false).is_none());
}

#[test]
fn undo_entries_stay_in_order_when_the_history_is_full() {
    let mut memory = Memory::of_file("x = 1");
    let text = |number: usize| format!("y = {number}\n");
    let apply = |memory: &mut Memory, number: usize| {
        let change = Change { id: text(number), action: Action::Apply, ..Change::default() };
        let current = Snapshot { config: Some(text(number)), ..Snapshot::default() };
        let next = memory.accepted.followed_by(current, change, 3).unwrap();
        memory.accept(next, RecordFormat::V1);
    };
    memory.file_changed("x = 2\n".to_owned(), 10);
    (0..5).for_each(|number| apply(&mut memory, number));
    assert_eq!((memory.undo[0].depth, memory.accepted.history.len()), (0, 3));
    assert_eq!(memory.rollback_target(false).unwrap().snapshot.config, Some(text(3)), "group changes come first");
}

#[test]
fn the_etag_changes_with_the_change_and_the_file_only() {
    let mut memory = Memory::of_file("x = 1");
    let first = memory.etag(None);
    assert_ne!(memory.etag(Some("x = 2\n")), first, "a file that is being prepared");
    accepted(&mut memory, Action::Clear, None);
    let second = memory.etag(None);
    assert_ne!(second, first);
    let again = memory.accepted.republished().unwrap();
    memory.accept(again, RecordFormat::V1);
    assert_eq!(memory.etag(None), second, "a state that is published again");
    memory.file_changed("x = 2\n".to_owned(), 10);
    assert_ne!(memory.etag(None), second);
}

#[test]
fn ids_of_other_instances_are_remembered_in_both_formats() {
    let mut memory = Memory::of_file("x = 1");
    (0..3).for_each(|_| accepted(&mut memory, Action::Clear, None));
    assert_eq!(memory.accepted.recent, ["id-0", "id-1", "id-2"]);
    // A record of format 1 has the last id only.
    let mut next = memory.accepted.republished().unwrap();
    next.recent = vec!["id-9".to_owned()];
    memory.accept(next, RecordFormat::V1);
    assert_eq!(memory.accepted.recent, ["id-0", "id-1", "id-2", "id-9"]);
}
