//! Where charts are drawn.

use plotters::{
    coord::Shift,
    prelude::{DrawingArea, IntoDrawingArea as _, SVGBackend},
    style::WHITE,
};

/// A part of a picture.
pub type Area<'s> = DrawingArea<SVGBackend<'s>, Shift>;
/// What came of drawing.
pub type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A picture of so many pixels, as SVG.
///
/// # Errors
/// What the drawing library says.
pub fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String, String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| draw(&area));
        drawn.and_then(|()| Ok(area.present()?)).map_err(|error| error.to_string())?;
    }
    Ok(text)
}
