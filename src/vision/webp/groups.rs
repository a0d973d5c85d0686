//! How many groups of prefix codes a lossless frame has, which decides on the memory of its decoder (RFC 9649, sections 3 to 6). A
//! picture of 100 kB may claim 65,536 of them, 20 kB each; encoders write at most a few thousand. Nothing is kept but the largest
//! number: copies and cached colours only repeat what a literal wrote.

/// Lengths of prefix codes, and the order in which the lengths of their own codes are written.
const LENGTH_MAX: usize = 15;
const LENGTH_ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const DISTANCES: usize = 40;
const LITERALS: usize = 256;
const COPIES: usize = 24;
const CACHE_BITS_MAX: u32 = 11;

/// The number of groups, at most; none where the data are broken or cut off.
pub(super) fn code_groups(data: &[u8]) -> Option<u64> {
    let mut bits = Bits { data, at: 0 };
    if bits.take(8)? != 0x2f {
        return None;
    }
    let mut width = bits.take(14)? + 1;
    let height = bits.take(14)? + 1;
    bits.take(4)?;

    let mut seen = [false; 4];
    while bits.take(1)? == 1 {
        let transform = bits.take(2)?;
        // Each may be there once; more would cost time without end.
        if std::mem::replace(&mut seen[transform as usize], true) {
            return None;
        }
        match transform {
            0 | 1 => {
                let size = bits.take(3)? + 2;
                skip_image(&mut bits, part(width, size), part(height, size))?;
            }
            2 => {}
            _ => {
                let colours = bits.take(8)? + 1;
                skip_image(&mut bits, colours, 1)?;
                width = part(
                    width,
                    match colours {
                        17.. => 0,
                        5.. => 1,
                        3.. => 2,
                        _ => 3,
                    },
                );
            }
        }
    }

    cache_bits(&mut bits)?;
    if bits.take(1)? == 0 {
        return Some(1);
    }
    let size = bits.take(3)? + 2;
    let Image { largest, literals } = skip_image(&mut bits, part(width, size), part(height, size))?;
    // The decoder builds groups by their number up to a thousand, and beyond that those that are used.
    Some((largest + 1).min(literals.max(1_000)))
}

/// Blocks of `2^bits` pixels on a side.
fn part(side: u32, bits: u32) -> u32 {
    side.div_ceil(1 << bits)
}

/// Bits of a cache of colours; none where there is no cache.
fn cache_bits(bits: &mut Bits<'_>) -> Option<u32> {
    if bits.take(1)? == 0 {
        return Some(0);
    }
    bits.take(4).filter(|cache| (1..=CACHE_BITS_MAX).contains(cache))
}

/// What is known of an image inside the stream: the largest group number that a literal pixel says, and how many literals there are.
struct Image {
    largest: u64,
    literals: u64,
}

fn skip_image(bits: &mut Bits<'_>, width: u32, height: u32) -> Option<Image> {
    let cache = cache_bits(bits)?;
    let cached = if cache == 0 { 0 } else { 1 << cache };
    let green = Code::read(bits, LITERALS + COPIES + cached)?;
    let [red, blue, alpha] = [(); 3].map(|()| Code::read(bits, LITERALS));
    let (red, blue, alpha) = (red?, blue?, alpha?);
    let distance = Code::read(bits, DISTANCES)?;
    let mut left = u64::from(width) * u64::from(height);
    let mut image = Image { largest: 0, literals: 0 };

    while left > 0 {
        let before = bits.at;
        let symbol = green.symbol(bits)?;
        let pixels = if symbol < LITERALS {
            let group = (red.symbol(bits)? << 8 | symbol) as u64;
            blue.symbol(bits)?;
            alpha.symbol(bits)?;
            image.largest = image.largest.max(group);
            image.literals += 1;
            1
        } else if symbol < LITERALS + COPIES {
            let length = prefixed(bits, symbol - LITERALS)?;
            let far = distance.symbol(bits)?;
            prefixed(bits, far)?;
            length
        } else {
            1
        };
        left = left.checked_sub(pixels)?;
        // All that follows is the same, and there may be millions of it.
        if bits.at == before {
            image.literals += left;
            break;
        }
    }
    Some(image)
}

/// A length or a distance: a prefix, and more bits.
fn prefixed(bits: &mut Bits<'_>, symbol: usize) -> Option<u64> {
    if symbol < 4 {
        return Some(symbol as u64 + 1);
    }
    let more = (symbol as u32 - 2) >> 1;
    let start = (2 + (symbol as u64 & 1)) << more;
    Some(start + u64::from(bits.take(more)?) + 1)
}

/// Bits of the stream, the lowest of each byte first.
struct Bits<'d> {
    data: &'d [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<u32> {
        let byte = self.data.get(self.at / 8)?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Some(u32::from(bit))
    }

    /// A number of at most 31 bits.
    fn take(&mut self, count: u32) -> Option<u32> {
        let mut number = 0;
        for place in 0..count {
            number |= self.bit()? << place;
        }
        Some(number)
    }
}

/// A canonical prefix code.
struct Code {
    /// How many symbols have each length.
    counts: [usize; LENGTH_MAX + 1],
    /// Symbols by length, then by value.
    symbols: Vec<u16>,
}

impl Code {
    fn read(bits: &mut Bits<'_>, size: usize) -> Option<Self> {
        let mut lengths = vec![0; size];
        if bits.take(1)? == 1 {
            let two = bits.take(1)? == 1;
            let wide = bits.take(1)? == 1;
            let first = bits.take(if wide { 8 } else { 1 })?;
            *lengths.get_mut(first as usize)? = 1;
            if two {
                let second = bits.take(8)?;
                *lengths.get_mut(second as usize)? = 1;
            }
            return Some(Self::of(&lengths));
        }

        let mut own = [0; LENGTH_ORDER.len()];
        let written = bits.take(4)? as usize + 4;
        for place in LENGTH_ORDER.get(..written)? {
            own[*place] = bits.take(3)? as usize;
        }
        let code = Self::of(&own);
        let mut codes = size;
        if bits.take(1)? == 1 {
            let count = 2 + 2 * bits.take(3)?;
            codes = 2 + bits.take(count)? as usize;
        }
        let (mut at, mut before) = (0, 8);
        while at < size && codes > 0 {
            codes -= 1;
            let symbol = code.symbol(bits)?;
            let (length, times) = match symbol {
                0..=15 => (symbol, 1),
                16 => (before, 3 + bits.take(2)? as usize),
                17 => (0, 3 + bits.take(3)? as usize),
                _ => (0, 11 + bits.take(7)? as usize),
            };
            if symbol < 16 && symbol > 0 {
                before = symbol;
            }
            lengths.get_mut(at..at + times)?.fill(length);
            at += times;
        }
        Some(Self::of(&lengths))
    }

    fn of(lengths: &[usize]) -> Self {
        let mut counts = [0; LENGTH_MAX + 1];
        let mut symbols = Vec::new();
        for (length, count) in counts.iter_mut().enumerate().skip(1) {
            let before = symbols.len();
            let of_length = lengths.iter().enumerate().filter(|(_, it)| **it == length);
            symbols.extend(of_length.map(|(symbol, _)| symbol as u16));
            *count = symbols.len() - before;
        }
        Self { counts, symbols }
    }

    /// The next symbol. One that is alone takes no bits.
    fn symbol(&self, bits: &mut Bits<'_>) -> Option<usize> {
        if let [only] = self.symbols[..] {
            return Some(usize::from(only));
        }
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in &self.counts[1..] {
            code |= bits.bit()? as usize;
            if code < first + count {
                return self.symbols.get(index + code - first).map(|symbol| usize::from(*symbol));
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// The data of the first lossless frame of a file.
    fn lossless(file: &[u8]) -> Option<&[u8]> {
        let at = file.windows(4).position(|name| name == b"VP8L")?;
        let length = u32::from_le_bytes(file.get(at + 4..at + 8)?.try_into().unwrap()) as usize;
        file.get(at + 8..at + 8 + length)
    }

    #[test]
    fn pictures_of_encoders_have_few_groups_and_made_up_ones_are_seen() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let folders = ["demo", "cases/pictures/made", "cases/pictures/review", "cases/pictures/11-decode-memory"];
        let files = folders.iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
        let mut read = 0;
        for path in files.map(|file| file.unwrap().path()) {
            let bytes = fs::read(&path).unwrap();
            let Some(data) = lossless(&bytes).filter(|_| bytes.starts_with(b"RIFF")) else { continue };
            let groups = code_groups(data);
            if path.to_str().unwrap().contains("huffman") {
                assert!(groups.is_none_or(|groups| groups >= 1_000), "{}: {groups:?}", path.display());
            } else {
                assert!(groups.is_some_and(|groups| groups <= 2_600), "{}: {groups:?}", path.display());
                read += 1;
            }
        }
        assert!(read >= 2, "only {read} lossless pictures");
    }

    #[test]
    fn what_is_cut_off_has_no_number() {
        assert_eq!(code_groups(&[]), None);
        assert_eq!(code_groups(&[0x2f, 0, 0, 0]), None);
        assert_eq!(code_groups(&[0xff; 400]), None);
    }
}
