//! What a picture shows, and what it hides.

use fastrand::Rng;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Cross,
    Heart,
    Ring,
    Diamond,
}

/// Its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Colour {
    Red,
    Green,
    Blue,
    Yellow,
    Purple,
    Black,
    Orange,
    Pink,
    Brown,
    Turquoise,
}

/// How large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Size {
    Small,
    Large,
}

/// What its surface is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Texture {
    Plain,
    Striped,
    Dotted,
}

/// A half of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Side {
    Left,
    Right,
    Top,
    Bottom,
}

/// Which shapes and colours there are, and which combinations of them training never sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Five shapes in six colours: thirty combinations are few enough to learn by heart which five of them never come.
    Small,
    /// Eight shapes in ten colours. None of the combinations that are kept back here comes in the small world, so that it may be learned
    /// first.
    Large,
}

const SHAPES: [Shape; 8] = [
    Shape::Circle,
    Shape::Square,
    Shape::Triangle,
    Shape::Star,
    Shape::Cross,
    Shape::Heart,
    Shape::Ring,
    Shape::Diamond,
];

const COLOURS: [Colour; 10] = [
    Colour::Red,
    Colour::Green,
    Colour::Blue,
    Colour::Yellow,
    Colour::Purple,
    Colour::Black,
    Colour::Orange,
    Colour::Pink,
    Colour::Brown,
    Colour::Turquoise,
];

impl World {
    /// Its shapes.
    pub fn shapes(self) -> &'static [Shape] {
        match self {
            Self::Small => &SHAPES[..5],
            Self::Large => &SHAPES,
        }
    }

    /// Its colours.
    pub fn colours(self) -> &'static [Colour] {
        match self {
            Self::Small => &COLOURS[..6],
            Self::Large => &COLOURS,
        }
    }

    /// Whether a shape of this colour is kept for the test of unseen combinations: one colour of each shape is.
    pub fn keeps_back(self, shape: Shape, colour: Colour) -> bool {
        let kept = match (self, shape) {
            (Self::Small, Shape::Circle) => Colour::Yellow,
            (Self::Small, Shape::Square) => Colour::Purple,
            (Self::Small, Shape::Triangle) => Colour::Blue,
            (Self::Small, Shape::Star) => Colour::Red,
            (Self::Small, Shape::Cross) => Colour::Green,
            (Self::Large, Shape::Circle | Shape::Cross) => Colour::Orange,
            (Self::Large, Shape::Square) => Colour::Turquoise,
            (Self::Large, Shape::Triangle) => Colour::Brown,
            (Self::Large, Shape::Star) => Colour::Pink,
            (_, Shape::Heart) => Colour::Red,
            (_, Shape::Ring) => Colour::Blue,
            (_, Shape::Diamond) => Colour::Green,
        };
        colour == kept
    }
}

impl Texture {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Striped, Self::Dotted];
}

impl Side {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Left, Self::Right, Self::Top, Self::Bottom];
}

/// Something in the picture, as it is; an [`Obstacle`] may keep the picture from showing it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// What it is.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// How large it is.
    pub size: Size,
    /// Its surface.
    pub texture: Texture,
    /// Its centre from the left and from the top, each from 0 to 1.
    pub at: [f32; 2],
}

impl Object {
    /// Half its extent, as a share of the picture's side.
    pub fn radius(&self) -> f32 {
        match self.size {
            Size::Small => 0.105,
            Size::Large => 0.185,
        }
    }
}

/// What keeps a picture from telling all. Every picture has one: where only some had, seeing one would be half the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A panel hides this side of the picture, and whatever is there.
    Panel(Side),
    /// The picture has no colours.
    Grey,
    /// The object of this index is pixelated: its colour, size and place are seen, its shape and surface are not.
    Mosaic(usize),
}

impl Obstacle {
    /// What one who looks at nothing else of the picture sees of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Panel(Side::Left) => "panel on the left",
            Self::Panel(Side::Right) => "panel on the right",
            Self::Panel(Side::Top) => "panel at the top",
            Self::Panel(Side::Bottom) => "panel at the bottom",
            Self::Grey => "no colour",
            Self::Mosaic(_) => "mosaic",
        }
    }
}

/// A picture's contents.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// What can be seen, as far as the obstacle lets it.
    pub objects: Vec<Object>,
    /// What hides the rest.
    pub obstacle: Obstacle,
}

/// How much of the picture a panel hides.
pub(super) const PANEL: f32 = 0.32;
const OBJECTS_MAX: usize = 4;
/// How far two objects may reach into each other, as a share of the sum of their radii.
const OVERLAP: f32 = 0.15;
const TRIES: usize = 60;

impl Scene {
    /// A scene by chance. Ones for training have no combination of shape and colour that is kept back; `unseen` ones have one
    /// at least.
    pub fn random(world: World, chance: &mut Rng, unseen: bool) -> Self {
        let kind = chance.u8(0..3);
        let panel = (kind == 0).then(|| Side::ALL[chance.usize(0..4)]);
        let wanted = 1 + chance.usize(0..OBJECTS_MAX);
        let mut objects: Vec<Object> = Vec::with_capacity(wanted);
        for index in 0..wanted {
            // A tenth of the large world's combinations are kept back, and half of the places lie under a panel. The small world's
            // data stay what the shipped versions learned from.
            let tries = if unseen && index == 0 && world == World::Large { 10 * TRIES } else { TRIES };
            for _ in 0..tries {
                let mut object = random_object(world, chance);
                // Every second object is like an earlier one in something, so that there is something to count and to confuse.
                if let Some(model) = (index > 0 && chance.bool()).then(|| objects.get(chance.usize(0..index))).flatten()
                {
                    match chance.bool() {
                        true => object.shape = model.shape,
                        false => object.colour = model.colour,
                    }
                }
                let kept_back = world.keeps_back(object.shape, object.colour);
                let fitting = if unseen && index == 0 { kept_back } else { unseen || !kept_back };
                if fitting && is_free(&object, &objects, panel) {
                    objects.push(object);
                    break;
                }
            }
        }
        let obstacle = match (panel, kind) {
            (Some(side), _) => Obstacle::Panel(side),
            (None, 1) => Obstacle::Grey,
            _ => Obstacle::Mosaic(chance.usize(0..objects.len().max(1))),
        };
        Self { objects, obstacle }
    }
}

fn random_object(world: World, chance: &mut Rng) -> Object {
    let (shapes, colours) = (world.shapes(), world.colours());
    let size = if chance.bool() { Size::Small } else { Size::Large };
    let mut object = Object {
        shape: shapes[chance.usize(0..shapes.len())],
        colour: colours[chance.usize(0..colours.len())],
        size,
        // Half are plain.
        texture: Texture::ALL[[0, 0, 1, 2][chance.usize(0..4)]],
        at: [0.0; 2],
    };
    let margin = object.radius() + 0.01;
    object.at = [0, 1].map(|_| margin + chance.f32() * (1.0 - 2.0 * margin));
    object
}

fn is_free(object: &Object, others: &[Object], panel: Option<Side>) -> bool {
    let [x, y] = object.at;
    let reach = object.radius();
    let covered = match panel {
        None => false,
        Some(Side::Left) => x - reach < PANEL,
        Some(Side::Right) => x + reach > 1.0 - PANEL,
        Some(Side::Top) => y - reach < PANEL,
        Some(Side::Bottom) => y + reach > 1.0 - PANEL,
    };
    let apart = |other: &Object| {
        let distance = (x - other.at[0]).hypot(y - other.at[1]);
        distance >= (reach + other.radius()) * (1.0 - OVERLAP)
    };
    !covered && others.iter().all(apart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenes_for_training_hold_no_combination_that_is_kept_back_and_the_others_hold_one() {
        for world in [World::Small, World::Large] {
            let mut chance = Rng::with_seed(5);
            let mut holds_one = |unseen| {
                let scene = Scene::random(world, &mut chance, unseen);
                scene.objects.iter().any(|object| world.keeps_back(object.shape, object.colour))
            };
            assert!((0..500).all(|_| !holds_one(false) && holds_one(true)), "{world:?}");
        }
    }

    #[test]
    fn one_colour_of_each_shape_is_kept_back_and_none_that_may_have_been_learned_before() {
        for world in [World::Small, World::Large] {
            for shape in world.shapes() {
                let kept = world.colours().iter().filter(|colour| world.keeps_back(*shape, **colour));
                assert_eq!(kept.count(), 1, "{world:?} {shape:?}");
            }
        }
        for shape in World::Small.shapes() {
            assert!(!World::Small.colours().iter().any(|colour| World::Large.keeps_back(*shape, *colour)), "{shape:?}");
        }
    }

    #[test]
    fn nothing_that_is_seen_lies_under_the_panel() {
        let mut chance = Rng::with_seed(6);
        for _ in 0..500 {
            let scene = Scene::random(World::Large, &mut chance, false);
            if let Obstacle::Panel(side) = scene.obstacle {
                assert!(scene.objects.iter().all(|object| is_free(object, &[], Some(side))), "{scene:?}");
            }
        }
    }
}
