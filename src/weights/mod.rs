//! Files of tensors: opened without reading their values, read one tensor at a time.
//!
//! * [`Weights`]: the tensors of one or several files, by name.
//! * `safetensors`, `torch`: the formats; `pickle` reads what PyTorch wrote, and calls nothing.
//! * [`Precision`], [`Arithmetic`]: what weights are stored in, and what is computed with them.
//! * [`Writer`]: writes safetensors one tensor after the other.

mod pickle;
mod precision;
mod safetensors;
mod torch;
mod writer;

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use pickle::Value;
pub use precision::{Arithmetic, Precision};
pub use writer::Writer;

/// A file of tensors that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The system does not give the file.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file is not what its name says, or not all of it is there.
    #[error("{}: {reason}; copy or download the file again, it may be cut off", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A pickle names something that a checkpoint has no use for.
    #[error(
        "{}: its pickle names `{global}`, which this program does not know: the file is refused, and nothing of it was run",
        path.display()
    )]
    UnknownName {
        /// The file.
        path: PathBuf,
        /// What it asks for.
        global: String,
    },
    /// An archive has an entry that points outside of it.
    #[error("{}: the archive's entry `{entry}` points outside of it: the file is refused", path.display())]
    Path {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: String,
    },
    /// Two files hold a tensor of the same name.
    #[error("{}: tensor `{name}` is in another file too", path.display())]
    Twice {
        /// The later file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}

/// Values of a tensor that cannot be had; the words go behind the tensor's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The type is not one of weights.
    #[error("holds {0}, expected F32, F16 or BF16")]
    Type(String),
    /// The file ends early, changed or cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// A value is infinite or not a number.
    #[error("holds a value that is not finite")]
    NotFinite,
}

/// A tensor in a file; its values are read when asked for.
#[derive(Clone, Debug)]
pub struct Stored {
    shape: Vec<usize>,
    values: Values,
}

#[derive(Clone, Debug)]
enum Values {
    Safetensors(safetensors::Span),
    Torch(pytorch_reader::Tensor),
}

impl Stored {
    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many values it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its values as 32-bit floats in row-major order, all of them finite.
    ///
    /// # Errors
    /// When it holds no floats, a value is not finite, or the file does not give them.
    pub fn floats(&self) -> Result<Vec<f32>, TensorError> {
        let values = match &self.values {
            Values::Safetensors(span) => span.floats(self.len())?,
            Values::Torch(tensor) => torch::floats(tensor)?,
        };
        if values.iter().all(|value| value.is_finite()) { Ok(values) } else { Err(TensorError::NotFinite) }
    }
}

/// The tensors of a checkpoint, by name.
#[derive(Debug)]
pub struct Weights {
    tensors: BTreeMap<String, Stored>,
    /// What a PyTorch file holds beside its tensors.
    extras: Option<pickle::Pickled>,
}

/// Reads a pickle and forgets it, for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn look_through_pickle(mut bytes: &[u8]) {
    pickle::read(&mut bytes).ok();
}

impl Weights {
    /// Opens files whose tensors belong together: one, or the shards of one checkpoint. A file is read
    /// as safetensors where its name ends so, otherwise as PyTorch's.
    ///
    /// # Errors
    /// When a file is not what its name says, asks for code to be run, or repeats a tensor.
    pub fn open(files: &[impl AsRef<Path>]) -> Result<Self, WeightsError> {
        let mut whole = Self { tensors: BTreeMap::new(), extras: None };
        for path in files.iter().map(AsRef::as_ref) {
            let part = if path.extension().is_some_and(|extension| extension == "safetensors") {
                let file = File::open(path).map_err(|error| unreadable(path, error))?;
                Self::of_safetensors(path, &Arc::new(file))?
            } else {
                torch::open(path)?
            };
            for (name, tensor) in part.tensors {
                if whole.tensors.contains_key(&name) {
                    return Err(WeightsError::Twice { path: path.to_owned(), name });
                }
                whole.tensors.insert(name, tensor);
            }
            whole.extras = whole.extras.or(part.extras);
        }
        Ok(whole)
    }

    /// The tensors of a safetensors file that is open; `path` is for errors.
    ///
    /// # Errors
    /// When the file is not whole.
    pub fn of_safetensors(path: &Path, file: &Arc<File>) -> Result<Self, WeightsError> {
        Ok(Self { tensors: safetensors::read(path, file)?, extras: None })
    }

    /// What a PyTorch file holds beside its tensors, such as the configuration of the training run.
    pub fn extras(&self) -> Option<&Value> {
        self.extras.as_ref().map(pickle::Pickled::root)
    }

    /// Names and tensors, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Stored)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// Takes a tensor out.
    pub fn take(&mut self, name: &str) -> Option<Stored> {
        self.tensors.remove(name)
    }

    /// Gives every tensor another name; one for which there is none is left out. Where two get the
    /// same name, the one whose old name comes later in the alphabet stays.
    #[must_use]
    pub fn renamed(self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let tensors = self.tensors.into_iter().filter_map(|(name, tensor)| Some((rename(&name)?, tensor))).collect();
        Self { tensors, extras: self.extras }
    }
}

fn unreadable(path: &Path, error: impl std::fmt::Display) -> WeightsError {
    WeightsError::Unreadable { path: path.to_owned(), reason: error.to_string() }
}

fn malformed(path: &Path, reason: impl std::fmt::Display) -> WeightsError {
    WeightsError::Malformed { path: path.to_owned(), reason: reason.to_string() }
}
