//! The picture of a scene.

use std::f32::consts::{PI, TAU};

use fastrand::Rng;
use tiny_skia::{Color, FillRule, Mask, Paint, Path, PathBuilder, Pixmap, Rect, Stroke, Transform};

use super::{
    scene::{Colour, Object, Obstacle, PANEL, Scene, Shape, Side, Texture},
    wear,
};
use crate::vision::RgbImage;

/// Pixels of a picture's side.
pub const SIDE: u32 = 128;

/// Paints a scene on a background by chance, and wears it as uploads are worn.
pub fn paint(scene: &Scene, chance: &mut Rng) -> RgbImage {
    let mut canvas = background(chance);
    for object in &scene.objects {
        draw(&mut canvas, object, chance);
    }
    if let Obstacle::Mosaic(index) = scene.obstacle
        && let Some(object) = scene.objects.get(index)
    {
        mosaic(&mut canvas, object, chance);
    }
    wear::before_the_panel(&mut canvas, chance);
    if let Obstacle::Panel(side) = scene.obstacle {
        panel(&mut canvas, side);
    }
    wear::at_the_end(canvas, scene.obstacle == Obstacle::Grey, chance)
}

fn varied([red, green, blue]: [u8; 3], chance: &mut Rng) -> [u8; 3] {
    [red, green, blue].map(|value| value.saturating_add_signed(chance.i8(-18..=18)))
}

fn rgb(colour: Colour) -> [u8; 3] {
    match colour {
        Colour::Red => [214, 40, 40],
        Colour::Green => [40, 150, 60],
        Colour::Blue => [40, 90, 210],
        Colour::Yellow => [240, 200, 30],
        Colour::Purple => [140, 50, 170],
        Colour::Black => [30, 30, 30],
        Colour::Orange => [245, 130, 20],
        Colour::Pink => [245, 130, 185],
        Colour::Brown => [120, 70, 35],
        Colour::Turquoise => [35, 190, 190],
    }
}

fn solid([red, green, blue]: [u8; 3]) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color(Color::from_rgba8(red, green, blue, 255));
    paint.anti_alias = true;
    paint
}

/// Plain, a gradient, noise, or something like an unfocused photograph; always pale, so that what lies on it is seen.
fn background(chance: &mut Rng) -> Canvas {
    let pale = |chance: &mut Rng| [0; 3].map(|_: u8| chance.u8(190..=245));
    let mut canvas = Canvas::filled(pale(chance));
    match chance.u8(0..4) {
        0 => {}
        1 => {
            let (from, to) = (pale(chance), pale(chance));
            let angle = chance.f32() * TAU;
            canvas.each(|[x, y], pixel| {
                let along = 0.5 + ((x - 0.5) * angle.cos() + (y - 0.5) * angle.sin()) / 1.5;
                *pixel =
                    [0, 1, 2].map(|at| (f32::from(from[at]) + (f32::from(to[at]) - f32::from(from[at])) * along) as u8);
            });
        }
        2 => canvas.noise(12, chance),
        _ => {
            // Soft patches of pale colours.
            let patches: Vec<([f32; 2], f32, [u8; 3])> =
                (0..6).map(|_| ([chance.f32(), chance.f32()], 0.1 + chance.f32() * 0.3, pale(chance))).collect();
            canvas.each(|[x, y], pixel| {
                for ([left, top], spread, colour) in &patches {
                    let share = 0.8 * (-((x - left).powi(2) + (y - top).powi(2)) / (2.0 * spread * spread)).exp();
                    for (value, other) in pixel.iter_mut().zip(colour) {
                        *value = (f32::from(*value) * (1.0 - share) + f32::from(*other) * share) as u8;
                    }
                }
            });
        }
    }
    canvas
}

fn draw(canvas: &mut Canvas, object: &Object, chance: &mut Rng) {
    let turn = (chance.f32() - 0.5) * 0.35;
    let Some(path) = outline(object, turn) else { return };
    let colour = varied(rgb(object.colour), chance);
    let rule = if object.shape == Shape::Ring { FillRule::EvenOdd } else { FillRule::Winding };
    canvas.0.fill_path(&path, &solid(colour), rule, Transform::identity(), None);
    let Some(mut inside) = Mask::new(SIDE, SIDE) else { return };
    inside.fill_path(&path, rule, true, Transform::identity());
    let [x, y] = object.at.map(|at| at * SIDE as f32);
    let radius = object.radius() * SIDE as f32;
    let pale = solid([245, 245, 240]);
    match object.texture {
        Texture::Plain => {}
        Texture::Striped => {
            let gap = 7.0;
            let mut stripes = PathBuilder::new();
            let mut at = y - radius + gap / 2.0;
            while at < y + radius {
                stripes.move_to(x - radius - 1.0, at);
                stripes.line_to(x + radius + 1.0, at);
                at += gap;
            }
            if let Some(stripes) = stripes.finish() {
                let stroke = Stroke { width: 2.6, ..Stroke::default() };
                canvas.0.stroke_path(&stripes, &pale, &stroke, Transform::identity(), Some(&inside));
            }
        }
        Texture::Dotted => {
            let gap = 8.0;
            let steps = (radius / gap).ceil() as i32;
            let mut dots = PathBuilder::new();
            for row in -steps..=steps {
                for column in -steps..=steps {
                    dots.push_circle(x + column as f32 * gap, y + row as f32 * gap, 2.2);
                }
            }
            if let Some(dots) = dots.finish() {
                canvas.0.fill_path(&dots, &pale, FillRule::Winding, Transform::identity(), Some(&inside));
            }
        }
    }
}

fn outline(object: &Object, turn: f32) -> Option<Path> {
    let [x, y] = object.at.map(|at| at * SIDE as f32);
    let radius = object.radius() * SIDE as f32;
    let corners = |radii: &[f32], first: f32| {
        let mut path = PathBuilder::new();
        for (index, share) in radii.iter().enumerate() {
            let angle = first + turn + TAU * index as f32 / radii.len() as f32;
            let (across, down) = (x + radius * share * angle.cos(), y + radius * share * angle.sin());
            if index == 0 { path.move_to(across, down) } else { path.line_to(across, down) }
        }
        path.close();
        path.finish()
    };
    match object.shape {
        Shape::Circle => PathBuilder::from_circle(x, y, radius * 0.92),
        Shape::Square => corners(&[1.12; 4], PI / 4.0),
        Shape::Triangle => corners(&[1.12; 3], -PI / 2.0),
        Shape::Star => corners(&[1.1, 0.46].repeat(5), -PI / 2.0),
        Shape::Cross => {
            let (arm, reach) = (radius * 0.33, radius);
            let mut path = PathBuilder::new();
            path.push_rect(Rect::from_ltrb(x - reach, y - arm, x + reach, y + arm)?);
            path.push_rect(Rect::from_ltrb(x - arm, y - reach, x + arm, y + reach)?);
            path.finish()?.transform(Transform::from_rotate_at(turn.to_degrees(), x, y))
        }
        Shape::Heart => {
            let at = |across: f32, down: f32| (x + across * radius, y + down * radius);
            let mut path = PathBuilder::new();
            let mut half = |side: f32| {
                let [(ax, ay), (bx, by), (cx, cy)] =
                    [at(0.35 * side, -1.15), at(1.25 * side, -0.95), at(1.02 * side, -0.1)];
                let [(dx, dy), (ex, ey), (fx, fy)] = [at(0.85 * side, 0.4), at(0.3 * side, 0.7), at(0.0, 1.05)];
                let (from_x, from_y) = at(0.0, -0.5);
                path.move_to(from_x, from_y);
                path.cubic_to(ax, ay, bx, by, cx, cy);
                path.cubic_to(dx, dy, ex, ey, fx, fy);
                path.close();
            };
            half(1.0);
            half(-1.0);
            path.finish()?.transform(Transform::from_rotate_at(turn.to_degrees(), x, y))
        }
        Shape::Ring => {
            let mut path = PathBuilder::new();
            path.push_circle(x, y, radius);
            path.push_circle(x, y, radius * 0.48);
            path.finish()
        }
        Shape::Diamond => corners(&[0.72, 1.15, 0.72, 1.15], 0.0),
    }
}

/// Blocks of the object's colour, lighter and darker, where it was: neither its outline nor its surface is left.
fn mosaic(canvas: &mut Canvas, object: &Object, chance: &mut Rng) {
    let blocks = 5;
    let radius = object.radius() * 1.08 * SIDE as f32;
    let side = 2.0 * radius / blocks as f32;
    let [left, top] = object.at.map(|at| at * SIDE as f32 - radius);
    let colour = rgb(object.colour);
    for block in 0..blocks * blocks {
        let (row, column) = ((block / blocks) as f32, (block % blocks) as f32);
        let shade = chance.i16(-40..=40);
        let paint = solid(colour.map(|value| (i16::from(value) + shade).clamp(0, 255) as u8));
        if let Some(rect) = Rect::from_xywh(left + column * side, top + row * side, side + 0.5, side + 0.5) {
            canvas.0.fill_rect(rect, &paint, Transform::identity(), None);
        }
    }
}

/// A grey panel with dark slanted stripes.
fn panel(canvas: &mut Canvas, side: Side) {
    let (whole, part) = (SIDE as f32, PANEL * SIDE as f32);
    let area = match side {
        Side::Left => Rect::from_ltrb(0.0, 0.0, part, whole),
        Side::Right => Rect::from_ltrb(whole - part, 0.0, whole, whole),
        Side::Top => Rect::from_ltrb(0.0, 0.0, whole, part),
        Side::Bottom => Rect::from_ltrb(0.0, whole - part, whole, whole),
    };
    let (Some(area), Some(mut inside)) = (area, Mask::new(SIDE, SIDE)) else { return };
    inside.fill_path(&PathBuilder::from_rect(area), FillRule::Winding, false, Transform::identity());
    canvas.0.fill_rect(area, &solid([150, 150, 155]), Transform::identity(), None);
    let mut stripes = PathBuilder::new();
    let mut at = -whole;
    while at < whole {
        stripes.move_to(at, whole);
        stripes.line_to(at + whole, 0.0);
        at += 14.0;
    }
    if let Some(stripes) = stripes.finish() {
        let stroke = Stroke { width: 4.0, ..Stroke::default() };
        canvas.0.stroke_path(&stripes, &solid([105, 105, 112]), &stroke, Transform::identity(), Some(&inside));
    }
}

/// A square picture in the making.
pub(super) struct Canvas(pub(super) Pixmap);

impl Canvas {
    fn filled([red, green, blue]: [u8; 3]) -> Self {
        // A side above nought is all that a pixmap asks for.
        #[expect(clippy::expect_used, reason = "the side is a constant above nought")]
        let mut pixmap = Pixmap::new(SIDE, SIDE).expect("a side above nought");
        pixmap.fill(Color::from_rgba8(red, green, blue, 255));
        Self(pixmap)
    }

    /// Changes each pixel, given where it lies, from 0 to 1 across and down.
    pub(super) fn each(&mut self, mut change: impl FnMut([f32; 2], &mut [u8; 3])) {
        for (at, pixel) in self.0.data_mut().chunks_exact_mut(4).enumerate() {
            let at = at as u32;
            let place = [at % SIDE, at / SIDE].map(|at| (at as f32 + 0.5) / SIDE as f32);
            let mut colour = [pixel[0], pixel[1], pixel[2]];
            change(place, &mut colour);
            pixel[..3].copy_from_slice(&colour);
        }
    }

    pub(super) fn noise(&mut self, most: i16, chance: &mut Rng) {
        self.each(|_, pixel| {
            let change = chance.i16(-most..=most);
            *pixel = pixel.map(|value| (i16::from(value) + change).clamp(0, 255) as u8);
        });
    }
}
