//! From an encoded image and words to what the network reads. Any thread may do this.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

use crate::{
    store::{Definition, VersionFolder},
    text::{self, Prompter, Script},
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
    scripts: Vec<Script>,
}

/// What a version reads of a request's texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Sources {
    /// Source ids of each text.
    pub ids: Vec<Vec<u32>>,
    /// Whether a part of a text or of the caption is not in them.
    pub is_truncated: bool,
    /// The share of a text's letters, 0 to 1, in a script that the version does not know; the highest, where there are several.
    pub foreign_share: f64,
}

impl Sources {
    /// Tokens of the longest text, with its prompt.
    pub fn tokens(&self) -> usize {
        self.ids.iter().map(Vec::len).max().unwrap_or_default()
    }
}

/// A version's prompt has no place for a caption: it would stand in the text's place, and the text would not be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`caption`: this version takes none, its prompt has a place for one text only")]
pub struct CaptionRefused;

/// Why a request cannot be prepared.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// Its image is refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Its caption is.
    #[error(transparent)]
    Caption(#[from] CaptionRefused),
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
    /// Prepares for a version that reads English, images within these limits.
    pub fn new(version: &Definition, limits: Limits) -> Self {
        let prompter = version.prompter.clone();
        Self { side: version.task.patch_image_size, prompter, limits, scripts: vec![Script::Latin] }
    }

    /// Prepares for a version that reads the languages of its manifest.
    pub fn of_folder(version: &VersionFolder, limits: Limits) -> Self {
        Self { scripts: version.manifest.scripts(), ..Self::new(&version.definition, limits) }
    }

    /// Prepares one image and the texts about it.
    ///
    /// # Errors
    /// When the image or the caption is refused.
    pub fn prepare(&self, image: &[u8], texts: &[String], caption: Option<&str>) -> Result<Prepared, PrepareError> {
        let sources = self.sources(texts, caption)?.ids;
        let pixels = self.pixels(&vision::decode(image, &self.limits)?);
        Ok(Prepared { image: ImageId::of(image), pixels, sources })
    }

    /// Bytes of one prepared picture.
    pub fn pixel_bytes(&self) -> u64 {
        3 * u64::from(self.side) * u64::from(self.side)
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

    /// What this version reads of a request's texts. A caption that cleaning leaves empty counts as none.
    ///
    /// # Errors
    /// When there is a caption, and the version's prompt has no place for it.
    pub fn sources(&self, texts: &[String], caption: Option<&str>) -> Result<Sources, CaptionRefused> {
        let caption = caption.filter(|caption| !text::clean(caption, usize::MAX).is_empty());
        if caption.is_some() && !self.prompter.takes_caption() {
            return Err(CaptionRefused);
        }
        let sources: Vec<text::Source> = texts.iter().map(|text| self.prompter.source(text, caption)).collect();
        let foreign_share = texts.iter().map(|text| text::foreign_share(text, &self.scripts)).fold(0.0, f64::max);
        Ok(Sources {
            is_truncated: sources.iter().any(|source| source.is_truncated),
            ids: sources.into_iter().map(|source| source.ids).collect(),
            foreign_share,
        })
    }

    /// The ids of a text that is to be said.
    #[cfg(feature = "train")]
    pub fn said(&self, text: &str) -> Vec<u32> {
        self.prompter.said_ids(text)
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
