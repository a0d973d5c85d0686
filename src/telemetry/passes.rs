//! Metrics of model versions: their state, their passes, their caches, their shadows.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const MODEL_INFO: &str = "ofa_model_info";
const MODEL_STATE: &str = "ofa_model_state";
const MODEL_LOAD: &str = "ofa_model_load_seconds";
const MODEL_MEMORY: &str = "ofa_model_memory_bytes";
const MODEL_RESTARTS: &str = "ofa_model_restarts_total";
const QUEUE_DEPTH: &str = "ofa_queue_depth";
const PASSES: &str = "ofa_passes_total";
const PASSES_GIVEN_UP: &str = "ofa_passes_given_up_total";
const PASS: &str = "ofa_pass_seconds";
pub(super) const BATCH_SIZE: &str = "ofa_batch_size";
pub(super) const PADDING: &str = "ofa_padding_share";
const IMAGES: &str = "ofa_images_total";
const ANSWERS: &str = "ofa_answers_total";
const DEVICE_THREADS: &str = "ofa_device_pass_threads";
const DEVICE_TOKENS: &str = "ofa_device_pass_tokens";
const DEVICE_BYTES: &str = "ofa_device_pass_bytes";
const SHADOW_VERDICTS: &str = "ofa_shadow_verdicts_total";
const SHADOWS_DROPPED: &str = "ofa_shadows_dropped_total";

pub(super) fn describe() {
    describe_gauge!(MODEL_INFO, "1 for every version served, with its device and digest");
    describe_gauge!(MODEL_STATE, "1 for the state a version is in");
    describe_gauge!(MODEL_LOAD, "How long loading a version took");
    describe_gauge!(MODEL_MEMORY, "Memory of a loaded version's weights, position biases and kept images");
    describe_counter!(MODEL_RESTARTS, "Times a version broke and was to be loaded again");
    describe_gauge!(QUEUE_DEPTH, "Requests waiting for a version, by lane");
    describe_counter!(PASSES, "Forward passes, by lane and by why they went when they did");
    describe_counter!(PASSES_GIVEN_UP, "Shadow passes given up for a live one");
    describe_histogram!(PASS, "Time of a forward pass");
    describe_histogram!(BATCH_SIZE, "Requests in a forward pass");
    describe_histogram!(PADDING, "Share of padding among the positions of a forward pass");
    describe_counter!(IMAGES, "Images in passes: their features kept from before, or computed");
    describe_counter!(ANSWERS, "Requests looked up among kept answers, where these are kept");
    describe_gauge!(DEVICE_THREADS, "Threads of the passes that run on a device");
    describe_gauge!(DEVICE_TOKENS, "Positions of the passes that run on a device");
    describe_gauge!(DEVICE_BYTES, "Estimated memory of the passes that run on a device, beside weights");
    describe_counter!(SHADOW_VERDICTS, "Shadow verdicts, by whether they agree with the live one");
    describe_counter!(SHADOWS_DROPPED, "Shadow requests without a verdict");
}

/// What tells versions apart.
#[derive(Clone, Copy, Debug)]
pub struct ModelLabels<'a> {
    /// Its name.
    pub version: &'a str,
    /// Where it runs.
    pub device: &'a str,
    /// What it computes in.
    pub precision: &'static str,
    /// SHA-256 over its files.
    pub digest: &'a str,
}

impl ModelLabels<'_> {
    fn all(&self) -> [(&'static str, String); 4] {
        [
            ("version", self.version.to_owned()),
            ("device", self.device.to_owned()),
            ("precision", self.precision.to_owned()),
            ("digest", self.digest.to_owned()),
        ]
    }
}

/// The state a version is in, out of all states that there are; and how long loading took and how many bytes it holds,
/// where it is loaded.
pub fn model(model: &ModelLabels<'_>, state: &str, states: &[&'static str], loaded: Option<(Duration, u64)>) {
    let version = || model.version.to_owned();
    gauge!(MODEL_INFO, &model.all()).set(1.0);
    for &name in states {
        gauge!(MODEL_STATE, "version" => version(), "state" => name).set(if name == state { 1.0 } else { 0.0 });
    }
    if let Some((took, bytes)) = loaded {
        gauge!(MODEL_LOAD, "version" => version()).set(took.as_secs_f64());
        gauge!(MODEL_MEMORY, "version" => version()).set(bytes as f64);
    }
}

/// A version was let go.
pub fn model_unloaded(model: &ModelLabels<'_>, states: &[&'static str]) {
    let version = || model.version.to_owned();
    gauge!(MODEL_INFO, &model.all()).set(0.0);
    for &name in states {
        gauge!(MODEL_STATE, "version" => version(), "state" => name).set(0.0);
    }
    gauge!(MODEL_MEMORY, "version" => version()).set(0.0);
}

/// A version broke and is to be loaded again.
pub fn model_restart(version: &str) {
    counter!(MODEL_RESTARTS, "version" => version.to_owned()).increment(1);
}

/// Requests waiting in a lane.
pub fn queue_depth(version: &str, lane: &'static str, depth: usize) {
    gauge!(QUEUE_DEPTH, "version" => version.to_owned(), "lane" => lane).set(depth as f64);
}

/// What metrics say about a forward pass.
#[derive(Clone, Copy, Debug)]
pub struct FinishedPass<'a> {
    /// The version that ran it.
    pub version: &'a str,
    /// The lane its requests came from.
    pub lane: &'static str,
    /// Why it went when it did.
    pub reason: &'static str,
    /// Its requests.
    pub requests: usize,
    /// Share of padding among its positions.
    pub padding: f64,
    /// How long it took.
    pub inference: Duration,
    /// Images whose features were kept from before, and all images.
    pub images: (usize, usize),
    /// Whether it was given up for a live one.
    pub given_up: bool,
}

/// A forward pass ended.
pub fn pass(finished: &FinishedPass<'_>) {
    let version = || finished.version.to_owned();
    if finished.given_up {
        counter!(PASSES_GIVEN_UP, "version" => version()).increment(1);
        return;
    }
    counter!(PASSES, "version" => version(), "lane" => finished.lane, "reason" => finished.reason).increment(1);
    histogram!(PASS, "version" => version()).record(finished.inference.as_secs_f64());
    histogram!(BATCH_SIZE, "version" => version()).record(finished.requests as f64);
    histogram!(PADDING, "version" => version()).record(finished.padding);
    let (kept, all) = finished.images;
    for (source, images) in [("kept", kept), ("computed", all.saturating_sub(kept))] {
        counter!(IMAGES, "version" => version(), "source" => source).increment(images as u64);
    }
}

/// A request was looked up among kept answers.
pub fn answer_lookup(version: &str, kept: bool) {
    let outcome = if kept { "kept" } else { "new" };
    counter!(ANSWERS, "version" => version.to_owned(), "outcome" => outcome).increment(1);
}

/// What the passes on a device take now.
pub fn device(device: &str, threads: usize, tokens: usize, bytes: u64) {
    gauge!(DEVICE_THREADS, "device" => device.to_owned()).set(threads as f64);
    gauge!(DEVICE_TOKENS, "device" => device.to_owned()).set(tokens as f64);
    gauge!(DEVICE_BYTES, "device" => device.to_owned()).set(bytes as f64);
}

/// A shadow verdict was handed to Kafka.
pub fn shadow_verdict(version: &str, live_version: &str, agrees: bool) {
    let (version, live) = (version.to_owned(), live_version.to_owned());
    let agrees = if agrees { "yes" } else { "no" };
    counter!(SHADOW_VERDICTS, "version" => version, "live_version" => live, "agrees" => agrees).increment(1);
}

/// A shadow request gets no verdict.
pub fn shadow_dropped(version: &str, reason: &'static str) {
    counter!(SHADOWS_DROPPED, "version" => version.to_owned(), "reason" => reason).increment(1);
}
