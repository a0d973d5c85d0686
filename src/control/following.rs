//! What the group has and what the settings file says, and how an instance catches up with both.

use super::{
    Change, Command, ControlError, State,
    worker::{Goal, Pending, Worker},
};
use crate::{engine::Reuse, settings::shareable};

impl Worker {
    /// A change of another instance. It is the group's, whether this one can serve by it or not.
    pub(super) fn follow(&mut self, record: Result<State, ControlError>, offset: i64) {
        self.offset = offset;
        match record {
            Ok(state) => self.accept(state),
            Err(error) => {
                let change = Change { action: "a change of another instance".to_owned(), ..self.own_change() };
                self.refused(&change, &error);
                self.unreadable = Some(error.to_string());
                self.behind.clone_from(&self.unreadable);
            }
        }
        self.rebase();
        self.tell_metrics();
    }

    /// Takes what the group has, and is to catch up with it.
    pub(super) fn accept(&mut self, state: State) {
        if state.current.config != self.state.current.config {
            (self.fresh, self.reverted) = (true, false);
        }
        self.unreadable = None;
        self.behind = Some("it is being made ready".to_owned());
        self.wanted = true;
        self.state = state;
    }

    /// Builds what is under way upon a state that has changed.
    pub(super) fn rebase(&mut self) {
        match self.pending.take() {
            // Who goes back means what served before, not what came since.
            Some(Pending { ticket, goal: Goal::Order { asked, state } })
                if asked.order.command == Command::Rollback =>
            {
                let state = State { revision: self.state.revision + 1, ..state };
                self.pending = Some(Pending { ticket, goal: Goal::Order { asked, state } });
            }
            Some(Pending { goal: Goal::Order { asked, .. }, .. }) => self.obey(asked),
            Some(Pending { goal: Goal::CatchUp { .. }, .. }) => self.wanted = true,
            None => {}
        }
    }

    pub(super) fn follows_file(&self) -> bool {
        self.state.current.config.is_none() || self.reverted
    }

    /// The file has another text. Where it is in force, it is to be followed; where it is not, it waits.
    pub(super) fn file_changed(&mut self, text: String) {
        let of_file = |pending: &mut Pending| matches!(pending.goal, Goal::CatchUp { file: Some(_), .. });
        if self.pending.take_if(of_file).is_some() {
            // It was being made ready for an older text.
            self.wanted |= self.behind.is_some();
        }
        self.refused_file = None;
        if text == self.file {
            self.candidate = None;
        } else if self.follows_file() {
            self.candidate = Some(text);
        } else {
            self.state.remember_file(&self.file);
            if let Some(pending) = &mut self.pending {
                pending.goal.state_mut().remember_file(&self.file);
            }
            self.reverted = shareable(&text) == self.state.current.config;
            self.file = text;
            self.save();
            if !self.reverted {
                tracing::warn!(
                    "The settings file changed, and other settings are in force: `ofa-stream use-file` follows it again."
                );
            }
            let uses_file = |pending: &mut Pending| matches!(&pending.goal, Goal::Order { state, .. } if state.current.config.is_none());
            if let Some(Pending { goal: Goal::Order { asked, .. }, .. }) = self.pending.take_if(uses_file) {
                self.obey(asked);
            }
        }
    }

    /// Has what the group has and what the file says made ready, where that does not serve and nothing else is under
    /// way.
    pub(super) fn catch_up(&mut self) {
        while self.pending.is_none() && (self.wanted || self.candidate.is_some()) {
            self.wanted = false;
            let file = self.candidate.clone();
            let state = match &file {
                Some(_) => self.state.after_file_changed(&self.file, self.plan.history),
                None => self.state.clone(),
            };
            let reuse = match file.is_some() || std::mem::take(&mut self.fresh) {
                true => Reuse::SameFiles,
                false => Reuse::Running,
            };
            let plan = self.plan_of(&state, file.as_ref().unwrap_or(&self.file));
            let goal = Goal::CatchUp { state, file };
            match plan {
                Err(error) => self.fail(goal, error),
                Ok(plan) => self.begin(goal, plan, reuse),
            }
        }
    }
}
