//! Commands for a running instance, and through it for its group: `status`, `rollback`, `set-default`, `pause`, `resume`,
//! `promote`, `apply`, `use-file`, `clear`, `upgrade-control`, `audit`. Each uses the admin API.

mod tables;

use std::{os::unix::fs::MetadataExt, path::PathBuf, thread, time::Duration};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{CliError, SettingsArguments, failed, output};
use crate::{
    admin::{ChangeRequest, Client, ClientError, Conditions, Token, Tokens},
    control::{Applied, InstanceStatus, Outcome, Report, Storage, TOKEN},
    settings::{AdminPlan, Plan, Reach, Role, Secret, TokenSource},
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show the configuration of a running instance
    Status {
        #[command(flatten)]
        instance: Instance,
        /// Show every instance of the group, and which are behind
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Go back to the configuration before the last change
    Rollback(Change),
    /// Override the default version
    SetDefault {
        /// The version
        version: String,
        #[command(flatten)]
        change: Change,
    },
    /// Pause an experiment: it takes no requests
    Pause {
        /// The experiment
        experiment: String,
        #[command(flatten)]
        change: Change,
    },
    /// Let an experiment run again
    Resume {
        /// The experiment
        experiment: String,
        #[command(flatten)]
        change: Change,
    },
    /// Let the version of one variant answer all requests of an experiment
    Promote {
        /// The experiment
        experiment: String,
        /// The variant that won
        variant: String,
        #[command(flatten)]
        change: Change,
    },
    /// Let an experiment take another share of the units; its ramp then takes no step
    SetTraffic {
        /// The experiment
        experiment: String,
        /// The share, 0 to 1
        #[arg(value_parser = share)]
        share: f64,
        /// Let the ramp go on from there
        #[arg(long)]
        ramp: bool,
        #[command(flatten)]
        change: Change,
    },
    /// Serve by other settings than the file's, on all instances
    Apply {
        /// The other settings
        file: PathBuf,
        #[command(flatten)]
        change: Change,
    },
    /// Serve by the settings file of each instance again
    UseFile(Change),
    /// Undo set-default, pause, resume, promote and set-traffic: serve as settings say
    Clear(Change),
    /// Write records of the control topic in the newest format; programs before 2026-12 cannot read it
    UpgradeControl(Change),
    /// Show changes and refusals, the latest first
    Audit {
        #[command(flatten)]
        instance: Instance,
        /// Lines, at most
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which instance is asked.
#[derive(Args)]
pub(super) struct Instance {
    #[command(flatten)]
    pub(super) settings: SettingsArguments,
    /// Its admin API; without it, the one in the settings
    #[arg(long, value_name = "URL", env = "OFA_STREAM_ADMIN")]
    pub(super) admin: Option<String>,
    /// The file with its token; without it, the one in the settings or in `control.directory`
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
}

/// A change, who asks for it, and why.
#[derive(Args)]
pub(super) struct Change {
    #[command(flatten)]
    instance: Instance,
    /// Why, for the audit log
    #[arg(long, default_value = "")]
    why: String,
    /// Who, for the audit log; without a name, the number of your user
    #[arg(long, env = "USER")]
    by: Option<String>,
    /// Prepare everything, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Change only if this revision is in force; see `status`
    #[arg(long, value_name = "REVISION")]
    expect_revision: Option<u64>,
    /// Change although a newer record of the control topic cannot be read; its change is lost
    #[arg(long)]
    force: bool,
    /// The id of the change; a retry with the same id is not carried out twice
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Status { instance, all: true, json } => {
            let instances: Vec<InstanceStatus> = instance.client()?.get("/v1/instances")?;
            if *json {
                output::json(&instances);
            } else {
                tables::instances(&instances);
            }
            Ok(())
        }
        Command::Status { instance, all: false, json } => {
            let report: Report = instance.client()?.get("/v1/status")?;
            if *json {
                output::json(&report);
            } else {
                tables::report(&report);
            }
            Ok(())
        }
        Command::Audit { instance, limit, json } => {
            let lines: Vec<Value> = instance.client()?.get(&format!("/v1/audit?limit={limit}"))?;
            if *json {
                output::json(&lines);
            } else {
                tables::audit(&lines);
            }
            Ok(())
        }
        Command::Rollback(change) => change.rollback(),
        Command::UpgradeControl(change) => change.post("/v1/record-format"),
        Command::SetDefault { version, change } => change.post(&format!("/v1/default/{}", encoded(version))),
        Command::Pause { experiment, change } => change.post(&of(experiment, "pause")),
        Command::Resume { experiment, change } => change.post(&of(experiment, "resume")),
        Command::Promote { experiment, variant, change } => {
            change.post(&format!("{}/{}", of(experiment, "promote"), encoded(variant)))
        }
        Command::SetTraffic { experiment, share, ramp, change } => {
            let address = if *ramp { "ramp" } else { "traffic" };
            change.post(&format!("{}/{share}", of(experiment, address)))
        }
        Command::Apply { file, change } => {
            let text = std::fs::read_to_string(file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
            change.send("PUT", "config", text)
        }
        Command::UseFile(change) => change.send("DELETE", "config", String::new()),
        Command::Clear(change) => change.send("DELETE", "overrides", String::new()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("must lie between 0 and 1".to_owned()) }
}

/// The tokens of an instance: those of its settings, and a token of its own where they have no write token.
pub(super) fn tokens(plan: &Plan, storage: Option<&Storage>) -> Result<Tokens, CliError> {
    let unnamed = |role, source| Token { name: None, role, source };
    let AdminPlan { write_token, read_token, people, .. } = &plan.admin;
    let write = match (write_token, storage) {
        (Some(token), _) => Some(TokenSource::Text(token.clone())),
        (None, Some(storage)) => Some(TokenSource::File(storage.token()?)),
        (None, None) if people.iter().any(|person| person.role == Role::Operate) => None,
        (None, None) => {
            let reason = "`control.directory` is off, so there is no token for the admin API: name people in \
                          `[[admin.people]]`, set `admin.write_token` in the environment, or `admin.listen = \"off\"`";
            return Err(failed(reason));
        }
    };
    let read = read_token.clone().map(|token| unnamed(Role::Look, TokenSource::Text(token)));
    let people = people.iter().map(|person| Token {
        name: Some(person.name.clone()),
        role: person.role,
        source: person.token.clone(),
    });
    let write = write.map(|source| unnamed(Role::Operate, source));
    Ok(Tokens::new(write.into_iter().chain(read).chain(people).collect()))
}

impl Instance {
    /// What asks it, with the token that may do most of those that are at hand.
    pub(super) fn client(&self) -> Result<Client, CliError> {
        // With both given, no settings file is needed.
        if let (Some(admin), Some(file)) = (&self.admin, &self.token_file) {
            return Ok(Client::new(admin, read_token(file)?));
        }
        let Reach { control, admin } = Reach::read(self.settings.path())?;
        let base = match (&self.admin, admin.listen) {
            (Some(admin), _) => admin.clone(),
            (None, Some(address)) => format!("http://{address}"),
            (None, None) => return Err(failed("`admin.listen` is off: give --admin to ask another instance")),
        };
        let made = control.directory.map(|directory| read_token(&directory.join(TOKEN)));
        let token = match (&self.token_file, admin.write_token, made, admin.read_token) {
            (Some(file), ..) => read_token(file)?,
            (None, Some(token), ..) | (None, None, Some(Ok(token)), _) => token,
            // Not everybody who may look may read the folder.
            (None, None, _, Some(token)) => token,
            (None, None, Some(Err(error)), None) => return Err(error),
            (None, None, None, None) => return Err(failed("the settings name no token: give --token-file")),
        };
        Ok(Client::new(&base, token))
    }
}

fn read_token(file: &std::path::Path) -> Result<Secret, CliError> {
    let remedy = "a running instance keeps its token in `control.directory`; give --token-file for another's";
    let text =
        std::fs::read_to_string(file).map_err(|error| failed(format!("{}: {error}: {remedy}", file.display())))?;
    Ok(Secret::new(text.trim().to_owned()))
}

/// Attempts at a change whose outcome is unknown, all with one id.
const ATTEMPTS_MAX: usize = 3;
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// An `ETag` that no configuration has.
const NO_ETAG: &str = "none";

impl Change {
    fn post(&self, path: &str) -> Result<(), CliError> {
        let client = self.instance.client()?;
        let etag = self.expected(&client)?;
        self.post_if(&client, path, etag)
    }

    /// Goes back from what the instance shows now: a change that comes in between is not undone.
    fn rollback(&self) -> Result<(), CliError> {
        let client = self.instance.client()?;
        let etag = match self.expected(&client)? {
            Some(etag) => etag,
            None => client.get::<Report>("/v1/status")?.etag,
        };
        self.post_if(&client, "/v1/rollback", Some(etag))
    }

    fn post_if(&self, client: &Client, path: &str, etag: Option<String>) -> Result<(), CliError> {
        let by = self.by();
        let body = ChangeRequest { by, why: self.why.clone(), dry_run: self.dry_run, force: self.force };
        // Plain data with string keys: serializing cannot fail.
        let body = serde_json::to_string(&body).unwrap_or_default();
        self.carry_out(client, "POST", path, &body, etag)
    }

    /// Who and why are in the query, because the body is the settings.
    fn send(&self, method: &str, what: &str, body: String) -> Result<(), CliError> {
        let client = self.instance.client()?;
        let etag = self.expected(&client)?;
        let (by, why) = (self.by(), encoded(&self.why));
        let by = encoded(&by);
        let path = format!("/v1/{what}?by={by}&why={why}&dry_run={}&force={}", self.dry_run, self.force);
        self.carry_out(&client, method, &path, &body, etag)
    }

    /// The `ETag` of the expected revision, if one is expected.
    fn expected(&self, client: &Client) -> Result<Option<String>, CliError> {
        let Some(expected) = self.expect_revision else { return Ok(None) };
        let Report { revision, etag, last_change, .. } = client.get("/v1/status")?;
        if revision == expected {
            return Ok(Some(etag));
        }
        if self.id.is_some() {
            // A retry may find that its first attempt is in force; nothing else matches this.
            return Ok(Some(NO_ETAG.to_owned()));
        }
        let last = last_change.unwrap_or_else(|| "none".to_owned());
        let message = format!("revision {revision} is in force, not {expected}; the last change: {last}");
        Err(ClientError::Refused { code: "conflict".to_owned(), message }.into())
    }

    /// Sends the change; again with the same id where its outcome is unknown.
    fn carry_out(
        &self,
        client: &Client,
        method: &str,
        path: &str,
        body: &str,
        if_match: Option<String>,
    ) -> Result<(), CliError> {
        let id = self.id.clone().unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)));
        let conditions = Conditions { if_match, id: Some(id) };
        let (mut attempt, mut unknown) = (1, None);
        loop {
            match client.send_if(method, path, body.to_owned(), &conditions) {
                Ok(applied) => {
                    self.show(&applied);
                    return Ok(());
                }
                Err(error) if attempt < ATTEMPTS_MAX && error.is_unknown(attempt > 1) => {
                    output::error(format!("{error}; trying again with the same id"));
                    attempt += 1;
                    unknown.get_or_insert(error);
                    thread::sleep(RETRY_PAUSE);
                }
                // No answer to a retry says nothing about the first attempt.
                Err(error) => return Err(unknown.filter(|_| !error.is_definite()).unwrap_or(error).into()),
            }
        }
    }

    fn by(&self) -> String {
        // In a container there may be no user name.
        let number = || std::fs::metadata("/proc/self").map_or(String::new(), |myself| format!("uid {}", myself.uid()));
        self.by.clone().unwrap_or_else(number)
    }

    fn show(&self, applied: &Applied) {
        if self.json {
            return output::json(applied);
        }
        output::line(in_words(applied));
        if let Some(undone) = &applied.undone {
            output::line(format!("undone: {undone}"));
        }
        applied.warnings.iter().for_each(|warning| output::line(format!("warning: {warning}")));
        if applied.dry_run || applied.instances.len() < 2 {
            return;
        }
        let is_behind = |status: &&InstanceStatus| status.revision < applied.revision || status.sync != "in_sync";
        let behind: Vec<&InstanceStatus> = applied.instances.iter().filter(is_behind).collect();
        let (switched, all) = (applied.instances.len() - behind.len(), applied.instances.len());
        output::line(format!("{switched} of {all} instances serve it"));
        for InstanceStatus { instance, revision, behind, silent, .. } in behind {
            let reason = match behind {
                _ if *silent => "silent".to_owned(),
                Some(reason) => reason.clone(),
                None => format!("at revision {revision}"),
            };
            output::line(format!("not yet: {instance}, {reason}"));
        }
    }
}

/// What a change did, in one line.
fn in_words(applied: &Applied) -> String {
    let Applied { revision, took_ms, .. } = applied;
    let (before, now) = (output::digest(&applied.previous_digest), output::digest(&applied.config_digest));
    // The decisions may stay the same while something else changes: a device, a batch size.
    let decides = applied.previous_digest != applied.config_digest;
    match applied.outcome {
        Outcome::Tried if !applied.changed => format!("it works, and would change nothing: {now} serves already"),
        Outcome::Tried if decides => format!("it works: {now} would serve instead of {before}; nothing changed"),
        Outcome::Tried => format!("it works: {now} would decide as before, served otherwise; nothing changed"),
        Outcome::Cancelled => format!("revision {revision}: {now} serves, as before; a pending change is cancelled"),
        Outcome::Repeated => format!("revision {revision}: this change was made before; {now} serves"),
        Outcome::Unchanged => format!("revision {revision}: {now} serves, as before"),
        Outcome::Switched if decides => {
            format!("revision {revision}: {now} serves instead of {before}, after {took_ms:.1} ms")
        }
        Outcome::Switched => {
            format!("revision {revision}: {now} decides as before, served otherwise, after {took_ms:.1} ms")
        }
    }
}

fn of(experiment: &str, verb: &str) -> String {
    format!("/v1/experiments/{}/{verb}", encoded(experiment))
}

/// A text as a part of an address.
pub(super) fn encoded(text: &str) -> impl std::fmt::Display {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}
