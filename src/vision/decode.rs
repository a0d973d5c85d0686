//! Encoded bytes to upright RGB.

use std::io::Cursor;

use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Pixel, metadata::Orientation};

use super::{ImageError, RgbImage};

/// What an image may cost. Checked on the header, before pixels are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Encoded bytes.
    pub bytes_max: usize,
    /// Width times height.
    pub pixels_max: u64,
}

/// The longest side of an image. One of a single row and forty million columns is within every bound
/// on pixels, and would grow by the target's height while it is resized.
const SIDE_MAX: u32 = 65_535;

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
/// and one-bit images are replicated; 16-bit colors keep their high byte, 16-bit grey is clipped.
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
        // Pillow reads 16-bit grey as 32-bit numbers and clips them, which makes most of such an image
        // white; the models' reference answers are given on that.
        DynamicImage::ImageLuma16(wide) => {
            DynamicImage::ImageLuma8(convert(&wide, |sample| sample.min(255) as u8)).into_rgb8()
        }
        wide @ (DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgb16(_) | DynamicImage::ImageRgba16(_)) => {
            convert(&wide.into_rgb16(), |sample| (sample >> 8) as u8)
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
    if width.max(height) > SIDE_MAX {
        return Err(ImageError::SideTooLong { width, height, side_max: SIDE_MAX });
    }
    if width == 0 || height == 0 {
        return Err(ImageError::Undecodable(format!("it has no pixels ({width}x{height})")));
    }
    Ok((format, decoder))
}

fn convert<P, Q>(wide: &ImageBuffer<P, Vec<u16>>, narrow: impl Fn(u16) -> u8) -> ImageBuffer<Q, Vec<u8>>
where
    P: Pixel<Subpixel = u16>,
    Q: Pixel<Subpixel = u8>,
{
    let samples = wide.as_raw().iter().map(|&sample| narrow(sample)).collect();
    // As many samples as the image had, which has as many channels.
    ImageBuffer::from_raw(wide.width(), wide.height(), samples).unwrap_or_default()
}

/// The decoder fills what a cut JPEG lacks with grey and says nothing; a verdict on grey would be
/// wrong, so the end marker must be reached. What follows it, as phones append videos, is ignored.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    // Behind the marker that opens the file.
    let mut at = 2;
    while let (Some(0xff), Some(&marker)) = (bytes.get(at), bytes.get(at + 1)) {
        match marker {
            END => return true,
            // A fill byte before a marker.
            0xff => at += 1,
            // Markers without a segment.
            0x01 | 0xd0..=0xd8 => at += 2,
            _ => {
                let (Some(&high), Some(&low)) = (bytes.get(at + 2), bytes.get(at + 3)) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
                if marker == SCAN {
                    // In entropy-coded data 0xff is followed by zero, or by a restart marker.
                    let next = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7);
                    let Some(skipped) = bytes.get(at..).and_then(|rest| rest.windows(2).position(next)) else {
                        return false;
                    };
                    at += skipped;
                }
            }
        }
    }
    false
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
    fn sixteen_bit_grey_is_clipped_as_the_reference_does() {
        let grey = image::ImageBuffer::from_vec(2, 1, vec![200_u16, 300]).unwrap();
        assert_eq!(
            decode(&encoded(&DynamicImage::ImageLuma16(grey)), &LIMITS).unwrap().data,
            [200, 200, 200, 255, 255, 255]
        );
    }

    #[test]
    fn what_follows_a_whole_jpeg_is_ignored_and_a_cut_one_is_noticed_anywhere() {
        let appended = [JPEG, b"\xff\xda and a video \xff\xd8"].concat();
        assert!(decode(&appended, &LIMITS).is_ok());
        for part in 1..10 {
            assert!(!jpeg_is_complete(&JPEG[..JPEG.len() * part / 10]), "{part} tenths");
        }
    }

    #[test]
    fn what_cannot_or_may_not_be_decoded_is_refused_by_code() {
        let long = encoded(&image::GrayImage::new(70_000, 1).into());
        let large = encoded(&image::GrayImage::new(3000, 3000).into());
        let cases: [(&[u8], &str); 7] = [
            (b"", "image_format_unsupported"),
            (b"GIF89a not read", "image_format_unsupported"),
            (&JPEG[..JPEG.len() / 2], "image_undecodable"),
            (b"\x89PNG\r\n\x1a\n and then nothing", "image_undecodable"),
            (&large, "image_too_large"),
            (&long, "image_too_large"),
            (&vec![0xff; (1 << 20) + 1], "image_too_large"),
        ];
        for (bytes, code) in cases {
            assert_eq!(decode(bytes, &LIMITS).unwrap_err().code(), code);
        }
    }
}
