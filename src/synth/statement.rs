//! What can be said of a scene, and whether the picture tells: yes, no, or not (Kleene's three values).

use super::scene::{Colour, Object, Obstacle, PANEL, Scene, Shape, Side, Size, Texture, World};

/// What an object is said to be; what is none is not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Description {
    /// What it is.
    pub shape: Option<Shape>,
    /// Its colour.
    pub colour: Option<Colour>,
    /// How large it is.
    pub size: Option<Size>,
    /// Its surface.
    pub texture: Option<Texture>,
    /// In which half of the picture its centre lies.
    pub side: Option<Side>,
}

/// Where an object lies, seen from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

impl Relation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below];
}

/// A statement about a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Statement {
    /// There is such an object.
    Exists(Description),
    /// There is none.
    Absent(Description),
    /// There are exactly so many.
    Count(usize, Description),
    /// There is one that lies so from another.
    Relates(Description, Relation, Description),
}

/// What a statement is about: accuracy is told for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Kind {
    Colour,
    Size,
    Texture,
    Position,
    Count,
    Relation,
    Negation,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Colour, Self::Size, Self::Texture, Self::Position, Self::Count, Self::Relation, Self::Negation];

    /// Its name in data and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Colour => "colour",
            Self::Size => "size",
            Self::Texture => "texture",
            Self::Position => "position",
            Self::Count => "count",
            Self::Relation => "relation",
            Self::Negation => "negation",
        }
    }
}

/// Whether something holds, as far as the picture tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Truth {
    No,
    Maybe,
    Yes,
}

impl Truth {
    fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
            Self::Yes => Self::No,
        }
    }
}

/// What can be seen of an object, or of whatever else a panel may hide.
pub(super) struct Seen {
    /// Whether it is there at all.
    is_there: Truth,
    shape: Option<Shape>,
    colour: Option<Colour>,
    size: Option<Size>,
    texture: Option<Texture>,
    /// Where its centre may lie: from and to, across and down.
    area: [[f32; 2]; 2],
}

impl Seen {
    /// The middle of where it may lie, across or down.
    pub(super) fn middle(&self, axis: usize) -> f32 {
        let [from, to] = self.area[axis];
        (from + to) / 2.0
    }
}

/// Nobody can say of what lies so close to a line on which side of it that is.
pub(super) const CLOSE: f32 = 0.08;

impl Statement {
    /// Whether it holds: 1 where the picture entails it, 0 where it contradicts it, none where it does not tell. An error where
    /// people would not agree, because something lies too close to a line.
    #[expect(clippy::result_unit_err, reason = "there is nothing more to say")]
    pub fn holds(&self, scene: &Scene) -> Result<Option<bool>, ()> {
        let seen = seen(scene);
        let truth = match self {
            Self::Exists(wanted) => exists(&seen, wanted)?,
            Self::Absent(wanted) => exists(&seen, wanted)?.not(),
            Self::Count(count, wanted) => counted(scene, &seen, *count, wanted)?,
            Self::Relates(subject, relation, object) => relates(&seen, subject, *relation, object)?,
        };
        Ok(match truth {
            Truth::Yes => Some(true),
            Truth::No => Some(false),
            Truth::Maybe => None,
        })
    }

    /// What it is about.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Absent(_) => Kind::Negation,
            Self::Count(..) => Kind::Count,
            Self::Relates(..) => Kind::Relation,
            Self::Exists(Description { side: Some(_), .. }) => Kind::Position,
            Self::Exists(Description { texture: Some(_), .. }) => Kind::Texture,
            Self::Exists(Description { size: Some(_), .. }) => Kind::Size,
            Self::Exists(_) => Kind::Colour,
        }
    }

    /// What it describes.
    pub fn descriptions(&self) -> impl Iterator<Item = &Description> {
        let (first, second) = match self {
            Self::Exists(only) | Self::Absent(only) | Self::Count(_, only) => (only, None),
            Self::Relates(subject, _, object) => (subject, Some(object)),
        };
        std::iter::once(first).chain(second)
    }

    /// Whether it speaks of a combination that training never sees in this world.
    pub fn is_unseen(&self, world: World) -> bool {
        self.descriptions().any(|described| {
            matches!(described, Description { shape: Some(shape), colour: Some(colour), .. } if world.keeps_back(*shape, *colour))
        })
    }
}

pub(super) fn seen(scene: &Scene) -> Vec<Seen> {
    let objects = scene.objects.iter().enumerate().map(|(index, object)| {
        let Object { shape, colour, size, texture, at } = *object;
        let hidden = scene.obstacle == Obstacle::Mosaic(index);
        Seen {
            is_there: Truth::Yes,
            shape: (!hidden).then_some(shape),
            colour: (scene.obstacle != Obstacle::Grey).then_some(colour),
            size: Some(size),
            texture: (!hidden).then_some(texture),
            area: at.map(|at| [at, at]),
        }
    });
    let behind = match scene.obstacle {
        Obstacle::Panel(Side::Left) => Some([[0.0, PANEL], [0.0, 1.0]]),
        Obstacle::Panel(Side::Right) => Some([[1.0 - PANEL, 1.0], [0.0, 1.0]]),
        Obstacle::Panel(Side::Top) => Some([[0.0, 1.0], [0.0, PANEL]]),
        Obstacle::Panel(Side::Bottom) => Some([[0.0, 1.0], [1.0 - PANEL, 1.0]]),
        Obstacle::Grey | Obstacle::Mosaic(_) => None,
    };
    let behind =
        behind.map(|area| Seen { is_there: Truth::Maybe, shape: None, colour: None, size: None, texture: None, area });
    objects.chain(behind).collect()
}

/// Whether an area lies before a line: all of it, none of it, or some.
fn before([from, to]: [f32; 2], line: f32) -> Result<Truth, ()> {
    match () {
        () if from == to && (from - line).abs() < CLOSE => Err(()),
        () if to <= line => Ok(Truth::Yes),
        () if from >= line => Ok(Truth::No),
        () => Ok(Truth::Maybe),
    }
}

fn is_on(area: [[f32; 2]; 2], side: Side) -> Result<Truth, ()> {
    match side {
        Side::Left => before(area[0], 0.5),
        Side::Right => Ok(before(area[0], 0.5)?.not()),
        Side::Top => before(area[1], 0.5),
        Side::Bottom => Ok(before(area[1], 0.5)?.not()),
    }
}

/// Whether something seen is what is described.
pub(super) fn matches(seen: &Seen, wanted: &Description) -> Result<Truth, ()> {
    fn part<T: PartialEq>(seen: Option<T>, wanted: Option<T>) -> Truth {
        match (seen, wanted) {
            (_, None) => Truth::Yes,
            (None, Some(_)) => Truth::Maybe,
            (Some(seen), Some(wanted)) => Truth::of(seen == wanted),
        }
    }
    let whole = seen
        .is_there
        .min(part(seen.shape, wanted.shape))
        .min(part(seen.colour, wanted.colour))
        .min(part(seen.size, wanted.size))
        .min(part(seen.texture, wanted.texture));
    match (whole, wanted.side) {
        // Where it lies matters only of what may be meant.
        (Truth::No, _) | (_, None) => Ok(whole),
        (_, Some(side)) => Ok(whole.min(is_on(seen.area, side)?)),
    }
}

fn exists(seen: &[Seen], wanted: &Description) -> Result<Truth, ()> {
    let mut found = Truth::No;
    for seen in seen {
        found = found.max(matches(seen, wanted)?);
    }
    Ok(found)
}

/// A panel may hide any number.
fn counted(scene: &Scene, seen: &[Seen], count: usize, wanted: &Description) -> Result<Truth, ()> {
    let (mut sure, mut possible) = (0, 0);
    for seen in seen.iter().filter(|seen| seen.is_there == Truth::Yes) {
        match matches(seen, wanted)? {
            Truth::Yes => (sure, possible) = (sure + 1, possible + 1),
            Truth::Maybe => possible += 1,
            Truth::No => {}
        }
    }
    let more = matches!(scene.obstacle, Obstacle::Panel(_));
    Ok(match () {
        () if sure > count || (possible < count && !more) => Truth::No,
        () if sure == possible && !more => Truth::of(sure == count),
        () => Truth::Maybe,
    })
}

fn relates(seen: &[Seen], subject: &Description, relation: Relation, object: &Description) -> Result<Truth, ()> {
    let mut found = Truth::No;
    for (index, one) in seen.iter().enumerate() {
        for (other_index, other) in seen.iter().enumerate() {
            let both = matches(one, subject)?.min(matches(other, object)?);
            // An object does not lie beside itself; two that a panel hides may.
            if both == Truth::No || (index == other_index && one.is_there == Truth::Yes) {
                continue;
            }
            found = found.max(both.min(lies(one.area, relation, other.area)?));
        }
    }
    Ok(found)
}

fn lies(one: [[f32; 2]; 2], relation: Relation, other: [[f32; 2]; 2]) -> Result<Truth, ()> {
    let (axis, less) = match relation {
        Relation::LeftOf => (0, true),
        Relation::RightOf => (0, false),
        Relation::Above => (1, true),
        Relation::Below => (1, false),
    };
    let (first, second) = if less { (one[axis], other[axis]) } else { (other[axis], one[axis]) };
    match () {
        () if first[0] == first[1] && second[0] == second[1] && (first[0] - second[0]).abs() < CLOSE => Err(()),
        () if first[1] <= second[0] => Ok(Truth::Yes),
        () if first[0] >= second[1] => Ok(Truth::No),
        () => Ok(Truth::Maybe),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(shape: Shape, colour: Colour, at: [f32; 2]) -> Object {
        Object { shape, colour, size: Size::Small, texture: Texture::Plain, at }
    }

    fn a(shape: Shape, colour: Colour) -> Description {
        Description { shape: Some(shape), colour: Some(colour), ..Description::default() }
    }

    /// A red circle on the left, a blue square on the right.
    fn scene(obstacle: Obstacle) -> Scene {
        let objects =
            vec![object(Shape::Circle, Colour::Red, [0.2, 0.3]), object(Shape::Square, Colour::Blue, [0.6, 0.5])];
        Scene { objects, obstacle }
    }

    #[test]
    fn a_statement_holds_or_not_or_the_picture_does_not_tell() {
        let (red_circle, blue_square) = (a(Shape::Circle, Colour::Red), a(Shape::Square, Colour::Blue));
        let (green_star, blue_circle) = (a(Shape::Star, Colour::Green), a(Shape::Circle, Colour::Blue));
        let red = Description { colour: Some(Colour::Red), ..Description::default() };
        let at = |side| Description { side: Some(side), ..red_circle };
        let (panel, mosaic) = (Obstacle::Panel(Side::Right), Obstacle::Mosaic(1));
        for (obstacle, statement, expected) in [
            (mosaic, Statement::Exists(red_circle), Some(true)),
            (mosaic, Statement::Exists(blue_square), None),
            (mosaic, Statement::Exists(blue_circle), None),
            (mosaic, Statement::Exists(green_star), Some(false)),
            (mosaic, Statement::Absent(green_star), Some(true)),
            (mosaic, Statement::Count(1, red), Some(true)),
            (mosaic, Statement::Count(2, red), Some(false)),
            (mosaic, Statement::Relates(red_circle, Relation::LeftOf, blue_square), None),
            (mosaic, Statement::Relates(red_circle, Relation::RightOf, blue_square), Some(false)),
            (Obstacle::Grey, Statement::Exists(red_circle), None),
            (Obstacle::Grey, Statement::Exists(green_star), Some(false)),
            (Obstacle::Grey, Statement::Count(1, red), None),
            (Obstacle::Grey, Statement::Count(3, red), Some(false)),
            (panel, Statement::Exists(red_circle), Some(true)),
            (panel, Statement::Exists(green_star), None),
            (panel, Statement::Absent(green_star), None),
            (panel, Statement::Absent(red_circle), Some(false)),
            (panel, Statement::Count(1, red), None),
            (panel, Statement::Exists(at(Side::Left)), Some(true)),
            // A second one may lie behind the panel, but not on the left.
            (panel, Statement::Exists(at(Side::Right)), None),
            (panel, Statement::Exists(Description { side: Some(Side::Left), ..green_star }), Some(false)),
            (panel, Statement::Relates(red_circle, Relation::LeftOf, blue_square), Some(true)),
            (panel, Statement::Relates(green_star, Relation::LeftOf, blue_square), None),
        ] {
            assert_eq!(statement.holds(&scene(obstacle)), Ok(expected), "{obstacle:?} {statement:?}");
        }
    }

    #[test]
    fn what_lies_too_close_to_a_line_is_not_asked() {
        let scene = Scene {
            objects: vec![
                object(Shape::Circle, Colour::Red, [0.46, 0.3]),
                object(Shape::Star, Colour::Blue, [0.5, 0.9]),
            ],
            obstacle: Obstacle::Mosaic(5),
        };
        let circle = a(Shape::Circle, Colour::Red);
        assert_eq!(Statement::Exists(Description { side: Some(Side::Left), ..circle }).holds(&scene), Err(()));
        let star = a(Shape::Star, Colour::Blue);
        assert_eq!(Statement::Relates(circle, Relation::LeftOf, star).holds(&scene), Err(()));
        assert_eq!(Statement::Relates(circle, Relation::Above, star).holds(&scene), Ok(Some(true)));
    }
}
