//! What a start finds of earlier changes.

use std::path::Path;

use super::{ControlError, Files, FleetLog, State};
use crate::{
    routing::Overrides,
    settings::{Plan, SettingsError},
};

/// What a start goes by.
pub struct Recalled {
    /// The settings with what operators changed.
    pub plan: Plan,
    /// What operators changed.
    pub state: State,
    /// Why the plan is not all of that, if so.
    pub behind: Option<String>,
    /// Why the state is not what the group has, if so.
    pub unreadable: Option<String>,
}

/// Finds what the control topic and the state file have, and the settings that come of it. The topic is the group's word;
/// the state file has what is known here alone, and everything where there is no topic. What does not fit to the settings
/// file any more is left out, and said so: the program must come up after a deploy.
///
/// # Errors
/// When the state file cannot be read, or the settings file cannot work by itself.
pub fn recall(
    path: &Path,
    file: &str,
    files: Option<&Files>,
    log: Option<&FleetLog>,
    history_max: usize,
) -> Result<Recalled, ControlError> {
    let (saved, file_before) = files.map(Files::load).transpose()?.flatten().map(|it| (it.state, it.file)).unzip();
    let published = log.and_then(|log| log.last.clone());
    let unreadable = log.and_then(|log| log.unreadable.clone());
    let mut state = match (published, saved) {
        // The same change, with the history of this instance's own file.
        (Some(published), Some(saved)) if published.change == saved.change => saved,
        (Some(published), _) => published,
        (None, saved) => saved.unwrap_or_default(),
    };
    if let Some(before) = file_before.filter(|before| before != file) {
        match state.current.config {
            None => state = state.after_file_changed(&before, history_max),
            Some(_) => state.remember_file(&before),
        }
    }
    let alone = Plan::from_text(path, file.to_owned(), &Overrides::default())?;
    let (plan, left_out) = plan(path, file, &state, alone);
    let reasons = unreadable.iter().cloned().chain(left_out).collect::<Vec<_>>();
    let behind = (!reasons.is_empty()).then(|| reasons.join("; "));
    Ok(Recalled { plan, state, behind, unreadable })
}

/// The settings by a text that was applied, or else by the settings file, with what operators changed. `own_file` has what
/// does not travel.
pub(super) fn plan_by(
    applied: Option<&String>,
    overrides: &Overrides,
    path: &Path,
    file: &str,
    own_file: &str,
) -> Result<Plan, SettingsError> {
    match applied {
        None => Plan::from_text(path, file.to_owned(), overrides),
        Some(text) => Plan::from_shared(path, text.clone(), own_file.to_owned(), overrides),
    }
}

/// As much of a state as works, and why the rest does not.
fn plan(path: &Path, file: &str, state: &State, alone: Plan) -> (Plan, Vec<String>) {
    let with = |overrides: &Overrides| plan_by(state.current.config.as_ref(), overrides, path, file, file);
    let not_fitting = |what: &str| format!("{what} does not fit to the settings file");
    let (spec, mut left_out) = match with(&Overrides::default()) {
        Ok(plan) => (plan.table_spec, Vec::new()),
        Err(error) => return (alone, vec![format!("what is applied does not work here: {error}")]),
    };
    let (fitting, others) = state.current.overrides.fitting(&spec);
    left_out.extend(others.iter().map(|other| not_fitting(other)));
    match with(&fitting) {
        Ok(plan) => (plan, left_out),
        Err(error) => (alone, vec![not_fitting(&format!("what operators changed ({error})"))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::{Snapshot, files::Saved},
        routing::Position,
    };

    fn text(default: &str) -> String {
        format!("[model_versions]\ndefault = '{default}'\n[model_versions.versions.a]\n[model_versions.versions.b]")
    }

    fn recalled(file: &str, saved: Option<State>) -> Recalled {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        if let Some(state) = saved {
            files.save(&Saved { state, file: text("a") }).unwrap();
        }
        recall("pipeline.toml".as_ref(), file, Some(&files), None, 10).unwrap()
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
    fn a_change_that_does_not_fit_any_more_is_left_out_and_said_so() {
        let start = recalled(&text("a"), Some(with_default("gone")));
        assert_eq!(start.plan.default_version(), "a");
        assert!(start.behind.unwrap().contains("`gone`"));
        assert_eq!(start.state.revision, 3, "and not forgotten");
    }
}
