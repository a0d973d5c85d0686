//! The formats that are read, and the parts of a file of each.

use super::{
    ImageError,
    jpeg::Jpeg,
    outline::Outline,
    png::{self, Png},
    webp::{self, WebP},
};

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// WebP.
    WebP,
}

impl Format {
    /// The name that routing rules compare with.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
        }
    }

    /// The format of an image, by its first bytes.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"\xff\xd8\xff") {
            return Some(Self::Jpeg);
        }
        if bytes.starts_with(png::SIGNATURE) {
            return Some(Self::Png);
        }
        webp::is_webp(bytes).then_some(Self::WebP)
    }
}

/// The parts of an image file. Made without allocating anything that the file claims.
#[derive(Debug)]
pub(super) enum Parts {
    Jpeg(Jpeg),
    Png(Png),
    WebP(WebP),
}

impl Parts {
    /// Reads the structure of a file of one of the formats that are read.
    ///
    /// # Errors
    /// When it is none of them, or is cut off or broken.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        match Format::of(bytes) {
            Some(Format::Jpeg) => Jpeg::read(bytes).map(Self::Jpeg),
            Some(Format::Png) => Png::read(bytes).map(Self::Png),
            Some(Format::WebP) => WebP::read(bytes).map(Self::WebP),
            None => Err(ImageError::FormatUnsupported),
        }
    }

    pub(super) fn format(&self) -> Format {
        match self {
            Self::Jpeg(_) => Format::Jpeg,
            Self::Png(_) => Format::Png,
            Self::WebP(_) => Format::WebP,
        }
    }

    pub(super) fn outline(&self) -> Outline {
        match self {
            Self::Jpeg(jpeg) => jpeg.outline(),
            Self::Png(png) => png.outline(),
            Self::WebP(webp) => webp.outline(),
        }
    }

    /// The pixels as RGB bytes `[height, width, 3]`, not turned.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Jpeg(jpeg) => jpeg.decode(bytes),
            Self::Png(png) => png.decode(bytes),
            Self::WebP(webp) => webp.decode(bytes),
        }
    }
}
