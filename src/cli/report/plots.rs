//! Small pictures of a report, as SVG with a title and a description.

use std::{collections::BTreeMap, fmt::Write as _};

use super::words::escaped;
use crate::evidence::{Compared, HourOfVariant, Metric};

/// A difference with its interval, around zero.
pub(super) fn interval(compared: &Compared) -> String {
    let (Some(difference), Some([low, high])) = (compared.difference, compared.interval) else { return String::new() };
    const WIDTH: f64 = 180.0;
    let reach = low.abs().max(high.abs()).max(f64::MIN_POSITIVE) * 1.1;
    let x = |value: f64| WIDTH / 2.0 * (1.0 + value / reach);
    format!(
        "<svg role=\"img\" width=\"{WIDTH}\" height=\"18\" viewBox=\"0 0 {WIDTH} 18\"><title>{low:.4} … {high:.4}</title>\
         <line x1=\"{middle}\" y1=\"1\" x2=\"{middle}\" y2=\"17\" stroke=\"var(--line)\"/>\
         <line x1=\"{:.1}\" y1=\"9\" x2=\"{:.1}\" y2=\"9\" stroke=\"var(--mark)\" stroke-width=\"3\"/>\
         <circle cx=\"{:.1}\" cy=\"9\" r=\"4\" fill=\"var(--mark)\"/></svg>",
        x(low),
        x(high),
        x(difference),
        middle = WIDTH / 2.0,
    )
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 50.0;
const BOTTOM: f64 = 22.0;

/// A metric of each variant by hour; nothing for fewer than two hours.
pub(super) fn hours(hours: &[HourOfVariant], metric: Metric, title: &str) -> String {
    let value = |hour: &HourOfVariant| match metric {
        Metric::Confidence => hour.confidence,
        Metric::NoShare => hour.no_share,
        Metric::ReviewShare => hour.review_share,
        Metric::Latency => hour.latency_ms,
        Metric::Misjudged | Metric::MisjudgedNo => None,
    };
    let mut times: Vec<&str> = hours.iter().map(|hour| hour.hour.as_str()).collect();
    times.dedup();
    let highest = hours.iter().filter_map(value).fold(0.0, f64::max);
    if times.len() < 2 || highest <= 0.0 {
        return String::new();
    }

    let x = |time: &str| {
        let place = times.iter().position(|other| *other == time).unwrap_or_default();
        LEFT + (WIDTH - LEFT - 110.0) * place as f64 / (times.len() - 1) as f64
    };
    let y = |value: f64| (HEIGHT - BOTTOM) * (1.0 - 0.9 * value / highest);
    let mut lines: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for hour in hours {
        if let Some(value) = value(hour) {
            lines.entry(&hour.variant).or_default().push((x(&hour.hour), y(value)));
        }
    }

    let label = |value: f64| match metric {
        Metric::Latency => format!("{value:.1}"),
        Metric::Confidence => format!("{value:.3}"),
        _ => format!("{:.1} %", value * 100.0),
    };
    let mut svg = format!(
        "<h3>{title}</h3><svg role=\"img\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\">\
         <title>{title}</title><text x=\"0\" y=\"{:.0}\">{}</text><text x=\"0\" y=\"{:.0}\">0</text>\
         <text x=\"{LEFT}\" y=\"{:.0}\">{}</text><text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
        y(highest) + 4.0,
        label(highest),
        HEIGHT - BOTTOM,
        HEIGHT - 6.0,
        escaped(times[0]),
        WIDTH - 110.0,
        HEIGHT - 6.0,
        escaped(times[times.len() - 1]),
    );
    // Dashes tell variants apart without colour.
    let dashes = ["", "6 3", "2 3", "8 3 2 3"];
    for (place, (variant, points)) in lines.iter().enumerate() {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dash = dashes[place % dashes.len()];
        let end = points.last().copied().unwrap_or_default();
        write!(
            svg,
            "<polyline fill=\"none\" stroke=\"var(--mark)\" stroke-width=\"2\" stroke-dasharray=\"{dash}\" points=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            path.join(" "),
            end.0 + 6.0,
            end.1 + 4.0,
            escaped(variant),
        )
        .ok();
    }
    svg.push_str("</svg>\n");
    svg
}
