//! Weights rounded to 8 bits once, when they are loaded, and the products with them, whose other side is rounded as it comes.
//!
//! A weight is `scale · whole`, with a scale for each output and whole numbers from -127 to 127; what it is multiplied with is
//! `scale · (whole - zero)`, with 8 bits without a sign, over the range that its values have (Jacob et al., 2018). Sums
//! have 32 bits and are exact: a configuration allows 65,536 products, of 255 · 127 each.

use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_tensor::NdTensorView;

use super::dot_product;

type Products = GemmExecutor<u8, i8, i32>;

thread_local! {
    /// For this CPU.
    static PRODUCTS: Products = Products::default();
}

/// Whether this CPU has instructions for dot products of 8 bits. Without them pairs are added up in 16 bits, which such weights
/// overflow, or nothing is gained.
pub fn has_integer_products() -> bool {
    PRODUCTS.with(|products| {
        let named = ["avx512", "dotprod", "i8mm"].iter().any(|kernel| products.kernel_name().contains(kernel));
        named && !products.may_saturate()
    })
}

/// The weight of a projection, `[inputs, outputs]`.
pub struct QuantizedProjection {
    inputs: usize,
    packed: PackedBMatrix<i8>,
    /// Of each output.
    scales: Vec<f32>,
    /// The sum of each output's whole numbers.
    sums: Vec<i32>,
}

/// The weight of a convolution, `[outputs, inputs · kernel²]`.
pub struct QuantizedFilter {
    depth: usize,
    /// Four whole numbers each, with zeros behind the last of an output.
    words: Vec<u32>,
    /// Of each output.
    scales: Vec<f32>,
    /// The sum of each output's whole numbers.
    sums: Vec<i32>,
}

impl QuantizedProjection {
    /// From rows of one output each, `[outputs, inputs]`, as they are published.
    pub fn new(rows: &[f32], inputs: usize) -> Self {
        let (whole, scales) = rounded_rows(rows, inputs);
        let sums = whole.chunks_exact(inputs.max(1)).map(total).collect();
        let weight = NdTensorView::from_data([scales.len(), inputs], whole.as_slice());
        Self { inputs, packed: PRODUCTS.with(|products| products.prepack_b(weight.transposed())), scales, sums }
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        self.scales.len() * (self.inputs + size_of::<f32>() + size_of::<i32>())
    }

    /// Width of what it is multiplied with.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Of each output, its scale and the sum of its whole numbers.
    #[inline(always)]
    pub(super) fn outputs(&self) -> impl ExactSizeIterator<Item = (f32, i32)> {
        self.scales.iter().copied().zip(self.sums.iter().copied())
    }

    /// Whole states `[rows, inputs]` times whole weights, `[rows, outputs]`, whatever stands for nought: `zero` times the sum of
    /// an output's whole numbers is still to be taken away. Said by row, `rten-gemm` 0.27 takes the noughts of the first eight
    /// rows for all.
    pub(super) fn products(&self, states: &[u8], sums: &mut [i32]) {
        let states = NdTensorView::from_data([states.len() / self.inputs, self.inputs], states);
        let (states, weight) = (GemmInputA::Unpacked(states), GemmInputB::Packed(&self.packed));
        let done = PRODUCTS.with(|products| products.gemm(sums, states, weight, GemmOptions::default()));
        assert!(done.is_ok(), "sides that fit each other: {done:?}");
    }
}

impl QuantizedFilter {
    /// From rows of one output each, `[outputs, inputs · kernel²]`. None where the CPU has no dot products for it.
    pub fn new(rows: &[f32], depth: usize) -> Option<Self> {
        if !dot_product::available() {
            return None;
        }
        let (whole, scales) = rounded_rows(rows, depth);
        let outputs = || whole.chunks_exact(depth.max(1));
        let word = |four: &[i8]| {
            let byte = |at: usize| four.get(at).copied().unwrap_or_default().cast_unsigned();
            u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
        };
        let words = outputs().flat_map(|row| row.chunks(WORD).map(word)).collect();
        Some(Self { depth, words, scales, sums: outputs().map(total).collect() })
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        self.scales.len() * (self.depth + size_of::<f32>() + size_of::<i32>())
    }

    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Of each output, its scale and the sum of its whole numbers.
    pub(super) fn outputs(&self) -> impl ExactSizeIterator<Item = (f32, i32)> {
        self.scales.iter().copied().zip(self.sums.iter().copied())
    }

    /// Whole weights times whole patches `[depth / 4, columns]`, four to a word, `[outputs, columns]`: as of a projection's,
    /// what stands for nought is still to be taken away.
    pub(super) fn products(&self, patches: &[u32], columns: usize, sums: &mut [i32]) {
        dot_product::product(&self.words, patches, [self.scales.len(), self.depth.div_ceil(WORD), columns], sums);
    }
}

/// Whole numbers in a word.
pub(super) const WORD: usize = 4;

fn total(row: &[i8]) -> i32 {
    row.iter().copied().map(i32::from).sum()
}

impl std::fmt::Debug for QuantizedProjection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "QuantizedProjection({} to {})", self.inputs, self.scales.len())
    }
}

impl std::fmt::Debug for QuantizedFilter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "QuantizedFilter({} to {})", self.depth, self.scales.len())
    }
}

/// Rows of a weight, from -127 to 127, and the scale of each.
fn rounded_rows(rows: &[f32], width: usize) -> (Vec<i8>, Vec<f32>) {
    let mut whole = Vec::with_capacity(rows.len());
    let scales = rows
        .chunks_exact(width.max(1))
        .map(|row| {
            let scale = row.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0;
            let per_value = if scale > 0.0 { scale.recip() } else { 0.0 };
            whole.extend(row.iter().map(|value| (value * per_value).round() as i8));
            scale
        })
        .collect();
    (whole, scales)
}

/// How values were rounded: each is about `scale · (whole - zero)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rounding {
    /// No number where one of the values was none, or infinite: so is then what comes of them.
    pub(super) scale: f32,
    pub(super) zero: u8,
}

impl Rounding {
    /// For values between two limits, which [`super::elementwise::range`] finds.
    #[inline(always)]
    pub(super) fn between([least, most]: [f32; 2]) -> Self {
        // Nought itself must be a whole number: padding is made of it.
        let (least, most) = (if least > 0.0 { 0.0 } else { least }, if most < 0.0 { 0.0 } else { most });
        let scale = (most - least) / 255.0;
        let zero = if scale > 0.0 { (-least / scale + 0.5) as u8 } else { 0 };
        Self { scale, zero }
    }

    /// Rounds values to bytes.
    #[inline(always)]
    pub(super) fn bytes(self, values: &[f32], whole: &mut [u8]) {
        values.iter().zip(whole).for_each(|(value, whole)| *whole = self.whole(*value) as u8);
    }

    /// Rounds four rows of values, or what there is of them, to words of a byte of each, the first in the lowest bits.
    #[inline(always)]
    pub(super) fn words(self, rows: [Option<&[f32]>; WORD], words: &mut [u32]) {
        if let [Some(first), Some(second), Some(third), Some(fourth)] = rows {
            let rows = first.iter().zip(second).zip(third.iter().zip(fourth));
            for (word, ((first, second), (third, fourth))) in words.iter_mut().zip(rows) {
                let low = self.whole(*first) | self.whole(*second) << 8;
                *word = low | self.whole(*third) << 16 | self.whole(*fourth) << 24;
            }
            return;
        }
        words.fill(0);
        for (at, row) in rows.into_iter().enumerate().filter_map(|(at, row)| row.map(|row| (at, row))) {
            words.iter_mut().zip(row).for_each(|(word, value)| *word |= self.whole(*value) << (8 * at));
        }
    }

    /// From 0 to 255.
    #[inline(always)]
    fn whole(self, value: f32) -> u32 {
        // Adding it moves the fraction out of the mantissa, which rounds to the nearest whole number and leaves it in the
        // lowest bits, without a conversion that the compiler cannot vectorize.
        const ROUNDING: f32 = 12_582_912.0;
        let per_value = if self.scale > 0.0 { self.scale.recip() } else { 0.0 };
        let at = value * per_value + f32::from(self.zero);
        let at = if at > 255.0 { 255.0 } else { at };
        let at = if at < 0.0 { 0.0 } else { at };
        (at + ROUNDING).to_bits() & 255
    }
}
