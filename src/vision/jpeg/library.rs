//! libjpeg-turbo, as `mozjpeg-sys` builds it from its sources. The reference's library decodes with the same code.
//!
//! The one file of this room with unsafe code: the library is C. Its errors unwind through it as a panic without a message
//! (its functions are declared `C-unwind`), and are caught here.

#![expect(unsafe_code, reason = "the library is C")]

use std::{any::Any, mem, panic, ptr};

use mozjpeg_sys::{
    J_COLOR_SPACE, J_DCT_METHOD, JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE, JWRN_JPEG_EOF, JWRN_MUST_RESYNC, boolean, c_int,
    c_long, c_ulong, jpeg_common_struct, jpeg_create_decompress, jpeg_decompress_struct, jpeg_destroy_decompress,
    jpeg_error_mgr, jpeg_finish_decompress, jpeg_mem_src, jpeg_progress_mgr, jpeg_read_header, jpeg_read_scanlines,
    jpeg_start_decompress, jpeg_std_error,
};

use super::super::ImageError;

/// Warnings behind which the library makes pixels up. Others, such as stray bytes between segments, change no pixel.
const MADE_UP: [c_int; 3] = [JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE, JWRN_MUST_RESYNC];

const TRUE: boolean = 1;

/// The longest message that the library formats, from its `jpeglib.h`.
const JMSG_LENGTH_MAX: usize = 200;

/// Decodes a JPEG of this size to RGB bytes `[height, width, 3]`, as Pillow's `convert("RGB")` does.
///
/// # Errors
/// When the library refuses the file, or would make pixels up; when it holds more than `memory_max` bytes of coefficients or
/// has more than `scans_max` scans.
pub(super) fn decode(bytes: &[u8], size: (u32, u32), memory_max: u64, scans_max: u32) -> Result<Vec<u8>, ImageError> {
    let decoder = Decoder::new(scans_max);
    // The decoder is not used again after an error: it is dropped, which frees what the library holds.
    let decoded = panic::catch_unwind(panic::AssertUnwindSafe(|| decoder.decode(bytes, size, memory_max)));
    match decoded {
        Ok(decoded) => decoded,
        Err(payload) => Err(ImageError::undecodable(&message(payload.as_ref()))),
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "the decoder ended by a defect".to_owned())
}

/// What the library's calls back reach through `client_data`.
struct State {
    made_up: bool,
    ended_early: bool,
    scans_max: u32,
    /// The structure that the calls back get the first part of.
    whole: *const jpeg_decompress_struct,
}

/// Everything that the library keeps pointers to.
struct Parts {
    library: jpeg_decompress_struct,
    errors: jpeg_error_mgr,
    progress: jpeg_progress_mgr,
    state: State,
}

/// The parts lie on the heap, so that they do not move, and are reached through one pointer, because they point at each other.
struct Decoder(*mut Parts);

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: the pointer is of a box, and nothing has freed it. The structure is zeroed or created; the library does nothing
        // where it has no memory manager.
        unsafe {
            jpeg_destroy_decompress(&mut *self.library());
            drop(Box::from_raw(self.0));
        }
    }
}

impl Decoder {
    fn new(scans_max: u32) -> Self {
        // SAFETY: these are plain structures of C, for which zeros are valid: null pointers, absent functions, first variants.
        let (library, errors, progress) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        let state = State { made_up: false, ended_early: false, scans_max, whole: ptr::null() };
        Self(Box::into_raw(Box::new(Parts { library, errors, progress, state })))
    }

    fn library(&self) -> *mut jpeg_decompress_struct {
        // SAFETY: the parts live as long as `self`. No reference is made.
        unsafe { &raw mut (*self.0).library }
    }

    fn decode(&self, bytes: &[u8], size: (u32, u32), memory_max: u64) -> Result<Vec<u8>, ImageError> {
        self.open(bytes, memory_max);
        let rgb = self.rows(size)?;
        // SAFETY: the library has returned, so nothing else reaches the state.
        let state = unsafe { &(*self.0).state };
        if state.ended_early {
            return Err(ImageError::Incomplete("the JPEG ends before its end marker".to_owned()));
        }
        if state.made_up {
            return Err(ImageError::undecodable("the JPEG's data are broken or end early"));
        }
        Ok(rgb)
    }

    /// Joins the parts, and reads the header.
    fn open(&self, bytes: &[u8], memory_max: u64) {
        let (parts, library) = (self.0, self.library());
        // SAFETY: the parts live as long as `self` and do not move. Every pointer that the library gets leads into them or into
        // `bytes`, which outlives all calls.
        unsafe {
            (*parts).state.whole = library;

            jpeg_std_error(&mut (*parts).errors);
            (*parts).errors.error_exit = Some(error_exit);
            (*parts).errors.emit_message = Some(emit_message);
            (*parts).errors.output_message = Some(output_message);
            (*library).common.err = &raw mut (*parts).errors;
            (*library).common.client_data = (&raw mut (*parts).state).cast();

            jpeg_create_decompress(library);
            (*parts).progress.progress_monitor = Some(count_scans);
            (*library).common.progress = &raw mut (*parts).progress;
            (*(*library).common.mem).max_memory_to_use = c_long::try_from(memory_max).unwrap_or(c_long::MAX);

            jpeg_mem_src(&mut *library, bytes.as_ptr(), bytes.len() as c_ulong);
            jpeg_read_header(&mut *library, TRUE);
        }
    }

    /// Decodes row by row.
    fn rows(&self, size: (u32, u32)) -> Result<Vec<u8>, ImageError> {
        // SAFETY: the header was read, and only the library's own calls reach the structure meanwhile.
        let library = unsafe { &mut *self.library() };
        if (library.image_width, library.image_height) != size {
            return Err(ImageError::undecodable("the JPEG's frames disagree about its size"));
        }
        let is_ink = match library.num_components {
            1 | 3 => false,
            4 => true,
            count => return Err(ImageError::Undecodable(format!("the JPEG has {count} components"))),
        };
        library.out_color_space = if is_ink { J_COLOR_SPACE::JCS_CMYK } else { J_COLOR_SPACE::JCS_RGB };
        // The slow and exact one, which Pillow uses.
        library.dct_method = J_DCT_METHOD::JDCT_ISLOW;
        library.do_fancy_upsampling = TRUE;
        // SAFETY: the header was read.
        unsafe { jpeg_start_decompress(library) };

        let (columns, rows) = (size.0 as usize, size.1 as usize);
        let samples = columns * if is_ink { 4 } else { 3 };
        // The library writes this many bytes for each row.
        if library.output_width as usize * library.output_components as usize != samples {
            return Err(ImageError::undecodable("the JPEG's rows have another length than its frame says"));
        }
        let mut rgb = vec![0_u8; 3 * columns * rows];
        let mut inks = vec![0_u8; if is_ink { samples } else { 0 }];
        for row in rgb.chunks_exact_mut(3 * columns) {
            let target: &mut [u8] = if is_ink { &mut inks } else { &mut *row };
            let mut lines = [target.as_mut_ptr()];
            // SAFETY: the one row has as many bytes as were compared above.
            let read = unsafe { jpeg_read_scanlines(library, lines.as_mut_ptr(), 1) };
            if read != 1 {
                return Err(ImageError::undecodable("the JPEG has fewer rows than its frame says"));
            }
            if is_ink {
                rgb_of_inks(&inks, row);
            }
        }
        if lacks_component(library) {
            return Err(ImageError::undecodable("the JPEG ends before all of its components had a scan"));
        }
        // Reads on to the end marker, and warns where there is none.
        // SAFETY: all rows were read.
        unsafe { jpeg_finish_decompress(library) };
        Ok(rgb)
    }
}

/// Whether a component had no scan. The library fills it with a constant and says nothing.
fn lacks_component(library: &jpeg_decompress_struct) -> bool {
    let count = usize::try_from(library.num_components).unwrap_or_default();
    // SAFETY: the library holds one structure for each component, as long as the decoder lives. A component's table is noted
    // when its first scan begins.
    (0..count).any(|index| unsafe { (*library.comp_info.add(index)).quant_table.is_null() })
}

/// Pillow takes inks as Adobe stores them, inverted. Then each colour is `(255 - K) - C * (255 - K) / 255`, rounded.
fn rgb_of_inks(inks: &[u8], rgb: &mut [u8]) {
    for (ink, pixel) in inks.chunks_exact(4).zip(rgb.chunks_exact_mut(3)) {
        // The stored value is 255 - K.
        let white = i32::from(ink[3]);
        for (&stored, sample) in ink.iter().zip(pixel) {
            let product = (255 - i32::from(stored)) * white + 128;
            *sample = (white - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8;
        }
    }
}

/// Ends the decoding with the library's words.
unsafe extern "C-unwind" fn error_exit(library: &mut jpeg_common_struct) {
    type Declared = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &[u8; 80]);
    type Actual = unsafe extern "C-unwind" fn(*mut jpeg_common_struct, *mut u8);
    let mut text = [0_u8; JMSG_LENGTH_MAX];
    // SAFETY: the library calls with its own live structure, and writes at most `JMSG_LENGTH_MAX` bytes. The bindings declare the
    // buffer shorter and constant, which it is not.
    unsafe {
        if let Some(format) = (*library.err).format_message {
            mem::transmute::<Declared, Actual>(format)(library, text.as_mut_ptr());
        }
    }
    let words = text.split(|byte| *byte == 0).next().unwrap_or_default();
    // No hook and no message: this is an ordinary refusal.
    panic::resume_unwind(Box::new(String::from_utf8_lossy(words).into_owned()));
}

/// Takes a note of warnings. A broken file can give one for every block.
unsafe extern "C-unwind" fn emit_message(library: &mut jpeg_common_struct, level: c_int) {
    // Below zero are warnings; others are traces.
    if level >= 0 {
        return;
    }
    // SAFETY: `open` has set both, and they live as long as the decoder.
    unsafe {
        let code = (*library.err).msg_code;
        let state = library.client_data.cast::<State>();
        (*state).made_up |= MADE_UP.contains(&code);
        (*state).ended_early |= code == JWRN_JPEG_EOF;
    }
}

/// The library would write to stderr.
unsafe extern "C-unwind" fn output_message(_: &mut jpeg_common_struct) {}

/// Called for each row of blocks while scans are read.
unsafe extern "C-unwind" fn count_scans(library: &mut jpeg_common_struct) {
    // SAFETY: `open` has set both; the field lies outside of the part that `library` borrows.
    let (scan, scans_max) = unsafe {
        let state = library.client_data.cast::<State>();
        ((&raw const (*(*state).whole).input_scan_number).read(), (*state).scans_max)
    };
    if i64::from(scan) > i64::from(scans_max) {
        panic::resume_unwind(Box::new(format!("the JPEG has more than {scans_max} scans")));
    }
}
