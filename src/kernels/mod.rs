//! CPU kernels for what burn's own CPU device does slowly on OFA's shapes. The room of unsafe code.
//!
//! * `operations`: what the network calls, on tensors.
//! * `flex`: the operations as an extension of burn's backend, which looks at shapes; `flex` runs them.
//! * `convolution`, `winograd`, `pool`, `attention`, `linear`: one operation each, on plain slices.
//! * `product`: matrix products into parts of a shared result.
//! * `quantized`: weights of 8 bits, and products with them; `dot_product`: that of convolutions.
//! * `elementwise`: exponential, GELU and sums that the compiler can vectorize.
//!
//! The network calls these where it runs on `flex`, and burn's own operations elsewhere; both are held to the
//! same golden outputs.

mod attention;
mod convolution;
mod dot_product;
mod elementwise;
mod flex;
mod linear;
mod operations;
mod pool;
mod product;
mod quantized;
mod winograd;

#[cfg(test)]
mod tests;

pub use convolution::Geometry;
pub(crate) use elementwise::vectorized;
pub use linear::Activation;
pub use operations::{
    Filter, Positions, ProjectionWeight, Sequence, Weight, attention, attention_by_position, convolution, gelu,
    gelu_slope, linear, max_pool,
};
pub use quantized::{QuantizedFilter, QuantizedProjection, has_integer_products};
pub use winograd::{TILES as WINOGRAD_TILES, prepared as winograd_weights};
