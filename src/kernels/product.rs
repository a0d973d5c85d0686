//! Matrix products into parts of a shared result, and the parts themselves.

#![allow(unsafe_code, reason = "threads write to disjoint parts of one result, and the product takes pointers")]

use std::{marker::PhantomData, mem::MaybeUninit};

use gemm::{Parallelism, gemm};

/// A matrix that is read: a value is at `start + row * row_stride + column * column_stride`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'m> {
    pub(super) values: &'m [f32],
    pub(super) start: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

/// A result that several threads write to.
pub(super) struct Shared<'m> {
    pointer: *mut f32,
    len: usize,
    lifetime: PhantomData<&'m mut [f32]>,
}

/// A result of `len` values, all of which `fill` writes. Zeros first would cost a pass over memory.
///
/// # Safety
/// `fill` must have written every value when it returns.
pub(super) unsafe fn filled(len: usize, fill: impl FnOnce(&Shared<'_>)) -> Vec<f32> {
    let mut values: Vec<MaybeUninit<f32>> = Vec::with_capacity(len);
    // SAFETY: values that need not be initialized, within the capacity.
    unsafe { values.set_len(len) };
    fill(&Shared { pointer: values.as_mut_ptr().cast(), len, lifetime: PhantomData });
    let mut values = std::mem::ManuallyDrop::new(values);
    // SAFETY: the same allocation, and every value was written.
    unsafe { Vec::from_raw_parts(values.as_mut_ptr().cast(), len, values.capacity()) }
}

// SAFETY: the pointer comes from a slice that is borrowed for as long as this lives, and what is reached
// through it is up to `tile`, whose callers promise that tiles do not overlap.
unsafe impl Sync for Shared<'_> {}

/// Rows of a shared result: `rows` of `columns` values each, `stride` apart.
pub(super) struct Tile<'m> {
    pointer: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    lifetime: PhantomData<&'m mut [f32]>,
}

impl Shared<'_> {
    /// How many values it has.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A part of the result.
    ///
    /// # Safety
    /// No value of it may be in another tile that lives at the same time, and `row` may be called only for rows
    /// that a product or `write` has written.
    pub(super) unsafe fn tile(&self, start: usize, [rows, columns]: [usize; 2], stride: usize) -> Tile<'_> {
        let end = rows.saturating_sub(1).saturating_mul(stride).saturating_add(start).saturating_add(columns);
        assert!(end <= self.len, "tile within result");
        assert!(rows <= 1 || columns <= stride, "rows of a tile do not overlap");
        // SAFETY: the first value is within the slice, as was just checked.
        Tile { pointer: unsafe { self.pointer.add(start) }, rows, columns, stride, lifetime: PhantomData }
    }
}

impl<'m> Tile<'m> {
    /// A whole slice as one tile.
    pub(super) fn of(values: &'m mut [f32], [rows, columns]: [usize; 2]) -> Self {
        assert!(rows.saturating_mul(columns) <= values.len(), "tile within slice");
        Self { pointer: values.as_mut_ptr(), rows, columns, stride: columns, lifetime: PhantomData }
    }

    /// A row of the tile, after a product has written it.
    pub(super) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row within tile");
        // SAFETY: the row lies within what `tile` or `of` checked, and nobody else reaches it while this is
        // borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(row * self.stride), self.columns) }
    }

    /// Writes a row.
    pub(super) fn write(&mut self, row: usize, values: &[f32]) {
        assert!(row < self.rows && values.len() == self.columns, "row of the tile");
        // SAFETY: the row lies within what `tile` or `of` checked; values from elsewhere do not overlap it.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.pointer.add(row * self.stride), self.columns) }
    }

    /// `self = lhs · rhs · scale`, or with `add` that on top of what is there. `lhs` is `[rows, inner]`, `rhs`
    /// `[inner, columns]`; on this thread alone, or on all.
    pub(super) fn product(
        &mut self,
        lhs: Matrix<'_>,
        rhs: Matrix<'_>,
        inner: usize,
        scale: f32,
        add: bool,
        threads: Threads,
    ) {
        lhs.check([self.rows, inner]);
        rhs.check([inner, self.columns]);
        let parallelism = match threads {
            Threads::One => Parallelism::None,
            Threads::All => Parallelism::Rayon(0),
        };
        // SAFETY: both matrices were checked to lie within their slices, the tile when it was made; the tile
        // is borrowed mutably, so it overlaps neither.
        unsafe {
            gemm(
                self.rows,
                self.columns,
                inner,
                self.pointer,
                1,
                self.stride as isize,
                add,
                lhs.values.as_ptr().add(lhs.start),
                lhs.column_stride as isize,
                lhs.row_stride as isize,
                rhs.values.as_ptr().add(rhs.start),
                rhs.column_stride as isize,
                rhs.row_stride as isize,
                1.0,
                scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

/// Who computes a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling thread.
    One,
    /// The calling thread's pool.
    All,
}

impl Matrix<'_> {
    /// The first values of a row whose values lie side by side.
    #[inline(always)]
    pub(super) fn row(&self, row: usize, columns: usize) -> &[f32] {
        &self.values[self.start + row * self.row_stride..][..columns]
    }

    fn check(&self, [rows, columns]: [usize; 2]) {
        let far = |side: usize, stride: usize| side.saturating_sub(1).saturating_mul(stride);
        let last =
            far(rows, self.row_stride).saturating_add(far(columns, self.column_stride)).saturating_add(self.start);
        assert!(last < self.values.len(), "matrix within its slice");
    }
}
