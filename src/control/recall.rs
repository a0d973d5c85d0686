//! What a start finds of earlier changes.

use std::path::Path;

use super::{ControlError, Files, FleetLog, State};
use crate::{
    pipeline::SwitchError,
    routing::Overrides,
    settings::{Plan, SettingsError},
};

/// What a start goes by.
pub struct Recalled {
    /// The settings with what operators changed.
    pub plan: Plan,
    /// What operators changed.
    pub state: State,
    /// Why the plan is without it, if so.
    pub behind: Option<String>,
}

/// Finds the latest of what the state file and the control topic have, and the settings that come of it. Changes that do
/// not fit to the settings file any more are left out, and said so: the program must come up after a deploy.
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
    let saved = files.map(Files::load).transpose()?.flatten();
    let published = log.and_then(|log| log.last.as_ref()).map(|(state, _)| state.clone());
    let (mut state, file_before) = match (published, saved) {
        (Some(published), Some(saved)) if published.revision > saved.state.revision => (published, Some(saved.file)),
        (_, Some(saved)) => (saved.state, Some(saved.file)),
        (published, None) => (published.unwrap_or_default(), None),
    };
    if let Some(before) = file_before.filter(|before| before != file)
        && let Some(changed) = state.after_file_changed(&before, history_max)
    {
        state = changed;
    }
    let text = state.current.config.as_deref().unwrap_or(file);
    let plan: Result<Plan, SettingsError> = Plan::from_text(path, text.to_owned(), &state.current.overrides);
    let alone = Plan::from_text(path, file.to_owned(), &Overrides::default());
    let reason = match (plan, &alone) {
        (Ok(plan), Ok(alone)) if alone.fixed_differences(&plan).is_empty() => {
            return Ok(Recalled { plan, state, behind: None });
        }
        // What is applied works, and the file does not: it will once it is followed again.
        (Ok(plan), Err(_)) if state.current.config.is_some() => return Ok(Recalled { plan, state, behind: None }),
        (Ok(plan), Ok(alone)) => SwitchError::Fixed(alone.fixed_differences(&plan)).to_string(),
        (Ok(_), Err(error)) => error.to_string(),
        (Err(error), _) => error.to_string(),
    };
    let reason = format!("what operators changed does not fit to the settings file: {reason}");
    Ok(Recalled { plan: alone?, state, behind: Some(reason) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Snapshot, files::Saved};

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
        assert_eq!(changed.state.history.last().unwrap().config, Some(text("a")));
    }

    #[test]
    fn a_change_that_does_not_fit_any_more_is_left_out_and_said_so() {
        let start = recalled(&text("a"), Some(with_default("gone")));
        assert_eq!(start.plan.default_version(), "a");
        assert!(start.behind.unwrap().contains("`gone`"));
        assert_eq!(start.state.revision, 3, "and not forgotten");
    }
}
