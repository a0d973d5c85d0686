//! The controller's thread: takes commands, records and changes of the file one after the other.

use std::{
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Applied, Change, ControlError, Files, Order, Report, State,
    controller::{Message, Reply},
    files::Saved,
    secrets::check as check_secrets,
    watch::FileWatch,
};
use crate::{
    kafka::ControlWriter,
    pipeline::{Serving, SwitchError, Switcher},
    settings::{ControlPlan, Plan},
    telemetry,
};

/// The look at the file where none is wanted.
const IDLE: Duration = Duration::from_secs(3600);

/// Where a change comes from.
enum Source {
    Order { order: Order, asked: Instant, reply: Reply<Result<Applied, ControlError>> },
    File(String),
    Record(i64),
}

/// A change that is being made ready.
pub(super) struct Pending {
    ticket: u64,
    state: State,
    source: Source,
}

pub(super) struct Worker {
    pub(super) path: PathBuf,
    pub(super) watch: FileWatch,
    /// The text of the settings file that is in force here.
    pub(super) file: String,
    /// What the group has.
    pub(super) state: State,
    /// Why this instance serves by something else, if so.
    pub(super) behind: Option<String>,
    pub(super) files: Option<Files>,
    pub(super) writer: Option<ControlWriter>,
    /// Of the last record that was followed: earlier ones that come late are old.
    pub(super) offset: i64,
    pub(super) plan: ControlPlan,
    pub(super) instance: String,
    pub(super) adapt: fn(Plan) -> Plan,
    pub(super) switcher: Switcher,
    pub(super) myself: Sender<Message>,
    pub(super) pending: Option<Pending>,
    pub(super) tickets: u64,
}

/// A line of the audit log.
#[derive(Serialize)]
struct Audited<'a> {
    revision: u64,
    #[serde(flatten)]
    change: &'a Change,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    from: &'a str,
    to: &'a str,
}

impl Worker {
    pub(super) fn run(&mut self, inbox: &Receiver<Message>) {
        let interval = self.plan.watch.unwrap_or(IDLE);
        let mut look = Instant::now() + interval;
        loop {
            match inbox.recv_timeout(look.saturating_duration_since(Instant::now())) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return self.give_up_pending(),
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= look {
                look = Instant::now() + interval;
                if let Some(text) = self.plan.watch.and_then(|_| self.watch.look()) {
                    self.file_changed(text);
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Order(order, asked, reply) => self.obey(order, asked, reply),
            // Whoever asked may have gone.
            Message::Report(reply) => drop(reply.send(self.report())),
            Message::Reread => match self.watch.read() {
                Ok(text) => self.file_changed(text),
                Err(error) => tracing::error!(%error, "The settings file cannot be read, and nothing changed."),
            },
            Message::Record(state, offset) if offset > self.offset => {
                self.prepare(state, Source::Record(offset));
            }
            Message::Record(..) => {}
            Message::Prepared(ticket, result) => {
                if let Some(pending) = self.pending.take_if(|pending| pending.ticket == ticket) {
                    self.finish(pending, *result);
                }
            }
            // Comes to nobody else.
            Message::Stop => {}
        }
    }

    fn obey(&mut self, order: Order, asked: Instant, reply: Reply<Result<Applied, ControlError>>) {
        let change = Change {
            action: order.command.in_words(),
            at: Timestamp::now().to_string(),
            by: order.who.by.clone(),
            why: order.who.why.clone(),
            instance: self.instance.clone(),
        };
        let serving = self.switcher.serving();
        let table = &serving.plan.table_spec;
        // A change of the group that is not ready yet is built upon all the same.
        let (state, busy) = match &self.pending {
            Some(Pending { state, source: Source::Record(_), .. }) => (state, true),
            pending => (&self.state, pending.is_some()),
        };
        if order.dry_run && busy {
            reply.send(Err(ControlError::Busy)).ok();
            return;
        }
        let next = state.after(&order.command, change.clone(), table, &self.file, self.plan.history);
        match next.and_then(|next| check_secrets(&order.command).map(|()| next)) {
            Ok(state) => self.prepare(state, Source::Order { order, asked, reply }),
            Err(error) => {
                self.audit_refused(&change, &error);
                reply.send(Err(error)).ok();
            }
        }
    }

    /// The file has another text. Where it is in force, that is a change like any other; where it is not, it waits.
    fn file_changed(&mut self, text: String) {
        let changed = text != self.file;
        match self.state.after_file_changed(&self.file, self.plan.history) {
            Some(state) if changed => self.prepare(state, Source::File(text)),
            // Asked for again: what could not be followed may work now.
            Some(_) | None if !changed => self.prepare(self.state.clone(), Source::File(text)),
            _ => {
                self.file = text;
                self.save();
                tracing::warn!(
                    "The settings file changed, and other settings are in force: `ofa-stream use-file` follows it again."
                );
            }
        }
    }

    /// Has a state made ready. Settings are checked at once; versions are loaded aside.
    fn prepare(&mut self, state: State, source: Source) {
        self.give_up_pending();
        let file = if let Source::File(text) = &source { text } else { &self.file };
        let text = state.current.config.as_ref().unwrap_or(file).clone();
        self.tickets += 1;
        let pending = Pending { ticket: self.tickets, state, source };
        match Plan::from_text(&self.path, text, &pending.state.current.overrides) {
            Err(error) => self.refuse(pending, error.into()),
            Ok(plan) => {
                let (plan, switcher, ticket) = ((self.adapt)(plan), self.switcher.clone(), pending.ticket);
                let myself = self.myself.clone();
                let prepare = move || {
                    let prepared = Box::new(switcher.prepare(plan));
                    // The controller may have ended.
                    myself.send(Message::Prepared(ticket, prepared)).ok();
                };
                match thread::Builder::new().name("control-prepare".to_owned()).spawn(prepare) {
                    Ok(_) => self.pending = Some(pending),
                    Err(_) => self.refuse(pending, ControlError::Busy),
                }
            }
        }
    }

    fn finish(&mut self, pending: Pending, prepared: Result<Arc<Serving>, SwitchError>) {
        let serving = match prepared {
            Ok(serving) => serving,
            Err(error) => return self.refuse(pending, error.into()),
        };
        let Pending { state, source, .. } = pending;
        let previous_digest = self.switcher.serving().plan.config_digest.clone();
        let config_digest = serving.plan.config_digest.clone();
        let applied = |revision, asked: Instant, dry_run| Applied {
            revision,
            config_digest: config_digest.clone(),
            previous_digest: previous_digest.clone(),
            took_ms: asked.elapsed().as_secs_f64() * 1e3,
            dry_run,
            warnings: warnings(&state, &serving.plan),
        };
        let reply = match source {
            Source::Order { order, asked, reply } if order.dry_run => {
                reply.send(Ok(applied(self.state.revision, asked, true))).ok();
                return;
            }
            Source::Order { order, asked, reply } => match self.publish(&state) {
                Ok(()) => Some((asked, reply)),
                Err(error) => {
                    let pending = Pending { ticket: 0, state, source: Source::Order { order, asked, reply } };
                    return self.refuse(pending, error);
                }
            },
            Source::File(text) => {
                self.file = text;
                None
            }
            Source::Record(offset) => {
                if state.revision <= self.state.revision {
                    tracing::warn!(
                        revision = state.revision,
                        "A change of another instance came at the same time, and wins."
                    );
                }
                self.offset = offset;
                None
            }
        };
        self.switcher.switch(serving.clone());
        if let Some((asked, reply)) = reply {
            reply.send(Ok(applied(state.revision, asked, false))).ok();
        }
        let change = if state.revision == self.state.revision {
            self.file_change()
        } else {
            state.change.clone().unwrap_or_default()
        };
        tracing::info!(
            action = change.action,
            by = change.by,
            why = change.why,
            revision = state.revision,
            config_digest,
            previous_digest,
            "Configuration switched."
        );
        for warning in warnings(&state, &serving.plan) {
            tracing::warn!(warning, "The configuration works, and may not be what was meant.");
        }
        self.state = state;
        self.behind = None;
        self.save();
        self.audit(&change, "switched", None, &previous_digest, &config_digest);
        self.tell_metrics();
    }

    fn publish(&mut self, state: &State) -> Result<(), ControlError> {
        if let Some(writer) = &self.writer {
            self.offset = writer.publish(&state.to_json()).map_err(ControlError::NotPublished)?;
        }
        Ok(())
    }

    /// Nothing changes here; whoever asked is told, and a change of the group that is not followed is remembered.
    fn refuse(&mut self, pending: Pending, error: ControlError) {
        let Pending { state, source, .. } = pending;
        match source {
            Source::Order { reply, .. } => {
                self.audit_refused(&state.change.unwrap_or_default(), &error);
                reply.send(Err(error)).ok();
            }
            Source::File(_) => self.audit_refused(&self.file_change(), &error),
            Source::Record(offset) => {
                self.audit_refused(&state.change.clone().unwrap_or_default(), &error);
                self.offset = offset;
                self.state = state;
                self.behind = Some(error.to_string());
                self.save();
                self.tell_metrics();
            }
        }
    }

    fn give_up_pending(&mut self) {
        if let Some(pending) = self.pending.take() {
            match pending.source {
                // It is the group's, whether it is followed or not: the next change builds on it.
                Source::Record(offset) => {
                    self.offset = offset;
                    self.state = pending.state;
                    self.behind = Some(ControlError::Superseded.to_string());
                }
                _ => self.refuse(pending, ControlError::Superseded),
            }
        }
    }

    fn file_change(&self) -> Change {
        Change {
            action: "settings file".to_owned(),
            at: Timestamp::now().to_string(),
            instance: self.instance.clone(),
            ..Change::default()
        }
    }

    fn audit_refused(&self, change: &Change, error: &ControlError) {
        telemetry::config_refused(error.code());
        tracing::error!(%error, code = error.code(), action = change.action, "A change is refused, and nothing changed.");
        let digest = self.switcher.serving().plan.config_digest.clone();
        self.audit(change, "refused", Some(error.to_string()), &digest, &digest);
    }

    fn audit(&self, change: &Change, result: &str, reason: Option<String>, from: &str, to: &str) {
        let Some(files) = &self.files else { return };
        let line = Audited { revision: self.state.revision, change, result, reason, from, to };
        if let Err(error) = files.audit(&line) {
            telemetry::config_refused("audit_not_written");
            tracing::error!(%error, "The audit log cannot be written.");
        }
    }

    pub(super) fn save(&self) {
        let Some(files) = &self.files else { return };
        if let Err(error) = files.save(&Saved { state: self.state.clone(), file: self.file.clone() }) {
            telemetry::config_refused("state_not_written");
            tracing::error!(%error, "The state file cannot be written: a restart would forget the last change.");
        }
    }

    pub(super) fn tell_metrics(&self) {
        telemetry::config(&self.switcher.serving().plan.config_digest, self.state.revision, self.behind.is_some());
    }

    fn report(&self) -> Report {
        let serving = self.switcher.serving();
        let change = |change: &Change| format!("{} by {} at {}", change.action, or_nobody(&change.by), change.at);
        super::report::of(
            &serving,
            &self.switcher.versions(),
            Report {
                instance: self.instance.clone(),
                revision: self.state.revision,
                source: if self.state.current.config.is_some() { "applied" } else { "file" }.to_owned(),
                behind: self.behind.clone(),
                last_change: self.state.change.as_ref().map(change),
                history: self.state.history.len(),
                ..Report::default()
            },
        )
    }
}

fn or_nobody(by: &str) -> &str {
    if by.is_empty() { "nobody named" } else { by }
}

/// What works, and may not be what was meant: operators' changes to what is not there any more.
fn warnings(state: &State, plan: &Plan) -> Vec<String> {
    let there = |name: &String| plan.table_spec.experiments.iter().any(|experiment| experiment.name == *name);
    let gone = state.current.overrides.experiments.keys().filter(|name| !there(name));
    gone.map(|name| format!("experiment `{name}` was changed by an operator, and is not there any more")).collect()
}
