//! The forward pass per stage, on both CPU devices: OFA's tiny architecture with random weights, a
//! 480x480 image, a text of 28 tokens, batch 1.
//!
//! cargo bench --bench forward

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark ends where it cannot go on")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{LazyLock, Mutex},
};

use burn::tensor::Device;
use divan::{Bencher, black_box};
use ofa_stream::{
    ofa::{AnswerTrie, Batch, Checkpoint, NetworkConfig, Ofa, OfaOptions, Row},
    vision::{self, Limits, Normalization},
};
use safetensors::{Dtype, tensor::TensorView};

fn main() {
    divan::main();
}

const SIDE: usize = 480;
const TOKENS: u32 = 28;
const DEVICES: [&str; 2] = ["flex", "ndarray"];

fn device(name: &str) -> Device {
    match name {
        "flex" => Device::flex(),
        #[expect(deprecated, reason = "measured beside flex for as long as burn has it")]
        _ => Device::ndarray(),
    }
}

/// Random weights of the published shapes, made once per run.
static CHECKPOINT: LazyLock<tempfile::TempPath> = LazyLock::new(|| {
    let shapes: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string("testdata/golden/real_shapes/tiny.json").unwrap()).unwrap();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u32 << 24) as f32 - 0.5
    };
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, shape) in shapes_of(&shapes) {
        let is_buffer =
            name.ends_with("rp_bucket") || name.ends_with("num_batches_tracked") || name.ends_with("position_idx");
        if is_buffer {
            continue;
        }
        let around = if name.ends_with("running_var") || name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        let values = (0..shape.iter().product()).flat_map(|_| (around + 0.1 * random()).to_le_bytes()).collect();
        tensors.insert(name, (shape, values));
    }
    let views: BTreeMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, (shape, bytes))| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()))
        .collect();
    let file = tempfile::Builder::new().suffix(".safetensors").tempfile().unwrap();
    safetensors::serialize_to_file(&views, None, file.path()).unwrap();
    file.into_temp_path()
});

fn shapes_of(listed: &serde_json::Value) -> Vec<(String, Vec<usize>)> {
    let shape = |value: &serde_json::Value| {
        value.as_array().unwrap().iter().map(|side| side.as_u64().unwrap() as usize).collect()
    };
    listed
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| (tensor["name"].as_str().unwrap().to_owned(), shape(&tensor["shape"])))
        .collect()
}

fn load(name: &str) -> Ofa {
    let config =
        NetworkConfig::from_json(&std::fs::read_to_string("testdata/golden/real_shapes/config_tiny.json").unwrap())
            .unwrap();
    let path: &Path = &CHECKPOINT;
    let checkpoint = Checkpoint::open(path, &device(name)).unwrap();
    let trie = AnswerTrie::new(&[vec![117], vec![4420], vec![2085]], 2).unwrap();
    let options = OfaOptions { token_multiple: 1, bias_cache_bytes: 1 << 30 };
    Ofa::load(checkpoint, &config, SIDE, trie, options).unwrap()
}

/// One loaded network per device, because loading takes longer than most of what is measured.
static NETWORKS: LazyLock<BTreeMap<&'static str, Mutex<Ofa>>> =
    LazyLock::new(|| DEVICES.iter().map(|name| (*name, Mutex::new(load(name)))).collect());

fn pixels() -> Vec<f32> {
    (0..3 * SIDE * SIDE).map(|i| (i % 255) as f32 / 127.5 - 1.0).collect()
}

fn rows() -> [Row; 1] {
    [Row { image: 0, source: (0..TOKENS).map(|i| if i == 0 { 0 } else { 100 + i }).collect() }]
}

#[divan::bench]
fn decode_and_resize_a_jpeg(bencher: Bencher<'_, '_>) {
    let limits = Limits { bytes_max: 1 << 24, pixels_max: 1 << 26 };
    let bytes = std::fs::read("testdata/demo/cups.jpg").unwrap();
    bencher.bench(|| {
        let image = vision::decode(&bytes, &limits).unwrap();
        Normalization::half().apply(&vision::resize(&image, SIDE as u32, SIDE as u32))
    });
}

#[divan::bench(args = DEVICES, sample_count = 10, sample_size = 1)]
fn resnet(bencher: Bencher<'_, '_>, name: &str) {
    let (network, pixels) = (NETWORKS[name].lock().unwrap(), [pixels()]);
    bencher.bench_local(|| black_box(network.feature_map(&pixels).try_into_data().unwrap()));
}

#[divan::bench(args = DEVICES, sample_count = 10, sample_size = 1)]
fn encoder(bencher: Bencher<'_, '_>, name: &str) {
    let mut network = NETWORKS[name].lock().unwrap();
    let features = network.feature_map(&[pixels()]);
    bencher.bench_local(|| black_box(network.encode(features.clone(), &rows()).states.try_into_data().unwrap()));
}

#[divan::bench(args = DEVICES, sample_count = 10, sample_size = 1)]
fn decoder(bencher: Bencher<'_, '_>, name: &str) {
    let mut network = NETWORKS[name].lock().unwrap();
    let features = network.feature_map(&[pixels()]);
    let encoded = network.encode(features, &rows());
    bencher.bench_local(|| black_box(network.decode(encoded.clone(), &rows()).unwrap()));
}

#[divan::bench(args = DEVICES, sample_count = 10, sample_size = 1)]
fn whole(bencher: Bencher<'_, '_>, name: &str) {
    let mut network = NETWORKS[name].lock().unwrap();
    let batch = Batch { images: vec![pixels()], rows: rows().to_vec() };
    bencher.bench_local(|| black_box(network.answer(&batch).unwrap()));
}
