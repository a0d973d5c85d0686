//! A pass that gives up where somebody more important waits.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use burn::tensor::TensorReadError;

/// Asks a running pass to give up. It is looked at between layers: on a CPU that is every few milliseconds; a GPU
/// has the whole pass in its queue by then, and finishes it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Asks for it.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Takes the question back, before the next pass.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether it was asked for.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn check(interrupt: Option<&Self>) -> Result<(), RunError> {
        match interrupt.is_some_and(Self::is_raised) {
            true => Err(RunError::Interrupted),
            false => Ok(()),
        }
    }
}

/// A pass that gave no answers.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It was asked to give up.
    #[error("the pass was given up for another")]
    Interrupted,
    /// The device failed while the result was read.
    #[error(transparent)]
    Read(#[from] TensorReadError),
}
