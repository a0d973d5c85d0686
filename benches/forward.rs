//! The forward pass per stage, on both CPU devices, on flex in 8 bits too: OFA's tiny architecture with random weights, a
//! 480x480 image, a text of 28 tokens, batch 1.
//!
//! cargo bench --bench forward

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark ends where it cannot go on")]

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex},
};

use burn::tensor::Device;
use divan::{Bencher, black_box};
use ofa_stream::{
    ofa::{AnswerTrie, NetworkConfig, Ofa, OfaOptions, Row, has_integer_products, wanted_tensors},
    vision::{self, Limits},
    weights::{Arithmetic, Precision, Weights, Writer},
};

fn main() {
    divan::main();
}

const SIDE: usize = 480;
const TOKENS: u32 = 28;
/// "flex" runs our kernels, "flex-int8" with weights of 8 bits where the CPU multiplies them, "burn-flex" burn's own operations.
fn devices() -> impl Iterator<Item = &'static str> {
    let known = ["flex", "flex-int8", "burn-flex", "ndarray"].into_iter();
    known.filter(|name| *name != "flex-int8" || has_integer_products())
}

fn device(name: &str) -> Device {
    match name {
        "flex" | "flex-int8" | "burn-flex" => Device::flex(),
        #[expect(deprecated, reason = "measured beside flex for as long as burn has it")]
        _ => Device::ndarray(),
    }
}

/// Random weights of the published shapes, made once per run.
static CHECKPOINT: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u32 << 24) as f32 - 0.5
    };
    let wanted = wanted_tensors(&config()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let shapes = wanted.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()));
    let mut writer = Writer::create(&path, Precision::F32, shapes).unwrap();
    for tensor in &wanted {
        let around =
            if tensor.name.ends_with("running_var") || tensor.name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..tensor.shape.iter().product()).map(|_| around + 0.1 * random()).collect();
        writer.write(&values).unwrap();
    }
    writer.finish().unwrap();
    folder
});

fn config() -> NetworkConfig {
    let json = std::fs::read_to_string("testdata/golden/real_shapes/config_tiny.json").unwrap();
    NetworkConfig::from_json(&json).unwrap()
}

fn load(name: &str) -> Ofa {
    let weights = Weights::open(&[CHECKPOINT.path().join("weights.safetensors")]).unwrap();
    let trie = AnswerTrie::new(&[vec![117], vec![4420], vec![2085]], 2).unwrap();
    let options = OfaOptions {
        precision: if name == "flex-int8" { Arithmetic::Int8 } else { Arithmetic::F32 },
        kernels: name.starts_with("flex"),
        absorb: true,
        token_multiple: 8,
        bias_cache_bytes: 1 << 30,
        trains: false,
    };
    Ofa::load(weights, &config(), SIDE, trie, (&device(name), options)).unwrap()
}

/// One loaded network per device, because loading takes longer than most of what is measured.
static NETWORKS: LazyLock<BTreeMap<&'static str, Mutex<Ofa>>> =
    LazyLock::new(|| devices().map(|name| (name, Mutex::new(load(name)))).collect());

fn pixels() -> Vec<f32> {
    (0..3 * SIDE * SIDE).map(|i| (i % 255) as f32 / 127.5 - 1.0).collect()
}

fn rows() -> [Row; 1] {
    [Row { image: 0, source: (0..TOKENS).map(|i| if i == 0 { 0 } else { 100 + i }).collect() }]
}

#[divan::bench]
fn decode_and_resize_a_jpeg(bencher: Bencher<'_, '_>) {
    let limits = Limits { bytes_max: 1 << 24, pixels_max: 1 << 26, decode_bytes_max: u64::MAX };
    let bytes = std::fs::read("testdata/demo/cups.jpg").unwrap();
    bencher.bench(|| {
        let image = vision::decode(&bytes, &limits).unwrap();
        vision::resize(&image, SIDE as u32, SIDE as u32)
    });
}

#[divan::bench(args = devices(), sample_count = 10, sample_size = 1)]
fn resnet(bencher: Bencher<'_, '_>, name: &str) {
    let (network, pixels) = (NETWORKS[name].lock().unwrap(), pixels());
    let features = |pixels| black_box(network.feature_map(pixels, None).unwrap().try_into_data().unwrap());
    bencher.with_inputs(|| pixels.clone()).bench_local_values(features);
}

#[divan::bench(args = devices(), sample_count = 10, sample_size = 1)]
fn encoder(bencher: Bencher<'_, '_>, name: &str) {
    let mut network = NETWORKS[name].lock().unwrap();
    let features = network.feature_map(pixels(), None).unwrap();
    bencher.bench_local(|| {
        let tokens = network.image_tokens(features.clone());
        black_box(network.encode(tokens, &rows(), None).unwrap().states.try_into_data().unwrap())
    });
}

#[divan::bench(args = devices(), sample_count = 10, sample_size = 1)]
fn decoder(bencher: Bencher<'_, '_>, name: &str) {
    let mut network = NETWORKS[name].lock().unwrap();
    let tokens = network.image_tokens(network.feature_map(pixels(), None).unwrap());
    let encoded = network.encode(tokens, &rows(), None).unwrap();
    bencher.bench_local(|| black_box(network.decode(&encoded, &rows(), None).unwrap()));
}

#[divan::bench(args = devices(), sample_count = 10, sample_size = 1)]
fn whole(bencher: Bencher<'_, '_>, name: &str) {
    let mut network = NETWORKS[name].lock().unwrap();
    let pixels = pixels();
    bencher.with_inputs(|| pixels.clone()).bench_local_values(|pixels| {
        let tokens = network.image_tokens(network.feature_map(pixels, None).unwrap());
        black_box(network.answer(tokens, &rows(), None).unwrap())
    });
}
