//! The image half before the encoder: a ResNet of bottleneck blocks without its last layer.

use std::sync::Arc;

use burn::{
    module::{Module, Param, RunningState},
    nn::{BatchNorm, BatchNormConfig},
    tensor::{
        Slice, Tensor,
        activation::relu,
        module::{conv2d, max_pool2d},
        ops::{ConvOptions, MaxPoolOptions, PadMode},
    },
};

use super::{
    checkpoint::Checkpoint,
    config::{ConfigError, NetworkConfig},
    interrupt::{Interrupt, RunError},
};
use crate::kernels::{self, Geometry, QuantizedFilter, WINOGRAD_TILES, Weight, winograd_weights};

const BATCH_NORM_EPSILON: f32 = 1e-5;
const STEM_KERNEL: usize = 7;
/// A bottleneck widens its planes by this factor.
const EXPANSION: usize = 4;

/// Stem and three layers of bottlenecks: `[images, 3, side, side]` to
/// `[images, 16 * base_planes, grid, grid]`.
#[derive(Module, Debug)]
pub(super) struct ResNet {
    stem: Convolution,
    blocks: Vec<Bottleneck>,
    kernels: bool,
}

impl ResNet {
    pub(super) fn load(checkpoint: &mut Checkpoint, config: &NetworkConfig) -> Result<Self, ConfigError> {
        let prefix = "encoder.embed_images";
        let base = config.resnet_base_planes;
        let names = ["conv1", "bn1"].map(|part| format!("{prefix}.{part}"));
        let stem = Convolution::load(checkpoint, &Site { names, channels: [3, base], kernel: STEM_KERNEL, stride: 2 });
        let mut blocks = Vec::new();
        let mut inputs = base;
        for (layer, count) in config.blocks()?.into_iter().enumerate() {
            let planes = base << layer;
            for index in 0..count {
                let stride = if layer > 0 && index == 0 { 2 } else { 1 };
                let name = format!("{prefix}.layer{}.{index}", layer + 1);
                blocks.push(Bottleneck::load(checkpoint, &name, inputs, planes, stride, index == 0));
                inputs = planes * EXPANSION;
            }
        }
        Ok(Self { stem, blocks, kernels: checkpoint.kernels() })
    }

    /// Channels of the output.
    pub(super) fn channels(config: &NetworkConfig) -> usize {
        config.resnet_base_planes * 4 * EXPANSION
    }

    pub(super) fn forward(&self, images: Tensor<4>, interrupt: Option<&Interrupt>) -> Result<Tensor<4>, RunError> {
        let stem = self.stem.forward(images, None, true);
        let pooled = match self.kernels {
            true => kernels::max_pool(stem),
            false => max_pool2d(stem, MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1])),
        };
        self.blocks.iter().try_fold(pooled, |states, block| {
            Interrupt::check(interrupt)?;
            Ok(block.forward(states))
        })
    }
}

/// 1×1 to the planes, 3×3 with the stride, 1×1 to four times the planes, and the way around them.
#[derive(Module, Debug)]
struct Bottleneck {
    narrow: Convolution,
    spatial: Convolution,
    widen: Convolution,
    shortcut: Option<Convolution>,
}

impl Bottleneck {
    fn load(checkpoint: &mut Checkpoint, name: &str, inputs: usize, planes: usize, stride: usize, first: bool) -> Self {
        let outputs = planes * EXPANSION;
        let mut part = |conv: &str, norm: &str, channels, kernel, stride| {
            let names = [conv, norm].map(|part| format!("{name}.{part}"));
            Convolution::load(checkpoint, &Site { names, channels, kernel, stride })
        };
        Self {
            narrow: part("conv1", "bn1", [inputs, planes], 1, 1),
            spatial: part("conv2", "bn2", [planes, planes], 3, stride),
            widen: part("conv3", "bn3", [planes, outputs], 1, 1),
            shortcut: first.then(|| part("downsample.0", "downsample.1", [inputs, outputs], 1, stride)),
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let narrow = self.narrow.forward(input.clone(), None, true);
        let spatial = self.spatial.forward(narrow, None, true);
        let around = match &self.shortcut {
            Some(shortcut) => shortcut.forward(input, None, false),
            None => input,
        };
        self.widen.forward(spatial, Some(around), true)
    }
}

/// A square convolution with a bias or a batch norm, padded by half its side.
#[derive(Module, Debug)]
struct Convolution {
    product: Product,
    kernel: usize,
    stride: usize,
}

/// What a convolution multiplies with, and adds.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a network has a hundred of them at most, beside millions of weights")]
enum Product {
    Folded(Folded),
    Quantized(Quantized),
    Unfolded(Unfolded),
}

/// A batch norm that was folded into the weight.
#[derive(Module, Debug)]
struct Folded {
    /// `[outputs, inputs, kernel, kernel]`, or what Winograd's algorithm wants of it.
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
    winograd: bool,
    kernels: bool,
}

/// The same, with a weight of 8 bits. Burn does not know it as a parameter: nothing but our own convolution reads it.
#[derive(Module, Debug)]
struct Quantized {
    #[module(skip)]
    filter: Arc<QuantizedFilter>,
    bias: Param<Tensor<1>>,
}

/// A batch norm that is trained.
#[derive(Module, Debug)]
struct Unfolded {
    /// `[outputs, inputs, kernel, kernel]`
    weight: Param<Tensor<4>>,
    norm: BatchNorm,
}

/// Where a convolution stands: its name and that of the norm behind it, and its shape.
struct Site {
    names: [String; 2],
    /// In and out.
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
}

impl Convolution {
    fn load(checkpoint: &mut Checkpoint, site: &Site) -> Self {
        let product = match checkpoint.trains() {
            true => Product::Unfolded(unfolded(checkpoint, site)),
            false => folded(checkpoint, site),
        };
        Self { product, kernel: site.kernel, stride: site.stride }
    }

    /// The convolution, plus what goes around it, through ReLU.
    fn forward(&self, images: Tensor<4>, around: Option<Tensor<4>>, rectified: bool) -> Tensor<4> {
        let Self { kernel, stride, .. } = *self;
        let geometry = |winograd| Geometry { kernel, stride, relu: rectified, winograd };
        let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1, 1], 1);
        let result = match &self.product {
            Product::Quantized(Quantized { filter, bias }) => {
                let filter = Weight::Quantized(filter.clone());
                return kernels::convolution(images, filter, bias.val(), around, geometry(false));
            }
            Product::Folded(Folded { weight, bias, winograd, kernels: true }) => {
                let filter = Weight::Floats(weight.val());
                return kernels::convolution(images, filter, bias.val(), around, geometry(*winograd));
            }
            Product::Folded(Folded { weight, bias, .. }) => conv2d(images, weight.val(), Some(bias.val()), options),
            Product::Unfolded(Unfolded { weight, norm }) => norm.forward(match (kernel, stride) {
                (1, 1) => pointwise(images, weight.val()),
                (STEM_KERNEL, _) => of_pixels(images, weight.val(), stride),
                _ => conv2d(images, weight.val(), None, options),
            }),
        };
        let result = match around {
            Some(around) => result + around,
            None => result,
        };
        if rectified { relu(result) } else { result }
    }
}

/// A 1×1 convolution as a product: learning then needs no convolutions as large as the images.
fn pointwise(images: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
    let ([batch, inputs, height, width], [outputs, ..]) = (images.dims(), weight.dims());
    let weight = weight.reshape([1, outputs, inputs]);
    weight.matmul(images.reshape([batch, inputs, height * width])).reshape([batch, outputs, height, width])
}

/// A convolution of what is not learned, as a product with its patches. Nobody asks for the gradient of pixels, and that of the
/// weights is another product.
fn of_pixels(pixels: Tensor<4>, weight: Tensor<4>, stride: usize) -> Tensor<4> {
    let ([batch, inputs, height, width], [outputs, _, kernel, _]) = (pixels.dims(), weight.dims());
    let (beside, last) = (kernel / 2, kernel - 1);
    let [rows, columns] = [height, width].map(|side| (side + 2 * beside - kernel) / stride + 1);
    let padded = pixels.pad((beside, beside, beside, beside), PadMode::Constant(0.0));
    let every = stride as isize;
    let patch = |at: usize| {
        let (top, left) = (at / kernel, at % kernel);
        let along = |from: usize, side: usize| {
            Slice::new(from as isize, Some((from + side + 2 * beside - last) as isize), every)
        };
        padded.clone().slice([Slice::full(), Slice::full(), along(top, height), along(left, width)])
    };
    let patches = Tensor::cat((0..kernel * kernel).map(patch).collect(), 1);
    let patches = patches.reshape([batch, kernel * kernel * inputs, rows * columns]);
    let weight = weight.permute([0, 2, 3, 1]).reshape([1, outputs, kernel * kernel * inputs]);
    weight.matmul(patches).reshape([batch, outputs, rows, columns])
}

/// A convolution without bias and the batch norm behind it, as one convolution: with running mean m,
/// variance v, scale g and shift b, the weight becomes w·g/√(v+ε) and the bias b − m·g/√(v+ε).
fn folded(checkpoint: &mut Checkpoint, site: &Site) -> Product {
    let Site { names: [conv, norm], channels: [inputs, outputs], kernel, stride } = site;
    let (inputs, outputs, kernel, stride) = (*inputs, *outputs, *kernel, *stride);
    let depth = inputs * kernel * kernel;
    let mut weight = checkpoint.values(&format!("{conv}.weight"), &[outputs, inputs, kernel, kernel]);
    let mut of_norm = |part: &str| checkpoint.values(&format!("{norm}.{part}"), &[outputs]);
    let (scale, shift) = (of_norm("weight"), of_norm("bias"));
    let (mean, variance) = (of_norm("running_mean"), of_norm("running_var"));
    let mut bias = Vec::with_capacity(outputs);
    for (channel, filter) in weight.chunks_exact_mut(depth).enumerate() {
        let gain = scale[channel] / (variance[channel] + BATCH_NORM_EPSILON).sqrt();
        filter.iter_mut().for_each(|value| *value *= gain);
        bias.push(shift[channel] - mean[channel] * gain);
    }
    let bias = Param::from_tensor(checkpoint.put(bias, [outputs]));
    let kernels = checkpoint.kernels();
    // Fewer operations, but only where neighbouring patches overlap as the algorithm wants.
    let winograd = kernels && kernel == 3 && stride == 1;
    if checkpoint.quantizes()
        && !winograd
        && let Some(filter) = QuantizedFilter::new(&weight, depth)
    {
        checkpoint.count_quantized(filter.bytes());
        return Product::Quantized(Quantized { filter: Arc::new(filter), bias });
    }
    let weight = match winograd {
        true => {
            let prepared = winograd_weights(&weight, outputs, inputs);
            checkpoint.put(prepared, [WINOGRAD_TILES, outputs, inputs, 1])
        }
        false => checkpoint.put(weight, [outputs, inputs, kernel, kernel]),
    };
    Product::Folded(Folded { weight: Param::from_tensor(weight), bias, winograd, kernels })
}

/// A convolution without bias, and the batch norm behind it as it is published.
fn unfolded(checkpoint: &mut Checkpoint, site: &Site) -> Unfolded {
    let Site { names: [conv, norm], channels: [inputs, outputs], kernel, .. } = site;
    let (inputs, outputs, kernel) = (*inputs, *outputs, *kernel);
    let weight = checkpoint.parameter(&format!("{conv}.weight"), [outputs, inputs, kernel, kernel]);
    let config = BatchNormConfig::new(outputs).with_epsilon(BATCH_NORM_EPSILON.into());
    let mut behind = config.init(checkpoint.device());
    behind.gamma = checkpoint.parameter(&format!("{norm}.weight"), [outputs]);
    behind.beta = checkpoint.parameter(&format!("{norm}.bias"), [outputs]);
    let mut running = |part: &str| {
        let name = format!("{norm}.{part}");
        let values = checkpoint.tensor(&name, [outputs]);
        RunningState::with_id(checkpoint.origin(vec![name], false), values)
    };
    behind.running_mean = running("running_mean");
    behind.running_var = running("running_var");
    Unfolded { weight, norm: behind }
}
