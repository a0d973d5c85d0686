//! The plan, as the engine and the clients take it.

use crate::{
    engine::{Cost, EngineOptions, Knobs, ModelOptions, VersionSpec},
    kafka::{Connection, Credentials},
    message::Load,
    settings::{BatchingPlan, DevicesPlan, LimitsPlan, Plan, VersionPlan},
    store::Thoroughness,
    vision::Limits,
};

/// Where the plan's cluster is; `embedded` is the address of the embedded broker, where the plan
/// wants one.
pub fn connection(plan: &Plan, embedded: Option<String>) -> Connection {
    let (embedded, bootstrap_servers) = match &plan.kafka.bootstrap_servers {
        Some(address) => (false, address.clone()),
        None => (true, embedded.unwrap_or_default()),
    };
    let options = plan.kafka.options.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect();
    let credentials = Credentials { token_file: plan.kafka.oauth_token_file.clone() };
    Connection { bootstrap_servers, options, embedded, credentials }
}

/// The name of this instance in verdicts, logs and reports: `kafka.instance_id`, or its host and process.
pub fn instance_name(plan: &Plan) -> String {
    if let Some(id) = &plan.kafka.instance_id {
        return id.clone();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
    format!("{host}:{}", std::process::id())
}

/// The versions that requests may be sent to, and those that are always loaded, as the engine takes them.
pub fn engine_specs(plan: &Plan, thoroughness: Thoroughness) -> Vec<VersionSpec> {
    let named = plan.table.named_versions();
    let mut specs = every_spec(plan, thoroughness);
    specs.retain(|spec| spec.load == Load::Always || named.contains(spec.name.as_str()));
    specs
}

/// All of the plan's versions, as the engine takes them.
pub fn every_spec(plan: &Plan, thoroughness: Thoroughness) -> Vec<VersionSpec> {
    let spec = |(name, version): (&String, &VersionPlan)| VersionSpec {
        name: name.clone(),
        folder: version.folder.clone(),
        thoroughness,
        load: version.load,
        options: ModelOptions {
            device: version.device,
            precision: version.precision,
            threads: version.threads,
            bias_cache_bytes: version.position_cache_bytes,
            image_cache_bytes: version.image_cache_bytes,
            warm_up_tokens: version.warm_up_tokens,
            batch_size: version.batching.batch_size,
        },
        knobs: knobs(version),
        answer_cache_bytes: version.answer_cache_bytes,
        restarts_max: version.restarts_max,
        restart_delay: version.restart_delay,
    };
    plan.versions.iter().map(spec).collect()
}

/// How the requests of a version come together.
fn knobs(version: &VersionPlan) -> Knobs {
    let BatchingPlan { batch_size, max_delay, pass_tokens_max, padding_max, queue_size, shadow_queue_size } =
        version.batching;
    Knobs { batch_size, max_delay, tokens_max: pass_tokens_max, padding_max, queue_size, shadow_queue_size }
}

/// The plan's image limits and devices, as the engine takes them.
pub fn engine_options(plan: &Plan) -> EngineOptions {
    let images = image_limits(plan);
    let (cpu, gpu) = device_limits(&plan.devices, EngineOptions::from(images).cpu.threads);
    EngineOptions { images, cpu, gpu }
}

/// What passes may take at the same time, on the CPU and on each GPU.
pub(super) fn device_limits(devices: &DevicesPlan, cores: usize) -> (Cost, Cost) {
    let threads = if devices.cpu_threads == 0 { cores } else { devices.cpu_threads };
    (
        Cost { threads, tokens: devices.cpu_tokens_max, bytes: devices.cpu_bytes_max },
        Cost { threads: 0, tokens: devices.gpu_tokens_max, bytes: devices.gpu_bytes_max },
    )
}

/// The plan's image limits.
pub fn image_limits(plan: &Plan) -> Limits {
    let LimitsPlan { image_bytes_max, image_pixels_max, decode_bytes_max, .. } = plan.limits;
    Limits { bytes_max: image_bytes_max, pixels_max: image_pixels_max, decode_bytes_max }
}
