//! How good a version is: on examples whose labels are known.
//!
//! * [`Judged`]: one example with what a version said of it.
//! * [`Report`]: accuracy with its interval, by label and by kind, confusion, calibration, latency.
//! * [`Interval`]: how far an accuracy may be chance.
//! * [`Calibration`]: whether confidences are as often right as they say; [`temperature`] makes them so.
//! * [`Paired`]: whether two versions differ on the same examples.
//! * [`picture()`]: a report as SVG; [`svg()`]: where charts are drawn.

mod accuracy;
mod calibration;
mod paired;
mod picture;
mod report;
mod svg;

pub use accuracy::{Interval, Share};
pub use calibration::{Bin, Calibration, temperature};
pub use paired::Paired;
pub use picture::picture;
pub use report::{Confusion, Judged, Latency, Report, Subject};
pub use svg::{Area, Drawn, svg};
