//! What the group has and what the settings file says, and how an instance catches up with both.

use std::time::{Duration, Instant};

use super::{
    Change, Command, ControlError, State,
    agreement::{Weight, weigh},
    worker::{Goal, Pending, Published, RefusedFile, WAITS, Worker},
};
use crate::{engine::Reuse, routing::Overrides, settings::shareable};

/// Whether a record's settings are those that the file here has become, and then something else: whoever made another change upon them
/// may not have seen that yet. Whoever applied them, or went back to them, meant them.
pub(super) fn passes_over(record: &State, known: Option<&Change>, overtaken: Option<&String>) -> bool {
    let meant = matches!(news(record, known), Some("apply" | "rollback"));
    overtaken.is_some() && record.current.config.as_ref() == overtaken && !meant
}

/// What was done, where it is another change than the known one.
fn news<'r>(record: &'r State, known: Option<&Change>) -> Option<&'r str> {
    record.change.as_ref().filter(|change| Some(*change) != known).map(|change| change.action.as_str())
}

/// Whether a file that has become what was applied is still followed after a change. Settings that are applied are meant as they are;
/// and a rollback that changes nothing here undoes what a file became elsewhere, and may become here yet.
pub(super) fn stays_followed(next: &State, before: &State) -> bool {
    match news(next, before.change.as_ref()) {
        Some("apply") => false,
        Some("rollback") if next.current == before.current => false,
        _ => next.current.config == before.current.config,
    }
}

/// Whoever wrote a record that does not count has made it good by then.
const SAY_AGAIN_MIN: Duration = Duration::from_millis(500);
const SAY_AGAIN_SPREAD_MS: u64 = 2_000;

impl Worker {
    /// A record of the control topic: a change of another instance, or one of this that comes back.
    pub(super) fn read(&mut self, record: Result<State, ControlError>, revision: Option<u64>) {
        let record = match record {
            Ok(record) => record,
            Err(error) => return self.cannot_read(&error, revision),
        };
        match weigh(&self.state, self.awaited(), &record) {
            Weight::Counts { own: false } if self.was_given_up(&record) => self.withdraw(&record),
            Weight::Counts { own } => {
                self.say_again = None;
                self.agreed.clone_from(&record);
                match self.published.take_if(|_| own) {
                    Some(Published { asked, state, serving, file, .. }) => {
                        self.make(asked, state, &serving);
                        // The file became another while the record was under way.
                        self.wanted |= file != self.file;
                    }
                    None => {
                        let goes_back = news(&record, self.state.change.as_ref()) == Some("rollback");
                        self.accept(record);
                        self.rebase(goes_back);
                        self.tell_metrics();
                    }
                }
            }
            Weight::Beaten => self.make_again(),
            Weight::Known => {}
            Weight::Beside => self.become_uneasy(),
        }
    }

    /// Not where this instance cannot read the last change of the group: a withdrawal would undo that.
    fn was_given_up(&self, record: &State) -> bool {
        self.unreadable.is_none() && record.change.as_ref().is_some_and(|change| self.given_up.contains(&change.id))
    }

    /// A change of this instance that arrives after its caller was refused: writes what the group had before with the next number, so
    /// that the others go back to it.
    fn withdraw(&mut self, record: &State) {
        let action = record.change.as_ref().map(|change| change.action.as_str());
        tracing::warn!(
            action,
            revision = record.revision,
            "A change arrived after its caller was refused; it is withdrawn."
        );
        self.state.revision = record.revision;
        self.agreed.revision = record.revision;
        let before = State { revision: record.revision + 1, ..self.agreed.clone() };
        if let Err(error) = self.write(&before) {
            tracing::warn!(error, "The withdrawal could not be written yet; it is tried again.");
            self.become_uneasy();
        }
        self.save();
        self.tell_metrics();
    }

    fn cannot_read(&mut self, error: &ControlError, revision: Option<u64>) {
        if revision.is_some_and(|revision| revision <= self.state.revision) {
            // Whatever it says, another came first.
            return self.become_uneasy();
        }
        let change = Change { action: "a change of another instance".to_owned(), ..self.own_change() };
        self.refused(&change, error);
        // What is made upon it must come behind it.
        self.state.revision = revision.unwrap_or(self.state.revision);
        self.agreed.revision = self.state.revision;
        self.unreadable = Some(error.to_string());
        self.behind.clone_from(&self.unreadable);
        self.save();
        self.rebase(false);
        self.tell_metrics();
    }

    /// A record that does not count: whoever wrote it makes it good at once, unless it is gone or knows no better. Then one of the
    /// others does, after a while by chance, so that not all do.
    pub(super) fn become_uneasy(&mut self) {
        let wait = SAY_AGAIN_MIN + Duration::from_millis(fastrand::u64(..SAY_AGAIN_SPREAD_MS));
        self.say_again.get_or_insert_with(|| Instant::now() + wait);
    }

    /// What is to be done at a certain time.
    pub(super) fn when_due(&mut self) {
        let now = Instant::now();
        if let Some(published) = self.published.take_if(|published| published.until <= now) {
            self.give_up(published, "it was sent, and did not come back in time".to_owned());
            self.release();
        }
        if self.say_again.take_if(|due| *due <= now).is_some() && self.unreadable.is_none() {
            // Not what is known here alone, such as that the file has become what was applied.
            let state = State { revision: self.agreed.revision + 1, ..self.agreed.clone() };
            match self.write(&state) {
                Ok(()) => {
                    tracing::warn!(
                        "The control topic has a change that does not count; what counts was written again."
                    );
                }
                Err(error) => {
                    tracing::warn!(error, "What counts could not be written to the control topic again.");
                    self.become_uneasy();
                }
            }
        }
    }

    /// Takes what the group has, and is to catch up with it.
    fn accept(&mut self, mut state: State) {
        if passes_over(&state, self.state.change.as_ref(), self.overtaken.as_ref()) {
            state.current.config = None;
        } else {
            self.overtaken = None;
        }
        self.fresh |= state.current.config != self.state.current.config;
        self.reverted &= stays_followed(&state, &self.state);
        let overrides = std::mem::take(&mut self.state.current.overrides);
        self.unreadable = None;
        self.behind = Some("it is being made ready".to_owned());
        self.wanted = true;
        self.state = state;
        self.leave_file_aside();
        self.try_refused_file_again(&overrides);
    }

    /// A file that was refused because of what operators had changed may work after another change.
    pub(super) fn try_refused_file_again(&mut self, overrides_before: &Overrides) {
        let may_work = self.state.current.overrides != *overrides_before && self.follows_file();
        if let Some(file) = self.refused_file.take_if(|file| may_work && file.may_fit) {
            self.candidate.get_or_insert(file.text);
        }
    }

    /// A text of the file that was to be followed waits where the file is not followed any more; whether there was one.
    pub(super) fn leave_file_aside(&mut self) -> bool {
        if self.follows_file() {
            return false;
        }
        let refused = self.refused_file.take().map(|file| file.text);
        let Some(text) = self.candidate.take().or(refused).filter(|text| *text != self.file) else { return false };
        self.state.remember_file(&self.file);
        self.file = text;
        true
    }

    /// Builds what is under way upon a state that has changed. Where that went back, nobody waits for what is still being loaded.
    pub(super) fn rebase(&mut self, goes_back: bool) {
        match self.pending.take() {
            Some(Pending { goal: Goal::Order { asked, .. }, .. }) if goes_back => {
                self.refuse(asked, ControlError::Superseded);
                self.supersede_queue();
            }
            // Who goes back means what served before, not what came since; but not what nobody here can read.
            Some(Pending { ticket, goal: Goal::Order { asked, state } })
                if asked.order.command == Command::Rollback && self.unreadable.is_none() =>
            {
                let state = State { revision: self.state.revision + 1, ..state };
                self.pending = Some(Pending { ticket, goal: Goal::Order { asked, state } });
            }
            Some(Pending { goal: Goal::Order { asked, .. }, .. }) => self.obey(asked),
            Some(Pending { goal: Goal::CatchUp { .. }, .. }) => self.wanted = true,
            None => {}
        }
    }

    /// Whether the settings file is in force: nothing else was applied, or the file has become just that since.
    pub(super) fn follows_file(&self) -> bool {
        self.state.current.config.is_none() || self.reverted
    }

    /// The file cannot be read: what served goes on.
    pub(super) fn file_is_away(&mut self, reason: String) {
        let error = ControlError::Unreadable { place: self.path.display().to_string(), reason };
        self.refused(&Change { action: "settings file".to_owned(), ..self.own_change() }, &error);
        self.refused_file = Some(RefusedFile { text: self.file.clone(), reason: error.to_string(), may_fit: false });
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
            if let Some(published) = &mut self.published {
                published.state.remember_file(&self.file);
            }
            self.reverted = shareable(&text) == self.state.current.config;
            self.file = text;
            self.save();
            if !self.follows_file() {
                tracing::warn!("{WAITS}");
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
        while self.published.is_none() && self.pending.is_none() && (self.wanted || self.candidate.is_some()) {
            self.wanted = false;
            let file = self.candidate.clone();
            let state = match &file {
                Some(_) => self.state.after_file_changed(&self.file, self.plan.history),
                None => self.state.clone(),
            };
            let fresh = std::mem::take(&mut self.fresh);
            let reuse = match file.is_some() || fresh {
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
