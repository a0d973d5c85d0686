//! From encoded bytes to the pixels that the network reads.
//!
//! * [`probe`]: format and size from the header, checked against [`Limits`] before a decoder is made. `jpeg`, `png` and `webp`
//!   walk the `parts` of a file, compare their claims with its length and make its `outline`; `exif` reads the orientation.
//! * [`decode()`]: checked, upright RGB.
//! * [`resize`]: Pillow's bicubic, bit for bit.
//! * [`Normalization`]: bytes to floats.

mod decode;
mod exif;
mod jpeg;
mod outline;
mod parts;
mod pixels;
mod png;
mod resample;
mod webp;

pub use decode::{Header, Limits, decode, probe};
pub use parts::Format;
pub use pixels::Normalization;
pub use resample::resize;

/// An upright 8-bit RGB image, rows from the top, `[height, width, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `height * width * 3` bytes.
    pub data: Vec<u8>,
}

/// Why an image is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The bytes are none of the formats that are read.
    #[error("the image is neither JPEG, PNG nor WebP")]
    FormatUnsupported,
    /// The encoded image has too many bytes.
    #[error("the image has {bytes} bytes, `images.bytes_max` allows {bytes_max}")]
    TooManyBytes {
        /// What it has.
        bytes: usize,
        /// What settings allow.
        bytes_max: usize,
    },
    /// The decoded image would have too many pixels.
    #[error("the image is {width}x{height}, `images.pixels_max` allows {pixels_max} pixels")]
    TooManyPixels {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// What settings allow.
        pixels_max: u64,
    },
    /// One side is longer than any JPEG's can be: squashing it would cost memory that its pixels do
    /// not announce.
    #[error("the image is {width}x{height}, no side may be longer than {side_max}")]
    SideTooLong {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// The longest side allowed.
        side_max: u32,
    },
    /// Decoding it would hold more memory than all decoders may.
    #[error("decoding the image takes {bytes} bytes, `images.decode_bytes_max` allows {bytes_max}")]
    TooCostly {
        /// What it takes.
        bytes: u64,
        /// What settings allow.
        bytes_max: u64,
    },
    /// The bytes begin like an image and do not go on like one.
    #[error("the image cannot be decoded: {0}")]
    Undecodable(String),
    /// The bytes end before the image does.
    #[error("the image cannot be decoded: {0}")]
    Incomplete(String),
}

impl ImageError {
    /// The stable code of this error: the metric label and the dead-letter header.
    pub fn code(&self) -> &'static str {
        match self {
            Self::FormatUnsupported => "image_format_unsupported",
            Self::TooManyBytes { .. }
            | Self::TooManyPixels { .. }
            | Self::SideTooLong { .. }
            | Self::TooCostly { .. } => "image_too_large",
            Self::Undecodable(_) | Self::Incomplete(_) => "image_undecodable",
        }
    }

    /// The words of a library in one line.
    fn undecodable(words: &str) -> Self {
        let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
        Self::Undecodable(words)
    }
}
