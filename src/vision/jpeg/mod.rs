//! JPEG: its header, read in place, and its pixels.
//!
//! * `mod.rs`: the segments before the first scan, and what decoding will cost.
//! * `library`: libjpeg-turbo, which the reference decodes with; the one file here that calls C.

mod library;

use image::metadata::Orientation;

use super::{
    ImageError, exif,
    outline::{Outline, turning_bytes},
};

/// Scans that a picture may have. The standard's own scripts have ten; each costs a pass over the whole picture.
const SCANS_MAX: u32 = 100;

/// The header of a JPEG.
#[derive(Debug)]
pub(super) struct Jpeg {
    width: u32,
    height: u32,
    orientation: Orientation,
    components: Vec<Component>,
    /// Whether all coefficients are kept until the last scan: it is progressive, or has a scan for each component.
    is_buffered: bool,
}

/// One component: how many samples it has in a unit, across and down.
#[derive(Clone, Copy, Debug)]
struct Component {
    across: u32,
    down: u32,
}

const START: u8 = 0xd8;
const END: u8 = 0xd9;
const SCAN: u8 = 0xda;
const APP1: u8 = 0xe1;

impl Jpeg {
    /// Walks the segments up to the first scan.
    ///
    /// # Errors
    /// When the file ends before, or its frame is broken.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        // Behind the marker that opens the file.
        let mut at = 2;
        let mut orientation = None;
        let mut frame: Option<Frame> = None;

        loop {
            let (marker, start) = next_marker(bytes, at)?;
            at = start;
            match marker {
                // Markers without a segment.
                0x01 | 0xd0..=START => continue,
                END => return Err(ImageError::undecodable("the JPEG has no scan")),
                _ => {}
            }
            let (data, next) = segment(bytes, at)?;
            match marker {
                APP1 if orientation.is_none() && data.starts_with(exif::PREFIX) => {
                    orientation = Some(exif::orientation(data));
                }
                // SOF0 to SOF15, without DHT, JPG and DAC, which have numbers among them.
                0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => frame = Some(Frame::read(marker, data)?),
                SCAN => {
                    let frame = frame.ok_or_else(|| ImageError::undecodable("the JPEG has a scan before its frame"))?;
                    let scanned = usize::from(data.first().copied().unwrap_or_default());
                    return Ok(Self {
                        width: frame.width,
                        height: frame.height,
                        orientation: orientation.unwrap_or(Orientation::NoTransforms),
                        is_buffered: frame.is_progressive || scanned < frame.components.len(),
                        components: frame.components,
                    });
                }
                _ => {}
            }
            at = next;
        }
    }

    pub(super) fn outline(&self) -> Outline {
        let pixels = u64::from(self.width) * u64::from(self.height);
        // The RGB bytes, and the coefficients until the last scan is read; turning needs a second copy of the first.
        let beside = self.coefficient_bytes().max(turning_bytes(self.orientation, pixels));
        Outline {
            width: self.width,
            height: self.height,
            orientation: self.orientation,
            decoding_bytes: 3 * pixels + beside + self.row_bytes(),
        }
    }

    /// Bytes of all coefficients, 2 for each sample, where they are kept.
    fn coefficient_bytes(&self) -> u64 {
        if !self.is_buffered {
            return 0;
        }
        let across_max = self.components.iter().map(|component| component.across).max().unwrap_or(1);
        let down_max = self.components.iter().map(|component| component.down).max().unwrap_or(1);
        let units = u64::from(self.width.div_ceil(8 * across_max)) * u64::from(self.height.div_ceil(8 * down_max));
        let blocks: u64 = self.components.iter().map(|component| u64::from(component.across * component.down)).sum();
        units * blocks * 64 * 2
    }

    /// Bytes of the library's rows and tables, by measurement.
    fn row_bytes(&self) -> u64 {
        256 * u64::from(self.width) + (1 << 20)
    }

    /// The pixels as RGB bytes `[height, width, 3]`, not turned.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
        let memory_max = self.coefficient_bytes() + self.row_bytes();
        library::decode(bytes, (self.width, self.height), memory_max, SCANS_MAX)
    }
}

struct Frame {
    width: u32,
    height: u32,
    is_progressive: bool,
    components: Vec<Component>,
}

impl Frame {
    fn read(marker: u8, data: &[u8]) -> Result<Self, ImageError> {
        let broken = || ImageError::undecodable("the JPEG's frame is broken");
        let side = |at: usize| data.get(at..at + 2).map(|side| u32::from(u16::from_be_bytes([side[0], side[1]])));
        let (height, width) = (side(1).ok_or_else(broken)?, side(3).ok_or_else(broken)?);
        let count = usize::from(*data.get(5).ok_or_else(broken)?);
        let fields = data.get(6..6 + 3 * count).ok_or_else(broken)?;
        let component = |fields: &[u8]| {
            let (across, down) = (u32::from(fields[1] >> 4), u32::from(fields[1] & 15));
            ((1..=4).contains(&across) && (1..=4).contains(&down)).then_some(Component { across, down })
        };
        let components: Option<Vec<Component>> = fields.chunks_exact(3).map(component).collect();
        let components = components.filter(|components| matches!(components.len(), 1..=4)).ok_or_else(broken)?;
        Ok(Self { width, height, is_progressive: matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce), components })
    }
}

/// The next marker, and the place behind it. Bytes between segments that belong to none are skipped, as libjpeg does.
fn next_marker(bytes: &[u8], at: usize) -> Result<(u8, usize), ImageError> {
    let rest = bytes.get(at..).unwrap_or_default();
    // A fill byte is 0xff too; zero behind 0xff is no marker.
    let found = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff));
    let found = found.ok_or_else(cut)?;
    Ok((rest[found + 1], at + found + 2))
}

/// The data of the segment that begins at a place, and the place behind it.
fn segment(bytes: &[u8], at: usize) -> Result<(&[u8], usize), ImageError> {
    let length = bytes.get(at..at + 2).ok_or_else(cut)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    // Too short for itself: libjpeg takes it for an empty one.
    let length = length.max(2);
    let data = bytes.get(at + 2..at + length).ok_or_else(cut)?;
    Ok((data, at + length))
}

fn cut() -> ImageError {
    ImageError::Incomplete("the JPEG ends before its pixels".to_owned())
}
