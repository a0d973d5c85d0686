//! `explain`: which version would answer, and why. The decision is made by the very function that
//! routes live requests.
//!
//! * `simulate`: the shares that a configuration gives, and what moves between two.

mod simulate;

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    CliError, failed,
    operate::Instance,
    output,
    requests::{self, Reading},
};
use crate::{
    control::Report,
    message::{Assignment, AttributeValue, Attributes, Outgoing, Record, Request},
    pipeline::{self, image_limits},
    routing::{Features, Route, Step, Table, TableSpec},
    settings::Plan,
    text::{Script, foreign_share},
    vision::{self, Header},
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    instance: Instance,
    /// Ask the running instance what it serves by, operators' changes and applied settings included, instead of the file
    #[arg(long)]
    live: bool,
    /// The record key
    #[arg(long)]
    key: Option<String>,
    /// The request's id; without it, the key. With --request, which of its lines is meant
    #[arg(long)]
    request_id: Option<String>,
    /// Requests as `produce` takes them, one in JSON per line: the first, or that of --request-id, is taken as if `produce` had published
    /// it, files of images within and the request's id for a key
    #[arg(long, value_name = "FILE", conflicts_with_all = ["attributes", "model_version", "text", "caption", "image", "image_size", "simulate"])]
    request: Option<PathBuf>,
    /// An attribute; numbers, true and false are read as such, quotes make them text
    #[arg(long = "attr", value_name = "NAME=VALUE")]
    attributes: Vec<Attribute>,
    /// The version that the request asks for
    #[arg(long)]
    model_version: Option<String>,
    /// The text, for rules about its length
    #[arg(long, default_value = "a text of forty characters, as most are.")]
    text: String,
    /// The caption, for rules about it
    #[arg(long)]
    caption: Option<String>,
    /// The image, for rules about it; without it, a JPEG of --image-size is assumed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image_size", "simulate"])]
    image: Option<PathBuf>,
    /// The assumed image
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "640x480")]
    image_size: ImageSize,
    /// The record's time, such as 2026-12-01T08:00:00+08:00; without it, now
    #[arg(long, value_name = "TIME")]
    time: Option<Timestamp>,
    /// Route so many made-up units instead, and show the shares; with --keys, at most so many of those
    #[arg(long, value_name = "UNITS", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    simulate: Option<u32>,
    /// Units to route: a key per line, or a request in JSON, which may have the record key as `key`
    #[arg(long, value_name = "FILE", requires = "simulate")]
    keys: Option<PathBuf>,
    /// Other settings: show what would move from --config to these
    #[arg(long, value_name = "FILE", requires = "simulate")]
    against: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone)]
struct Attribute(String, AttributeValue);

impl FromStr for Attribute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
        let quoted = ['\'', '"'].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        let value = match (quoted, value) {
            (Some(text), _) => AttributeValue::Text(text.to_owned()),
            (None, "true") => AttributeValue::Flag(true),
            (None, "false") => AttributeValue::Flag(false),
            (None, value) => match value.parse::<f64>().ok().filter(|number| number.is_finite()) {
                Some(number) => AttributeValue::Number(number),
                None => AttributeValue::Text(value.to_owned()),
            },
        };
        Ok(Self(name.to_owned(), value))
    }
}

#[derive(Clone, Copy)]
struct ImageSize(u32, u32);

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
        sides.map(|(width, height)| Self(width, height)).ok_or_else(|| "write WIDTHxHEIGHT, such as 640x480".to_owned())
    }
}

impl Arguments {
    fn attributes(&self) -> Attributes {
        self.attributes.iter().map(|Attribute(name, value)| (name.clone(), Some(value.clone()))).collect()
    }
}

/// What is routed by: a settings file, or what a running instance serves by.
struct By {
    table: Table,
    spec: TableSpec,
    config_digest: String,
}

impl By {
    fn of(arguments: &Arguments) -> Result<Self, CliError> {
        if !arguments.live {
            return Ok(arguments.instance.settings.plan()?.into());
        }
        let report: Report = arguments.instance.client()?.get("/v1/status")?;
        let spec = report.table.ok_or_else(|| failed("the instance does not say what it routes by"))?;
        Ok(Self { table: Table::new(&spec).map_err(failed)?, spec, config_digest: report.config_digest })
    }
}

impl From<Plan> for By {
    fn from(plan: Plan) -> Self {
        let Plan { table, table_spec: spec, config_digest, .. } = plan;
        Self { table, spec, config_digest }
    }
}

/// Encoded bytes of an image that is only assumed.
const ASSUMED_BYTES: usize = 100_000;

#[derive(Serialize)]
struct Explained {
    version: String,
    reason: &'static str,
    rule: Option<String>,
    experiment: Option<String>,
    variant: Option<String>,
    assignment: Option<Assignment>,
    shadows: Vec<String>,
    config_digest: String,
    steps: Vec<Step>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let by = By::of(arguments)?;
    if let Some(units) = arguments.simulate {
        return simulate::run(arguments, &by, units as usize);
    }
    let mut steps = Vec::new();
    let (route, judged_by) = match &arguments.request {
        Some(path) => of_request(arguments, path, &by.table, &mut steps)?,
        None => of_arguments(arguments, &by.table, &mut steps)?,
    };
    let (experiment, variant) = route.variant.unzip();
    let explained = Explained {
        version: route.version,
        reason: route.reason.as_str(),
        rule: route.rule,
        experiment,
        variant,
        assignment: route.assignment,
        shadows: route.shadows,
        config_digest: by.config_digest,
        steps,
    };
    if arguments.json {
        output::json(&explained);
        return Ok(());
    }
    let rows = explained
        .steps
        .iter()
        .map(|step| vec![if step.decided { "→" } else { "" }.to_owned(), step.tried.clone(), step.outcome.clone()]);
    output::show(&output::table(&["", "tried", "outcome"], &[], rows));
    output::line(format!("version {} answers, by {}", explained.version, explained.reason));
    if !explained.shadows.is_empty() {
        output::line(format!("beside it, for comparison: {}", explained.shadows.join(", ")));
    }
    output::line(judged_by);
    Ok(())
}

/// The route of a request out of a file, by the very way that live ones take, and what it was judged by, in words.
fn of_request(
    arguments: &Arguments,
    path: &Path,
    table: &Table,
    steps: &mut Vec<Step>,
) -> Result<(Route, String), CliError> {
    let plan = arguments.instance.settings.plan()?;
    // A line that is no request stands in nobody's way who asks for another.
    let checked = arguments.request_id.is_none();
    let reading = Reading { topic: &plan.kafka.requests, key: "request_id", checked };
    for request in requests::read(path, reading)? {
        let Outgoing { key, payload, headers, .. } = request?.record;
        let time = arguments.time.unwrap_or_else(Timestamp::now);
        let key = arguments.key.as_ref().map(|key| key.clone().into_bytes()).or(key);
        let record = Record { timestamp_ms: Some(time.as_millisecond()), key, payload, headers, ..Record::default() };
        if let Some(wanted) = &arguments.request_id
            && !Request::from_record(&record, &plan.limits.request).is_ok_and(|request| request.request_id == *wanted)
        {
            continue;
        }
        let explained = pipeline::explain(&plan, table, &record, steps)
            .map_err(|failure| failed(format!("it becomes a dead letter, {}: {failure}", failure.code())))?;
        let pipeline::Explained { route, request_id, header, image_bytes, text_length } = explained;
        let Header { width, height, format, .. } = header;
        let judged_by = format!(
            "{request_id}: text of {text_length} characters, {} image of {width}x{height} and {image_bytes} bytes",
            format.as_str()
        );
        return Ok((route, judged_by));
    }
    let wanted = arguments.request_id.as_ref().map_or(String::new(), |id| format!(" `{id}`"));
    Err(failed(format!("{} has no request{wanted}", path.display())))
}

/// The route of a request that is put together from the arguments.
fn of_arguments(arguments: &Arguments, table: &Table, steps: &mut Vec<Step>) -> Result<(Route, String), CliError> {
    let request_id = arguments.request_id.as_ref().or(arguments.key.as_ref());
    let request_id = request_id.ok_or_else(|| failed("give --key, --request-id or both, or --request"))?;
    let attributes = arguments.attributes();
    let (width, height, bytes, format) = match &arguments.image {
        None => (arguments.image_size.0, arguments.image_size.1, ASSUMED_BYTES, "jpeg"),
        Some(path) => {
            let place = |error: &dyn std::fmt::Display| failed(format!("{}: {error}", path.display()));
            let bytes = std::fs::read(path).map_err(|error| place(&error))?;
            let plan = arguments.instance.settings.plan()?;
            let header = vision::probe(&bytes, &image_limits(&plan)).map_err(|error| place(&error))?;
            (header.width, header.height, bytes.len(), header.format.as_str())
        }
    };
    let time = arguments.time.unwrap_or_else(Timestamp::now);
    let features = Features {
        request_id,
        key: arguments.key.as_deref(),
        texts: std::slice::from_ref(&arguments.text),
        caption: arguments.caption.as_deref(),
        text_length: arguments.text.chars().count(),
        non_latin_share: foreign_share(&arguments.text, &[Script::Latin]),
        image_width: width,
        image_height: height,
        image_bytes: bytes,
        image_format: format,
        time_ms: Some(time.as_millisecond()),
        attributes: &attributes,
        forced_version: arguments.model_version.as_deref(),
    };
    let route = table.decide(&features, steps).map_err(failed)?;
    let assumed = format!(
        "assumed: text of {} characters, {format} image of {width}x{height} and {bytes} bytes",
        features.text_length
    );
    Ok((route, assumed))
}
