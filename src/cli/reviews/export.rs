//! `reviews export`: verdicts that people should look at.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    cli::{CliError, brokers::Brokers, failed, output, since},
    kafka::{Connection, Extent, KafkaError},
    message::{Decision, Record, RecordPosition, Review, Role, Verdict, encode_base64},
    settings::Plan,
};

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    brokers: Brokers,
    /// Only verdicts of this time or later: 2026-12-01T08:00:00Z, or an age such as 1d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Also verdicts that a shadow version contradicts, all of them. Answers to them show errors,
    /// and have no weight in rates, because they are no sample
    #[arg(long)]
    disagreements: bool,
    /// Also requests that people have answered already
    #[arg(long)]
    answered: bool,
    /// Verdicts, at most, the latest
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Leave the model's answer in: people then tend to agree with it
    #[arg(long)]
    show_answers: bool,
    /// What is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// How long to wait for brokers that do not answer
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait_max: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tasks of Label Studio, with their pictures
    #[default]
    LabelStudio,
    /// A table to fill in, without pictures
    Csv,
}

/// A verdict for people.
struct Item {
    verdict: Verdict,
    /// The probability with which the sample has it; none where it was picked for a disagreement
    /// alone.
    probability: Option<f64>,
    picture: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let (plan, connection) = arguments.brokers.connect()?;
    let reader = Reader { arguments, plan: &plan, connection: &connection };
    let mut items = reader.items()?;
    match arguments.format {
        Format::LabelStudio => {
            reader.add_pictures(&mut items)?;
            output::json(&items.iter().map(|item| task(item, arguments.show_answers)).collect::<Vec<_>>());
            Ok(())
        }
        Format::Csv => print_csv(&items, arguments.show_answers),
    }
}

struct Reader<'a> {
    arguments: &'a Arguments,
    plan: &'a Plan,
    connection: &'a Connection,
}

impl Reader<'_> {
    fn read(&self, topic: &str, each: impl FnMut(Record)) -> Result<(), CliError> {
        let extent = match self.arguments.since {
            Some(time) => Extent::Since(time.as_millisecond()),
            None => Extent::All,
        };
        let wait_max = Duration::from_secs(self.arguments.wait_max);
        match self.connection.read_backlog(topic, &extent, wait_max, each) {
            // Reviews and shadows may have no topic.
            Err(KafkaError::TopicMissing { .. }) if *topic != self.plan.kafka.verdicts => Ok(()),
            read => Ok(read?),
        }
    }

    /// The latest verdicts that were picked for people.
    fn items(&self) -> Result<Vec<Item>, CliError> {
        let mut answered: BTreeSet<String> = BTreeSet::new();
        if !self.arguments.answered {
            self.read(&self.plan.kafka.reviews, |record| {
                let review = record.payload.as_deref().map(Review::from_bytes);
                answered.extend(review.and_then(Result::ok).map(|review| review.request_id));
            })?;
        }
        let mut contradicted: BTreeSet<String> = BTreeSet::new();
        if self.arguments.disagreements {
            self.read(&self.plan.kafka.shadows, |record| {
                let shadow = parsed(&record).filter(|shadow| shadow.live.as_ref().is_some_and(|live| !live.agrees));
                contradicted.extend(shadow.map(|shadow| shadow.request_id));
            })?;
        }

        let limit = self.arguments.limit as usize;
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut items: BTreeMap<(String, String), Item> = BTreeMap::new();
        self.read(&self.plan.kafka.verdicts, |record| {
            let Some(verdict) = parsed(&record).filter(|verdict| verdict.ab_role == Role::Live) else { return };
            let probability = picked(&verdict);
            if probability.is_none() && !contradicted.contains(&verdict.request_id) {
                return;
            }
            if answered.contains(&verdict.request_id) || !seen.insert(verdict.request_id.clone()) {
                return;
            }
            let key = (verdict.timestamp.clone(), verdict.request_id.clone());
            items.insert(key, Item { verdict, probability, picture: None });
            if items.len() > limit {
                items.pop_first();
            }
        })?;
        Ok(items.into_values().collect())
    }

    /// Reads the pictures from the records of the requests.
    fn add_pictures(&self, items: &mut [Item]) -> Result<(), CliError> {
        let mut places: BTreeMap<String, BTreeMap<i32, (i64, i64)>> = BTreeMap::new();
        let mut wanted: BTreeMap<(String, i32, i64), usize> = BTreeMap::new();
        for (place, item) in items.iter().enumerate() {
            let Some(RecordPosition { topic, partition, offset }) = &item.verdict.source else { continue };
            wanted.insert((topic.clone(), *partition, *offset), place);
            let extent = places.entry(topic.clone()).or_default().entry(*partition).or_insert((*offset, *offset));
            *extent = (extent.0.min(*offset), extent.1.max(*offset));
        }

        let wait_max = Duration::from_secs(self.arguments.wait_max);
        for (topic, offsets) in places {
            let read = self.connection.read_backlog(&topic, &Extent::Between(offsets), wait_max, |record| {
                let key = (record.topic.clone(), record.partition, record.offset);
                if let Some(place) = wanted.get(&key) {
                    items[*place].picture = picture(&record);
                }
            });
            match read {
                Ok(()) | Err(KafkaError::TopicMissing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn parsed(record: &Record) -> Option<Verdict> {
    serde_json::from_slice(record.payload.as_deref()?).ok()
}

/// The probability with which a verdict was picked for people; none where it was not.
fn picked(verdict: &Verdict) -> Option<f64> {
    match verdict.review_probability {
        Some(probability) if verdict.review_sampled || verdict.decision == Decision::Review => Some(probability),
        // Verdicts of earlier releases.
        None if verdict.decision == Decision::Review => Some(1.0),
        _ => None,
    }
}

/// The picture of a request as a data address; none where the request only names it, or has none
/// any more.
fn picture(record: &Record) -> Option<String> {
    let payload = record.payload.as_deref()?;
    let base64 = match serde_json::from_slice::<Value>(payload) {
        Ok(request) => request["image"]["base64"].as_str()?.to_owned(),
        // The value is the image.
        Err(_) => encode_base64(payload),
    };
    let base64: String =
        base64.chars().filter(|letter| letter.is_ascii_alphanumeric() || "+/=".contains(*letter)).collect();
    let kind = match base64.get(..4)? {
        "/9j/" => "jpeg",
        "UklG" => "webp",
        "iVBO" => "png",
        _ => return None,
    };
    Some(format!("data:image/{kind};base64,{base64}"))
}

fn task(item: &Item, show_answers: bool) -> Value {
    let Item { verdict, probability, picture } = item;
    let mut data = json!({
        "request_id": verdict.request_id,
        "text": verdict.text_preview,
        "image": picture,
        "review_probability": probability,
        "source": verdict.source,
    });
    if show_answers {
        data["result"] = json!(verdict.result);
        data["confidence"] = json!(verdict.confidence);
        data["model_version"] = json!(verdict.model_version);
    }
    json!({ "data": data })
}

fn print_csv(items: &[Item], show_answers: bool) -> Result<(), CliError> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let mut columns = vec!["request_id", "text", "probability", "label", "reviewer", "reviewed_at"];
    if show_answers {
        columns.extend(["result", "confidence"]);
    }
    table.write_record(&columns).map_err(failed)?;
    for Item { verdict, probability, .. } in items {
        let mut row = vec![safe(&verdict.request_id), safe(&verdict.text_preview)];
        row.push(probability.map_or_else(String::new, |probability| probability.to_string()));
        row.extend([String::new(), String::new(), String::new()]);
        if show_answers {
            row.extend([verdict.result.as_str().to_owned(), format!("{:.4}", verdict.confidence)]);
        }
        table.write_record(&row).map_err(failed)?;
    }
    let bytes = table.into_inner().map_err(failed)?;
    output::raw(String::from_utf8_lossy(&bytes).trim_end());
    Ok(())
}

/// A text that no spreadsheet takes for a formula.
fn safe(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_data_addresses_and_nothing_else_is() {
        let record = |payload: &[u8]| Record { payload: Some(payload.to_vec()), ..Record::default() };
        let png = br#"{"image": {"base64": "iVBORw0KGgo=\"><script>"}}"#;
        assert_eq!(picture(&record(png)).unwrap(), "data:image/png;base64,iVBORw0KGgo=script");
        assert_eq!(
            picture(&record(b"\xff\xd8\xff\xe0 jpeg")).map(|it| it[..23].to_owned()).unwrap(),
            "data:image/jpeg;base64,"
        );
        assert_eq!(picture(&record(br#"{"image": {"url": "https://example.com/a.png"}}"#)), None);
        assert_eq!(picture(&record(b"GIF89a")), None);
        assert_eq!(safe("=1+1"), "'=1+1");
    }
}
