//! What a picture shows, in words: all of it, for those who learn to look before they judge, and what a statement is about, for
//! those who learn to find it.

use fastrand::Rng;

use super::{
    phrase::name,
    scene::{Object, Obstacle, Scene},
    statement::{CLOSE, Description, Relation, Statement, Truth, matches, seen as all_seen},
};

/// What keeps the picture from telling all, each object from left to right with where it lies, and their order from the top.
/// What cannot be seen is not said.
pub fn describe(scene: &Scene, chance: &mut Rng) -> String {
    let mut parts = vec![scene.obstacle.as_str().to_owned()];
    let along = |axis: usize| {
        let mut order: Vec<usize> = (0..scene.objects.len()).collect();
        order.sort_by(|one, other| scene.objects[*one].at[axis].total_cmp(&scene.objects[*other].at[axis]));
        order
    };
    parts.extend(along(0).into_iter().map(|index| {
        let object = &scene.objects[index];
        format!("{} {}", name(&seen(scene, index), false, chance), place(object))
    }));
    if scene.objects.len() > 1 {
        let names = along(1).into_iter().map(|index| {
            let short = Description { size: None, texture: None, ..seen(scene, index) };
            name(&short, false, chance)
        });
        parts.push(format!("top {}", names.collect::<Vec<_>>().join(", ")));
    }
    parts.join(", ")
}

/// Where that lies of which a statement speaks, `perhaps` where what is hidden decides whether it is meant, and `none` where nothing
/// is; from left to right, or from the top down where the statement says what lies above. Of two things, `one` is the first.
pub fn explain(statement: &Statement, scene: &Scene) -> String {
    let axis = match statement {
        Statement::Relates(_, Relation::Above | Relation::Below, _) => 1,
        _ => 0,
    };
    let wanted: Vec<Description> = statement
        .descriptions()
        // Where it is said to lie has no part in finding it.
        .map(|described| Description { side: None, ..*described })
        .collect();
    let mut found: Vec<(f32, String)> = Vec::new();
    for (index, seen) in all_seen(scene).iter().enumerate() {
        let (at, place) = match scene.objects.get(index) {
            Some(object) => (object.at[axis], place(object)),
            None => (seen.middle(axis), "panel".to_owned()),
        };
        let truths: Vec<Truth> = wanted.iter().map(|wanted| matches(seen, wanted).unwrap_or(Truth::No)).collect();
        let Some(truth) = truths.iter().copied().max().filter(|truth| *truth != Truth::No) else { continue };
        let which = match truths.as_slice() {
            [_] => "",
            [_, Truth::No] => "one ",
            [Truth::No, _] => "other ",
            _ => "both ",
        };
        let perhaps = if truth == Truth::Maybe { "perhaps " } else { "" };
        found.push((at, format!("{perhaps}{which}{place}")));
    }
    found.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let places: Vec<String> = found.into_iter().map(|(_, place)| place).collect();
    if places.is_empty() { "none".to_owned() } else { places.join(", ") }
}

/// An object as far as the picture shows it.
fn seen(scene: &Scene, index: usize) -> Description {
    let object = scene.objects[index];
    let hidden = scene.obstacle == Obstacle::Mosaic(index);
    Description {
        shape: (!hidden).then_some(object.shape),
        colour: (scene.obstacle != Obstacle::Grey).then_some(object.colour),
        size: Some(object.size),
        texture: (!hidden).then_some(object.texture),
        side: None,
    }
}

/// `upper left`; of what lies close to a line nobody says on which side of it.
fn place(object: &Object) -> String {
    let word = |at: f32, [before, behind]: [&'static str; 2]| match () {
        () if (at - 0.5).abs() < CLOSE => "half",
        () if at < 0.5 => before,
        () => behind,
    };
    format!("{} {}", word(object.at[1], ["upper", "lower"]), word(object.at[0], ["left", "right"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::{Colour, Shape, Side, Size, Texture};

    #[test]
    fn a_description_says_all_that_is_seen_in_its_order_and_nothing_that_is_hidden() {
        let object = |shape, colour, at| Object { shape, colour, size: Size::Small, texture: Texture::Striped, at };
        let objects =
            vec![object(Shape::Star, Colour::Black, [0.8, 0.2]), object(Shape::Circle, Colour::Red, [0.2, 0.52])];
        let mut chance = Rng::with_seed(1);
        for (obstacle, expected) in [
            (
                Obstacle::Panel(Side::Bottom),
                "panel at the bottom, small striped red circle half left, small striped black star upper right, \
                 top black star, red circle",
            ),
            (
                Obstacle::Grey,
                "no colour, small striped circle half left, small striped star upper right, top star, circle",
            ),
            (
                Obstacle::Mosaic(0),
                "mosaic, small striped red circle half left, small black shape upper right, top black shape, red circle",
            ),
        ] {
            let said = describe(&Scene { objects: objects.clone(), obstacle }, &mut chance);
            assert_eq!(said.replace("little", "small"), expected);
        }
        let striped = Description { texture: Some(Texture::Striped), ..Description::default() };
        let star = Description { shape: Some(Shape::Star), colour: Some(Colour::Black), ..Description::default() };
        let blue = Description { colour: Some(Colour::Blue), ..Description::default() };
        for (obstacle, statement, expected) in [
            (Obstacle::Grey, Statement::Exists(star), "perhaps upper right"),
            (Obstacle::Grey, Statement::Count(2, striped), "half left, upper right"),
            (Obstacle::Mosaic(0), Statement::Exists(blue), "none"),
            (
                Obstacle::Mosaic(0),
                Statement::Relates(star, Relation::Above, striped),
                "perhaps both upper right, other half left",
            ),
            (Obstacle::Panel(Side::Bottom), Statement::Absent(blue), "perhaps panel"),
        ] {
            let scene = Scene { objects: objects.clone(), obstacle };
            assert_eq!(explain(&statement, &scene), expected, "{obstacle:?} {statement:?}");
        }
        let alone = Scene { objects: objects[..1].to_vec(), obstacle: Obstacle::Mosaic(0) };
        assert_eq!(describe(&alone, &mut chance).replace("little", "small"), "mosaic, small black shape upper right");
    }
}
