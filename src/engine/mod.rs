//! Runs model versions: plain data in, plain data out. Tensors never leave the thread that owns the
//! model.
//!
//! * [`Preparer`]: decodes, resizes, tokenizes; any thread may use it.
//! * [`Model`]: the loaded network of one version; belongs to one thread.
//! * [`Engine`]: all versions, each on a worker thread with a bounded queue.

mod device;
mod model;
mod prepare;
mod versions;
mod worker;

pub use device::DeviceError;
pub use model::{InferenceError, Model, ModelError, ModelOptions, panic_message};
pub use prepare::{Prepared, Preparer};
pub use versions::{Engine, EngineError, Identity, Version, VersionSpec};
pub use worker::{Job, Judge, Judged, Loaded, Reply};
