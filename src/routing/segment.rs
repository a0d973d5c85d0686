//! Parts of the traffic that reports show apart: by region, by device, by length of the text.
//!
//! Settings declare every value that a segment may have. A request with another value belongs to
//! `other`, and one without the field to `missing`. So the number of values is bounded, and the
//! value of a request never depends on the requests before it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    condition,
    features::{FORMATS, Features, Field, Kind, Known, Value, WEEKDAYS},
    refused::{Refused, refused},
};

/// Segments, and values of one, at most.
const SEGMENTS_MAX: usize = 10;
const VALUES_MAX: usize = 50;
/// Characters of a value, at most.
const VALUE_CHARACTERS_MAX: usize = 64;

/// The value of a request that has none of the declared ones.
const OTHER: &str = "other";
/// The value of a request that lacks the field.
const MISSING: &str = "missing";

/// A segment, as settings write it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentSpec {
    /// Its name in verdicts and reports.
    pub name: String,
    /// A feature or an attribute, as conditions spell it; the name where there is none.
    #[serde(default)]
    pub field: Option<String>,
    /// The values of a text or a flag.
    #[serde(default)]
    pub values: Vec<String>,
    /// The bounds between ranges of a number, in ascending order.
    #[serde(default)]
    pub bounds: Vec<f64>,
}

/// All segments of the settings, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segments(Vec<Segment>);

#[derive(Clone, Debug, PartialEq)]
struct Segment {
    name: String,
    field: Field,
    division: Division,
}

/// How the values of a field are divided.
#[derive(Clone, Debug, PartialEq)]
enum Division {
    /// Each of these values is its own.
    Values(Vec<String>),
    /// Ranges between bounds. There is one name more than there are bounds.
    Ranges { bounds: Vec<f64>, names: Vec<String> },
}

impl Segments {
    /// Checks segments.
    ///
    /// # Errors
    /// The place of the first that cannot work, such as `[1].values`, and the reason.
    pub fn new(specs: &[SegmentSpec]) -> Result<Self, (String, String)> {
        if specs.len() > SEGMENTS_MAX {
            return Err((String::new(), format!("has {} entries, at most {SEGMENTS_MAX}", specs.len())));
        }

        let mut segments: Vec<Segment> = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let segment = Segment::new(spec).map_err(|(field, reason)| (format!("[{index}]{field}"), reason))?;
            if segments.iter().any(|other| other.name == segment.name) {
                return Err((format!("[{index}].name"), format!("`{}` appears twice", segment.name)));
            }
            segments.push(segment);
        }
        Ok(Self(segments))
    }

    /// The value of each segment for a request.
    pub fn of(&self, features: &Features<'_>) -> BTreeMap<String, String> {
        self.0.iter().map(|segment| (segment.name.clone(), segment.value(features).to_owned())).collect()
    }
}

impl Segment {
    fn new(spec: &SegmentSpec) -> Result<Self, Refused> {
        if !is_name(&spec.name) {
            let reason = format!("must have 1 to {VALUE_CHARACTERS_MAX} characters, none of them a control character");
            return Err(refused(".name", reason));
        }

        let written = spec.field.as_deref().unwrap_or(&spec.name);
        let field = condition::parse_field(written).map_err(|error| refused(".field", error.to_string()))?;
        let division = match field.kind() {
            Some(Kind::Time) => {
                return Err(refused(
                    ".field",
                    "a time has no segments: use `hour('Asia/Shanghai')` or `weekday`".to_owned(),
                ));
            }
            Some(Kind::Number) => Division::of_number(spec, &field)?,
            Some(Kind::Text) | None => Division::of_text(spec, &field)?,
        };
        Ok(Self { name: spec.name.clone(), field, division })
    }

    fn value(&self, features: &Features<'_>) -> &str {
        let Some(value) = features.get(&self.field) else { return MISSING };
        let known = match (&self.division, value) {
            (Division::Values(values), Value::Text(text)) => values.iter().find(|value| *value == text),
            (Division::Values(values), Value::Flag(flag)) => values.iter().find(|value| **value == flag.to_string()),
            (Division::Values(values), Value::Number(number)) => {
                values.iter().find(|value| **value == number.to_string())
            }
            (Division::Ranges { bounds, names }, Value::Number(number)) => {
                names.get(bounds.partition_point(|bound| *bound <= number))
            }
            _ => None,
        };
        known.map_or(OTHER, String::as_str)
    }
}

impl Division {
    fn of_number(spec: &SegmentSpec, field: &Field) -> Result<Self, Refused> {
        if matches!(field, Field::Hour(_)) && spec.bounds.is_empty() && spec.values.is_empty() {
            return Ok(Self::Values((0..24).map(|hour| hour.to_string()).collect()));
        }
        if !spec.values.is_empty() {
            return Err(refused(".values", "the field is a number: give `bounds`, such as [50, 200]".to_owned()));
        }
        Self::ranges(&spec.bounds)
    }

    /// A text, or an attribute, whose type only the request shows.
    fn of_text(spec: &SegmentSpec, field: &Field) -> Result<Self, Refused> {
        let is_attribute = matches!(field, Field::Attribute(_));
        match (spec.values.is_empty(), spec.bounds.is_empty(), field) {
            (true, true, Field::Weekday(_)) => return Ok(Self::values_of(&WEEKDAYS)),
            (true, true, Field::Known(Known::ImageFormat)) => return Ok(Self::values_of(&FORMATS)),
            (true, false, _) if is_attribute => return Self::ranges(&spec.bounds),
            (_, false, _) => {
                return Err(refused(".bounds", "are for numbers: give `values`, and no bounds".to_owned()));
            }
            (true, true, _) => {
                let reason = "is missing: list the values to show apart, such as [\"cn-east\", \"cn-north\"]; \
                              all others are `other`. A number has `bounds`";
                return Err(refused(".values", reason.to_owned()));
            }
            (false, true, _) => {}
        }

        if spec.values.len() > VALUES_MAX {
            return Err(refused(".values", format!("has {} entries, at most {VALUES_MAX}", spec.values.len())));
        }
        if let Some(value) = spec.values.iter().find(|value| !is_name(value)) {
            return Err(refused(
                ".values",
                format!("`{value}` is empty, longer than {VALUE_CHARACTERS_MAX} characters, or no text"),
            ));
        }
        Ok(Self::Values(spec.values.clone()))
    }

    fn values_of(values: &[&str]) -> Self {
        Self::Values(values.iter().map(ToString::to_string).collect())
    }

    fn ranges(bounds: &[f64]) -> Result<Self, Refused> {
        if bounds.is_empty() || bounds.len() >= VALUES_MAX {
            return Err(refused(".bounds", format!("must have 1 to {} numbers, such as [50, 200]", VALUES_MAX - 1)));
        }
        let is_ascending = bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if !is_ascending || bounds.iter().any(|bound| !bound.is_finite()) {
            return Err(refused(".bounds", "must be numbers in ascending order".to_owned()));
        }

        let mut names = vec![format!("<{}", bounds[0])];
        names.extend(bounds.windows(2).map(|pair| format!("{}..{}", pair[0], pair[1])));
        names.push(format!(">={}", bounds[bounds.len() - 1]));
        Ok(Self::Ranges { bounds: bounds.to_vec(), names })
    }
}

/// Names stand in logs and tables.
fn is_name(text: &str) -> bool {
    let characters = text.chars().count();
    (1..=VALUE_CHARACTERS_MAX).contains(&characters) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{AttributeValue, Attributes};

    fn spec(name: &str, field: Option<&str>, values: &[&str], bounds: &[f64]) -> SegmentSpec {
        SegmentSpec {
            name: name.to_owned(),
            field: field.map(str::to_owned),
            values: values.iter().map(ToString::to_string).collect(),
            bounds: bounds.to_vec(),
        }
    }

    fn value_of(spec: SegmentSpec, attributes: &[(&str, AttributeValue)]) -> String {
        let attributes: Attributes =
            attributes.iter().map(|(name, value)| ((*name).to_owned(), Some(value.clone()))).collect();
        let texts = ["a mug".to_owned()];
        let features = Features {
            request_id: "r",
            key: None,
            texts: &texts,
            caption: None,
            text_length: 50,
            non_latin_share: 0.0,
            image_width: 1,
            image_height: 1,
            image_bytes: 1,
            image_format: "png",
            // A Tuesday, 13:00 UTC.
            time_ms: Some(1_796_130_000_000),
            attributes: &attributes,
            forced_version: None,
        };
        let name = spec.name.clone();
        Segments::new(&[spec]).unwrap().of(&features).remove(&name).unwrap()
    }

    #[test]
    fn a_request_has_one_declared_value() {
        let text = |text: &str| AttributeValue::Text(text.to_owned());
        let region = || spec("region", None, &["cn", "eu"], &[]);
        assert_eq!(value_of(region(), &[("region", text("cn"))]), "cn");
        assert_eq!(value_of(region(), &[("region", text("us"))]), "other");
        assert_eq!(value_of(region(), &[("region", AttributeValue::Number(1.0))]), "other");
        assert_eq!(value_of(region(), &[]), "missing");

        let paid = || spec("paid", Some("attributes.paid"), &["true", "false"], &[]);
        assert_eq!(value_of(paid(), &[("paid", AttributeValue::Flag(true))]), "true");

        let age = || spec("age", None, &[], &[18.0, 65.0]);
        assert_eq!(value_of(age(), &[("age", AttributeValue::Number(17.9))]), "<18");
        assert_eq!(value_of(age(), &[("age", AttributeValue::Number(18.0))]), "18..65");
        assert_eq!(value_of(age(), &[("age", AttributeValue::Number(65.0))]), ">=65");
        assert_eq!(value_of(age(), &[("age", text("old"))]), "other");

        assert_eq!(value_of(spec("length", Some("text_length"), &[], &[50.0]), &[]), ">=50");
        assert_eq!(value_of(spec("format", Some("image_format"), &[], &[]), &[]), "png");
        assert_eq!(value_of(spec("day", Some("weekday"), &[], &[]), &[]), "tue");
        assert_eq!(value_of(spec("hour", Some("hour('Asia/Shanghai')"), &[], &[]), &[]), "21");
    }

    #[test]
    fn a_segment_without_a_bound_on_its_values_is_refused() {
        let refused = |spec: SegmentSpec| Segments::new(&[spec]).unwrap_err().0;
        assert_eq!(refused(spec("region", None, &[], &[])), "[0].values");
        assert_eq!(refused(spec("text", None, &[], &[])), "[0].values");
        assert_eq!(refused(spec("length", Some("text_length"), &["1"], &[])), "[0].values");
        assert_eq!(refused(spec("length", Some("text_length"), &[], &[])), "[0].bounds");
        assert_eq!(refused(spec("length", Some("text_length"), &[], &[2.0, 1.0])), "[0].bounds");
        assert_eq!(refused(spec("when", Some("time"), &[], &[])), "[0].field");
        assert_eq!(refused(spec("x", Some("text_lenght"), &["a"], &[])), "[0].field");
        assert_eq!(refused(spec("", Some("region"), &["a"], &[])), "[0].name");
        let twice = [spec("region", None, &["a"], &[]), spec("region", None, &["b"], &[])];
        assert_eq!(Segments::new(&twice).unwrap_err().0, "[1].name");
    }
}
