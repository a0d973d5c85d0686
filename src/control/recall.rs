//! What a start finds of earlier changes.

use std::path::Path;

use super::{
    ControlError, Files, FleetLog, Snapshot, State,
    files::Saved,
    following::{passes_over, stays_followed},
};
use crate::{
    routing::Overrides,
    settings::{Plan, SettingsError, shareable},
};

/// What a start goes by.
pub struct Recalled {
    /// The settings with what operators changed.
    pub plan: Plan,
    /// The settings of this instance's own file with what operators changed, where `plan` is by others: to start by, where `plan`
    /// does not work here.
    pub own: Option<Plan>,
    /// What operators changed.
    pub state: State,
    /// What the group has agreed upon, without what is known here alone.
    pub agreed: State,
    /// Why the plan is not all of that, if so.
    pub behind: Option<String>,
    /// Why the state is not what the group has, if so.
    pub unreadable: Option<String>,
    /// Whether the control topic lacks the state.
    pub forgotten: bool,
    /// See [`super::Start`].
    pub reverted: bool,
    /// See [`super::Start`].
    pub overtaken: Option<String>,
}

/// What a start finds it in.
pub struct Sources<'s> {
    /// The settings file.
    pub path: &'s Path,
    /// Its text.
    pub file: &'s str,
    /// The folder of this instance.
    pub files: Option<&'s Files>,
    /// The control topic.
    pub log: Option<&'s FleetLog>,
}

/// Finds what the control topic and the state file have, and the settings that come of it. Of both, what has the higher number is the
/// group's word; the state file alone knows the history of this instance's own file. What does not fit to the settings
/// file any more is left out, and said so: the program must come up after a deploy.
///
/// # Errors
/// When the state file cannot be read, or the settings file cannot work by itself.
pub fn recall(sources: &Sources<'_>, group: &str, history_max: usize) -> Result<Recalled, ControlError> {
    let Sources { path, file, files, log } = *sources;
    let saved = files.map(|files| files.load(group)).transpose()?.flatten();
    let Saved { state: saved_state, agreed, unread, file: file_before, topic, mut reverted, mut overtaken, .. } =
        saved.clone().unwrap_or_default();
    let unreadable = log.and_then(|log| log.unreadable.clone());
    let mut published = log.and_then(|log| log.last.clone());
    let as_published = published.clone();
    if let Some(published) = &mut published {
        match passes_over(published, saved_state.change.as_ref(), overtaken.as_ref()) {
            true => published.current.config = None,
            false if published.change != saved_state.change => overtaken = None,
            false => {}
        }
    }
    // Numbers of another topic, or of none, say nothing here.
    let counts_here = log.is_none_or(|log| log.topic == topic);
    // One that could not be read may be readable by now, or to this version of the program.
    let least = |published: &State| published.revision + u64::from(unread);
    let is_newer = |published: &State| saved.is_some() && counts_here && saved_state.revision >= least(published);
    let differs = |published: &State| is_newer(published) && saved_state.change != published.change;
    let lacks = published.as_ref().map_or(saved_state.change.is_some(), differs);
    let forgotten = log.is_some_and(|log| unreadable.is_none() && (lacks || log.beside));
    let mut state = match published {
        // The same change, or a later one, with the history of this instance's own file.
        Some(published) if !is_newer(&published) => {
            reverted &= stays_followed(&published, &saved_state);
            published
        }
        _ => saved_state,
    };
    let taken = as_published.filter(|published| published.change == state.change);
    let mut agreed = taken.or(agreed).unwrap_or_else(|| state.clone());
    if let Some((Some(revision), _)) = &unreadable {
        state.revision = state.revision.max(*revision);
    }
    agreed.revision = state.revision;
    let unreadable = unreadable.map(|(_, reason)| reason);
    if saved.is_some() && file_before != file {
        match &state.current.config {
            Some(applied) if reverted => {
                overtaken = Some(applied.clone());
                state = state.after_file_changed(&file_before, history_max);
                reverted = false;
            }
            Some(applied) => {
                reverted = shareable(file).as_ref() == Some(applied);
                state.remember_file(&file_before);
            }
            None => state = state.after_file_changed(&file_before, history_max),
        }
    }
    let (plan, own, left_out) = plan(path, file, &state)?;
    let reasons = unreadable.iter().cloned().chain(left_out).collect::<Vec<_>>();
    let behind = (!reasons.is_empty()).then(|| reasons.join("; "));
    Ok(Recalled { plan, own, state, agreed, behind, unreadable, forgotten, reverted, overtaken })
}

/// The settings by a text that was applied, or else by the settings file, with what operators changed. `own_file` has what
/// does not travel.
pub(super) fn plan_by(
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

/// As much of a state as works; what else to start by; and why the rest does not work.
fn plan(path: &Path, file: &str, state: &State) -> Result<(Plan, Option<Plan>, Vec<String>), SettingsError> {
    let Snapshot { config, overrides } = &state.current;
    let by_file = |overrides: &Overrides| plan_by(None, overrides, path, file, file, None);
    let (own, left_out_of_own) = as_far_as_they_fit(by_file, overrides)?;
    if config.is_none() {
        return Ok((own, None, left_out_of_own));
    }
    let by_applied = |overrides: &Overrides| plan_by(config.as_ref(), overrides, path, file, file, None);
    match as_far_as_they_fit(by_applied, overrides) {
        Ok((plan, left_out)) => Ok((plan, Some(own), left_out)),
        Err(error) => {
            let reason = format!("what is applied does not work here: {error}");
            Ok((own, None, std::iter::once(reason).chain(left_out_of_own).collect()))
        }
    }
}

/// Settings with those of the operators' changes that fit to them, and in words the others.
fn as_far_as_they_fit(
    plan: impl Fn(&Overrides) -> Result<Plan, SettingsError>,
    overrides: &Overrides,
) -> Result<(Plan, Vec<String>), SettingsError> {
    let alone = plan(&Overrides::default())?;
    let (fitting, others) = overrides.fitting(&alone.table_spec);
    let not_fitting = |what: &str| format!("{what} does not fit to the settings");
    Ok(match plan(&fitting) {
        Ok(plan) => (plan, others.iter().map(|other| not_fitting(other)).collect()),
        Err(error) => (alone, vec![not_fitting(&format!("what operators changed ({error})"))]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Position;

    fn text(default: &str) -> String {
        format!("[model_versions]\ndefault = '{default}'\n[model_versions.versions.a]\n[model_versions.versions.b]")
    }

    fn recalled(file: &str, saved: Option<State>) -> Recalled {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        if let Some(state) = saved {
            files.save(&Saved { state, file: text("a"), ..Saved::default() }).unwrap();
        }
        let sources = Sources { path: "pipeline.toml".as_ref(), file, files: Some(&files), log: None };
        recall(&sources, "group", 10).unwrap()
    }

    fn with_default(default: &str) -> State {
        let overrides = Overrides { default: Some(default.to_owned()), ..Overrides::default() };
        State { revision: 3, current: Snapshot { config: None, overrides }, ..State::default() }
    }

    #[test]
    fn what_operators_changed_is_there_again_after_a_restart() {
        assert_eq!(recalled(&text("a"), None).plan.default_version(), "a");
        let again = recalled(&text("a"), Some(with_default("b")));
        assert_eq!((again.plan.default_version(), again.state.revision, again.behind), ("b", 3, None));
    }

    #[test]
    fn a_file_that_changed_while_the_program_was_down_can_be_rolled_back() {
        let changed = recalled(&text("b"), Some(State { revision: 3, ..State::default() }));
        assert_eq!(changed.plan.default_version(), "b");
        assert_eq!(changed.state.history.last().unwrap().config, crate::settings::shareable(&text("a")));
    }

    #[test]
    fn only_what_does_not_fit_is_left_out() {
        let file = format!(
            "{}\n[[experiments]]\nname = 'e'\ntraffic_ratio = 1.0\nvariants = [{{name = 'v', model_version = 'a', weight = 1}}]",
            text("a")
        );
        let mut state = with_default("gone");
        let experiments = [("e".to_owned(), Position::Paused), ("f".to_owned(), Position::Promoted("x".to_owned()))];
        state.current.overrides.experiments = experiments.into();
        let start = recalled(&file, Some(state));
        assert!(start.plan.table_spec.experiments[0].paused, "what was paused in an emergency stays so");
        assert!(start.behind.unwrap().contains("`gone`"));
    }

    #[test]
    fn applied_settings_that_do_not_work_here_leave_the_file_and_what_was_paused_in_an_emergency() {
        let experiment = "[[experiments]]\nname = 'e'\ntraffic_ratio = 1.0\n\
            variants = [{name = 'v', model_version = 'a', weight = 1}]";
        let file = format!("{}\n{experiment}", text("a"));
        let mut state = State { revision: 3, ..State::default() };
        state.current.overrides.experiments = [("e".to_owned(), Position::Paused)].into();
        state.current.config = Some("[model_versions]\ndefault = 'only elsewhere'\n".to_owned());
        let start = recalled(&file, Some(state.clone()));
        assert!(
            start.plan.table_spec.experiments[0].paused
                && start.behind.unwrap().starts_with("what is applied does not work here")
        );
        state.current.config = Some(format!("{}\n{experiment}", text("b")));
        let start = recalled(&file, Some(state));
        let own = start.own.unwrap();
        assert_eq!((start.plan.default_version(), own.default_version()), ("b", "a"));
        assert!(start.behind.is_none() && own.table_spec.experiments[0].paused, "should a model be missing");
    }

    #[test]
    fn applied_settings_stay_in_force_over_a_file_that_changes_while_the_program_is_down_unless_it_had_become_them() {
        let current = Snapshot { config: shareable(&text("a")), ..Snapshot::default() };
        let recalled = |reverted| {
            let folder = tempfile::tempdir().unwrap();
            let files = Files::open(folder.path()).unwrap();
            let state = State { current: current.clone(), ..State::default() };
            files.save(&Saved { state, file: text("a"), reverted, ..Saved::default() }).unwrap();
            let sources = Sources { path: "pipeline.toml".as_ref(), file: &text("b"), files: Some(&files), log: None };
            let recalled = recall(&sources, "group", 10).unwrap();
            (recalled.plan.default_version().to_owned(), recalled.state.current.config, recalled.overtaken)
        };
        assert_eq!(recalled(true), ("b".to_owned(), None, current.config.clone()));
        assert_eq!(
            recalled(false),
            ("a".to_owned(), current.config.clone(), None),
            "such as after a rollback elsewhere"
        );
    }

    #[test]
    fn a_change_that_does_not_fit_any_more_is_left_out_and_said_so() {
        let start = recalled(&text("a"), Some(with_default("gone")));
        assert_eq!(start.plan.default_version(), "a");
        assert!(start.behind.unwrap().contains("`gone`"));
        assert_eq!(start.state.revision, 3, "and not forgotten");
    }
}
