//! Versions and devices, checked.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    load::{SettingsError, Source},
    raw::{self, Raw},
};
use crate::{
    message::{Device, Load, VersionName},
    weights::Arithmetic,
};

/// One version.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionPlan {
    /// Its folder.
    pub folder: PathBuf,
    /// Where it was published, for people.
    pub model_id: Option<String>,
    /// Where it runs.
    pub device: Device,
    /// What it runs in.
    pub precision: Arithmetic,
    /// When it is loaded.
    pub load: Load,
    /// Threads of a pass on the CPU; zero means one for each core.
    pub threads: usize,
    /// Bound of the position biases kept per shape, in bytes.
    pub position_cache_bytes: usize,
    /// Bound of the image features kept, in bytes.
    pub image_cache_bytes: usize,
    /// Bound of the answers kept, in bytes.
    pub answer_cache_bytes: usize,
    /// Lengths of texts, in tokens, prepared before the version counts as loaded.
    pub warm_up_tokens: usize,
    /// Restarts in a row before it is given up.
    pub restarts_max: u32,
    /// How long the first of them waits.
    pub restart_delay: Duration,
    /// How its requests come together.
    pub batching: BatchingPlan,
}

/// How the requests of a version come together; may change while it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchingPlan {
    /// Requests in one forward pass, at most.
    pub batch_size: usize,
    /// How long the first request of a pass waits for others.
    pub max_delay: Duration,
    /// Positions in one forward pass, at most.
    pub pass_tokens_max: usize,
    /// Share of padding among them, at most.
    pub padding_max: f64,
    /// Live requests that may wait.
    pub queue_size: usize,
    /// Shadow requests that may wait.
    pub shadow_queue_size: usize,
}

/// What passes may take of each kind of device at the same time; may change while versions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicesPlan {
    /// Threads of the CPU; zero means its cores.
    pub cpu_threads: usize,
    /// Positions on the CPU.
    pub cpu_tokens_max: usize,
    /// Bytes on the CPU, beside weights.
    pub cpu_bytes_max: u64,
    /// Positions on each GPU.
    pub gpu_tokens_max: usize,
    /// Bytes on each GPU, beside weights.
    pub gpu_bytes_max: u64,
}

/// Texts in one forward pass; each costs memory on the device.
const ROWS_MAX: usize = 1_024;

pub(super) fn devices(raw: &raw::Devices) -> DevicesPlan {
    DevicesPlan {
        cpu_threads: raw.cpu.threads,
        cpu_tokens_max: raw.cpu.pass_tokens_max,
        cpu_bytes_max: raw.cpu.pass_bytes_max,
        gpu_tokens_max: raw.gpu.pass_tokens_max,
        gpu_bytes_max: raw.gpu.pass_bytes_max,
    }
}

pub(super) fn plans(source: &Source, raw: &Raw) -> Result<BTreeMap<String, VersionPlan>, SettingsError> {
    let directory = Path::new(&raw.model_versions.directory);
    let mut plans = BTreeMap::new();
    for (name, version) in &raw.model_versions.versions {
        let place = |field: &str| format!("model_versions.versions.{name}{field}");
        if let Err(error) = name.parse::<VersionName>() {
            return Err(source.field(&place(""), error.to_string()));
        }
        let bounds = [
            (".threads", version.threads as u64, 0, 1_024),
            (".batch_size", version.batch_size as u64, 1, 1_024),
            (".max_delay_ms", version.max_delay_ms, 0, 60_000),
            (".pass_tokens_max", version.pass_tokens_max as u64, 1, 1 << 40),
            (".queue_size", version.queue_size as u64, 1, 1_000_000),
            (".shadow_queue_size", version.shadow_queue_size as u64, 1, 1_000_000),
            (".warm_up_tokens", version.warm_up_tokens as u64, 0, 100_000),
            (".restarts_max", version.restarts_max.into(), 0, 1_000_000),
            (".restart_delay_ms", version.restart_delay_ms, 1, 30_000),
        ];
        for (field, value, low, high) in bounds {
            if !(low..=high).contains(&value) {
                return Err(source.field(&place(field), format!("is {value}, it must lie between {low} and {high}")));
            }
        }
        if !(0.0..=1.0).contains(&version.padding_max) {
            let reason = format!("is {}, it must lie between 0 and 1", version.padding_max);
            return Err(source.field(&place(".padding_max"), reason));
        }
        let rows = version.batch_size * raw.requests.texts_max;
        if rows > ROWS_MAX {
            let reason = format!(
                "times `requests.texts_max` allows {rows} texts in one forward pass, at most {ROWS_MAX} may be"
            );
            return Err(source.field(&place(".batch_size"), reason));
        }
        let folder = version.folder.as_ref().unwrap_or(name);
        if let Err(error) = folder.parse::<VersionName>() {
            return Err(source.field(&place(".folder"), error.to_string()));
        }
        plans.insert(name.clone(), plan(directory.join(folder), version));
    }
    Ok(plans)
}

fn plan(folder: PathBuf, version: &raw::Version) -> VersionPlan {
    VersionPlan {
        folder,
        model_id: version.model_id.clone(),
        device: version.device,
        precision: version.precision,
        load: version.load,
        threads: version.threads,
        position_cache_bytes: version.position_cache_bytes,
        image_cache_bytes: version.image_cache_bytes,
        answer_cache_bytes: version.answer_cache_bytes,
        warm_up_tokens: version.warm_up_tokens,
        restarts_max: version.restarts_max,
        restart_delay: Duration::from_millis(version.restart_delay_ms),
        batching: BatchingPlan {
            batch_size: version.batch_size,
            max_delay: Duration::from_millis(version.max_delay_ms),
            pass_tokens_max: version.pass_tokens_max,
            padding_max: version.padding_max,
            queue_size: version.queue_size,
            shadow_queue_size: version.shadow_queue_size,
        },
    }
}
