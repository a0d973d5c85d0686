//! What an operator asks this instance for: made ready, published, and made once more where another instance's change came
//! in between.

use std::time::Instant;

use super::{
    Applied, Change, Command, ControlError, Order, State,
    controller::Message,
    worker::{Asked, Goal, Pending, Published, Worker, milliseconds},
};
use crate::{pipeline::SwitchError, routing::Overrides, settings::Plan};

impl Worker {
    pub(super) fn obey(&mut self, asked: Asked) {
        let dry_run = asked.order.dry_run;
        let is_rollback = asked.order.command == Command::Rollback && !dry_run;
        let waits = match &self.pending {
            Some(Pending { goal: Goal::Order { asked, .. }, .. }) => !asked.order.dry_run,
            Some(Pending { goal: Goal::CatchUp { file, .. }, .. }) => file.is_some(),
            None => false,
        };
        if is_rollback && (waits || self.candidate.is_some()) {
            return self.call_off(asked);
        }
        if dry_run && self.pending.is_some() {
            asked.reply.send(Err(ControlError::Busy)).ok();
            return;
        }
        self.obey_upon(&self.state.clone(), asked);
    }

    fn obey_upon(&mut self, state: &State, asked: Asked) {
        match self.after(state, &asked.order) {
            Ok((state, plan)) => self.begin(Goal::Order { asked, state }, plan),
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
            _ => "the settings file".to_owned(),
        };
        self.wanted |= self.behind.is_some();
        self.candidate = None;
        let digest = self.switcher.serving().plan.config_digest.clone();
        let applied = Applied {
            revision: self.state.revision,
            config_digest: digest.clone(),
            previous_digest: digest,
            took_ms: milliseconds(asked.at),
            dry_run: false,
            warnings: vec![format!("`{what}` was not in force yet and is given up; nothing else is undone")],
        };
        asked.reply.send(Ok(applied)).ok();
    }

    /// The state and the settings that an order gives, checked.
    fn after(&self, state: &State, order: &Order) -> Result<(State, Plan), ControlError> {
        let keeps_unknown = !matches!(order.command, Command::Apply { .. } | Command::UseFile);
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
        let state = state.after(&order.command, change, &serving.plan.table_spec, self.plan.history)?;
        let plan = self.plan_of(&state, &self.file)?;
        Ok((state, plan))
    }

    pub(super) fn publish(&mut self, state: &State, order: &Order) -> Result<(), ControlError> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let offset = writer.publish(&state.to_json()).map_err(ControlError::NotPublished)?;
        self.offset = offset;
        self.published = Some(Published { offset, order: order.clone(), overwritten: None });
        Ok(())
    }

    /// A record at or before the last one this instance wrote. What lies between that and what it knew then was
    /// overwritten unknowingly: the change of this instance is made once more, upon the other's, so that both are there.
    /// Not so a rollback: whoever goes back means what served before, not what came at the same moment.
    pub(super) fn came_back(&mut self, record: Result<State, ControlError>, offset: i64) {
        let Some(published) = &mut self.published else { return };
        if offset < published.offset {
            published.overwritten = record.ok();
            return;
        }
        let Some(Published { order, overwritten: Some(state), .. }) = self.published.take() else { return };
        let other = state.change.as_ref().map(|change| change.action.clone()).unwrap_or_default();
        if order.command == Command::Rollback {
            tracing::warn!(
                change = other,
                "Another instance's change came at the same time as a rollback, and is undone."
            );
            return;
        }
        tracing::warn!(change = other, "Another instance's change came at the same time; both are made.");
        let waiting = self.pending.take_if(|pending| matches!(pending.goal, Goal::Order { .. }));
        let (reply, _) = tokio::sync::oneshot::channel();
        let upon = State { revision: self.state.revision, ..state };
        self.obey_upon(&upon, Asked { order, at: Instant::now(), reply });
        if let Some(Pending { goal: Goal::Order { asked, .. }, .. }) = waiting {
            // Where the inbox is full, whoever asked is told so.
            if let Err(error) = self.myself.try_send(Message::Order(asked))
                && let Message::Order(asked) = error.into_inner()
            {
                asked.reply.send(Err(ControlError::Busy)).ok();
            }
        }
    }

    pub(super) fn refuse(&mut self, asked: Asked, error: ControlError) {
        if !asked.order.dry_run {
            self.refused(&self.change(&asked.order), &error);
        }
        asked.reply.send(Err(error)).ok();
        // What it superseded, or was built upon, may not serve yet.
        self.wanted |= self.behind.is_some() && self.pending.is_none();
    }

    pub(super) fn change(&self, order: &Order) -> Change {
        let (action, who) = (order.command.in_words(), order.who.clone());
        Change { action, by: who.by, why: who.why, ..self.own_change() }
    }
}
