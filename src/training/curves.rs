//! How training went, as SVG.

use plotters::{
    prelude::{ChartBuilder, IntoFont as _, LineSeries, RGBColor, Text},
    style::Color as _,
};

use super::History;
use crate::evaluation::{Area, Drawn, svg};

const SIZE: (u32, u32) = (900, 340);
const LEARNED: RGBColor = RGBColor(230, 159, 0);
const VALIDATED: RGBColor = RGBColor(0, 114, 178);
const SAID: RGBColor = RGBColor(0, 158, 115);

/// Draws the losses on the left, and the accuracy on the validation split on the right.
///
/// # Errors
/// What the drawing library says.
pub fn curves(history: &History) -> Result<String, String> {
    let points = |of: fn(&super::Measured) -> Option<f64>| -> Points {
        history.looks.iter().filter_map(|look| Some((look.step as f64, of(look)?))).collect()
    };
    let (learned, validated) = (points(|look| look.training_loss), points(|look| Some(look.loss)));
    let said = points(|look| look.caption_loss);
    let highest = learned.iter().chain(&validated).chain(&said).map(|(_, loss)| *loss).fold(0.1, f64::max) * 1.05;
    svg(SIZE, |area| {
        let (left, right) = area.split_horizontally(450);
        let losses = [
            (LEARNED, "training, smoothed", learned),
            (VALIDATED, "validation", validated),
            (SAID, "captions, validation", said),
        ];
        lines(&left, "Loss", highest, &losses)?;
        lines(&right, "Accuracy", 1.0, &[(VALIDATED, "validation", points(|look| Some(look.accuracy)))])
    })
}

type Points = Vec<(f64, f64)>;

fn lines(area: &Area<'_>, caption: &str, highest: f64, series: &[(RGBColor, &str, Points)]) -> Drawn {
    let last = series.iter().flat_map(|(_, _, points)| points).map(|(step, _)| *step).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..last, 0.0..highest)?;
    chart.configure_mesh().x_desc("step").x_labels(6).draw()?;
    let drawn = series.iter().filter(|(_, _, points)| !points.is_empty());
    for (index, (colour, name, points)) in drawn.enumerate() {
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        area.draw(&Text::new(
            (*name).to_owned(),
            (290, 36 + 16 * index as i32),
            ("sans-serif", 13).into_font().color(colour),
        ))?;
    }
    Ok(())
}
