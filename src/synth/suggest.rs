//! Statements that a scene may suggest, true or not.

use fastrand::Rng;

use super::{
    scene::{Scene, Side, Size, Texture, World},
    statement::{Description, Kind, Relation, Statement},
};

impl Statement {
    /// A statement by chance, of a kind, that a scene may suggest: about its objects, or about what resembles them.
    pub fn random(world: World, chance: &mut Rng, kind: Kind, scene: &Scene) -> Self {
        let plain = [true, true, false, false, false];
        let said = |more: usize| std::array::from_fn(|part| plain[part] || part == more);
        let mut described = |keep, may_leave: bool| {
            let whole = described(world, chance, scene, keep);
            if may_leave { simplified(chance, whole) } else { whole }
        };
        match kind {
            Kind::Colour => Self::Exists(described(plain, false)),
            Kind::Size => Self::Exists(described(said(2), true)),
            Kind::Texture => Self::Exists(described(said(3), true)),
            Kind::Position => Self::Exists(described(said(4), true)),
            Kind::Negation => Self::Absent(described(plain, true)),
            Kind::Count => {
                let described = described(plain, true);
                Self::Count(1 + chance.usize(0..3), described)
            }
            Kind::Relation => {
                let (subject, object) = (described(plain, true), described(plain, true));
                Self::Relates(subject, Relation::ALL[chance.usize(0..4)], object)
            }
        }
    }
}

/// An object's description, or one that differs from it in something; only what is to be kept is said.
fn described(world: World, chance: &mut Rng, scene: &Scene, keep: [bool; 5]) -> Description {
    let model = match scene.objects.is_empty() || chance.u8(0..8) == 0 {
        true => None,
        false => scene.objects.get(chance.usize(0..scene.objects.len())),
    };
    let mut changed = |likely: u8| chance.u8(0..8) < likely;
    let (other_shape, other_colour, other_size, other_texture, other_side) =
        (changed(2), changed(2), changed(3), changed(4), changed(3));
    let (shapes, colours) = (world.shapes(), world.colours());
    let shape =
        model.filter(|_| !other_shape).map_or_else(|| shapes[chance.usize(0..shapes.len())], |model| model.shape);
    let colour =
        model.filter(|_| !other_colour).map_or_else(|| colours[chance.usize(0..colours.len())], |model| model.colour);
    let by_chance = if chance.bool() { Size::Small } else { Size::Large };
    let size = model.filter(|_| !other_size).map_or(by_chance, |model| model.size);
    let texture =
        model.filter(|_| !other_texture).map_or_else(|| Texture::ALL[chance.usize(0..3)], |model| model.texture);
    let side = match model.filter(|_| !other_side) {
        None => Side::ALL[chance.usize(0..4)],
        Some(model) => match chance.bool() {
            true => {
                if model.at[0] < 0.5 {
                    Side::Left
                } else {
                    Side::Right
                }
            }
            false => {
                if model.at[1] < 0.5 {
                    Side::Top
                } else {
                    Side::Bottom
                }
            }
        },
    };
    Description {
        shape: keep[0].then_some(shape),
        colour: keep[1].then_some(colour),
        size: keep[2].then_some(size),
        texture: keep[3].then_some(texture),
        side: keep[4].then_some(side),
    }
}

/// Leaves the colour away, or the shape, or neither.
fn simplified(chance: &mut Rng, description: Description) -> Description {
    match chance.u8(0..3) {
        0 => Description { shape: None, ..description },
        1 => Description { colour: None, ..description },
        _ => description,
    }
}
