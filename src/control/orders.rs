//! What an operator asks this instance for: made ready, published, and made once more where another instance's change came
//! first.

use std::{sync::Arc, time::Instant};

use super::{
    Applied, Change, Command, ControlError, Order, State,
    controller::{INBOX, Message},
    worker::{Asked, COMES_BACK_MAX, Goal, Pending, Published, Worker, milliseconds, without_overrides},
};
use crate::{
    engine::Reuse,
    pipeline::{Serving, SwitchError},
    routing::Overrides,
    settings::Plan,
};

/// Changes that were given up and are remembered. More than that cannot be on their way: each was waited for.
const GIVEN_UP_MAX: usize = 64;

impl Worker {
    pub(super) fn obey(&mut self, asked: Asked) {
        let goes_back = |other: &Asked| other.order.command == Command::Rollback;
        if let Some(published) = &self.published {
            // A second rollback while the first one takes long must not go back twice.
            let twice = goes_back(&asked) && (goes_back(&published.asked) || self.queue.iter().any(goes_back));
            if twice || self.queue.len() >= INBOX {
                asked.reply.send(Err(ControlError::Busy)).ok();
            } else {
                // What it is to be made upon is known in a moment.
                self.queue.push_back(asked);
            }
            return;
        }

        let dry_run = asked.order.dry_run;
        let is_rollback = asked.order.command == Command::Rollback && !dry_run;

        let (waits, goes_back) = match &self.pending {
            Some(Pending { goal: Goal::Order { asked, .. }, .. }) => {
                (!asked.order.dry_run, asked.order.command == Command::Rollback)
            }
            _ => (false, false),
        };

        // A second rollback while the first one takes long must not cancel it.
        if (dry_run && self.pending.is_some()) || (is_rollback && goes_back) {
            asked.reply.send(Err(ControlError::Busy)).ok();
            return;
        }

        if is_rollback && waits {
            return self.call_off(asked);
        }

        let after = if is_rollback && self.candidate.is_some() {
            // The changed file is about to serve here, and may already serve elsewhere. The rollback goes back to
            // the file as it was before.
            self.after(&self.state.after_file_changed(&self.file, self.plan.history), &asked.order)
        } else {
            self.after(&self.state, &asked.order)
        };

        match after {
            Ok((state, plan)) => {
                // Who changes settings means the files of versions too; who goes back or pauses means what serves.
                let of_settings = asked.order.command.is_about_settings();
                let reuse = if of_settings { Reuse::SameFiles } else { Reuse::Running };
                self.begin(Goal::Order { asked, state }, plan, reuse);
            }
            Err(error) => self.refuse(asked, error),
        }
    }

    /// A command that is being made ready, and that nobody else knows of, is not wanted after all: nothing else is undone.
    fn call_off(&mut self, asked: Asked) {
        let Some(Pending { goal: Goal::Order { asked: other, .. }, .. }) = self.pending.take() else { return };
        let what = other.order.command.in_words();
        self.refuse(other, ControlError::Superseded);
        self.supersede_queue();
        self.wanted |= self.behind.is_some();
        let digest = self.switcher.serving().plan.config_digest.clone();
        let applied = Applied {
            revision: self.state.revision,
            config_digest: digest.clone(),
            previous_digest: digest,
            changed: false,
            took_ms: milliseconds(asked.at),
            dry_run: false,
            warnings: vec![format!("`{what}` was not in force yet and is given up; nothing else is undone")],
        };
        asked.reply.send(Ok(applied)).ok();
    }

    /// The state and the settings that an order gives, checked.
    fn after(&self, state: &State, order: &Order) -> Result<(State, Plan), ControlError> {
        let keeps_unknown = !order.command.is_about_settings();
        if let Some(reason) = self.unreadable.as_ref().filter(|_| keeps_unknown) {
            return Err(ControlError::UnknownState(reason.clone()));
        }
        let serving = self.switcher.serving();
        if let Command::Apply { text } = &order.command {
            // As it was written, so that errors have its lines, and what would not be followed is refused.
            let (path, none) = ("the applied settings".as_ref(), Overrides::default());
            let written = Plan::from_text_while(path, text.clone(), &none, Some(&serving.plan))?;
            let fixed = serving.plan.fixed_differences(&(self.adapt)(written));
            if !fixed.is_empty() {
                return Err(SwitchError::Fixed(fixed).into());
            }
        }
        let change = self.change(order);
        // What is named must be there in the settings that it is to be upon, which may not serve here yet.
        let upon = if keeps_unknown {
            self.plan_of(&without_overrides(state), &self.file).map(|plan| plan.table_spec).ok()
        } else {
            None
        };
        let table = upon.as_ref().unwrap_or(&serving.plan.table_spec);
        let mut state = state.after(&order.command, change, table, self.plan.history)?;
        if keeps_unknown {
            // What a deploy made not fit any more must not stand in the way of a command in an emergency.
            let alone = self.plan_of(&without_overrides(&state), &self.file)?;
            let (fitting, others) = state.current.overrides.fitting(&alone.table_spec);
            for other in others {
                tracing::warn!(
                    other,
                    "What an operator changed does not fit to the settings any more, and is left out."
                );
            }
            state.current.overrides = fitting;
        }
        let plan = self.plan_of(&state, &self.file)?;
        Ok((state, plan))
    }

    /// Tells the group of a change that is ready; it is made when it has come back, or at once where there is nobody to tell.
    pub(super) fn publish(&mut self, asked: Asked, state: State, serving: Arc<Serving>) {
        if self.writer.is_none() {
            return self.make(asked, state, &serving);
        }
        // Who changes one thing changes it upon what the group has, not upon what is known here alone.
        let of_settings = asked.order.command.is_about_settings() || asked.order.command == Command::Rollback;
        let upon_agreed = || {
            let change = state.change.clone().unwrap_or_default();
            self.agreed.after(&asked.order.command, change, &serving.plan.table_spec, self.plan.history).ok()
        };
        let written = self.overtaken.as_ref().filter(|_| !of_settings).and_then(|_| upon_agreed());
        match self.write(written.as_ref().unwrap_or(&state)) {
            Err(reason) => self.refuse(asked, ControlError::NotPublished(reason)),
            Ok(()) => {
                let (until, file) = (Instant::now() + COMES_BACK_MAX, self.file.clone());
                self.published = Some(Published { asked, state, serving, file, until });
            }
        }
    }

    pub(super) fn write(&self, state: &State) -> Result<(), String> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let id = state.change.as_ref().map(|change| change.id.clone()).unwrap_or_default();
        let myself = self.myself.clone();
        writer.publish(&state.to_json(), move |reason| {
            // The controller may have ended, and does not wait for it: what does not come back is given up.
            myself.try_send(Message::Lost(id, reason)).ok();
        })
    }

    /// The change that was published and has not come back.
    pub(super) fn awaited(&self) -> Option<&str> {
        let change = self.published.as_ref()?.state.change.as_ref()?;
        Some(&change.id)
    }

    /// The record of a change did not arrive, as far as the client knows.
    pub(super) fn lost(&mut self, id: &str, reason: String) {
        if self.awaited() == Some(id)
            && let Some(published) = self.published.take()
        {
            self.give_up(published, reason);
        } else if self.agreed.change.as_ref().map_or("", |change| change.id.as_str()) == id {
            tracing::warn!(reason, "What counts did not arrive in the control topic.");
            self.become_uneasy();
        }
    }

    /// A change that was sent and is not confirmed: its caller gets an error, so it must not take effect later.
    pub(super) fn give_up(&mut self, published: Published, reason: String) {
        if let Some(change) = &published.state.change {
            if self.given_up.len() >= GIVEN_UP_MAX {
                self.given_up.pop_front();
            }
            self.given_up.push_back(change.id.clone());
        }
        self.refuse(published.asked, ControlError::NotPublished(reason));
    }

    /// Commands that came before the one that goes first.
    pub(super) fn supersede_queue(&mut self) {
        for asked in std::mem::take(&mut self.queue) {
            self.refuse(asked, ControlError::Superseded);
        }
    }

    /// Another instance's change came first: this one is made once more, upon it, so that both are there. Not so a rollback:
    /// whoever goes back means what served before, not what came at the same moment.
    pub(super) fn make_again(&mut self) {
        let Some(Published { asked, state, serving, .. }) = self.published.take() else { return };
        // Until another record counts, the last one of the topic does not.
        self.become_uneasy();
        let other = self.state.change.as_ref().map(|change| change.action.clone()).unwrap_or_default();
        if asked.order.command == Command::Rollback {
            if let Some(reason) = self.unreadable.clone() {
                return self.refuse(asked, ControlError::UnknownState(reason));
            }
            tracing::warn!(
                change = other,
                "Another instance's change came at the same time as a rollback, and is undone."
            );
            let change = Some(self.change(&asked.order));
            let state = State { revision: self.state.revision + 1, change, ..state };
            return self.publish(asked, state, serving);
        }
        tracing::warn!(change = other, "Another instance's change came at the same time; both are made.");
        self.obey(asked);
    }

    /// Nobody waits for an answer any more.
    pub(super) fn refuse_all(&mut self) {
        let pending = self.pending.take().and_then(|pending| match pending.goal {
            Goal::Order { asked, .. } => Some(asked),
            Goal::CatchUp { .. } => None,
        });
        let published = self.published.take().map(|published| published.asked);
        for asked in pending.into_iter().chain(published).chain(self.queue.drain(..)) {
            asked.reply.send(Err(ControlError::Stopping)).ok();
        }
    }

    pub(super) fn refuse(&mut self, asked: Asked, error: ControlError) {
        if !asked.order.dry_run {
            self.refused(&self.change(&asked.order), &error);
        }
        asked.reply.send(Err(error)).ok();
    }

    pub(super) fn change(&self, order: &Order) -> Change {
        let (action, who) = (order.command.in_words(), order.who.clone());
        Change { action, by: who.by, why: who.why, ..self.own_change() }
    }
}
