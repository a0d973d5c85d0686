//! ofa-stream reads image-text moderation requests from a Kafka topic, decides for each which version
//! of an OFA visual-entailment model answers it, runs that model, and publishes the verdict with its
//! A/B metadata.
//!
//! # The way of a request
//!
//! ```text
//! requests topic ─▶ kafka ─▶ pipeline: message (parse) ─▶ vision (look) ─▶ routing ─▶ engine ─┐
//!                                                                                            │
//! verdicts, dead letters ◀─ kafka ◀─ pipeline: release in offset order, commit behind it ◀───┘
//! ```
//!
//! # Rooms
//!
//! * [`cli`]: one file per command.
//! * [`settings`]: `pipeline.toml` and the environment, into one validated plan.
//! * [`message`]: what crosses Kafka. Plain data.
//! * [`routing`]: which version answers, and why. Pure.
//! * [`dataset`]: labelled examples on disk.
//! * [`evaluation`]: how good a version is.
//! * [`statistics`]: tests and intervals of A/B evidence. Pure.
//! * [`evidence`]: from verdicts to a comparison of variants. Pure.
//! * `training`: versions that learn; only with the feature `train`.
//! * [`synth`]: pictures and statements about them, made up.
//! * [`fetch`]: images that are not in their request: files below a folder, and URLs.
//! * [`vision`], [`text`]: from bytes and words to what the network reads.
//! * [`kernels`]: CPU kernels that burn lacks.
//! * [`ofa`]: the network, in burn.
//! * [`weights`]: files of tensors.
//! * [`store`]: versions on disk: imported, pulled, verified.
//! * [`engine`]: loaded versions, one worker thread each.
//! * [`kafka`]: the only room that names rdkafka.
//! * [`delivery`]: what is promised about delivery, without Kafka. Pure.
//! * [`pipeline`]: joins the stages; failures, drain.
//! * [`control`]: what operators change while it runs: reload, rollback, pause, promote.
//! * [`admin`]: the HTTP API for it; [`http`]: the one door for HTTP.
//! * [`telemetry`]: metrics, logs, health.
//!
//! `ARCHITECTURE.md` has the table of which room may use which, which a test enforces, and the
//! invariants.

pub mod admin;
pub mod cli;
pub mod control;
pub mod dataset;
pub mod delivery;
pub mod engine;
pub mod evaluation;
pub mod evidence;
pub mod evidence_store;
pub mod fetch;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
pub mod kafka;
pub mod kernels;
pub mod message;
pub mod ofa;
pub mod pipeline;
pub mod routing;
pub mod settings;
pub mod statistics;
pub mod store;
pub mod synth;
pub mod telemetry;
pub mod text;
#[cfg(feature = "train")]
pub mod training;
pub mod vision;
pub mod weights;

/// Large results come and go with every layer; the system's allocator would give their pages back each
/// time, and take as long again to get them as the product takes that fills them. Huge pages are off: they
/// gain a pass nothing, and on virtual machines whose host takes free memory back they made loading three
/// times as slow.
#[cfg(not(any(test, fuzzing)))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
