//! PNG: its parts, read in place, and its pixels.
//!
//! The library inflates colour profiles and texts before it looks at a limit. So it gets a copy with nothing but what the
//! pixels are made of.

use std::{io::Cursor, ops::Range};

use image::{ColorType, ImageDecoder, codecs::png::PngDecoder, metadata::Orientation};

use super::{
    ImageError, exif,
    outline::{Outline, turning_bytes},
};

pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Length, name and checksum of a chunk.
const CHUNK_FRAME: usize = 12;
const HEADER_BYTES: usize = 13;

/// The parts of a PNG that its pixels come from.
#[derive(Debug)]
pub(super) struct Png {
    width: u32,
    height: u32,
    bits: u8,
    colour: u8,
    orientation: Orientation,
    /// Whole chunks, in order: the header, the palette, the data, the end.
    kept: Vec<Range<usize>>,
}

impl Png {
    /// Walks the chunks.
    ///
    /// # Errors
    /// When a chunk is cut off, or one that must be there is not.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut at = SIGNATURE.len();
        let mut kept: Vec<Range<usize>> = Vec::new();
        let mut header = None;
        let mut orientation = None;

        loop {
            let (name, data, next) = chunk(bytes, at)?;
            match name {
                b"IHDR" if header.is_none() => {
                    let fields =
                        data.get(..HEADER_BYTES).ok_or_else(|| ImageError::undecodable("its header is cut"))?;
                    header = Some((number(fields, 0), number(fields, 4), fields[8], fields[9]));
                    kept.push(at..next);
                }
                // What is transparent keeps its colour, as in Pillow, so tRNS is left out too: with it, 16-bit grey would be
                // taken for grey with alpha, which Pillow scales and does not clip.
                b"PLTE" | b"IDAT" => match kept.last_mut() {
                    Some(last) if last.end == at => last.end = next,
                    _ => kept.push(at..next),
                },
                b"eXIf" if orientation.is_none() => orientation = Some(exif::orientation(data)),
                b"IEND" => {
                    kept.push(at..next);
                    break;
                }
                _ => {}
            }
            at = next;
        }

        let (width, height, bits, colour) = header.ok_or_else(|| ImageError::undecodable("it has no header"))?;
        let orientation = orientation.unwrap_or(Orientation::NoTransforms);
        Ok(Self { width, height, bits, colour, orientation, kept })
    }

    pub(super) fn outline(&self) -> Outline {
        // Sides have 32 bits: the bytes of the largest have more than 64.
        let pixels = u64::from(self.width) * u64::from(self.height);
        let samples = pixels.saturating_mul(self.sample_bytes());
        // Samples that are RGB of 8 bits already are used as they are.
        let rgb = if self.sample_bytes() == 3 { 0 } else { pixels.saturating_mul(3) };
        Outline {
            width: self.width,
            height: self.height,
            orientation: self.orientation,
            // Turning comes when the samples as the library gives them are gone.
            decoding_bytes: samples.saturating_add(rgb.max(turning_bytes(self.orientation, pixels))),
        }
    }

    /// Bytes of a pixel as the library gives it: palettes become RGB, less than 8 bits become 8.
    fn sample_bytes(&self) -> u64 {
        let channels = match self.colour {
            0 => 1,
            4 => 2,
            2 | 3 => 3,
            _ => 4,
        };
        channels * if self.bits == 16 { 2 } else { 1 }
    }

    /// The pixels as RGB bytes `[height, width, 3]`, not turned.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
        let mut file = Vec::with_capacity(SIGNATURE.len() + self.kept.iter().map(Range::len).sum::<usize>());
        file.extend_from_slice(SIGNATURE);
        self.kept.iter().for_each(|part| file.extend_from_slice(&bytes[part.clone()]));

        let decoder = PngDecoder::new(Cursor::new(file)).map_err(undecodable)?;
        let kind = decoder.color_type();
        let mut samples = vec![0; usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX)];
        decoder.read_image(&mut samples).map_err(undecodable)?;
        rgb(kind, samples)
    }
}

/// Name, data and end of the chunk that begins at a place.
fn chunk(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8], usize), ImageError> {
    let cut = || ImageError::Incomplete("the PNG ends within a chunk".to_owned());
    let length = number(bytes.get(at..at + 4).ok_or_else(cut)?, 0) as usize;
    let next = at + CHUNK_FRAME + length;
    let whole = bytes.get(at..next).ok_or_else(cut)?;
    Ok((&whole[4..8], &whole[8..8 + length], next))
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Samples to RGB of 8 bits, as Pillow's `convert("RGB")` does: alpha is dropped, grey is repeated, colours of 16 bits keep their
/// high byte. Grey of 16 bits is clipped: Pillow reads it as numbers of 32 bits, which makes most of such an image white, and the
/// models' reference answers are given on that.
fn rgb(kind: ColorType, samples: Vec<u8>) -> Result<Vec<u8>, ImageError> {
    let grey = |level: u8| [level; 3];
    Ok(match kind {
        ColorType::Rgb8 => samples,
        ColorType::L8 => widened(&samples, 1, |pixel| grey(pixel[0])),
        ColorType::La8 => widened(&samples, 2, |pixel| grey(pixel[0])),
        ColorType::Rgba8 => narrowed(samples, 4, |pixel| [pixel[0], pixel[1], pixel[2]]),
        ColorType::L16 => widened(&samples, 2, |pixel| grey(wide(pixel, 0).min(255) as u8)),
        ColorType::La16 => narrowed(samples, 4, |pixel| grey(high(pixel, 0))),
        ColorType::Rgb16 => narrowed(samples, 6, |pixel| [high(pixel, 0), high(pixel, 1), high(pixel, 2)]),
        ColorType::Rgba16 => narrowed(samples, 8, |pixel| [high(pixel, 0), high(pixel, 1), high(pixel, 2)]),
        other => return Err(ImageError::Undecodable(format!("its colours are {other:?}, which are not read"))),
    })
}

fn wide(pixel: &[u8], sample: usize) -> u16 {
    u16::from_ne_bytes([pixel[2 * sample], pixel[2 * sample + 1]])
}

fn high(pixel: &[u8], sample: usize) -> u8 {
    (wide(pixel, sample) >> 8) as u8
}

/// Pixels of less than three bytes to three.
fn widened(samples: &[u8], pixel_bytes: usize, widen: impl Fn(&[u8]) -> [u8; 3]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(samples.len() / pixel_bytes * 3);
    samples.chunks_exact(pixel_bytes).for_each(|pixel| rgb.extend_from_slice(&widen(pixel)));
    rgb
}

/// Pixels of more than three bytes to three, in place: next to a picture of 8 bytes a pixel there may be no room.
fn narrowed(mut samples: Vec<u8>, pixel_bytes: usize, narrow: impl Fn(&[u8]) -> [u8; 3]) -> Vec<u8> {
    let pixels = samples.len() / pixel_bytes;
    for pixel in 0..pixels {
        let from = pixel * pixel_bytes;
        let rgb = narrow(&samples[from..from + pixel_bytes]);
        samples[3 * pixel..3 * pixel + 3].copy_from_slice(&rgb);
    }
    samples.truncate(3 * pixels);
    samples.shrink_to_fit();
    samples
}

fn undecodable(error: image::ImageError) -> ImageError {
    ImageError::undecodable(&error.to_string())
}
