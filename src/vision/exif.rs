//! The orientation that EXIF says, read in place: nothing is allocated, whatever the block claims.

use image::metadata::Orientation;

/// Some writers put this before the block in every format, though it belongs to JPEG's segment alone.
pub(super) const PREFIX: &[u8] = b"Exif\0\0";

const ORIENTATION: u16 = 0x0112;
const ENTRY_BYTES: usize = 12;

/// How to turn the image that this EXIF block belongs to. A block that cannot be read turns nothing, as in Pillow.
pub(super) fn orientation(block: &[u8]) -> Orientation {
    let block = block.strip_prefix(PREFIX).unwrap_or(block);
    let value = Tiff::new(block).and_then(|tiff| tiff.orientation()).and_then(|value| u8::try_from(value).ok());
    value.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
}

/// A block in TIFF's layout (TIFF 6.0, section 2).
struct Tiff<'b> {
    bytes: &'b [u8],
    big_endian: bool,
}

impl<'b> Tiff<'b> {
    fn new(bytes: &'b [u8]) -> Option<Self> {
        match bytes.get(..4)? {
            b"II*\0" => Some(Self { bytes, big_endian: false }),
            b"MM\0*" => Some(Self { bytes, big_endian: true }),
            _ => None,
        }
    }

    /// The value of the orientation's tag in the first directory; of several the last, as in Pillow.
    fn orientation(&self) -> Option<u32> {
        let directory = self.u32(4)? as usize;
        let entries = usize::from(self.u16(directory)?);
        let start = directory.checked_add(2)?;
        let entry = |index: usize| start + index * ENTRY_BYTES;
        (0..entries)
            .map_while(|index| Some((entry(index), self.u16(entry(index))?)))
            .filter(|(_, tag)| *tag == ORIENTATION)
            .filter_map(|(at, _)| self.whole_number(at))
            .last()
    }

    /// One whole number of 16 or 32 bits, which lies in the entry itself. Some phones write 32.
    fn whole_number(&self, entry: usize) -> Option<u32> {
        const SHORT: u16 = 3;
        const LONG: u16 = 4;
        const SIGNED_SHORT: u16 = 8;
        const SIGNED_LONG: u16 = 9;
        let (kind, count) = (self.u16(entry + 2)?, self.u32(entry + 4)?);
        match (kind, count) {
            (SHORT | SIGNED_SHORT, 1) => self.u16(entry + 8).map(u32::from),
            (LONG | SIGNED_LONG, 1) => self.u32(entry + 8),
            _ => None,
        }
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An EXIF block with one orientation of this type.
    pub(in crate::vision) fn block(big_endian: bool, kind: u16, value: u32) -> Vec<u8> {
        let short = |number: u16| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
        let long = |number: u32| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
        let mut bytes = if big_endian { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
        bytes.extend(long(8));
        bytes.extend(short(1));
        bytes.extend([short(ORIENTATION), short(kind)].concat());
        bytes.extend(long(1));
        match kind {
            3 | 8 => bytes.extend([short(value as u16), [0, 0]].concat()),
            _ => bytes.extend(long(value)),
        }
        bytes.extend(long(0));
        bytes
    }

    #[test]
    fn whole_numbers_of_every_width_turn_the_image_and_nothing_else_does() {
        for big_endian in [false, true] {
            for kind in [3, 4, 8, 9] {
                let block = block(big_endian, kind, 6);
                assert_eq!(orientation(&block), Orientation::Rotate90, "type {kind}");
                assert_eq!(orientation(&[PREFIX, &block].concat()), Orientation::Rotate90, "prefix, type {kind}");
            }
            for (kind, value) in [(1, 6), (2, 6), (3, 0), (3, 9), (4, 6 << 16), (9, u32::MAX)] {
                assert_eq!(orientation(&block(big_endian, kind, value)), Orientation::NoTransforms, "{kind} {value}");
            }
        }
    }

    #[test]
    fn a_block_cut_anywhere_or_with_wild_offsets_turns_nothing() {
        let whole = block(true, 3, 6);
        for length in 0..18 {
            assert_eq!(orientation(&whole[..length]), Orientation::NoTransforms);
        }
        let mut wild = whole;
        wild[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(orientation(&wild), Orientation::NoTransforms);
    }
}
