//! Encoded bytes to upright RGB.

use image::DynamicImage;

use super::{
    ImageError, RgbImage,
    outline::Outline,
    parts::{Format, Parts},
};

/// What an image may cost. Checked on its header, before a decoder is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Encoded bytes.
    pub bytes_max: usize,
    /// Width times height.
    pub pixels_max: u64,
    /// Bytes that decoding holds, the encoded image apart.
    pub decode_bytes_max: u64,
}

/// The longest side of an image. One of a single row and forty million columns is within every bound
/// on pixels, and would grow by the target's height while it is resized.
const SIDE_MAX: u32 = 65_535;

/// What the header says, with the EXIF orientation applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format, from the first bytes.
    pub format: Format,
    /// Columns of the upright image.
    pub width: u32,
    /// Rows of the upright image.
    pub height: u32,
    /// Bytes that decoding holds at most, the encoded image apart.
    pub decoding_bytes: u64,
}

/// Reads format and size without making a decoder, and without allocating what the file claims.
///
/// # Errors
/// When the format is not read, a limit is exceeded or the header is broken.
pub fn probe(bytes: &[u8], limits: &Limits) -> Result<Header, ImageError> {
    let (parts, outline) = open(bytes, limits)?;
    let (width, height) = outline.upright();
    Ok(Header { format: parts.format(), width, height, decoding_bytes: outline.decoding_bytes })
}

/// Decodes to upright RGB as Pillow's `convert("RGB")` does: alpha is dropped, not composited; grey
/// and one-bit images are replicated; 16-bit colors keep their high byte, 16-bit grey is clipped.
///
/// # Errors
/// As [`probe`], and when the pixels are broken or missing.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, ImageError> {
    let (parts, outline) = open(bytes, limits)?;
    let data = parts.decode(bytes)?;
    upright(data, &outline)
}

fn open(bytes: &[u8], limits: &Limits) -> Result<(Parts, Outline), ImageError> {
    if bytes.len() > limits.bytes_max {
        return Err(ImageError::TooManyBytes { bytes: bytes.len(), bytes_max: limits.bytes_max });
    }
    let parts = Parts::read(bytes)?;
    let outline = parts.outline();
    let Outline { width, height, decoding_bytes, .. } = outline;
    if u64::from(width) * u64::from(height) > limits.pixels_max {
        return Err(ImageError::TooManyPixels { width, height, pixels_max: limits.pixels_max });
    }
    if width.max(height) > SIDE_MAX {
        return Err(ImageError::SideTooLong { width, height, side_max: SIDE_MAX });
    }
    if width == 0 || height == 0 {
        return Err(ImageError::Undecodable(format!("it has no pixels ({width}x{height})")));
    }
    let bytes_max = limits.decode_bytes_max;
    if decoding_bytes > bytes_max {
        return Err(ImageError::TooCostly { bytes: decoding_bytes, bytes_max });
    }
    Ok((parts, outline))
}

/// Turns RGB bytes as stored so that they stand upright.
fn upright(data: Vec<u8>, outline: &Outline) -> Result<RgbImage, ImageError> {
    let stored = image::RgbImage::from_raw(outline.width, outline.height, data)
        .ok_or_else(|| ImageError::undecodable("it has fewer pixels than its header says"))?;
    let mut image = DynamicImage::ImageRgb8(stored);
    image.apply_orientation(outline.orientation);
    let (width, height) = (image.width(), image.height());
    Ok(RgbImage { width, height, data: image.into_rgb8().into_raw() })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::ImageFormat;

    use super::*;

    const LIMITS: Limits = Limits { bytes_max: 1 << 20, pixels_max: 4_000_000, decode_bytes_max: 1 << 26 };
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
            let error = decode(&JPEG[..JPEG.len() * part / 10], &LIMITS).unwrap_err();
            assert!(matches!(error, ImageError::Incomplete(_)), "{part} tenths: {error}");
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

    #[test]
    fn a_claim_that_the_file_does_not_hold_costs_nothing() {
        // 58 bytes that claim an EXIF chunk of 4 GiB.
        let claims = include_bytes!("../../testdata/cases/pictures/review/exif4g.webp");
        // A canvas of one pixel, and 8000×5000 within.
        let large = include_bytes!("../../testdata/cases/pictures/made/large-lossy.webp");
        let canvas = [b"VP8X".as_slice(), &10_u32.to_le_bytes(), &[0; 10]].concat();
        let inner = [b"WEBP".as_slice(), &canvas, &large[12..]].concat();
        let hidden = [b"RIFF".as_slice(), &(inner.len() as u32).to_le_bytes(), &inner].concat();
        // A profile and a text that inflate to 64 MiB each.
        let profile = include_bytes!("../../testdata/cases/pictures/made/profile.png");
        let limits = Limits { pixels_max: 40_000_000, decode_bytes_max: u64::MAX, ..LIMITS };
        let held = allocation_counter::measure(|| {
            assert!(matches!(probe(claims, &limits), Err(ImageError::Incomplete(_))));
            assert_eq!(decode(&hidden, &limits).unwrap_err().code(), "image_undecodable");
        });
        assert!(held.bytes_max < 10_000, "{} bytes", held.bytes_max);
        let held = allocation_counter::measure(|| assert!(decode(profile, &limits).is_ok()));
        assert!(held.bytes_max < 1 << 20, "{} bytes", held.bytes_max);
    }
}
