//! Versions on disk: how they get there, what they hold, whether they are still what they were.
//!
//! * [`import()`]: from a published checkpoint to a version folder.
//! * [`Pull`]: from a model hub to a checkpoint, then imported.
//! * [`Manifest`]: what a version folder holds, by SHA-256.
//! * [`Definition`]: configuration, vocabulary, prompt and answers, read and checked.
//! * [`VersionFolder`]: a version that is all there.
//! * [`Inventory`]: all versions of a folder.

mod definition;
mod folder;
mod import;
mod inventory;
mod manifest;
mod pull;
mod size;
mod staging;

pub use definition::{Definition, DefinitionError, Texts};
pub use folder::{FolderError, Thoroughness, VersionFolder};
pub use import::{ImportError, ImportOptions, Source, import};
pub use inventory::{Entry, Inventory, InventoryError};
pub use manifest::{FileRecord, Manifest, ManifestError, Origin, Training};
#[cfg(any(test, fuzzing))]
pub(crate) use pull::read_listings;
pub use pull::{Hub, ModelId, Pull, PullError, Pulled};
pub use size::{Architecture, Footprint};
pub use staging::{StagingError, Watch};
