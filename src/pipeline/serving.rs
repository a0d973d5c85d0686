//! The configuration that requests are served by, and its change while they are.

use std::sync::{Arc, PoisonError, atomic::AtomicBool};

use super::{
    admission::ImageSources,
    run::Shared,
    specs::{self, engine_options, engine_specs},
};
use crate::{
    engine::{Engine, EngineError, Fleet, Reuse, Version},
    kafka::{Connection, KafkaError},
    settings::Plan,
    store::Thoroughness,
};

/// One configuration and the versions that it names. A request keeps the one that it was routed by, so it is finished
/// as it was begun.
pub struct Serving {
    /// What decides.
    pub plan: Plan,
    /// What answers.
    pub fleet: Arc<Fleet>,
    /// Where images come from that are not in the request.
    pub(super) sources: ImageSources,
}

impl Serving {
    /// A configuration and its versions.
    pub(super) fn new(plan: Plan, fleet: Arc<Fleet>) -> Self {
        let sources = ImageSources::new(&plan.limits);
        Self { plan, fleet, sources }
    }
}

/// A configuration that cannot be switched to. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// It differs in what cannot change while the program runs.
    #[error("{} cannot change while the program runs: restart it with these settings", listed(.0))]
    Fixed(Vec<&'static str>),
    /// A version is not right.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A topic that it needs is not there.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A defect of this program or one of its libraries.
    #[error("making it ready ended by a defect: {0}; please report it")]
    Defect(String),
}

impl SwitchError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fixed(_) => "fixed_setting",
            Self::Engine(_) => "version",
            Self::Kafka(_) => "kafka",
            Self::Defect(_) => "internal_defect",
        }
    }
}

fn listed(sections: &[&str]) -> String {
    sections.iter().map(|section| format!("`[{section}]`")).collect::<Vec<_>>().join(", ")
}

/// Changes the configuration of a running pipeline. One thread at a time does.
#[derive(Clone)]
pub struct Switcher {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Arc<Engine>,
    pub(super) connection: Connection,
    pub(super) thoroughness: Thoroughness,
}

impl Switcher {
    /// Makes everything ready for a configuration: checks what can be checked, and loads the versions that do not run
    /// yet next to those that do. Requests go on meanwhile. Setting `cancelled` ends it.
    ///
    /// # Errors
    /// The first thing that does not work; nothing has changed.
    pub fn prepare(&self, plan: Plan, reuse: Reuse, cancelled: &AtomicBool) -> Result<Arc<Serving>, SwitchError> {
        let fixed = self.shared.plan.fixed_differences(&plan);
        if !fixed.is_empty() {
            return Err(SwitchError::Fixed(fixed));
        }
        if plan.table.has_shadows() && !self.serving().plan.table.has_shadows() {
            self.connection.partitions(&[&plan.kafka.shadows])?;
        }
        let fleet = Arc::new(self.engine.prepare_unless(&engine_specs(&plan, self.thoroughness), reuse, cancelled)?);
        Ok(Arc::new(Serving::new(plan, fleet)))
    }

    /// Switches to it. Every request that is routed from now on goes by it; those in flight finish as they were begun.
    pub fn switch(&self, to: Arc<Serving>) {
        self.engine.adopt(&to.fleet);
        let (cpu, gpu) = specs::device_limits(&to.plan.devices, engine_options(&to.plan).cpu.threads);
        self.engine.set_limits(cpu, gpu);
        self.shared.decoding.resize(to.plan.limits.decode_bytes_max);
        self.shared.serving.store(to);
        // Whatever made too much fail may be gone with the old one.
        self.shared.breaker.lock().unwrap_or_else(PoisonError::into_inner).close();
    }

    /// The configuration that requests are served by now.
    pub fn serving(&self) -> Arc<Serving> {
        self.shared.serving.load_full()
    }

    /// Every version that runs, with whether the configuration names it.
    pub fn running(&self) -> Vec<(Arc<Version>, bool)> {
        self.engine.running()
    }

    /// Lets go of what was loaded for configurations that were not switched to.
    pub fn release(&self) {
        self.engine.release();
    }
}
