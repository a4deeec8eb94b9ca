//! Matrix products over packed operands, made for the shapes of an LSTM's update.
//!
//! The right operand is packed into panels of a few registers' width ([`Panels`]: weights once an update, activations
//! once a chunk of time steps); the left one is read in place by rows, or packed into tiles where its rows are the
//! inner dimension ([`Tiles`]). A tile of the target then stays in registers while the inner dimension runs.
//!
//! Every element of a target is the sum over blocks of [`BLOCK`] inner elements, each block summed from first to last
//! by fused multiply-adds. That order depends on the inner dimension alone: not on the instruction set, the tile's
//! shape, the rows beside it, or the number of threads.

use super::aligned::Aligned;
use super::cut::Cut;
use super::level::Level;
#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{Portable, Vector};

/// Inner elements summed in registers before they go into the target: a panel and a tile of this length stay in a
/// first-level cache of 32 KiB.
pub(crate) const BLOCK: usize = 256;

/// Rows of the largest register tile of any instruction set.
const ROWS_MAX: usize = 14;
/// Columns of the widest one.
const WIDTH_MAX: usize = 32;

/// Rows of an instruction set's register tile.
const fn rows_max(level: Level) -> usize {
    match level {
        Level::Portable => 4,
        Level::Avx2 => 6,
        Level::Avx512 => ROWS_MAX,
    }
}

/// Columns of a panel.
const fn width(level: Level) -> usize {
    match level {
        Level::Portable => 8,
        Level::Avx2 => 16,
        Level::Avx512 => WIDTH_MAX,
    }
}

/// A right operand `[inner, cols]`, in panels of a register tile's width; the last one is filled up with zeros.
#[derive(Debug, Clone)]
pub(crate) struct Panels {
    /// [ceil(cols / width), inner, width]
    data: Aligned,
    inner: usize,
    cols: usize,
    level: Level,
}

impl Panels {
    /// Room for `inner * cols` numbers; they are zeros.
    pub(crate) fn new(inner: usize, cols: usize) -> Self {
        let level = Level::chosen();
        let width = width(level);
        Self { data: Aligned::zeros(cols.div_ceil(width) * width * inner), inner, cols, level }
    }

    /// The transpose of a row-major `weight [cols, inner]`, which is how PyTorch keeps its weights.
    pub(crate) fn transposed(weight: &[f32], cols: usize, inner: usize) -> Self {
        let mut panels = Self::new(inner, cols);
        panels.pack_transposed(weight);
        panels
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes()
    }

    /// Sets the inner dimension of what is packed next, at most what there is room for.
    pub(crate) fn set_inner(&mut self, inner: usize) {
        let width = width(self.level);
        assert!(
            self.cols.div_ceil(width) * width * inner <= self.data.len(),
            "more rows than there is room for"
        );
        self.inner = inner;
    }

    /// From row-major rows `[count, cols]`, as the inner elements from `first` on.
    pub(crate) fn pack_rows(&mut self, first: usize, rows: &[f32]) {
        match self.level {
            Level::Portable => self.pack_rows_by::<8>(first, rows),
            Level::Avx2 => self.pack_rows_by::<16>(first, rows),
            Level::Avx512 => self.pack_rows_by::<WIDTH_MAX>(first, rows),
        }
    }

    fn pack_rows_by<const WIDTH: usize>(&mut self, first: usize, rows: &[f32]) {
        let cols = self.cols;
        let count = rows.len() / cols;
        assert!(
            rows.len() == count * cols && first + count <= self.inner,
            "whole rows that there is room for"
        );
        for (panel, start) in self.data.chunks_exact_mut(self.inner * WIDTH).zip((0..cols).step_by(WIDTH)) {
            let panel = panel[first * WIDTH..].chunks_exact_mut(WIDTH);
            for (to, row) in panel.zip(rows.chunks_exact(cols)) {
                let from = &row[start..];
                copy_few::<WIDTH>(to, &from[..from.len().min(WIDTH)]);
                to[from.len().min(WIDTH)..].fill(0.0);
            }
        }
    }

    /// From a row-major `weight [cols, inner]`.
    pub(crate) fn pack_transposed(&mut self, weight: &[f32]) {
        let (width, inner) = (width(self.level), self.inner);
        assert_eq!(weight.len(), self.cols * inner, "a {} x {inner} matrix", self.cols);
        for (panel, rows) in self.data.chunks_exact_mut(inner * width).zip(weight.chunks(width * inner)) {
            for (col, row) in rows.chunks_exact(inner).enumerate() {
                for (to, &value) in panel[col..].iter_mut().step_by(width).zip(row) {
                    *to = value;
                }
            }
        }
    }
}

/// A left operand `[rows, inner]` whose source has it by columns, packed so that a register tile reads it in order.
#[derive(Debug, Clone)]
pub(crate) struct Tiles {
    /// [tiles, inner, rows of the tile]
    data: Aligned,
    inner: usize,
    rows: usize,
    level: Level,
}

impl Tiles {
    /// Room for `inner * rows` numbers.
    pub(crate) fn new(inner: usize, rows: usize) -> Self {
        Self { data: Aligned::zeros(inner * rows), inner, rows, level: Level::chosen() }
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes()
    }

    /// Sets the inner dimension of what is packed next, at most what there is room for.
    pub(crate) fn set_inner(&mut self, inner: usize) {
        assert!(inner * self.rows <= self.data.len(), "more columns than there is room for");
        self.inner = inner;
    }

    /// From row-major `source [count, stride]`, of which the columns from `col` on become this operand's rows; each of
    /// the `count` rows is one inner element, the first of them `first`.
    pub(crate) fn pack_columns(&mut self, first: usize, source: &[f32], stride: usize, col: usize) {
        assert!(
            col + self.rows <= stride && first + source.len() / stride <= self.inner,
            "a part of the source"
        );
        match self.level {
            Level::Portable => self.pack_by::<4>(first, source, stride, col),
            Level::Avx2 => self.pack_by::<6>(first, source, stride, col),
            Level::Avx512 => self.pack_by::<ROWS_MAX>(first, source, stride, col),
        }
    }

    fn pack_by<const ROWS: usize>(&mut self, first: usize, source: &[f32], stride: usize, col: usize) {
        let cut = Cut::at_most(self.rows, ROWS);
        let split = cut.longer * (cut.short + 1);
        let (long, short) = self.data[..self.rows * self.inner].split_at_mut(split * self.inner);
        for (at, row) in source.chunks_exact(stride).enumerate() {
            let (for_long, for_short) = row[col..col + self.rows].split_at(split);
            for (tiles, row, len) in
                [(&mut *long, for_long, cut.short + 1), (&mut *short, for_short, cut.short)]
            {
                if len == 0 {
                    continue;
                }
                let tiles = tiles.chunks_exact_mut(len * self.inner);
                for (tile, row) in tiles.zip(row.chunks_exact(len)) {
                    copy_few::<ROWS>(&mut tile[(first + at) * len..][..len], row);
                }
            }
        }
    }
}

/// Copies at most `MAX` numbers without a call.
#[inline(always)]
fn copy_few<const MAX: usize>(to: &mut [f32], from: &[f32]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<MAX>(), from.first_chunk::<MAX>()) {
        *to = *from;
    } else {
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
    }
}

/// Whether a product replaces its target or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Set,
    Add,
}

/// `target [rows, cols] = left [rows, inner] * right`, both row-major.
pub(crate) fn product(target: &mut [f32], into: Into, left: &[f32], right: &Panels) {
    product_before(target, into, left, right, &[]);
}

/// As [`product`], and fetches what is read soon after it from memory while it computes.
pub(crate) fn product_before(target: &mut [f32], into: Into, left: &[f32], right: &Panels, soon: &[&[f32]]) {
    let (inner, cols) = (right.inner, right.cols);
    let rows = target.len() / cols;
    assert!(target.len() == rows * cols && left.len() == rows * inner, "{rows} x {inner} x {cols}");
    let job = Job { left: left.as_ptr(), rows, inner, packed: false, target: target.as_mut_ptr() };
    // SAFETY: the lengths were compared above, and `target` is borrowed mutably, so that it overlaps no operand.
    unsafe { run(&job, into, right, soon) }
}

/// `target [rows, cols] = left * right`, row-major.
pub(crate) fn product_tiles(target: &mut [f32], into: Into, left: &Tiles, right: &Panels) {
    let (inner, cols, rows) = (right.inner, right.cols, left.rows);
    assert!(target.len() == rows * cols && left.inner == inner, "{rows} x {inner} x {cols}");
    assert_eq!(left.level, right.level, "both operands are packed for one instruction set");
    let job = Job { left: left.data.as_ptr(), rows, inner, packed: true, target: target.as_mut_ptr() };
    // SAFETY: as in `product`; a `Tiles` has room for `rows * inner` numbers, packed as its level's tiles want them.
    unsafe { run(&job, into, right, &[]) }
}

/// A product's left side and target.
struct Job {
    left: *const f32,
    rows: usize,
    inner: usize,
    /// By [`Tiles`], or else row-major.
    packed: bool,
    target: *mut f32,
}

/// Computes one register tile.
///
/// # Safety
/// The tile's pointers are valid for its rows, columns and inner elements.
type Kernel = unsafe fn(&Tile);

/// The kernels of a level by rows (from 1) for a left operand in place, and for a packed one.
type Kernels = [[Kernel; ROWS_MAX]; 2];

/// Makes a level's kernels: each is a function of its own, since the compiler keeps a tile in registers only where it
/// sees nothing else.
macro_rules! kernels {
    ($name:ident, $vector:ty, $registers:literal $(, $feature:literal)?; $($rows:literal)*) => {
        static $name: Kernels = {
            $(#[target_feature(enable = $feature)])?
            #[inline(never)]
            unsafe fn kernel<const ROWS: usize, const PACKED: bool>(tile: &Tile) {
                // SAFETY: the caller's contract, and the features that this function is compiled for.
                unsafe { tile.run::<$vector, ROWS, $registers, PACKED>() }
            }
            [[$(kernel::<$rows, false>),*], [$(kernel::<$rows, true>),*]]
        };
    };
}
kernels!(PORTABLE, Portable<{ super::FUSED_BY_DEFAULT }>, 1; 1 2 3 4 4 4 4 4 4 4 4 4 4 4);
#[cfg(target_arch = "x86_64")]
kernels!(AVX2, Avx2, 2, "avx2,fma"; 1 2 3 4 5 6 6 6 6 6 6 6 6 6);
#[cfg(target_arch = "x86_64")]
kernels!(AVX512, Avx512, 2, "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);

fn kernels(level: Level) -> &'static Kernels {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => &AVX2,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => &AVX512,
        _ => &PORTABLE,
    }
}

/// Numbers of a cache line.
const LINE: usize = 16;
/// Rows of a left operand that stay in the second-level cache while all panels pass by.
const ROWS_PER_PASS: usize = 256;

/// # Safety
/// The job's pointers are valid for `rows * inner` and `rows * cols` numbers, and the target overlaps no operand.
unsafe fn run(job: &Job, into: Into, right: &Panels, soon: &[&[f32]]) {
    let (inner, cols, width) = (job.inner, right.cols, width(right.level));
    let rows_max = rows_max(right.level);
    let kernels = &kernels(right.level)[usize::from(job.packed)];
    let cut = Cut::at_most(job.rows, rows_max);
    let inner_cut = Cut::at_most(inner, BLOCK);
    let per_pass = (ROWS_PER_PASS / rows_max).max(1);
    let mut soon = soon.iter().flat_map(|part| part.chunks(LINE * inner_cut.short.max(1)));
    for first in (0..cut.parts).step_by(per_pass) {
        for block in 0..inner_cut.parts {
            let range = inner_cut.range(block);
            for (panel, col) in (0..cols).step_by(width).enumerate() {
                for part in first..cut.parts.min(first + per_pass) {
                    let rows = cut.range(part);
                    let step = if job.packed { rows.len() } else { 1 };
                    // While it computes, each tile asks for a line an inner element: the first ones for the next
                    // panel, the others for what is read after the product.
                    let asked = (part - first) * LINE;
                    let (ahead, ahead_step) = if asked < width {
                        let next = ((panel + 1) * inner + range.start) * width;
                        (right.data.as_ptr().wrapping_add(next + asked * range.len()), LINE)
                    } else {
                        soon.next().map_or((right.data.as_ptr(), 0), |part| (part.as_ptr(), LINE))
                    };
                    // SAFETY: a panel has `inner * width` numbers; rows and columns stay within the job's sizes, which
                    // the caller warrants. `Level::chosen` gives only levels that the processor has.
                    unsafe {
                        let tile = Tile {
                            left: job.left.add(rows.start * inner + range.start * step),
                            left_stride: inner,
                            right: right.data.as_ptr().add((panel * inner + range.start) * width),
                            ahead,
                            ahead_step,
                            inner: range.len(),
                            target: job.target.add(rows.start * cols + col),
                            target_stride: cols,
                            cols: width.min(cols - col),
                            add: into == Into::Add || block > 0,
                        };
                        kernels[rows.len() - 1](&tile);
                    }
                }
            }
        }
    }
}

/// A register tile's operands.
struct Tile {
    left: *const f32,
    /// Between the rows of a left side in place.
    left_stride: usize,
    right: *const f32,
    /// Lines to be prefetched, one an inner element, so far apart; never read.
    ahead: *const f32,
    ahead_step: usize,
    inner: usize,
    target: *mut f32,
    target_stride: usize,
    /// Of the target: at most the panel's width.
    cols: usize,
    add: bool,
}

impl Tile {
    /// # Safety
    /// The pointers are valid for `ROWS` rows, `inner` and `cols`; the processor has `V`'s instruction set.
    #[inline(always)]
    unsafe fn run<V: Vector, const ROWS: usize, const REGISTERS: usize, const PACKED: bool>(&self) {
        // SAFETY: all offsets stay within `ROWS` rows, `inner` elements and a panel's width, which the caller
        // warrants; what is narrower than a panel goes through a buffer of full width.
        unsafe {
            let mut sums = [[V::splat(0.0); REGISTERS]; ROWS];
            let mut right = self.right;
            let mut left = self.left;
            let mut ahead = self.ahead;
            for row in 0..ROWS {
                for at in (0..REGISTERS * V::LANES).step_by(LINE) {
                    V::prefetch(self.target.wrapping_add(row * self.target_stride + at));
                }
            }
            for _ in 0..self.inner {
                V::prefetch(ahead);
                ahead = ahead.wrapping_add(self.ahead_step);
                let across: [V; REGISTERS] = std::array::from_fn(|at| V::load(right.add(at * V::LANES)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let offset = if PACKED { row } else { row * self.left_stride };
                    let down = V::splat(*left.add(offset));
                    for (sum, &across) in sums.iter_mut().zip(&across) {
                        *sum = down.mul_add(across, *sum);
                    }
                }
                right = right.add(REGISTERS * V::LANES);
                left = left.add(if PACKED { ROWS } else { 1 });
            }
            if self.cols == REGISTERS * V::LANES {
                for (row, sums) in sums.iter().enumerate() {
                    self.write::<V, REGISTERS>(sums, self.target.add(row * self.target_stride));
                }
            } else {
                for (row, sums) in sums.iter().enumerate() {
                    let target = self.target.add(row * self.target_stride);
                    let mut buffer = [0.0_f32; WIDTH_MAX];
                    std::ptr::copy_nonoverlapping(target, buffer.as_mut_ptr(), self.cols);
                    self.write::<V, REGISTERS>(sums, buffer.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(buffer.as_ptr(), target, self.cols);
                }
            }
        }
    }

    /// # Safety
    /// `to` is valid for a panel's width.
    #[inline(always)]
    unsafe fn write<V: Vector, const REGISTERS: usize>(&self, sums: &[V; REGISTERS], to: *mut f32) {
        for (at, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller's contract.
            unsafe {
                let to = to.add(at * V::LANES);
                let sum = if self.add { V::load(to).add(sum) } else { sum };
                sum.store(to);
            }
        }
    }
}

#[cfg(test)]
mod tests;
