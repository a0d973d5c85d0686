//! The shares that a configuration gives, on units from a file or made up, and what moves between two configurations.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use jiff::Timestamp;
use serde::Deserialize;

use super::{ASSUMED_BYTES, Arguments, By, CliError, failed, output};
use crate::{
    message::{AttributeValue, Attributes, Texts},
    routing::{AssumedRequest, Share, ShareCounter, Shares, hashed_attributes},
    settings::Plan,
    text::{Script, foreign_share},
};

pub(super) fn run(arguments: &Arguments, by: &By, units: usize) -> Result<(), CliError> {
    let other = arguments.against.as_deref().map(Plan::read).transpose()?.map(By::from);
    let specs = [Some(&by.spec), other.as_ref().map(|by| &by.spec)];
    let names: BTreeSet<String> = specs.into_iter().flatten().flat_map(hashed_attributes).collect();
    let against = other.as_ref().map(|other| (&other.table, other.config_digest.as_str()));
    let mut counter = ShareCounter::new((&by.table, &by.config_digest), against);
    for simulation in simulations(arguments, &names)?.take(units) {
        counter.add(&simulation?);
    }
    let shares = counter.finish();
    if arguments.json {
        output::json(&shares);
    } else {
        output::raw(text(&shares));
    }
    Ok(())
}

type Simulations<'a> = Box<dyn Iterator<Item = Result<AssumedRequest, CliError>> + 'a>;

/// Made-up units without end, or those of a file.
fn simulations<'a>(arguments: &'a Arguments, names: &'a BTreeSet<String>) -> Result<Simulations<'a>, CliError> {
    let given = arguments.attributes();
    let made = move |key: String| {
        let mut attributes: Attributes =
            names.iter().map(|name| (name.clone(), Some(AttributeValue::Text(key.clone())))).collect();
        attributes.extend(given.clone());
        AssumedRequest {
            request_id: key.clone(),
            key,
            attributes,
            texts: vec![arguments.text.clone()],
            non_latin_share: non_latin_share(std::slice::from_ref(&arguments.text)),
            caption: arguments.caption.clone(),
            model_version: arguments.model_version.clone(),
            ..assumed(arguments)
        }
    };
    let Some(path) = &arguments.keys else {
        return Ok(Box::new((1..).map(move |number: usize| Ok(made(format!("unit-{number:07}"))))));
    };
    let place = |number: usize, reason: String| failed(format!("{}:{}: {reason}", path.display(), number + 1));
    let simulation = move |(number, line): (usize, std::io::Result<String>)| match line {
        Err(error) => Some(Err(place(number, error.to_string()))),
        Ok(line) => match line.trim() {
            "" => None,
            text if text.starts_with('{') => Some(request(text, arguments).map_err(|reason| place(number, reason))),
            key => Some(Ok(made(key.to_owned()))),
        },
    };
    Ok(Box::new(lines(path)?.enumerate().filter_map(simulation)))
}

fn lines(path: &Path) -> Result<impl Iterator<Item = std::io::Result<String>>, CliError> {
    let file = File::open(path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    Ok(BufReader::new(file).lines())
}

/// What routing reads of a request; the image may be missing, and the record key beside it.
#[derive(Deserialize)]
struct Line {
    request_id: String,
    key: Option<String>,
    text: Option<Texts>,
    caption: Option<String>,
    #[serde(default)]
    attributes: Attributes,
    model_version: Option<String>,
}

fn request(json: &str, arguments: &Arguments) -> Result<AssumedRequest, String> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let line: Line = serde_path_to_error::deserialize(&mut reader).map_err(|error| error.to_string())?;
    let Line { request_id, key, text, caption, attributes, model_version } = line;
    let texts = text.map_or_else(|| vec![arguments.text.clone()], |texts| texts.as_slice().to_vec());
    // What the arguments say is about all of them; what a line says is about it.
    let mut all = arguments.attributes();
    all.extend(attributes);
    Ok(AssumedRequest {
        key: key.unwrap_or_else(|| request_id.clone()),
        request_id,
        attributes: all,
        non_latin_share: non_latin_share(&texts),
        texts,
        caption: caption.or_else(|| arguments.caption.clone()),
        model_version: model_version.or_else(|| arguments.model_version.clone()),
        ..assumed(arguments)
    })
}

/// The image and the time that all units have.
fn assumed(arguments: &Arguments) -> AssumedRequest {
    AssumedRequest {
        image_size: (arguments.image_size.0, arguments.image_size.1),
        image_bytes: ASSUMED_BYTES,
        time_ms: arguments.time.unwrap_or_else(Timestamp::now).as_millisecond(),
        ..AssumedRequest::default()
    }
}

fn non_latin_share(texts: &[String]) -> f64 {
    texts.iter().map(|text| foreign_share(text, &[Script::Latin])).fold(0.0, f64::max)
}

fn text(shares: &Shares) -> String {
    let table = |column: &str, shares: &[Share]| {
        let bar = |share: f64| "█".repeat((share * 40.0).round() as usize);
        let rows = shares
            .iter()
            .map(|it| vec![it.name.clone(), it.units.to_string(), format!("{:.2} %", it.share * 100.0), bar(it.share)]);
        output::table(&[column, "units", "share", ""], &["units", "share"], rows).to_string()
    };
    let mut parts = vec![
        format!("{} units by {}", shares.units, output::digest(&shares.config_digest)),
        table("version", &shares.versions),
        table("by", &shares.routes),
    ];
    if let Some(against) = &shares.against {
        parts.push(format!("the same units by {}", output::digest(&against.config_digest)));
        parts.push(table("version", &against.versions));
        parts.push(table("by", &against.routes));
        parts.push(format!("{:.2} % of units would change version", against.moved.share * 100.0));
        if !against.moves.is_empty() {
            parts.push(table("from → to", &against.moves));
        }
        let regrouped = against.regrouped.share * 100.0;
        parts.push(format!("{regrouped:.2} % would be counted elsewhere, by variant, experiment or rule"));
        if !against.regroups.is_empty() {
            parts.push(table("from → to", &against.regroups));
        }
    }
    parts.join("\n")
}
