//! WebP: its parts, read in place, and its pixels.
//!
//! * `mod.rs`: the chunks, held against the file's length, and what decoding will cost.
//! * `groups`: how many groups of codes a lossless frame has.
//! * `library`: libwebp, which gets the one chunk with the pixels.

mod groups;
mod library;

use std::ops::Range;

use image::metadata::Orientation;

use super::{
    ImageError, exif,
    outline::{Outline, turning_bytes},
};

/// Name and length of a chunk.
const CHUNK_HEAD: usize = 8;
/// `RIFF`, the length, `WEBP`.
const FILE_HEAD: usize = 12;

/// The parts of a WebP that its pixels come from.
#[derive(Debug)]
pub(super) struct WebP {
    width: u32,
    height: u32,
    orientation: Orientation,
    frame: Frame,
}

/// The chunk with pixels. An animation has several, of which the first is read, as in Pillow.
#[derive(Clone, Debug)]
struct Frame {
    /// Where it lies on the canvas.
    left: u32,
    top: u32,
    width: u32,
    height: u32,
    lossless: bool,
    /// Groups of prefix codes, at most; zero where it is lossy.
    groups: u64,
    /// The data of its chunk.
    data: Range<usize>,
}

impl Frame {
    fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Bytes that the library holds beside its result.
    fn library_bytes(&self) -> u64 {
        /// Rows of the library, and its state.
        const FIXED: u64 = 1 << 19;
        // Some rows of samples at a time.
        let rows = FIXED + 256 * u64::from(self.width);
        // Pixels, and the images of its transforms and of its codes.
        if self.lossless { rows + 5 * self.pixels() + self.code_bytes() } else { rows }
    }

    /// Bytes of the prefix codes of a lossless frame.
    fn code_bytes(&self) -> u64 {
        /// The tables of a group with the largest cache of colours.
        const GROUP_BYTES: u64 = 20_600;
        GROUP_BYTES * self.groups
    }
}

/// The groups of codes of a lossless frame, at most. Where their number cannot be read, each block of pixels may have codes of its
/// own; blocks have at least 4×4 pixels, codes at least 20 bits, and there are at most 65,536 groups (RFC 9649, section 6).
fn groups_of(data: &[u8], width: u32, height: u32) -> u64 {
    groups::code_groups(data).unwrap_or_else(|| {
        let blocks = u64::from(width.div_ceil(4)) * u64::from(height.div_ceil(4));
        let codes = data.len() as u64 * 8 / 20;
        blocks.max(1_000).min(codes).clamp(1, 1 << 16)
    })
}

/// Whether these bytes begin as a WebP does.
pub(super) fn is_webp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..FILE_HEAD) == Some(b"WEBP")
}

impl WebP {
    /// Walks the chunks.
    ///
    /// # Errors
    /// When a chunk is cut off, or there are no pixels.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let length = little(bytes, 4, 4).ok_or_else(cut)? as usize;
        // What follows the file is not read.
        let bytes = bytes.get(..CHUNK_HEAD + length).ok_or_else(cut)?;
        let mut canvas = None;
        let mut frame: Option<Frame> = None;
        let mut is_animation = false;
        let mut orientation = None;
        let mut at = FILE_HEAD;

        while at < bytes.len() {
            let (name, data) = chunk(bytes, at)?;
            match name {
                b"VP8X" if canvas.is_none() => canvas = Some(canvas_size(&bytes[data.clone()])?),
                b"VP8 " | b"VP8L" if frame.is_none() => frame = Some(still(bytes, at)?),
                b"ANIM" => is_animation = true,
                b"ANMF" if frame.is_none() && is_animation => frame = Some(first_frame(bytes, data.clone())?),
                b"EXIF" if orientation.is_none() => orientation = Some(exif::orientation(&bytes[data.clone()])),
                _ => {}
            }
            at = padded(data.end);
        }

        let frame = frame.ok_or_else(|| ImageError::undecodable("it has no pixels"))?;
        let (width, height) = canvas.unwrap_or((frame.width, frame.height));
        let fits = |start: u32, length: u32, whole: u32| start.checked_add(length).is_some_and(|end| end <= whole);
        if !fits(frame.left, frame.width, width) || !fits(frame.top, frame.height, height) {
            return Err(ImageError::undecodable("a frame lies outside of its canvas"));
        }
        // As libwebp and Pillow have it: only a frame of an animation may be smaller than its canvas.
        if !is_animation && (frame.width, frame.height) != (width, height) {
            return Err(ImageError::undecodable("its pixels have another size than its canvas"));
        }
        Ok(Self { width, height, orientation: orientation.unwrap_or(Orientation::NoTransforms), frame })
    }

    pub(super) fn outline(&self) -> Outline {
        let pixels = u64::from(self.width) * u64::from(self.height);
        let rgb = 3 * self.frame.pixels();
        let canvas = if self.frame_is_canvas() { 0 } else { 3 * pixels };
        // Turning comes when the library has given its memory back.
        let beside = (self.frame.library_bytes() + canvas).max(turning_bytes(self.orientation, pixels));
        Outline { width: self.width, height: self.height, orientation: self.orientation, decoding_bytes: rgb + beside }
    }

    fn frame_is_canvas(&self) -> bool {
        (self.frame.width, self.frame.height) == (self.width, self.height)
    }

    /// The pixels as RGB bytes `[height, width, 3]`, not turned. What a first frame leaves free is black, as in Pillow.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
        let size = (self.frame.width, self.frame.height);
        let rgb = library::decode(&bytes[self.frame.data.clone()], size)?;
        Ok(if self.frame_is_canvas() { rgb } else { self.on_canvas(&rgb) })
    }

    fn on_canvas(&self, rgb: &[u8]) -> Vec<u8> {
        let row = 3 * self.frame.width as usize;
        let mut canvas = vec![0; 3 * self.width as usize * self.height as usize];
        for (index, pixels) in rgb.chunks_exact(row.max(1)).enumerate() {
            let start = 3 * ((self.frame.top as usize + index) * self.width as usize + self.frame.left as usize);
            canvas[start..start + row].copy_from_slice(pixels);
        }
        canvas
    }
}

/// A frame from the chunk that begins at a place.
fn still(bytes: &[u8], at: usize) -> Result<Frame, ImageError> {
    let (name, data) = chunk(bytes, at)?;
    let lossless = name == b"VP8L";
    let (width, height) = if lossless { lossless_size(&bytes[data.clone()]) } else { lossy_size(&bytes[data.clone()]) }
        .ok_or_else(|| ImageError::undecodable("the header of its pixels is broken"))?;
    let groups = if lossless { groups_of(&bytes[data.clone()], width, height) } else { 0 };
    Ok(Frame { left: 0, top: 0, width, height, lossless, groups, data })
}

/// The pixels of an animation's frame.
fn first_frame(bytes: &[u8], data: Range<usize>) -> Result<Frame, ImageError> {
    const FRAME_HEAD: usize = 16;
    let head = &bytes[data.clone()];
    let place = |at: usize| little(head, at, 3).ok_or_else(cut);
    let (left, top) = (2 * place(0)?, 2 * place(3)?);
    let (width, height) = (1 + place(6)?, 1 + place(9)?);
    let mut at = data.start + FRAME_HEAD;

    while at < data.end {
        let (name, inner) = chunk(&bytes[..data.end], at)?;
        if matches!(name, b"VP8 " | b"VP8L") {
            let frame = still(&bytes[..data.end], at)?;
            if (frame.width, frame.height) != (width, height) {
                return Err(ImageError::undecodable("its parts disagree about its size"));
            }
            return Ok(Frame { left, top, ..frame });
        }
        at = padded(inner.end);
    }
    Err(ImageError::undecodable("its first frame has no pixels"))
}

/// Columns and rows of a canvas.
fn canvas_size(data: &[u8]) -> Result<(u32, u32), ImageError> {
    let side = |at: usize| little(data, at, 3).ok_or_else(cut);
    Ok((1 + side(4)?, 1 + side(7)?))
}

/// Columns and rows of a lossy key frame (RFC 6386, section 9.1).
fn lossy_size(data: &[u8]) -> Option<(u32, u32)> {
    let is_key_frame = data.first()? & 1 == 0;
    let side = |at: usize| little(data, at, 2).map(|side| side & 0x3fff);
    (is_key_frame && data.get(3..6)? == [0x9d, 0x01, 0x2a]).then_some((side(6)?, side(8)?))
}

/// Columns and rows of a lossless frame (RFC 9649, section 3.4).
fn lossless_size(data: &[u8]) -> Option<(u32, u32)> {
    let bits = little(data, 1, 4)?;
    (data.first() == Some(&0x2f)).then_some((1 + (bits & 0x3fff), 1 + ((bits >> 14) & 0x3fff)))
}

/// Name and data of the chunk that begins at a place.
fn chunk(bytes: &[u8], at: usize) -> Result<(&[u8; 4], Range<usize>), ImageError> {
    let name: &[u8; 4] = bytes.get(at..at + 4).and_then(|name| name.try_into().ok()).ok_or_else(cut)?;
    let length = little(bytes, at + 4, 4).ok_or_else(cut)? as usize;
    let data = at + CHUNK_HEAD..at + CHUNK_HEAD + length;
    if data.end <= bytes.len() { Ok((name, data)) } else { Err(cut()) }
}

/// Chunks begin at even places.
fn padded(end: usize) -> usize {
    end + end % 2
}

/// A number of up to four bytes, the lowest first.
fn little(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte)))
}

fn cut() -> ImageError {
    ImageError::Incomplete("the WebP ends within a chunk".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut body = b"WEBP".to_vec();
        for (name, data) in chunks {
            body.extend(*name);
            body.extend((data.len() as u32).to_le_bytes());
            body.extend(*data);
            body.extend(vec![0; data.len() % 2]);
        }
        [b"RIFF".to_vec(), (body.len() as u32).to_le_bytes().to_vec(), body].concat()
    }

    #[test]
    fn only_a_frame_of_an_animation_may_be_smaller_than_its_canvas() {
        // A lossless picture of 2×2 pixels, as far as its header.
        let pixels: &[u8] = &[0x2f, 1, 0x40, 0, 0, 0, 0, 0];
        let canvas = |side: u8| [0, 0, 0, 0, side - 1, 0, 0, side - 1, 0, 0];
        let read = |chunks: &[(&[u8; 4], &[u8])]| WebP::read(&file(chunks));
        assert_eq!(read(&[(b"VP8L", pixels)]).unwrap().outline().upright(), (2, 2));
        assert_eq!(read(&[(b"VP8X", &canvas(2)), (b"VP8L", pixels)]).unwrap().outline().upright(), (2, 2));
        assert!(read(&[(b"VP8X", &canvas(3)), (b"VP8L", pixels)]).is_err());

        let still = file(&[(b"VP8L", pixels)]);
        let frame = [vec![0; 6], vec![1, 0, 0, 1, 0, 0], vec![0; 4], still[FILE_HEAD..].to_vec()].concat();
        let animation = read(&[(b"VP8X", &canvas(3)), (b"ANIM", &[0; 6]), (b"ANMF", &frame)]).unwrap();
        assert_eq!(animation.outline().upright(), (3, 3));
        assert!(read(&[(b"VP8X", &canvas(3)), (b"ANMF", &frame)]).is_err(), "no ANIM");
    }
}
