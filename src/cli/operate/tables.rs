//! Tables of `status`, `status --all` and `audit`.

use serde_json::Value;

use crate::{
    cli::output,
    control::{InstanceStatus, Report},
};

pub(super) fn report(report: &Report) {
    let Report { instance, revision, config_digest, source, default, history, .. } = report;
    let from = if source == "file" { "the settings file" } else { "applied settings" };
    output::line(format!("{instance} serves by {from}, {}, revision {revision}", output::digest(config_digest)));
    if let Some(reason) = &report.behind {
        let word = if report.sync == "applying" { "APPLYING" } else { "BEHIND the group" };
        output::line(format!("{word}: {reason}"));
    }
    if let Some(reason) = &report.file_refused {
        output::line(format!("the settings file on disk is not in force: {reason}"));
    }
    if let Some(change) = &report.last_change {
        output::line(format!("last change: {change}; {history} can be rolled back"));
    }
    if let Some(changes) = &report.rollback_changes {
        output::line(format!("a rollback changes {changes}"));
    }
    if report.file_differs {
        output::line("note: the settings file says something else; `ofa-stream use-file` follows it again");
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

pub(super) fn instances(instances: &[InstanceStatus]) {
    let rows = instances.iter().map(|status| {
        let state = match (status.silent, status.sync.as_str()) {
            (true, _) => "silent".to_owned(),
            (false, "in_sync") => "in sync".to_owned(),
            (false, "applying") => "applying".to_owned(),
            (false, _) => format!("BEHIND: {}", status.behind.clone().unwrap_or_default()),
        };
        let InstanceStatus { instance, revision, config_digest, program, .. } = status;
        vec![instance.clone(), revision.to_string(), output::digest(config_digest), program.clone(), state]
    });
    output::show(&output::table(&["instance", "revision", "configuration", "program", "state"], &["revision"], rows));
    if instances.is_empty() {
        output::line("no control topic, so instances do not know of each other");
    }
}

pub(super) fn audit(lines: &[Value]) {
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
