//! Records of the control topic: reading formats 1 and 2, writing the format of the group. Pure.
//!
//! Format 1 is the format of releases before 2026-12. Its actions are words. Format 2 has typed actions
//! and the ids of recent changes. Both readers keep fields that they do not know, so a newer program
//! loses nothing when an older one writes the next record.
//!
//! A group writes the format of its accepted record. Only the command `upgrade-control` raises it,
//! after all instances run a program that reads it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Action, Change, GroupState, Snapshot,
    group_state::{RECORD_BYTES_MAX, REVISION_MAX},
};

/// The format of a control record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub enum RecordFormat {
    /// Actions in words. Programs before 2026-12 read this one only.
    #[default]
    V1,
    /// Typed actions, ids of recent changes.
    V2,
}

impl TryFrom<u64> for RecordFormat {
    type Error = String;

    fn try_from(number: u64) -> Result<Self, String> {
        match number {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            _ => Err(format!("format {number} is of a newer program")),
        }
    }
}

impl From<RecordFormat> for u64 {
    fn from(format: RecordFormat) -> Self {
        match format {
            RecordFormat::V1 => 1,
            RecordFormat::V2 => 2,
        }
    }
}

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Its revision, where that can be read and is within bounds.
    pub revision: Option<u64>,
    /// What is wrong.
    pub reason: String,
}

/// A record of format 1.
#[derive(Serialize, Deserialize)]
struct RecordV1 {
    revision: u64,
    #[serde(default)]
    change: Option<ChangeV1>,
    current: Snapshot,
    #[serde(default)]
    history: Vec<Snapshot>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct ChangeV1 {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    id: String,
    action: String,
    at: String,
    by: String,
    why: String,
    instance: String,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// Reads a record of any known format.
///
/// # Errors
/// What is wrong with it, and its revision as far as that can be read.
pub fn read(json: &[u8]) -> Result<(GroupState, RecordFormat), RecordError> {
    #[derive(Deserialize)]
    struct Envelope {
        revision: Value,
        #[serde(default)]
        format: Option<Value>,
    }

    let unusable = |reason: String| RecordError { revision: None, reason };
    if json.len() > 2 * RECORD_BYTES_MAX {
        return Err(unusable(format!("it has {} bytes, more than any record", json.len())));
    }
    // An array would be read field by field.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(unusable("it is not a JSON object".to_owned()));
    }
    let envelope: Envelope = serde_json::from_slice(json).map_err(|error| unusable(error.to_string()))?;
    let revision = envelope.revision.as_u64().filter(|revision| *revision <= REVISION_MAX);
    let Some(revision) = revision else {
        return Err(unusable(format!("revision: {} is not a whole number up to {REVISION_MAX}", envelope.revision)));
    };

    let unreadable = |reason: String| RecordError { revision: Some(revision), reason };
    let format = match envelope.format {
        None => RecordFormat::V1,
        Some(Value::Number(number)) => {
            let number = number.as_u64().unwrap_or(u64::MAX);
            RecordFormat::try_from(number).map_err(unreadable)?
        }
        Some(other) => return Err(unreadable(format!("format: {other} is not a number"))),
    };
    let state = match format {
        RecordFormat::V1 => state_of_v1(parse(json).map_err(unreadable)?),
        RecordFormat::V2 => {
            let mut state: GroupState = parse(json).map_err(unreadable)?;
            state.other.remove("format");
            state
        }
    };
    if !state.requires.is_empty() {
        return Err(unreadable(format!("it requires what this program does not know: {}", state.requires.join(", "))));
    }
    Ok((state, format))
}

/// Writes a record.
pub fn write(state: &GroupState, format: RecordFormat) -> Vec<u8> {
    let json = match format {
        RecordFormat::V1 => serde_json::to_vec(&record_v1(state)),
        RecordFormat::V2 => {
            #[derive(Serialize)]
            struct RecordV2<'a> {
                format: RecordFormat,
                #[serde(flatten)]
                state: &'a GroupState,
            }
            serde_json::to_vec(&RecordV2 { format, state })
        }
    };
    // Plain data with string keys: serializing cannot fail.
    json.unwrap_or_default()
}

/// Parses JSON with the path of the field in errors.
fn parse<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| error.to_string())
}

fn state_of_v1(record: RecordV1) -> GroupState {
    let change = |change: ChangeV1| Change {
        id: change.id,
        action: Action::from_words(&change.action),
        at: change.at,
        by: change.by,
        claimed: String::new(),
        why: change.why,
        instance: change.instance,
        forced: false,
        restores_file: false,
        other: change.other,
    };
    let mut state = GroupState {
        revision: record.revision,
        change: record.change.map(change),
        current: record.current,
        history: record.history,
        recent: Vec::new(),
        requires: Vec::new(),
        other: record.other,
    };
    let id = state.change_id().to_owned();
    state.remember_id(&id);
    state
}

fn record_v1(state: &GroupState) -> RecordV1 {
    let change = |change: &Change| ChangeV1 {
        id: change.id.clone(),
        action: change.action.in_words(),
        at: change.at.clone(),
        by: change.by.clone(),
        why: change.why.clone(),
        instance: change.instance.clone(),
        other: change.other.clone(),
    };
    RecordV1 {
        revision: state.revision,
        change: state.change.as_ref().map(change),
        current: state.current.clone(),
        history: state.history.clone(),
        other: state.other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::routing::Overrides;

    /// The types with which releases before 2026-12 read a record. They refuse unknown fields.
    mod previous_release {
        use super::{Deserialize, Overrides};

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only whether a record parses counts")]
        pub(super) struct State {
            pub(super) revision: u64,
            #[serde(default)]
            change: Option<Change>,
            current: Snapshot,
            #[serde(default)]
            history: Vec<Snapshot>,
        }

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only whether a record parses counts")]
        struct Snapshot {
            #[serde(default)]
            config: Option<String>,
            #[serde(default)]
            overrides: Overrides,
        }

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only whether a record parses counts")]
        struct Change {
            #[serde(default)]
            id: String,
            action: String,
            at: String,
            by: String,
            why: String,
            instance: String,
        }
    }

    fn state() -> GroupState {
        let change = Change {
            id: "7f".to_owned(),
            action: Action::Pause { experiment: "e".to_owned() },
            at: "2026-12-01T00:00:00Z".to_owned(),
            by: "ann".to_owned(),
            why: "bad".to_owned(),
            instance: "one".to_owned(),
            ..Change::default()
        };
        let history = vec![Snapshot { config: Some("x = 1\n".to_owned()), ..Snapshot::default() }];
        let state = GroupState { revision: 3, history, ..GroupState::default() };
        state.followed_by(Snapshot::default(), change, 10).unwrap()
    }

    #[test]
    fn both_formats_read_back() {
        for format in [RecordFormat::V1, RecordFormat::V2] {
            assert_eq!(read(&write(&state(), format)).unwrap(), (state(), format));
        }
    }

    #[test]
    fn the_previous_release_reads_format_1() {
        let json = write(&state(), RecordFormat::V1);
        let read: previous_release::State = serde_json::from_slice(&json).unwrap();
        assert_eq!(read.revision, 4);
        let newer = write(&state(), RecordFormat::V2);
        assert!(serde_json::from_slice::<previous_release::State>(&newer).is_err());
    }

    #[test]
    fn unknown_fields_are_written_again() {
        let json = json!({
            "format": 2, "revision": 7, "later": 1, "recent": [], "requires_nothing": true,
            "change": {"id": "a", "action": {"type": "hold", "until": "noon"}, "at": "", "by": "", "why": "",
                "instance": "", "ticket": "T-1"},
            "current": {"overrides": {}, "note": "n"}, "history": [{"overrides": {}, "note": "m"}],
        });
        let (state, format) = read(json.to_string().as_bytes()).unwrap();
        let written: Value = serde_json::from_slice(&write(&state, format)).unwrap();
        assert_eq!(written, json);
    }

    #[test]
    fn a_record_that_cannot_be_read_shows_its_revision_where_it_has_one() {
        let cases: [(&str, Option<u64>, &str); 9] = [
            ("", None, "object"),
            ("{", None, "EOF"),
            ("[5]", None, "object"),
            (r#"{"revision": -1, "current": {}}"#, None, "whole number"),
            (r#"{"revision": 9007199254740992, "current": {}}"#, None, "whole number"),
            (r#"{"revision": 1e300, "current": {}}"#, None, "whole number"),
            (r#"{"revision": 5, "current": 1}"#, Some(5), "current"),
            (r#"{"revision": 5, "format": 3, "current": {}}"#, Some(5), "newer program"),
            (r#"{"revision": 5, "format": 2, "current": {}, "requires": ["x"]}"#, Some(5), "x"),
        ];
        for (json, revision, reason) in cases {
            let error = read(json.as_bytes()).unwrap_err();
            assert!(error.revision == revision && error.reason.contains(reason), "{json}: {error:?}");
        }
        let position = r#"{"revision": 5, "current": {"overrides": {"experiments": {"e": "held"}}}}"#;
        assert_eq!(read(position.as_bytes()).unwrap_err().revision, Some(5), "an unknown position changes routing");
    }
}
