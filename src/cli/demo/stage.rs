//! What the demos of an experiment share: who is in it, and a version that can be made to break.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{CliError, failed};
use crate::{
    engine::{Answer, Engine, InferenceError, Interrupt, Judge, Model, PassError, Prepared, Shape, Size},
    message::Outgoing,
    pipeline::{engine_options, engine_specs},
    settings::Plan,
    store::Thoroughness,
};

/// An experiment of the demo.
pub(super) struct Cast {
    pub(super) experiment: String,
    pub(super) control: String,
    pub(super) treatment: String,
    pub(super) version: String,
    pub(super) control_version: String,
}

/// The demo's settings; kept answers would hide what breaks.
pub(super) fn adapted(plan: Plan) -> Plan {
    let mut plan = super::on_this_machine(plan);
    plan.versions.values_mut().for_each(|version| version.answer_cache_bytes = 0);
    plan
}

pub(super) fn cast(plan: &Plan) -> Result<Cast, CliError> {
    let of = |spec: &crate::routing::ExperimentSpec| {
        let control = spec.variants.first()?;
        // What answers when nothing else decides must not break with it.
        let others = [&control.model_version, &plan.table_spec.default];
        let treatment = spec.variants.iter().find(|variant| !others.contains(&&variant.model_version))?;
        Some(Cast {
            experiment: spec.name.clone(),
            control: control.name.clone(),
            treatment: treatment.name.clone(),
            version: treatment.model_version.clone(),
            control_version: control.model_version.clone(),
        })
    };
    let found = plan.table_spec.experiments.iter().find_map(of);
    found.ok_or_else(|| {
        failed("the settings have no experiment whose treatment is another version than control and the default")
    })
}

pub(super) fn image(source: &Path) -> Result<String, CliError> {
    let path = source.with_file_name("sticker-08.jpg");
    let bytes = std::fs::read(&path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    Ok(STANDARD.encode(bytes))
}

/// A model that can be made to break.
struct Breakable {
    model: Model,
    broken: Arc<AtomicBool>,
}

impl Judge for Breakable {
    fn attempt(&mut self, batch: &[&Prepared], interrupt: Option<&Interrupt>) -> Result<Vec<Answer>, PassError> {
        let answers = self.model.attempt(batch, interrupt)?;
        if self.broken.load(Ordering::Acquire) {
            return Ok(answers.iter().map(|_| Err(InferenceError::NotFinite)).collect());
        }
        Ok(answers)
    }

    fn works(&mut self) -> bool {
        self.model.works()
    }

    fn shape(&self) -> Shape {
        self.model.shape()
    }

    fn pass_bytes(&self, requests: &[Size]) -> u64 {
        self.model.pass_bytes(requests)
    }

    fn adapter(&self) -> String {
        self.model.adapter()
    }

    fn memory_bytes(&self) -> u64 {
        self.model.memory_bytes()
    }

    fn first_request(&self) -> Duration {
        self.model.first_request()
    }
}

/// An engine in which the version of the treatment breaks as soon as `broken` is set.
pub(super) fn engine(
    plan: &Plan,
    cast: &Cast,
    broken: &Arc<AtomicBool>,
    thoroughness: Thoroughness,
) -> Result<Engine, CliError> {
    let (switch, version) = (broken.clone(), cast.version.clone());
    let engine = Engine::start_with(&engine_specs(plan, thoroughness), engine_options(plan), move |spec, folder| {
        let broken = if spec.name == version { switch.clone() } else { Arc::default() };
        Ok(Breakable { model: Model::load(folder, spec.options)?, broken })
    });
    Ok(engine?)
}

/// A request of the demo: always the same picture and text, so that nothing but the version
/// differs.
pub(super) fn request(plan: &Plan, image: &str, id: String) -> Outgoing {
    let request = json!({"request_id": id, "text": "a red circle", "image": {"base64": image}});
    Outgoing {
        topic: plan.kafka.requests.clone(),
        key: Some(id.into_bytes()),
        payload: Some(request.to_string().into_bytes()),
        headers: Vec::new(),
    }
}
