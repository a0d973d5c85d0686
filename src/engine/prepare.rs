//! From an encoded image and words to what the network reads. Any thread may do this.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

use crate::{
    store::Definition,
    text::Prompter,
    vision::{self, ImageError, Limits, RgbImage},
};

/// SHA-256 of an encoded image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageId(pub(super) [u8; 32]);

impl ImageId {
    /// Of these bytes.
    pub fn of(image: &[u8]) -> Self {
        Self(Sha256::digest(image).into())
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

/// Decodes, resizes and tokenizes for one version.
#[derive(Clone, Debug)]
pub struct Preparer {
    side: u32,
    prompter: Prompter,
    limits: Limits,
}

/// One request, ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The image that the pixels are of: equal ids have equal pixels.
    pub image: ImageId,
    /// RGB bytes `[side, side, 3]`: a quarter of the floats that the network reads, which are made when a pass begins.
    pub pixels: Arc<[u8]>,
    /// Source ids of each text.
    pub sources: Vec<Vec<u32>>,
}

impl Preparer {
    /// Prepares for a version, images within these limits.
    pub fn new(version: &Definition, limits: Limits) -> Self {
        Self { side: version.task.patch_image_size, prompter: version.prompter.clone(), limits }
    }

    /// Prepares one image and the texts about it.
    ///
    /// # Errors
    /// When the image is refused.
    pub fn prepare(&self, image: &[u8], texts: &[String], caption: Option<&str>) -> Result<Prepared, ImageError> {
        let pixels = self.pixels(&vision::decode(image, &self.limits)?);
        Ok(self.with_pixels(ImageId::of(image), pixels, texts, caption))
    }

    /// A decoded image as this version reads it.
    pub fn pixels(&self, image: &RgbImage) -> Arc<[u8]> {
        vision::resize(image, self.side, self.side).data.into()
    }

    /// Whether two versions read the same pixels of an image.
    pub fn shares_pixels_with(&self, other: &Self) -> bool {
        self.side == other.side
    }

    /// The source ids of a text.
    pub fn source(&self, text: &str, caption: Option<&str>) -> Vec<u32> {
        self.prompter.source_ids(text, caption)
    }

    /// The ids of a text that is to be said.
    #[cfg(feature = "train")]
    pub fn said(&self, text: &str) -> Vec<u32> {
        self.prompter.said_ids(text)
    }

    /// Prepares texts about an image whose pixels are there already.
    pub fn with_pixels(&self, image: ImageId, pixels: Arc<[u8]>, texts: &[String], caption: Option<&str>) -> Prepared {
        let sources = texts.iter().map(|text| self.source(text, caption)).collect();
        Prepared { image, pixels, sources }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request that is told apart by its number, for judges that look no further.
    pub(in crate::engine) fn numbered(number: u32) -> Prepared {
        Prepared { image: ImageId::of(&number.to_le_bytes()), pixels: Arc::from([0; 3]), sources: vec![vec![number]] }
    }
}
