//! Reports as SVG: accuracy by kind, label and split, confidence against accuracy, latency.

use std::collections::BTreeSet;

use plotters::{
    prelude::{ChartBuilder, Circle, IntoFont as _, LineSeries, PathElement, RGBColor, Rectangle, Text},
    style::{BLACK, Color as _, ShapeStyle},
};

use super::{
    Report, Share,
    report::{Latency, ORDER},
    svg::{Area, Drawn, svg},
};

const SIZE: (u32, u32) = (980, 740);
/// Where the upper half ends.
const UPPER: u32 = 400;
const MIDDLE: u32 = 560;
/// Told apart by people who see colours differently too (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
];
const GREY: RGBColor = RGBColor(150, 150, 150);

/// Draws reports of some versions on one or more splits: accuracy with its intervals above, with a group of bars for each kind and label of
/// the first split and one for each further split; reliability and latency below.
///
/// # Errors
/// What the drawing library says.
pub fn picture(reports: &[Report]) -> Result<String, String> {
    let split = reports.first().map_or("", |report| report.split.as_str());
    let (first, further): (Vec<&Report>, Vec<&Report>) = reports.iter().partition(|report| report.split == split);
    svg(SIZE, |area| {
        let (upper, lower) = area.split_vertically(UPPER);
        let (left, right) = lower.split_horizontally(MIDDLE);
        bars(&upper, &first, &further)?;
        reliability(&left, &first, &further)?;
        latency(&right, &first)
    })
}

fn filled(colour: RGBColor) -> ShapeStyle {
    colour.filled()
}

/// What a bar of accuracy is about.
enum Group {
    All,
    Kind(String),
    Label(&'static str),
    Split(String),
}

impl Group {
    fn all(first: &[&Report], further: &[&Report]) -> Vec<Self> {
        let kinds: BTreeSet<&String> = first.iter().flat_map(|report| report.kinds.keys()).collect();
        let mut groups = vec![Self::All];
        groups.extend(kinds.into_iter().cloned().map(Self::Kind));
        groups.extend(ORDER.map(|label| Self::Label(label.as_str())));
        let mut splits: Vec<&String> = further.iter().map(|report| &report.split).collect();
        splits.dedup();
        groups.extend(splits.into_iter().cloned().map(Self::Split));
        groups
    }

    fn name(&self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::Kind(name) | Self::Split(name) => name.clone(),
            Self::Label(name) => format!("“{name}”"),
        }
    }

    fn share(&self, report: &Report, further: &[&Report]) -> Option<Share> {
        match self {
            Self::All => Some(report.overall),
            Self::Kind(name) => report.kinds.get(name).copied(),
            Self::Label(name) => report.labels.get(name).copied(),
            Self::Split(name) => {
                let other = further.iter().find(|other| other.split == *name && other.version == report.version);
                other.map(|other| other.overall)
            }
        }
    }
}

fn bars(area: &Area<'_>, reports: &[&Report], further: &[&Report]) -> Drawn {
    let groups = Group::all(reports, further);
    area.draw(&Text::new("Accuracy, with 95 % intervals", (390, 10), ("sans-serif", 16).into_font()))?;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        // Between the title and bars of a hundred per cent lie the versions' names.
        .margin_top(52)
        .x_label_area_size(28)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..groups.len() as f64, 0.0..1.0)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .disable_x_mesh()
        .x_labels(0)
        .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
        .draw()?;
    let chance = [(0.0, 1.0 / 3.0), (groups.len() as f64, 1.0 / 3.0)];
    chart.draw_series(LineSeries::new(chance, GREY.stroke_width(1)))?;
    let width = 0.8 / reports.len().max(1) as f64;
    for (index, report) in reports.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let shares = groups.iter().enumerate().filter_map(|(place, group)| {
            group.share(report, further).map(|share| (place as f64 + 0.1 + width * index as f64, share))
        });
        let shares: Vec<_> = shares.collect();
        chart.draw_series(
            shares
                .iter()
                .map(|(at, share)| Rectangle::new([(*at, 0.0), (at + width * 0.9, share.accuracy)], filled(colour))),
        )?;
        chart.draw_series(shares.iter().map(|(at, share)| {
            let middle = at + width * 0.45;
            PathElement::new([(middle, share.interval.low), (middle, share.interval.high)], BLACK.stroke_width(1))
        }))?;
        area.draw(&Rectangle::new([(60 + 150 * index as i32, 30), (70 + 150 * index as i32, 40)], filled(colour)))?;
        area.draw(&Text::new(report.version.clone(), (75 + 150 * index as i32, 30), ("sans-serif", 13).into_font()))?;
    }
    let span = (f64::from(SIZE.0) - 60.0) / groups.len() as f64;
    for (index, group) in groups.iter().enumerate() {
        let at = (56 + (span * (index as f64 + 0.15)) as i32, UPPER as i32 - 30);
        area.draw(&Text::new(group.name(), at, ("sans-serif", 13).into_font()))?;
    }
    Ok(())
}

fn reliability(area: &Area<'_>, reports: &[&Report], further: &[&Report]) -> Drawn {
    let also: BTreeSet<&str> = further.iter().map(|report| report.split.as_str()).collect();
    let also = also.into_iter().map(|split| format!("; thin: {split}")).collect::<String>();
    let mut chart = ChartBuilder::on(area)
        .caption(format!("Confidence against accuracy{also}"), ("sans-serif", 16))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d(0.3..1.0, 0.0..1.0)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .x_desc("confidence")
        .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
        .x_label_formatter(&|share| format!("{:.0} %", share * 100.0))
        .draw()?;
    chart.draw_series(LineSeries::new([(0.3, 0.3), (1.0, 1.0)], GREY.stroke_width(1)))?;
    for (index, report) in reports.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points = points(report);
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, filled(colour))))?;
        for other in further.iter().filter(|other| other.version == report.version) {
            chart.draw_series(LineSeries::new(self::points(other), colour.stroke_width(1)))?;
        }
    }
    Ok(())
}

/// Confidence and accuracy of those bins that say something: a few answers would draw a zigzag.
fn points(report: &Report) -> Vec<(f64, f64)> {
    let enough = (report.overall.all / 100).max(1);
    let bins = report.calibration.bins.iter().filter(|bin| bin.answers >= enough);
    bins.map(|bin| (bin.confidence, bin.accuracy)).collect()
}

fn latency(area: &Area<'_>, reports: &[&Report]) -> Drawn {
    let most = reports.iter().map(|report| report.latency_ms.p95).fold(f64::MIN_POSITIVE, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("Latency in ms, p50 to p95", ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..reports.len().max(1) as f64, 0.0..most * 1.1)?;
    chart.configure_mesh().max_light_lines(0).disable_x_mesh().x_labels(0).draw()?;
    for (index, report) in reports.iter().enumerate() {
        let (at, Latency { p50, p95, .. }) = (index as f64, report.latency_ms);
        let colour = filled(COLOURS[index % COLOURS.len()]);
        chart.draw_series([Rectangle::new([(at + 0.2, 0.0), (at + 0.8, p50)], colour)])?;
        chart.draw_series([PathElement::new([(at + 0.5, p50), (at + 0.5, p95)], BLACK.stroke_width(1))])?;
    }
    Ok(())
}
