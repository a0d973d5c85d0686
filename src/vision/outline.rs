//! What is known of an image before a decoder is made.

use image::metadata::Orientation;

use super::{ImageError, jpeg::Jpeg, png::Png, webp::WebP};

/// Size, orientation and cost of an image, from its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    /// Columns as stored.
    pub(super) width: u32,
    /// Rows as stored.
    pub(super) height: u32,
    /// How the stored image is turned to stand upright.
    pub(super) orientation: Orientation,
    /// Bytes that decoding holds at most, the encoded image apart.
    pub(super) decoding_bytes: u64,
}

impl Outline {
    /// Columns and rows of the upright image.
    pub(super) fn upright(&self) -> (u32, u32) {
        // Orientations from five on exchange the sides.
        match self.orientation.to_exif() {
            5.. => (self.height, self.width),
            _ => (self.width, self.height),
        }
    }
}

/// Bytes of the second copy that turning makes of RGB bytes; mirrors and half turns are made in place.
pub(super) fn turning_bytes(orientation: Orientation, pixels: u64) -> u64 {
    match orientation.to_exif() {
        5.. => 3 * pixels,
        _ => 0,
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
        match super::Format::of(bytes) {
            Some(super::Format::Jpeg) => Jpeg::read(bytes).map(Self::Jpeg),
            Some(super::Format::Png) => Png::read(bytes).map(Self::Png),
            Some(super::Format::WebP) => WebP::read(bytes).map(Self::WebP),
            None => Err(ImageError::FormatUnsupported),
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
