//! Encoded bytes to upright RGB.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, metadata::Orientation};

use super::{ImageError, RgbImage};

/// What an image may cost. Checked on the header, before pixels are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Encoded bytes.
    pub bytes_max: usize,
    /// Width times height.
    pub pixels_max: u64,
}

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

    fn of(bytes: &[u8]) -> Option<(Self, ImageFormat)> {
        match image::guess_format(bytes).ok()? {
            ImageFormat::Jpeg => Some((Self::Jpeg, ImageFormat::Jpeg)),
            ImageFormat::Png => Some((Self::Png, ImageFormat::Png)),
            ImageFormat::WebP => Some((Self::WebP, ImageFormat::WebP)),
            _ => None,
        }
    }
}

/// What the header says, with the EXIF orientation applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format, from the first bytes.
    pub format: Format,
    /// Columns of the upright image.
    pub width: u32,
    /// Rows of the upright image.
    pub height: u32,
}

/// Reads format and size without decoding pixels.
///
/// # Errors
/// When the format is not read, a limit is exceeded or the header is broken.
pub fn probe(bytes: &[u8], limits: &Limits) -> Result<Header, ImageError> {
    let (format, mut decoder) = open(bytes, limits)?;
    let (width, height) = decoder.dimensions();
    // Orientations from five on exchange the sides.
    let turned = decoder.orientation().unwrap_or(Orientation::NoTransforms).to_exif() >= 5;
    let (width, height) = if turned { (height, width) } else { (width, height) };
    Ok(Header { format, width, height })
}

/// Decodes to upright RGB as Pillow's `convert("RGB")` does: alpha is dropped, not composited; grey
/// and one-bit images are replicated; 16-bit samples keep their high byte.
///
/// # Errors
/// As [`probe`], and when the pixels are broken or missing.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, ImageError> {
    let (format, mut decoder) = open(bytes, limits)?;
    if format == Format::Jpeg && !jpeg_is_complete(bytes) {
        return Err(ImageError::Undecodable("the JPEG ends before its end marker".to_owned()));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    let image = match image {
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => {
            let wide = image.into_rgb16();
            let (width, height) = wide.dimensions();
            let data = wide.into_raw().into_iter().map(|sample| (sample >> 8) as u8).collect();
            return Ok(RgbImage { width, height, data });
        }
        other => other.into_rgb8(),
    };
    let (width, height) = image.dimensions();
    Ok(RgbImage { width, height, data: image.into_raw() })
}

fn open<'b>(bytes: &'b [u8], limits: &Limits) -> Result<(Format, impl ImageDecoder + 'b), ImageError> {
    if bytes.len() > limits.bytes_max {
        return Err(ImageError::TooManyBytes { bytes: bytes.len(), bytes_max: limits.bytes_max });
    }
    let (format, image_format) = Format::of(bytes).ok_or(ImageError::FormatUnsupported)?;
    let reader = ImageReader::with_format(Cursor::new(bytes), image_format);
    let decoder = reader.into_decoder().map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > limits.pixels_max {
        return Err(ImageError::TooManyPixels { width, height, pixels_max: limits.pixels_max });
    }
    if width == 0 || height == 0 {
        return Err(ImageError::Undecodable(format!("it has no pixels ({width}x{height})")));
    }
    Ok((format, decoder))
}

/// The decoder fills what a cut JPEG lacks with grey and says nothing; a verdict on grey would be
/// wrong, so the end marker after the last scan must be there.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    match (last([0xff, 0xda]), last([0xff, 0xd9])) {
        (Some(scan), Some(end)) => end > scan,
        _ => false,
    }
}

fn undecodable(error: image::ImageError) -> ImageError {
    ImageError::Undecodable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes_max: 1 << 20, pixels_max: 4_000_000 };
    const JPEG: &[u8] = include_bytes!("../../testdata/golden/dev/images/01_rgb_420.jpg");
    const ROTATED: &[u8] = include_bytes!("../../testdata/golden/dev/images/05_exif_rotated.jpg");

    fn encoded(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn the_header_gives_the_upright_size_that_decoding_gives() {
        for bytes in [JPEG, ROTATED] {
            let header = probe(bytes, &LIMITS).unwrap();
            let image = decode(bytes, &LIMITS).unwrap();
            assert_eq!((header.width, header.height), (image.width, image.height));
            assert_eq!(image.data.len(), (image.width * image.height * 3) as usize);
        }
    }

    #[test]
    fn alpha_is_dropped_and_wide_samples_keep_their_high_byte() {
        let rgba = image::RgbaImage::from_pixel(2, 2, image::Rgba([10, 20, 30, 0]));
        assert_eq!(&decode(&encoded(&rgba.into()), &LIMITS).unwrap().data[..3], [10, 20, 30]);
        let wide = image::ImageBuffer::from_pixel(2, 2, image::Rgb([0x12ff_u16, 0x3400, 0x56ff]));
        assert_eq!(&decode(&encoded(&wide.into()), &LIMITS).unwrap().data[..3], [0x12, 0x34, 0x56]);
    }

    #[test]
    fn what_cannot_or_may_not_be_decoded_is_refused_by_code() {
        let large = encoded(&image::GrayImage::new(3000, 3000).into());
        let cases: [(&[u8], &str); 6] = [
            (b"", "image_format_unsupported"),
            (b"GIF89a not read", "image_format_unsupported"),
            (&JPEG[..JPEG.len() / 2], "image_undecodable"),
            (b"\x89PNG\r\n\x1a\n and then nothing", "image_undecodable"),
            (&large, "image_too_large"),
            (&vec![0xff; (1 << 20) + 1], "image_too_large"),
        ];
        for (bytes, code) in cases {
            assert_eq!(decode(bytes, &LIMITS).unwrap_err().code(), code);
        }
    }
}
