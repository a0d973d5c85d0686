//! Reports as SVG: accuracy by kind, and confidence against accuracy.

use plotters::{
    prelude::{ChartBuilder, Circle, IntoFont as _, LineSeries, PathElement, RGBColor, Rectangle, Text},
    style::{BLACK, Color as _, ShapeStyle},
};

use super::{
    Report,
    svg::{Area, Drawn, svg},
};

const SIZE: (u32, u32) = (980, 420);
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

/// Draws reports of the same data side by side: bars with their intervals on the left, reliability on the right.
///
/// # Errors
/// What the drawing library says.
pub fn picture(reports: &[Report]) -> Result<String, String> {
    svg(SIZE, |area| {
        let (left, right) = area.split_horizontally(580);
        bars(&left, reports)?;
        reliability(&right, reports)
    })
}

fn filled(colour: RGBColor) -> ShapeStyle {
    colour.filled()
}

fn bars(area: &Area<'_>, reports: &[Report]) -> Drawn {
    let mut groups: Vec<String> = vec!["all".to_owned()];
    groups.extend(
        reports.iter().flat_map(|report| report.kinds.keys().cloned()).collect::<std::collections::BTreeSet<_>>(),
    );
    area.draw(&Text::new("Accuracy, with 95 % intervals", (190, 10), ("sans-serif", 16).into_font()))?;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        // Between the title and bars of a hundred per cent lie the versions' names.
        .margin_top(52)
        .x_label_area_size(28)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..groups.len() as f64, 0.0..1.0)?;
    let named = groups.clone();
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
        let shares = groups.iter().enumerate().filter_map(|(group, name)| {
            let share = if group == 0 { Some(&report.overall) } else { report.kinds.get(name) };
            share.map(|share| (group as f64 + 0.1 + width * index as f64, *share))
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
    let span = (580.0 - 60.0) / named.len() as f64;
    for (index, name) in named.iter().enumerate() {
        area.draw(&Text::new(
            name.clone(),
            (56 + (span * (index as f64 + 0.15)) as i32, 390),
            ("sans-serif", 13).into_font(),
        ))?;
    }
    Ok(())
}

fn reliability(area: &Area<'_>, reports: &[Report]) -> Drawn {
    let mut chart = ChartBuilder::on(area)
        .caption("Confidence against accuracy", ("sans-serif", 16))
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
        // A bin of a few answers says little, and would draw a zigzag.
        let enough = report.overall.all / 100;
        let points: Vec<(f64, f64)> = report
            .calibration
            .bins
            .iter()
            .filter(|bin| bin.answers >= enough.max(1))
            .map(|bin| (bin.confidence, bin.accuracy))
            .collect();
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, filled(colour))))?;
    }
    Ok(())
}
