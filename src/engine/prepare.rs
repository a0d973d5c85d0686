//! From an encoded image and words to what the network reads. Any thread may do this.

use crate::{
    store::Definition,
    text::Prompter,
    vision::{self, ImageError, Limits, Normalization},
};

/// Decodes, resizes, normalizes and tokenizes for one version.
#[derive(Clone, Debug)]
pub struct Preparer {
    side: u32,
    normalization: Normalization,
    prompter: Prompter,
    limits: Limits,
}

/// One request, ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Planar pixels `[3, side, side]`.
    pub pixels: Vec<f32>,
    /// Source ids of each text.
    pub sources: Vec<Vec<u32>>,
}

impl Preparer {
    /// Prepares for a version, images within these limits.
    pub fn new(version: &Definition, limits: Limits) -> Self {
        let normalization = match version.task.imagenet_default_mean_and_std {
            true => Normalization::imagenet(),
            false => Normalization::half(),
        };
        Self { side: version.task.patch_image_size, normalization, prompter: version.prompter.clone(), limits }
    }

    /// Prepares one image and the texts about it.
    ///
    /// # Errors
    /// When the image is refused.
    pub fn prepare(&self, image: &[u8], texts: &[String], caption: Option<&str>) -> Result<Prepared, ImageError> {
        let image = vision::decode(image, &self.limits)?;
        let image = vision::resize(&image, self.side, self.side);
        let sources = texts.iter().map(|text| self.prompter.source_ids(text, caption)).collect();
        Ok(Prepared { pixels: self.normalization.apply(&image), sources })
    }
}
