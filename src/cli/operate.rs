//! What operators do to a running instance, and by it to all of its group: `status`, `rollback`, `set-default`, `pause`,
//! `resume`, `promote`, `apply`, `use-file`, `clear`, `audit`. Each asks the admin API.

use std::{os::unix::fs::MetadataExt, path::PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{CliError, SettingsArguments, failed, output};
use crate::{
    admin::{Asked, Client, Tokens},
    control::{Applied, Files, Report, TOKEN},
    settings::{Plan, Reach, Secret},
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show what a running instance serves by
    Status {
        #[command(flatten)]
        instance: Instance,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Go back to the configuration before the last change
    Rollback(Change),
    /// Have a version answer when nothing else decides
    SetDefault {
        /// The version
        version: String,
        #[command(flatten)]
        change: Change,
    },
    /// Have an experiment take nobody
    Pause {
        /// The experiment
        experiment: String,
        #[command(flatten)]
        change: Change,
    },
    /// Have an experiment run again
    Resume {
        /// The experiment
        experiment: String,
        #[command(flatten)]
        change: Change,
    },
    /// Have the version of one variant answer all whom an experiment is about
    Promote {
        /// The experiment
        experiment: String,
        /// The variant that won
        variant: String,
        #[command(flatten)]
        change: Change,
    },
    /// Serve by other settings than those of the file, on all instances
    Apply {
        /// The other settings
        file: PathBuf,
        #[command(flatten)]
        change: Change,
    },
    /// Serve by the settings file of each instance again
    UseFile(Change),
    /// Undo set-default, pause, resume and promote: serve as settings say
    Clear(Change),
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
    admin: Option<String>,
    /// The file with its token; without it, the one in the settings or in `control.directory`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
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
    /// Make everything ready, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Status { instance, json } => {
            let report: Report = instance.client()?.get("/v1/status")?;
            if *json {
                output::json(&report);
            } else {
                show_report(&report);
            }
            Ok(())
        }
        Command::Audit { instance, limit, json } => {
            let lines: Vec<Value> = instance.client()?.get(&format!("/v1/audit?limit={limit}"))?;
            if *json {
                output::json(&lines);
            } else {
                show_audit(&lines);
            }
            Ok(())
        }
        Command::Rollback(change) => change.post("/v1/rollback"),
        Command::SetDefault { version, change } => change.post(&format!("/v1/default/{}", encoded(version))),
        Command::Pause { experiment, change } => change.post(&of(experiment, "pause")),
        Command::Resume { experiment, change } => change.post(&of(experiment, "resume")),
        Command::Promote { experiment, variant, change } => {
            change.post(&format!("{}/{}", of(experiment, "promote"), encoded(variant)))
        }
        Command::Apply { file, change } => {
            let text = std::fs::read_to_string(file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
            change.send("PUT", "config", text)
        }
        Command::UseFile(change) => change.send("DELETE", "config", String::new()),
        Command::Clear(change) => change.send("DELETE", "overrides", String::new()),
    }
}

/// The tokens of an instance: those of its settings, and a token of its own where they name none.
pub(super) fn tokens(plan: &Plan, files: Option<&Files>) -> Result<Tokens, CliError> {
    let write = match (&plan.admin.write_token, files) {
        (Some(token), _) => token.clone(),
        (None, Some(files)) => files.token()?,
        (None, None) => {
            let reason = "`control.directory` is off, so there is no token for the admin API: set `admin.write_token` in \
                          the environment, or `admin.listen = \"off\"`";
            return Err(failed(reason));
        }
    };
    Ok(Tokens { write, read: plan.admin.read_token.clone() })
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

impl Change {
    fn post(&self, path: &str) -> Result<(), CliError> {
        let asked = Asked { by: self.by(), why: self.why.clone(), dry_run: self.dry_run };
        self.show(&self.instance.client()?.post(path, &asked)?);
        Ok(())
    }

    fn by(&self) -> String {
        // In a container nobody may have set a name.
        let number = || std::fs::metadata("/proc/self").map_or(String::new(), |myself| format!("uid {}", myself.uid()));
        self.by.clone().unwrap_or_else(number)
    }

    /// Who and why stand in the address, because the body is the settings.
    fn send(&self, method: &str, what: &str, body: String) -> Result<(), CliError> {
        let (by, why) = (self.by(), encoded(&self.why));
        let by = encoded(&by);
        let path = format!("/v1/{what}?by={by}&why={why}&dry_run={}", self.dry_run);
        self.show(&self.instance.client()?.send(method, &path, body)?);
        Ok(())
    }

    fn show(&self, applied: &Applied) {
        if self.json {
            return output::json(applied);
        }
        let (before, now) = (output::digest(&applied.previous_digest), output::digest(&applied.config_digest));
        // What decides on a request may be the same while something else changes: a device, a batch size.
        let decides = applied.previous_digest != applied.config_digest;
        output::line(match (applied.dry_run, applied.changed) {
            (true, false) => format!("it works, and would change nothing: {now} serves already"),
            (true, true) if decides => format!("it works: {now} would serve instead of {before}; nothing changed"),
            (true, true) => format!("it works: {now} would decide as before, served otherwise; nothing changed"),
            (false, false) => format!("revision {}: {now} serves, as before", applied.revision),
            (false, true) => {
                let Applied { revision, took_ms, .. } = applied;
                if decides {
                    format!("revision {revision}: {now} serves instead of {before}, after {took_ms:.1} ms")
                } else {
                    format!("revision {revision}: {now} decides as before, served otherwise, after {took_ms:.1} ms")
                }
            }
        });
        applied.warnings.iter().for_each(|warning| output::line(format!("warning: {warning}")));
    }
}

fn of(experiment: &str, verb: &str) -> String {
    format!("/v1/experiments/{}/{verb}", encoded(experiment))
}

/// A text as a part of an address.
fn encoded(text: &str) -> impl std::fmt::Display {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

fn show_report(report: &Report) {
    let Report { instance, revision, config_digest, source, default, history, .. } = report;
    let from = if source == "file" { "the settings file" } else { "settings that were applied" };
    output::line(format!("{instance} serves by {from}, {}, revision {revision}", output::digest(config_digest)));
    if let Some(reason) = &report.behind {
        output::line(format!("BEHIND the group: {reason}"));
    }
    if let Some(reason) = &report.file_refused {
        output::line(format!("the settings file on disk is not in force: {reason}"));
    }
    if let Some(change) = &report.last_change {
        output::line(format!("last change: {change}; {history} can be rolled back"));
    }
    report.warnings.iter().for_each(|warning| output::line(format!("note: {warning}")));
    output::line(format!("default: {default}"));
    let experiments = report.experiments.iter().map(|it| {
        let share = format!("{} %", it.traffic_ratio * 100.0);
        vec![it.name.clone(), it.position.clone(), share, it.variants.join(", ")]
    });
    if !report.experiments.is_empty() {
        output::show(&output::table(&["experiment", "", "units", "variants"], &["units"], experiments));
    }
    let versions = report.versions.iter().map(|it| {
        let named = match (it.named, it.state.as_str()) {
            (true, _) => "",
            (false, "loading") => "being made ready",
            (false, _) => "not named",
        };
        let (device, precision) = (it.device.clone(), it.precision.clone());
        vec![it.name.clone(), it.state.clone(), device, precision, output::digest(&it.digest), named.to_owned()]
    });
    output::show(&output::table(&["version", "state", "device", "precision", "digest", ""], &[], versions));
}

fn show_audit(lines: &[Value]) {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let rows = lines.iter().map(|line| {
        let result = match line["reason"].as_str() {
            None => format!("{} → {}", text(line, "result"), output::digest(&text(line, "to"))),
            Some(reason) => format!("{}: {reason}", text(line, "result")),
        };
        let at = text(line, "at").chars().take("2026-11-24T20:00:00".len()).collect();
        vec![line["revision"].to_string(), at, text(line, "by"), text(line, "action"), text(line, "why"), result]
    });
    output::show(&output::table(&["revision", "at", "by", "action", "why", "result"], &["revision"], rows));
}
