//! The tensors of a version folder, every one accounted for.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::{
    store::{ModuleStore, SafetensorsStore, bridge, burn_pack, pytorch::PytorchReader},
    tensor::{DType, Device, Tensor, TensorData},
};

/// A checkpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The folder has no weights.
    #[error("{} holds neither model.safetensors nor pytorch_model.bin", .0.display())]
    NoWeights(PathBuf),
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// Tensors are missing, unknown, misshapen or not numbers.
    #[error("{}: {} of its tensors do not fit config.json:\n{}", path.display(), problems.len(), listed(problems))]
    Tensors {
        /// The file.
        path: PathBuf,
        /// One line each.
        problems: Vec<String>,
    },
}

const PROBLEMS_SHOWN: usize = 12;

fn listed(problems: &[String]) -> String {
    let shown = problems.iter().take(PROBLEMS_SHOWN).map(|problem| format!("  {problem}"));
    let more = problems.len().saturating_sub(PROBLEMS_SHOWN);
    shown.chain((more > 0).then(|| format!("  … and {more} more"))).collect::<Vec<_>>().join("\n")
}

/// Names of the files that may hold the weights, in order of preference.
const WEIGHT_FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// Buffers that follow from the configuration, and counters of training: present in some files,
/// absent from others, never read.
fn is_derived(name: &str) -> bool {
    const DERIVED: [&str; 4] = [".num_batches_tracked", ".token_rp_bucket", ".image_rp_bucket", ".image_position_idx"];
    DERIVED.iter().any(|suffix| name.ends_with(suffix))
}

/// Tensors by name. Building the network takes them out one by one; [`Checkpoint::finish`] then
/// reports everything that did not fit at once, rather than one tensor per attempt.
pub struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, burn_pack::Tensor>,
    problems: Vec<String>,
    device: Device,
}

impl Checkpoint {
    /// The file of a version folder that holds its weights.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(folder: &Path) -> Result<PathBuf, CheckpointError> {
        WEIGHT_FILES
            .iter()
            .map(|name| folder.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| CheckpointError::NoWeights(folder.to_owned()))
    }

    /// Opens a safetensors or PyTorch file without reading its tensors; they will be put on `device`.
    ///
    /// # Errors
    /// When the file is not readable as what its name says.
    pub fn open(path: &Path, device: &Device) -> Result<Self, CheckpointError> {
        let unreadable = |reason: String| CheckpointError::Unreadable { path: path.to_owned(), reason };
        let tensors = if path.extension().is_some_and(|extension| extension == "safetensors") {
            let mut store = SafetensorsStore::from_file(path);
            store.get_all_tensors().map_err(|error| unreadable(error.to_string()))?.clone()
        } else {
            let reader = PytorchReader::new(path).map_err(|error| unreadable(error.to_string()))?;
            reader.into_tensors().into_iter().map(|(name, tensor)| (name, bridge::from_pytorch(tensor))).collect()
        };
        let tensors = published_names(tensors);
        Ok(Self { path: path.to_owned(), tensors, problems: Vec::new(), device: device.clone() })
    }

    /// The device that tensors are put on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Takes a tensor's values as 32-bit floats in row-major order. One that does not fit is noted
    /// and given back as zeros, so that the next ones are still checked.
    pub(super) fn values(&mut self, name: &str, shape: &[usize]) -> Vec<f32> {
        let found = match self.tensors.remove(name) {
            Some(tensor) => floats(tensor, shape),
            None => Err(format!("is missing, expected shape {shape:?}")),
        };
        found.unwrap_or_else(|problem| {
            self.problems.push(format!("{name} {problem}"));
            vec![0.0; shape.iter().product()]
        })
    }

    /// Takes a tensor.
    pub(super) fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
        let values = self.values(name, &shape);
        on_device(values, shape, &self.device)
    }

    /// Takes the matrix that both embeddings and the output projection share. Files hold any subset
    /// of its three names; where they hold several, the reference ends up with the last one loaded.
    pub(super) fn shared_embedding(&mut self, shape: [usize; 2]) -> Tensor<2> {
        const NAMES: [&str; 3] =
            ["decoder.output_projection.weight", "decoder.embed_tokens.weight", "encoder.embed_tokens.weight"];
        let mut present =
            NAMES.iter().filter(|name| self.tensors.contains_key(**name)).copied().collect::<Vec<_>>().into_iter();
        let embedding = self.tensor(present.next().unwrap_or(NAMES[2]), shape);
        for copy in present {
            self.values(copy, &shape);
        }
        embedding
    }

    /// Takes a tensor that this task does not use: it may be absent, but not misshapen.
    pub(super) fn skip(&mut self, name: &str, shape: &[usize]) {
        match self.tensors.remove(name) {
            Some(tensor) if *tensor.shape != *shape => {
                self.problems.push(format!("{name} {}", misshapen(&tensor, shape)));
            }
            _ => {}
        }
    }

    /// Ends the account.
    ///
    /// # Errors
    /// When a tensor was missing, misshapen or not a number, or one is left that the network does
    /// not know.
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        let unknown = self.tensors.iter().filter(|(name, _)| !is_derived(name));
        self.problems
            .extend(unknown.map(|(name, tensor)| format!("{name} is unknown, shape {:?}", tensor.shape.as_slice())));
        match self.problems.is_empty() {
            true => Ok(()),
            false => Err(CheckpointError::Tensors { path: self.path, problems: self.problems }),
        }
    }
}

/// Names as they are published: the reference's loader tolerates a `model.` before all of them, and
/// `gamma` and `beta` for the two halves of a norm.
fn published_names(tensors: BTreeMap<String, burn_pack::Tensor>) -> BTreeMap<String, burn_pack::Tensor> {
    let prefix = if tensors.keys().all(|name| name.starts_with("model.")) { "model." } else { "" };
    let renamed = |name: &str| {
        let parts = name.strip_prefix(prefix).unwrap_or(name).split('.').map(|part| match part {
            "gamma" => "weight",
            "beta" => "bias",
            part => part,
        });
        parts.collect::<Vec<_>>().join(".")
    };
    tensors.into_iter().map(|(name, tensor)| (renamed(&name), tensor)).collect()
}

fn floats(tensor: burn_pack::Tensor, shape: &[usize]) -> Result<Vec<f32>, String> {
    if *tensor.shape != *shape {
        return Err(misshapen(&tensor, shape));
    }
    if !tensor.dtype.is_float() {
        return Err(format!("holds {:?}, expected floats", tensor.dtype));
    }
    let data = bridge::into_data(tensor).map_err(|error| format!("cannot be read: {error}"))?;
    let values: Vec<f32> = data.try_into_vec_as().map_err(|error| format!("cannot be read: {error}"))?;
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err("holds a value that is not finite".to_owned()),
    }
}

fn misshapen(tensor: &burn_pack::Tensor, shape: &[usize]) -> String {
    format!("has shape {:?}, expected {shape:?}", tensor.shape.as_slice())
}

/// Puts 32-bit floats on a device, whatever its default type is.
pub(super) fn on_device<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}
