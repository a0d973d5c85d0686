use super::*;
use crate::control::{Action, Change, FileMode, Snapshot};

fn state(revision: u64, id: &str) -> GroupState {
    let change = Some(Change { id: id.to_owned(), action: Action::Clear, ..Change::default() });
    GroupState { revision, change, ..GroupState::default() }
}

fn contents(records: Vec<Result<(GroupState, RecordFormat), RecordError>>) -> TopicContents {
    let mut contents = TopicContents { topic: "control".to_owned(), ..TopicContents::default() };
    records.into_iter().for_each(|record| contents.take(record));
    contents
}

fn readable(revision: u64, id: &str) -> Result<(GroupState, RecordFormat), RecordError> {
    Ok((state(revision, id), RecordFormat::V1))
}

fn unreadable(revision: Option<u64>) -> Result<(GroupState, RecordFormat), RecordError> {
    Err(RecordError { revision, reason: "broken".to_owned() })
}

fn saved(revision: u64, id: &str) -> Memory {
    Memory { accepted: state(revision, id), topic: "control".to_owned(), ..Memory::of_file("x = 1") }
}

fn joined(saved: Option<Memory>, contents: &TopicContents) -> Joined {
    join(saved, Some(contents), "x = 1", 10)
}

#[test]
fn of_several_records_the_first_with_the_highest_revision_is_accepted() {
    let last = |records| contents(records).last.map(|(state, _)| (state.revision, state.change_id().to_owned()));
    let found = |revision, id: &str| Some((revision, id.to_owned()));
    assert_eq!(last(vec![]), None);
    assert_eq!(last(vec![readable(1, "a"), readable(2, "b"), readable(2, "c")]), found(2, "b"));
    assert_eq!(last(vec![readable(5, "a"), readable(3, "b")]), found(5, "a"));
    assert!(contents(vec![readable(2, "b"), readable(2, "c")]).ends_stale);
    assert!(!contents(vec![readable(2, "b"), readable(3, "b")]).ends_stale);
    let broken = contents(vec![readable(2, "b"), unreadable(Some(3))]);
    assert_eq!(broken.unreadable.unwrap().revision, 3);
    assert!(contents(vec![readable(2, "b"), unreadable(None)]).ends_stale, "garbage");
    assert!(contents(vec![Ok((GroupState::default(), RecordFormat::V1))]).last.is_none(), "a question");
}

#[test]
fn the_higher_revision_wins_and_the_topic_gets_what_it_lacks() {
    let cases = [
        // saved, topic, accepted, republished
        (saved(3, "a"), vec![readable(5, "b")], "b", false),
        (saved(5, "a"), vec![readable(3, "b")], "a", true),
        (saved(5, "a"), vec![readable(5, "a")], "a", false),
        (saved(5, "a"), vec![readable(5, "b")], "a", true),
        (saved(5, "a"), vec![], "a", true),
        (saved(5, "a"), vec![readable(5, "a"), unreadable(None)], "a", true),
        (saved(5, "a"), vec![readable(5, "a"), unreadable(Some(6))], "a", false),
    ];
    for (memory, records, id, republish) in cases {
        let Joined { memory, republish: found, ask, .. } = joined(Some(memory), &contents(records.clone()));
        assert_eq!((memory.accepted.change_id(), found, ask), (id, republish, false), "{records:?}");
    }
    assert!(joined(None, &contents(vec![])).ask);
    assert!(!joined(None, &contents(vec![readable(1, "a")])).ask);
}

#[test]
fn revisions_of_another_topic_do_not_count_and_the_replacement_is_shown() {
    let other = Memory { topic: "another".to_owned(), ..saved(900, "a") };
    let replaced = joined(Some(other.clone()), &contents(vec![readable(2, "b")]));
    assert_eq!(replaced.memory.accepted.change_id(), "b");
    assert!(replaced.notices[0].contains("revision 900 of another"), "{:?}", replaced.notices);
    let moved = joined(Some(other), &contents(vec![]));
    assert_eq!((moved.memory.revision(), moved.republish), (1, true));
    let alone = join(Some(saved(7, "a")), None, "x = 1", 10);
    assert_eq!((alone.memory.topic.as_str(), alone.memory.revision()), ("", 7));
}

#[test]
fn a_record_that_an_older_program_could_not_read_is_read_again() {
    let mut memory = saved(4, "a");
    memory.unreadable = Some(UnreadableState { revision: 5, reason: "newer".to_owned() });
    let joined = joined(Some(memory), &contents(vec![readable(5, "b")]));
    assert_eq!((joined.memory.accepted.change_id(), joined.memory.unreadable), ("b", None));
}

#[test]
fn a_file_that_changed_while_the_program_was_down_is_handled_as_at_run_time() {
    let change = |mode, config: Option<&str>, text: &str| {
        let mut memory = saved(4, "a");
        memory.accepted.current = Snapshot { config: config.map(str::to_owned), ..Snapshot::default() };
        memory.file.mode = mode;
        let memory = join(Some(memory), Some(&contents(vec![])), text, 10).memory;
        (memory.file.mode, memory.undo.len())
    };
    let applied = Some("x = 1\n");
    assert_eq!(change(FileMode::Followed, None, "x = 2"), (FileMode::Followed, 1));
    assert_eq!(change(FileMode::Followed, None, "# comment\nx = 1"), (FileMode::Followed, 0));
    assert_eq!(change(FileMode::Matches, applied, "x = 2"), (FileMode::Ahead, 1));
    assert_eq!(change(FileMode::Ahead, applied, "x = 3"), (FileMode::Ahead, 1));
    assert_eq!(change(FileMode::Detached, Some("y = 1\n"), "x = 2"), (FileMode::Detached, 0));
    assert_eq!(change(FileMode::Detached, Some("x = 2\n"), "x = 2"), (FileMode::Matches, 0));
}
