#![no_main]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// What one picture within the target's limits may hold, with room for its bytes.
const HELD_MAX: usize = 96 << 20;

/// Fails beyond the budget, as a machine without memory does.
struct Bounded(AtomicUsize);

#[global_allocator]
static ALLOCATOR: Bounded = Bounded(AtomicUsize::new(0));

// SAFETY: every call goes on to the system's allocator, or fails as an allocator may.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = self.0.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        if held > HELD_MAX {
            self.0.fetch_sub(layout.size(), Ordering::Relaxed);
            return std::ptr::null_mut();
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ofa_stream::fuzzing::picture(bytes));
