//! What is known of an image before a decoder is made.

use image::metadata::Orientation;

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
        5.. => pixels.saturating_mul(3),
        _ => 0,
    }
}
