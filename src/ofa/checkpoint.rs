//! The tensors of one version on their way into the network, every one accounted for.

use burn::{
    module::{Param, ParamId},
    tensor::{DType, Device, Tensor, TensorData},
};

use super::model::OfaOptions;
use crate::weights::{Arithmetic, Precision, Stored, Weights};

/// A tensor that the network asks its checkpoint for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its published name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether it may be absent, because this task does not use it.
    pub optional: bool,
}

/// The published tensors that a parameter was made from, and goes back to once it is trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Several were put one behind the other, row by row.
    pub(super) names: Vec<String>,
    /// Whether rows became columns then.
    pub(super) transposed: bool,
}

/// The one name that the shared matrix has here; published files have up to three.
pub const SHARED_EMBEDDING: &str = "encoder.embed_tokens.weight";

/// Tensors by name. Building the network takes them out one by one; what does not fit is then reported
/// all at once, rather than one tensor per attempt.
pub(super) struct Checkpoint {
    source: Source,
    problems: Vec<String>,
    /// Of each parameter; its id is its index.
    origins: Vec<Origin>,
    device: Device,
    arithmetic: Arithmetic,
    quantized_bytes: usize,
    kernels: bool,
    absorb: bool,
    trains: bool,
}

enum Source {
    Weights(Weights),
    /// Gives no values, only tensors of the right shape, and keeps what was asked for.
    Blank(Vec<Wanted>),
}

impl Checkpoint {
    /// Weights whose tensors will be put on `device` in this precision, laid out for our own kernels or
    /// for burn's operations.
    pub(super) fn new(weights: Weights, device: &Device, options: &OfaOptions) -> Self {
        let OfaOptions { precision, kernels, absorb, trains, .. } = *options;
        let source = Source::Weights(weights);
        let (problems, origins) = (Vec::new(), Vec::new());
        let device = device.clone();
        Self { source, problems, origins, device, arithmetic: precision, quantized_bytes: 0, kernels, absorb, trains }
    }

    /// A checkpoint without values, which tells what a network asks for and costs no memory.
    pub(super) fn blank(device: &Device) -> Self {
        Self {
            source: Source::Blank(Vec::new()),
            problems: Vec::new(),
            origins: Vec::new(),
            device: device.clone(),
            arithmetic: Arithmetic::F32,
            quantized_bytes: 0,
            kernels: false,
            absorb: false,
            trains: false,
        }
    }

    /// Whether cross attention may go round projecting what it looks at.
    pub(super) fn absorb(&self) -> bool {
        self.absorb
    }

    /// Whether the network runs on our own kernels.
    pub(super) fn kernels(&self) -> bool {
        self.kernels
    }

    /// Whether weights are kept in 8 bits, where nothing but products reads them.
    pub(super) fn quantizes(&self) -> bool {
        self.arithmetic == Arithmetic::Int8
    }

    /// Counts a weight that is kept in 8 bits.
    pub(super) fn count_quantized(&mut self, bytes: usize) {
        self.quantized_bytes += bytes;
    }

    /// Bytes of the weights that are kept in 8 bits.
    pub(super) fn quantized_bytes(&self) -> usize {
        self.quantized_bytes
    }

    /// Whether the network is to be trained: batch norm stays what it is then.
    pub(super) fn trains(&self) -> bool {
        self.trains
    }

    /// The device that tensors are put on.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Takes a tensor's values as 32-bit floats in row-major order. One that does not fit is noted
    /// and given back as zeros, so that the next ones are still checked.
    pub(super) fn values(&mut self, name: &str, shape: &[usize]) -> Vec<f32> {
        let found = match &mut self.source {
            Source::Weights(weights) => weights.take(name),
            Source::Blank(wanted) => {
                wanted.push(Wanted { name: name.to_owned(), shape: shape.to_vec(), optional: false });
                return Vec::new();
            }
        };
        let values = match found {
            Some(tensor) if tensor.shape() != shape => Err(misshapen(&tensor, shape)),
            Some(tensor) => tensor.floats().map_err(|error| error.to_string()),
            None => Err(missing(shape)),
        };
        values.unwrap_or_else(|problem| {
            self.problems.push(format!("{name} {problem}"));
            vec![0.0; shape.iter().product()]
        })
    }

    /// Takes a tensor.
    pub(super) fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
        let values = self.values(name, &shape);
        self.put(values, shape)
    }

    /// Takes a tensor as a parameter.
    pub(super) fn parameter<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        let values = self.tensor(name, shape);
        self.made_from(values, vec![name.to_owned()], false)
    }

    /// A parameter that was made from these tensors; training gives it back to them.
    pub(super) fn made_from<const D: usize>(
        &mut self,
        values: Tensor<D>,
        names: Vec<String>,
        transposed: bool,
    ) -> Param<Tensor<D>> {
        let mut parameter = Param::from_tensor(values);
        parameter.id = self.origin(names, transposed);
        parameter
    }

    /// The id of what is made from these tensors.
    pub(super) fn origin(&mut self, names: Vec<String>, transposed: bool) -> ParamId {
        let id = ParamId::from(self.origins.len() as u64);
        self.origins.push(Origin { names, transposed });
        id
    }

    /// Takes a tensor that this task does not use: it may be absent, but not misshapen.
    pub(super) fn skip(&mut self, name: &str, shape: &[usize]) {
        match &mut self.source {
            Source::Weights(weights) => {
                if let Some(tensor) = weights.take(name).filter(|tensor| tensor.shape() != shape) {
                    self.problems.push(format!("{name} {}", misshapen(&tensor, shape)));
                }
            }
            Source::Blank(wanted) => {
                wanted.push(Wanted { name: name.to_owned(), shape: shape.to_vec(), optional: true });
            }
        }
    }

    /// Puts values on the device, in the precision that the network runs in.
    pub(super) fn put<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        self.put_as(values, shape, self.arithmetic.states())
    }

    /// Puts values on the device in a precision.
    pub(super) fn put_as<const D: usize>(
        &self,
        values: Vec<f32>,
        shape: [usize; D],
        precision: Precision,
    ) -> Tensor<D> {
        match self.source {
            Source::Weights(_) => on_device(values, shape, &self.device, precision),
            Source::Blank(_) => Tensor::<D>::zeros([1; D], &self.device).expand(shape),
        }
    }

    /// Ends the account, and tells where each parameter came from.
    ///
    /// # Errors
    /// A line for each tensor that was missing, misshapen or not a number, or is left over.
    pub(super) fn finish(self) -> Result<Vec<Origin>, CheckpointError> {
        let left = match &self.source {
            Source::Weights(weights) => weights.iter().map(|(name, tensor)| unknown(name, tensor)).collect(),
            Source::Blank(_) => Vec::new(),
        };
        CheckpointError::unless_none([self.problems, left].concat())?;
        Ok(self.origins)
    }

    /// What was asked for.
    pub(super) fn wanted(self) -> Vec<Wanted> {
        match self.source {
            Source::Weights(_) => Vec::new(),
            Source::Blank(wanted) => wanted,
        }
    }
}

/// Compares a checkpoint's names and shapes with what a network wants, without reading values.
///
/// # Errors
/// A line for each tensor that is missing, misshapen or left over.
pub fn compare(weights: &Weights, wanted: &[Wanted]) -> Result<(), CheckpointError> {
    let mut problems = Vec::new();
    for Wanted { name, shape, optional } in wanted {
        match weights.get(name) {
            Some(tensor) if tensor.shape() != shape => problems.push(format!("{name} {}", misshapen(tensor, shape))),
            None if !optional => problems.push(format!("{name} {}", missing(shape))),
            _ => {}
        }
    }
    let known: std::collections::BTreeSet<&str> = wanted.iter().map(|wanted| wanted.name.as_str()).collect();
    problems
        .extend(weights.iter().filter(|(name, _)| !known.contains(name)).map(|(name, tensor)| unknown(name, tensor)));
    CheckpointError::unless_none(problems)
}

/// Tensors that are missing, unknown, misshapen or not numbers.
#[derive(Debug, thiserror::Error)]
#[error("{} of its tensors do not fit config.json:\n{}", problems.len(), listed(problems))]
pub struct CheckpointError {
    /// One line each.
    problems: Vec<String>,
}

impl CheckpointError {
    fn unless_none(problems: Vec<String>) -> Result<(), Self> {
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Self { problems }),
        }
    }
}

const PROBLEMS_SHOWN: usize = 12;

fn listed(problems: &[String]) -> String {
    let shown = problems.iter().take(PROBLEMS_SHOWN).map(|problem| format!("  {problem}"));
    let more = problems.len().saturating_sub(PROBLEMS_SHOWN);
    shown.chain((more > 0).then(|| format!("  … and {more} more"))).collect::<Vec<_>>().join("\n")
}

fn misshapen(tensor: &Stored, shape: &[usize]) -> String {
    format!("has shape {:?}, expected {shape:?}", tensor.shape())
}

fn missing(shape: &[usize]) -> String {
    format!("is missing, expected shape {shape:?}")
}

fn unknown(name: &str, tensor: &Stored) -> String {
    format!("{name} is unknown, shape {:?}", tensor.shape())
}

/// Puts floats on a device in a precision, whatever its default type is.
pub(super) fn on_device<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &Device,
    precision: Precision,
) -> Tensor<D> {
    let dtype = match precision {
        Precision::F32 => DType::F32,
        Precision::F16 => DType::F16,
    };
    Tensor::from_data(TensorData::new(values, shape), (device, dtype))
}
