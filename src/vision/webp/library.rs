//! libwebp, as `libwebp-sys` builds it from its sources. The reference's library decodes with the same code.
//!
//! The decoder in Rust builds as many tables as a picture of 4×4 pixels claims, 500 bytes for each byte of the file;
//! libwebp builds those that are used. The one file of this room with unsafe code: the library is C.

#![expect(unsafe_code, reason = "the library is C")]

use super::super::ImageError;

/// Decodes one frame of this size, lossy or lossless, to RGB bytes `[height, width, 3]`. `frame` is the data of a `VP8 ` or
/// `VP8L` chunk.
///
/// # Errors
/// When the frame is broken, or has another size.
pub(super) fn decode(frame: &[u8], size: (u32, u32)) -> Result<Vec<u8>, ImageError> {
    let (mut width, mut height) = (0, 0);
    // SAFETY: the pointer and the length are of one slice, and both results are written to variables of their type.
    let known = unsafe { libwebp_sys::WebPGetInfo(frame.as_ptr(), frame.len(), &mut width, &mut height) };
    if known == 0 || (u32::try_from(width), u32::try_from(height)) != (Ok(size.0), Ok(size.1)) {
        return Err(ImageError::undecodable("the WebP's parts disagree about its size"));
    }
    let row = 3 * size.0 as usize;
    let Ok(stride) = i32::try_from(row) else {
        return Err(ImageError::undecodable("the WebP's rows are too long"));
    };
    let mut rgb = vec![0_u8; row * size.1 as usize];
    // SAFETY: both pointers and lengths are of slices; the library writes `height` rows of `stride` bytes, which is all of `rgb`, and
    // compares that with the length it gets.
    let written =
        unsafe { libwebp_sys::WebPDecodeRGBInto(frame.as_ptr(), frame.len(), rgb.as_mut_ptr(), rgb.len(), stride) };
    if written.is_null() { Err(ImageError::undecodable("the WebP's pixels are broken or end early")) } else { Ok(rgb) }
}
