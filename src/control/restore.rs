//! Restores the state of an instance at its start: from the state file, the control topic and the
//! settings file.

use std::path::Path;

use super::{
    ControlError, Memory, Storage, TopicContents,
    join::{Joined, join},
};
use crate::{
    routing::Overrides,
    settings::{Plan, SettingsError},
};

/// What an instance starts with.
pub struct Restored {
    /// The settings with what operators changed.
    pub plan: Plan,
    /// The settings file with what operators changed, where `plan` is about applied settings. The start
    /// falls back to it where those do not load here.
    pub fallback: Option<Plan>,
    /// The memory to begin with.
    pub memory: Memory,
    /// Why `plan` is not all of that, if so.
    pub out_of_sync: Option<String>,
    /// True if the topic lacks the accepted state.
    pub republish: bool,
    /// True if the topic is empty and this instance knows nothing.
    pub ask: bool,
}

/// Where the state of an instance lies.
pub struct Sources<'s> {
    /// The settings file.
    pub path: &'s Path,
    /// Its text.
    pub file: &'s str,
    /// The folder of this instance.
    pub storage: Option<&'s Storage>,
    /// The contents of the control topic.
    pub topic: Option<&'s TopicContents>,
}

/// Restores the state and the settings that follow from it. Overrides that no longer fit the settings
/// are left out with a message: the program must start after a deploy.
///
/// # Errors
/// When the state file cannot be read, or the settings file does not work by itself.
pub fn restore(sources: &Sources<'_>, group: &str, history_max: usize) -> Result<Restored, ControlError> {
    let Sources { path, file, storage, topic } = *sources;
    let saved = storage.map(|storage| storage.load(group)).transpose()?.flatten();
    let Joined { mut memory, republish, ask, notices } = join(saved, topic, file, history_max);
    group.clone_into(&mut memory.group);
    for notice in notices {
        tracing::warn!(event = "state_replaced", notice, "The state of another control topic was replaced.");
    }

    let (plan, fallback, left_out) = plan_as_far_as_it_works(path, file, &memory)?;
    let unreadable = memory.unreadable.as_ref().map(|record| record.reason.clone());
    let reasons: Vec<String> = unreadable.into_iter().chain(left_out).collect();
    let out_of_sync = (!reasons.is_empty()).then(|| reasons.join("; "));
    Ok(Restored { plan, fallback, memory, out_of_sync, republish, ask })
}

/// The settings of an applied text, or else of the settings file, with overrides. `own_file` has the
/// local sections.
pub(super) fn plan_of(
    applied: Option<&String>,
    overrides: &Overrides,
    path: &Path,
    file: &str,
    own_file: &str,
    running: Option<&Plan>,
) -> Result<Plan, SettingsError> {
    match applied {
        None => Plan::from_text_while(path, file.to_owned(), overrides, running),
        Some(text) => Plan::from_shared(path, text.clone(), own_file.to_owned(), overrides, running),
    }
}

/// The part of a state that works, a fallback, and why the rest does not work.
fn plan_as_far_as_it_works(
    path: &Path,
    file: &str,
    memory: &Memory,
) -> Result<(Plan, Option<Plan>, Vec<String>), SettingsError> {
    let desired = memory.desired();
    let by_file = |overrides: &Overrides| plan_of(None, overrides, path, file, file, None);
    let (own, left_out_of_own) = with_fitting_overrides(by_file, &desired.overrides)?;
    if desired.config.is_none() {
        return Ok((own, None, left_out_of_own));
    }
    let by_applied = |overrides: &Overrides| plan_of(desired.config.as_ref(), overrides, path, file, file, None);
    match with_fitting_overrides(by_applied, &desired.overrides) {
        Ok((plan, left_out)) => Ok((plan, Some(own), left_out)),
        Err(error) => {
            let reason = format!("the applied settings do not work here: {error}");
            Ok((own, None, std::iter::once(reason).chain(left_out_of_own).collect()))
        }
    }
}

/// Settings with the overrides that fit them, and a message for each of the others.
fn with_fitting_overrides(
    plan: impl Fn(&Overrides) -> Result<Plan, SettingsError>,
    overrides: &Overrides,
) -> Result<(Plan, Vec<String>), SettingsError> {
    let alone = plan(&Overrides::default())?;
    let (fitting, others) = overrides.fitting(&alone.table_spec);
    let not_fitting = |what: &str| format!("{what} does not fit the settings");
    Ok(match plan(&fitting) {
        Ok(plan) => (plan, others.iter().map(|other| not_fitting(other)).collect()),
        Err(error) => (alone, vec![not_fitting(&format!("what operators changed ({error})"))]),
    })
}
