//! What an operator asks this instance for: made ready, published, and made once more where another instance's change came
//! in between.

use super::{
    Applied, Change, Command, ControlError, Order, State,
    worker::{Asked, Goal, Pending, RefusedFile, Worker, milliseconds, without_overrides},
};
use crate::{engine::Reuse, pipeline::SwitchError, routing::Overrides, settings::Plan};

impl Worker {
    pub(super) fn obey(&mut self, asked: Asked) {
        let dry_run = asked.order.dry_run;
        let is_rollback = asked.order.command == Command::Rollback && !dry_run;
        let (waits, goes_back) = match &self.pending {
            Some(Pending { goal: Goal::Order { asked, .. }, .. }) => {
                (!asked.order.dry_run, asked.order.command == Command::Rollback)
            }
            Some(Pending { goal: Goal::CatchUp { file, .. }, .. }) => (file.is_some(), false),
            None => (false, false),
        };
        // Whoever asks for the same a second time, because it takes long, does not mean to call it off.
        if (dry_run && self.pending.is_some()) || (is_rollback && goes_back) {
            asked.reply.send(Err(ControlError::Busy)).ok();
            return;
        }
        if is_rollback && (waits || self.candidate.is_some()) {
            return self.call_off(asked);
        }
        match self.after(&self.state, &asked.order) {
            Ok((state, plan)) => {
                // Who changes settings means the files of versions too; who goes back or pauses means what serves.
                let of_settings = asked.order.command.is_about_settings();
                let reuse = if of_settings { Reuse::SameFiles } else { Reuse::Running };
                self.begin(Goal::Order { asked, state }, plan, reuse);
            }
            Err(error) => self.refuse(asked, error),
        }
    }

    /// What is being made ready is not wanted after all: nothing else is undone.
    fn call_off(&mut self, asked: Asked) {
        let what = match self.pending.take().map(|pending| pending.goal) {
            Some(Goal::Order { asked, .. }) => {
                let action = asked.order.command.in_words();
                self.refuse(asked, ControlError::Superseded);
                action
            }
            _ => {
                self.refused(
                    &Change { action: "settings file".to_owned(), ..self.change(&asked.order) },
                    &ControlError::Superseded,
                );
                "settings file".to_owned()
            }
        };
        self.wanted |= self.behind.is_some();
        if let Some(text) = self.candidate.take() {
            let reason = "a rollback called it off".to_owned();
            self.refused_file = Some(RefusedFile { text, reason, may_fit: false });
        }
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
            let written = Plan::from_text("the applied settings".as_ref(), text.clone(), &Overrides::default())?;
            let fixed = serving.plan.fixed_differences(&(self.adapt)(written));
            if !fixed.is_empty() {
                return Err(SwitchError::Fixed(fixed).into());
            }
        }
        let change = self.change(order);
        let mut state = state.after(&order.command, change, &serving.plan.table_spec, self.plan.history)?;
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

    pub(super) fn publish(&mut self, state: &State, order: &Order) -> Result<(), ControlError> {
        let Some(writer) = &self.writer else { return Ok(()) };
        self.offset = writer.publish(&state.to_json()).map_err(ControlError::NotPublished)?;
        self.writes.wrote(self.offset, order.clone());
        Ok(())
    }

    /// A record at or before the last one this instance wrote. What lies between that and what it knew then was
    /// overwritten unknowingly: the changes of this instance are made once more, upon the other's, so that all are there.
    /// Not so a rollback: whoever goes back means what served before, not what came at the same moment.
    pub(super) fn came_back(&mut self, record: Result<State, ControlError>, offset: i64) {
        let Some((overwritten, orders)) = self.writes.read(record, offset) else { return };
        let other = overwritten.change.as_ref().map(|change| change.action.clone()).unwrap_or_default();
        if orders.iter().any(|order| order.command == Command::Rollback) {
            tracing::warn!(
                change = other,
                "Another instance's change came at the same time as a rollback, and is undone."
            );
            return;
        }
        let (table, history) = (self.switcher.serving().plan.table_spec.clone(), self.plan.history);
        let upon = State { revision: self.state.revision, ..overwritten };
        let both = orders
            .iter()
            .try_fold(upon, |state, order| state.after(&order.command, self.change(order), &table, history));
        // Published at once, whether this instance can serve by it or not: it is what the group has been told.
        let made =
            both.and_then(|both| orders.last().map_or(Ok(()), |order| self.publish(&both, order)).map(|()| both));
        match made {
            Ok(both) => {
                tracing::warn!(change = other, "Another instance's change came at the same time; both are made.");
                self.accept(both);
                self.rebase();
            }
            Err(error) => {
                tracing::error!(%error, change = other, "Another instance's change came at the same time, and is undone.");
            }
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
