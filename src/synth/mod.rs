//! Pictures and statements about them, made up: what models are trained and measured on where there are no labels of one's
//! own.
//!
//! * [`World`]: which shapes and colours there are.
//! * [`Scene`]: what a picture shows, and what it hides.
//! * [`Statement`]: what can be said of a scene, and whether the picture tells.
//! * [`paint()`]: the picture of a scene, worn as uploads are.
//! * [`phrase()`]: a statement in words, with the typing of people who sell things.
//! * [`describe()`] and [`explain()`]: all that a picture shows, and where that lies of which a statement speaks.
//! * [`Balance`]: chooses statements so that neither words nor pictures alone give the label away.
//! * [`Generator`]: all of it, example by example.
//!
//! The same seed gives the same examples.

mod balance;
mod describe;
mod generator;
mod paint;
mod phrase;
mod scene;
mod statement;
mod suggest;
mod wear;

pub use balance::Balance;
pub use describe::{describe, explain};
pub use generator::{Generator, Picture, Said, Split};
pub use paint::{SIDE, paint};
pub use phrase::phrase;
pub use scene::{Colour, Object, Obstacle, Scene, Shape, Side, Size, Texture, World};
pub use statement::{Description, Kind, Relation, Statement};
