//! Runs model versions: plain data in, plain data out. Tensors never leave the threads that own the model.
//!
//! * [`Preparer`]: decodes, resizes, tokenizes; any thread may use it.
//! * [`Engine`]: all versions that run, each on a worker thread with its lanes; [`Fleet`]: those of one configuration.
//! * [`Version`]: one of them, as the threads that feed it see it.
//! * `lanes`: which requests go into the next pass, and when; pure. `queue` is the lock around them.
//! * [`Budget`]: what passes may cost at the same time on one device.
//! * `worker`: loads a version, forms batches, answers, loads it again when it broke.
//! * [`Judge`]: what a worker runs, and who is to blame when a pass fails.
//! * [`EngineOptions`]: what all versions share.
//! * `pool`: threads for passes on a CPU.
//! * [`Model`]: the judge that is a loaded network; `images` keeps what it saw.
//! * [`AnswerKey`]: under what whole answers are kept.

mod answers;
mod budget;
mod device;
mod fleet;
mod images;
mod job;
mod judge;
mod lanes;
mod model;
mod options;
mod pool;
mod prepare;
mod queue;
mod status;
mod version;
mod worker;

pub use crate::ofa::Interrupt;
pub use answers::AnswerKey;
pub use budget::{Budget, Cost, Pass};
#[cfg(feature = "train")]
pub use device::open_gpu;
pub use device::{DeviceError, open as open_device};
pub use fleet::{Engine, Fleet, Reuse};
pub use job::{Job, Judged, Reply};
pub use judge::{Answer, InferenceError, Judge, PassError};
pub use lanes::{Knobs, Lane, Positions, Reason, Shape, Size};
pub use model::{Model, ModelError, ModelOptions, panic_message};
pub use options::{EngineError, EngineOptions};
pub use prepare::{CaptionRefused, ImageId, PrepareError, Prepared, Preparer, Sources};
pub use status::{Busy, Loaded, State};
pub use version::{Identity, Version, VersionSpec};
