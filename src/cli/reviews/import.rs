//! `reviews import`: people's answers, from files into the topic of reviews.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::Value;

use crate::{
    cli::{CliError, brokers::Brokers, failed, output},
    kafka::{Feeder, FeederOptions},
    message::{Label, Outgoing, Review, text_header},
};

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// The file: JSON as Label Studio exports it, CSV with the columns that `export --format csv`
    /// has, or reviews as JSON lines
    file: PathBuf,
    #[command(flatten)]
    brokers: Brokers,
    /// Who answered, where the file does not say
    #[arg(long)]
    reviewer: Option<String>,
    /// Check the file, and publish nothing
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for brokers that do not answer
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait_max: u64,
}

/// No file of answers is larger.
const BYTES_MAX: u64 = 1 << 30;

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let place = |error: String| failed(format!("{}: {error}", arguments.file.display()));
    let bytes = std::fs::metadata(&arguments.file).map_err(|error| place(error.to_string()))?.len();
    if bytes > BYTES_MAX {
        return Err(place(format!("is larger than {BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(&arguments.file).map_err(|error| place(error.to_string()))?;
    // All or nothing: a file that is wrong somewhere is corrected and imported again.
    let reviews = parsed(&text, arguments.reviewer.as_deref()).map_err(place)?;

    if arguments.dry_run {
        output::line(format!("{} reviews are right; nothing was published", reviews.len()));
        return Ok(());
    }
    let (plan, connection) = arguments.brokers.connect()?;
    let topic = plan.kafka.reviews.clone();
    connection.partitions(&[&topic])?;
    let options = FeederOptions {
        topic: topic.clone(),
        group_id: plan.kafka.group_id.clone(),
        record_bytes_max: plan.kafka.record_bytes_max,
        wait_max: Duration::from_secs(arguments.wait_max),
    };
    let feeder = Feeder::new(&connection, options)?;
    for review in &reviews {
        feeder.feed(&record(review, &topic))?;
    }
    feeder.finish()?;
    output::line(format!("{} reviews published to {topic}", reviews.len()));
    Ok(())
}

fn record(review: &Review, topic: &str) -> Outgoing {
    Outgoing {
        topic: topic.to_owned(),
        key: Some(review.request_id.clone().into_bytes()),
        // Plain data with string keys: serializing cannot fail.
        payload: Some(serde_json::to_vec(review).unwrap_or_default()),
        headers: vec![text_header("content-type", "application/json")],
    }
}

/// The reviews of a file, whose format its first character tells.
fn parsed(text: &str, reviewer: Option<&str>) -> Result<Vec<Review>, String> {
    let text = text.trim_start_matches('\u{feff}').trim();
    let reviews = match text.chars().next() {
        Some('[') => of_label_studio(text, reviewer)?,
        Some('{') => of_json_lines(text)?,
        Some(_) => of_csv(text, reviewer)?,
        None => return Err("is empty".to_owned()),
    };
    for (place, review) in &reviews {
        review.check().map_err(|error| format!("{place}: {error}"))?;
    }
    Ok(reviews.into_iter().map(|(_, review)| review).collect())
}

/// Reviews with their place in the file.
type Placed = Vec<(String, Review)>;

fn of_json_lines(text: &str) -> Result<Placed, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(number, line): (usize, &str)| {
        let place = format!("line {}", number + 1);
        let review = Review::from_bytes(line.as_bytes()).map_err(|error| format!("{place}: {error}"))?;
        Ok((place, review))
    };
    lines.map(read).collect()
}

fn of_csv(text: &str, reviewer: Option<&str>) -> Result<Placed, String> {
    let mut table = csv::Reader::from_reader(text.as_bytes());
    let columns = table.headers().map_err(|error| error.to_string())?.clone();
    if !columns.iter().any(|column| column == "request_id") || !columns.iter().any(|column| column == "label") {
        return Err("needs the columns `request_id` and `label`".to_owned());
    }

    let mut reviews = Placed::new();
    for row in table.records() {
        let row = row.map_err(|error| error.to_string())?;
        let place = row.position().map_or_else(String::new, |position| format!("line {}", position.line()));
        let cell = |name: &str| {
            let found = columns.iter().position(|column| column == name).and_then(|column| row.get(column));
            found.map(str::trim).filter(|cell| !cell.is_empty())
        };
        // A row without a label was not answered.
        let Some(label) = cell("label") else { continue };
        let probability = cell("probability").map(str::parse).transpose();
        // Of a verdict that is no part of the sample, the table has no probability.
        let has_column = columns.iter().any(|column| column == "probability");
        let review = Review {
            request_id: unquoted(cell("request_id").unwrap_or_default()),
            label: Some(label_of(label).ok_or_else(|| format!("{place}: `{label}` is no label: yes, maybe or no"))?),
            decision: None,
            reviewer: cell("reviewer").or(reviewer).unwrap_or_default().to_owned(),
            reviewed_at: cell("reviewed_at").map_or_else(now, str::to_owned),
            sampled: !has_column || cell("probability").is_some(),
            probability: probability.map_err(|_| format!("{place}: `probability` is no number"))?,
            source: None,
        };
        reviews.push((place, review));
    }
    Ok(reviews)
}

/// A text that `export` protected from being taken for a formula.
fn unquoted(cell: &str) -> String {
    let inner = cell.strip_prefix('\'').filter(|rest| rest.starts_with(['=', '+', '-', '@']));
    inner.unwrap_or(cell).to_owned()
}

/// Tasks with annotations, as Label Studio exports them in its full JSON format.
fn of_label_studio(text: &str, reviewer: Option<&str>) -> Result<Placed, String> {
    let tasks: Vec<Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut reviews = Placed::new();
    for (number, task) in tasks.iter().enumerate() {
        let data = &task["data"];
        let annotations = task["annotations"].as_array().map(Vec::as_slice).unwrap_or_default();
        for annotation in annotations.iter().filter(|annotation| annotation["was_cancelled"] != true) {
            let place = format!("task {}", number + 1);
            let choices = annotation["result"].as_array().into_iter().flatten();
            let choice = choices.filter_map(|result| result["value"]["choices"][0].as_str()).next();
            let Some(choice) = choice else { continue };
            let label = label_of(choice).ok_or_else(|| format!("{place}: `{choice}` is no label: yes, maybe or no"))?;
            let time = annotation["updated_at"].as_str().or(annotation["created_at"].as_str());
            let review = Review {
                request_id: data["request_id"].as_str().unwrap_or_default().to_owned(),
                label: Some(label),
                decision: None,
                reviewer: annotator(&annotation["completed_by"]).or(reviewer.map(str::to_owned)).unwrap_or_default(),
                reviewed_at: time.map_or_else(now, str::to_owned),
                probability: data["review_probability"].as_f64(),
                sampled: data.get("review_probability").is_none_or(|probability| !probability.is_null()),
                source: serde_json::from_value(data["source"].clone()).ok(),
            };
            reviews.push((place, review));
        }
    }
    Ok(reviews)
}

/// The person: a number, or an object with an address or a number.
fn annotator(person: &Value) -> Option<String> {
    let number = |value: &Value| value.as_i64().map(|number| format!("label-studio-{number}"));
    person["email"].as_str().map(str::to_owned).or_else(|| number(person)).or_else(|| number(&person["id"]))
}

fn label_of(text: &str) -> Option<Label> {
    match text.to_lowercase().as_str() {
        "yes" | "是" => Some(Label::Yes),
        "maybe" | "不确定" => Some(Label::Maybe),
        "no" | "否" => Some(Label::No),
        _ => None,
    }
}

fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_from_label_studio_csv_and_json_lines() {
        let studio = r#"[
            {"data": {"request_id": "a", "review_probability": 0.05}, "annotations": [
                {"completed_by": {"email": "ann@example.com"}, "updated_at": "2026-12-01T08:00:00Z",
                 "result": [{"type": "choices", "value": {"choices": ["No"]}}]},
                {"completed_by": 7, "created_at": "2026-12-01T09:00:00Z",
                 "result": [{"type": "choices", "value": {"choices": ["yes"]}}]},
                {"completed_by": 8, "was_cancelled": true, "result": []}]},
            {"data": {"request_id": "b"}, "annotations": []}]"#;
        let reviews = parsed(studio, None).unwrap();
        let answers: Vec<(&str, Option<Label>, Option<f64>)> =
            reviews.iter().map(|review| (review.reviewer.as_str(), review.label, review.probability)).collect();
        assert_eq!(
            answers,
            [("ann@example.com", Some(Label::No), Some(0.05)), ("label-studio-7", Some(Label::Yes), Some(0.05))]
        );

        let csv = "request_id,text,probability,label,reviewer,reviewed_at\n\
                   '=a,\"x, y\",0.1,maybe,,2026-12-01T08:00:00Z\nb,,1,,,\n";
        let reviews = parsed(csv, Some("ben")).unwrap();
        assert_eq!(reviews.len(), 1, "a row without a label was not answered");
        assert_eq!((reviews[0].request_id.as_str(), reviews[0].reviewer.as_str()), ("=a", "ben"));
        assert!(reviews[0].sampled);
        let unsampled = parsed("request_id,label,reviewer,probability\na,no,ann,\n", None).unwrap();
        assert!(!unsampled[0].sampled, "it was shown for another reason");

        let line = r#"{"request_id": "a", "label": "no", "reviewer": "ann", "reviewed_at": "2026-12-01T08:00:00Z"}"#;
        assert_eq!(parsed(&format!("{line}\n\n{line}\n"), None).unwrap().len(), 2);
    }

    #[test]
    fn a_wrong_answer_is_named_with_its_place() {
        let error = |text: &str| parsed(text, None).unwrap_err();
        assert_eq!(error(""), "is empty");
        assert!(error("request_id,label\na,nein\n").starts_with("line 2: `nein` is no label"));
        assert!(
            error("request_id,label\na,no\n").starts_with("line 2: `reviewer`"),
            "{}",
            error("request_id,label\na,no\n")
        );
        assert!(error("id,label\na,no\n").contains("request_id"));
        assert!(error("{\"request_id\": \"a\"}").starts_with("line 1: "));
        assert!(error("[{\"data\": {}, \"annotations\": [{\"completed_by\": 1, \"result\": [{\"value\": {\"choices\": [\"no\"]}}]}]}]")
            .starts_with("task 1: `request_id`"));
    }
}
