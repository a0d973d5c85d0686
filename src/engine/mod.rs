//! Runs model versions: plain data in, plain data out. Tensors never leave the thread that owns the
//! model.
//!
//! * [`VersionFolder`]: a version's files, read and checked.
//! * [`Preparer`]: decodes, resizes, tokenizes; any thread may use it.
//! * [`Model`]: the loaded network of one version; belongs to one thread.
//! * [`Engine`]: one worker thread per version, each with a bounded queue.

mod device;
mod folder;
mod model;
mod prepare;
mod worker;

pub use device::DeviceError;
pub use folder::{FolderError, VersionFolder};
pub use model::{InferenceError, Model, ModelError, ModelOptions, panic_message};
pub use prepare::{Prepared, Preparer};
pub use worker::{Engine, EngineError, Identity, Job, Judge, Judged, Reply, Version, VersionSpec};
