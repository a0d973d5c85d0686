//! What happens to pictures before they are uploaded: blur, tilt, noise, watermarks, JPEG.

use fastrand::Rng;
use image::{DynamicImage, RgbImage as Pixels, codecs::jpeg::JpegEncoder, imageops};
use tiny_skia::{Color, FillRule, Paint, PathBuilder, Pixmap, PixmapPaint, Transform};

use super::paint::{Canvas, SIDE};
use crate::vision::RgbImage;

/// Tilts some pictures, and prints a pale mark over some.
pub(super) fn before_the_panel(canvas: &mut Canvas, chance: &mut Rng) {
    if chance.u8(0..6) == 0 {
        tilt(canvas, (chance.f32() - 0.5) * 10.0);
    }
    if chance.u8(0..6) == 0 {
        mark(canvas, chance);
    }
}

/// Takes the colours away where they are not to be seen, and blurs, dims, grains and compresses some.
pub(super) fn at_the_end(canvas: Canvas, grey: bool, chance: &mut Rng) -> RgbImage {
    let mut canvas = canvas;
    if grey {
        canvas.each(|_, pixel| {
            let [red, green, blue] = pixel.map(u32::from);
            // Rec. 601, as JPEG has it.
            *pixel = [((299 * red + 587 * green + 114 * blue) / 1000) as u8; 3];
        });
    }
    if chance.u8(0..5) == 0 {
        let light = 0.75 + chance.f32() * 0.35;
        canvas.each(|_, pixel| *pixel = pixel.map(|value| (f32::from(value) * light).min(255.0) as u8));
    }
    if chance.u8(0..5) == 0 {
        canvas.noise(10, chance);
    }
    let data: Vec<u8> = canvas.0.data().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let mut picture = RgbImage { width: SIDE, height: SIDE, data };
    if chance.u8(0..5) == 0 {
        picture = changed(picture, |pixels| imageops::blur(pixels, 0.6 + 0.7 * chance.f32()));
    }
    if chance.u8(0..4) == 0 {
        let quality = chance.u8(35..=70);
        picture = changed(picture, |pixels| compressed(pixels, quality));
    }
    picture
}

fn changed(picture: RgbImage, change: impl FnOnce(&Pixels) -> Pixels) -> RgbImage {
    let RgbImage { width, height, data } = picture;
    match Pixels::from_raw(width, height, data) {
        Some(pixels) => RgbImage { width, height, data: change(&pixels).into_raw() },
        None => RgbImage { width, height, data: Vec::new() },
    }
}

fn compressed(pixels: &Pixels, quality: u8) -> Pixels {
    let mut bytes = Vec::new();
    let written = JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(pixels);
    match written.and_then(|()| image::load_from_memory(&bytes)) {
        Ok(worn) => DynamicImage::into_rgb8(worn),
        Err(_) => pixels.clone(),
    }
}

/// Turned about its middle by some degrees; what comes in at the corners has the colour of the picture's own.
fn tilt(canvas: &mut Canvas, degrees: f32) {
    let middle = SIDE as f32 / 2.0;
    let Some(mut turned) = Pixmap::new(SIDE, SIDE) else { return };
    let paint = PixmapPaint { quality: tiny_skia::FilterQuality::Bilinear, ..PixmapPaint::default() };
    let background = canvas.0.pixel(1, 1).map_or(Color::WHITE, |pixel| {
        let colour = pixel.demultiply();
        Color::from_rgba8(colour.red(), colour.green(), colour.blue(), 255)
    });
    turned.fill(background);
    turned.draw_pixmap(0, 0, canvas.0.as_ref(), &paint, Transform::from_rotate_at(degrees, middle, middle), None);
    canvas.0 = turned;
}

/// Pale slanted strokes, as sellers print their names over pictures.
fn mark(canvas: &mut Canvas, chance: &mut Rng) {
    let mut strokes = PathBuilder::new();
    let top = chance.f32() * SIDE as f32;
    for index in 0..9 {
        let left = 8.0 + index as f32 * 13.0;
        strokes.move_to(left, top);
        strokes.line_to(left + 4.0, top);
        strokes.line_to(left + 8.0, top + 9.0);
        strokes.line_to(left + 4.0, top + 9.0);
        strokes.close();
    }
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(Color::from_rgba8(255, 255, 255, 90));
    if let Some(strokes) = strokes.finish() {
        canvas.0.fill_path(&strokes, &paint, FillRule::Winding, Transform::identity(), None);
    }
}
