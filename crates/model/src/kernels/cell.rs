//! The LSTM cell of one time step over all rows, forward and backward.
//!
//! Gate order is PyTorch's: input, forget, cell candidate, output; a row of `z` is [4H] in that order.

use super::activation::{sigmoid, tanh};
use super::{mul_add, vectorised};

/// What a step of a layer keeps for its backward pass; every slice is [B, H] but `z` [B, 4H].
pub(crate) struct Forward<'a> {
    /// In: the products of input and recurrent weights. Out: the activated gates.
    pub(crate) z: &'a mut [f32],
    /// [4H]
    pub(crate) bias: &'a [f32],
    pub(crate) c_before: &'a [f32],
    pub(crate) c: &'a mut [f32],
    pub(crate) tanh_c: &'a mut [f32],
    pub(crate) h: &'a mut [f32],
}

vectorised! {
    /// c = f c' + i g and h = o tanh(c), with gates activated in place.
    fn forward(step: &mut Forward<'_>, hidden: usize) = forward_body
}

#[inline(always)]
fn forward_body<const FMA: bool>(step: &mut Forward<'_>, hidden: usize) {
    let bias = gates(step.bias, hidden);
    let rows = step.z.chunks_exact_mut(4 * hidden).zip(step.c_before.chunks_exact(hidden)).zip(
        step.c
            .chunks_exact_mut(hidden)
            .zip(step.tanh_c.chunks_exact_mut(hidden).zip(step.h.chunks_exact_mut(hidden))),
    );
    for ((z, c_before), (c, (tanh_c, h))) in rows {
        let [zi, zf, zg, zo] = gates_mut(z, hidden);
        let n = hidden;
        let (zi, zf, zg, zo) = (&mut zi[..n], &mut zf[..n], &mut zg[..n], &mut zo[..n]);
        let (c_before, c, tanh_c, h) = (&c_before[..n], &mut c[..n], &mut tanh_c[..n], &mut h[..n]);
        let (bi, bf, bg, bo) = (&bias[0][..n], &bias[1][..n], &bias[2][..n], &bias[3][..n]);
        for u in 0..n {
            let i = sigmoid::<FMA>(zi[u] + bi[u]);
            let f = sigmoid::<FMA>(zf[u] + bf[u]);
            let g = tanh::<FMA>(zg[u] + bg[u]);
            let o = sigmoid::<FMA>(zo[u] + bo[u]);
            let cell = mul_add::<FMA>(f, c_before[u], i * g);
            let squashed = tanh::<FMA>(cell);
            (zi[u], zf[u], zg[u], zo[u]) = (i, f, g, o);
            (c[u], tanh_c[u], h[u]) = (cell, squashed, o * squashed);
        }
    }
}

/// A step's backward pass; every slice is [B, H] but `z` [B, 4H].
pub(crate) struct Backward<'a> {
    /// In: the activated gates. Out: the gradient of the sums that went into them.
    pub(crate) z: &'a mut [f32],
    pub(crate) c_before: &'a [f32],
    pub(crate) tanh_c: &'a [f32],
    /// The gradient of h.
    pub(crate) dh: &'a [f32],
    /// In: the gradient of c from the step after. Out: that of the c before.
    pub(crate) dc: &'a mut [f32],
}

vectorised! {
    /// The gradient of the gates' sums and of the cell state before.
    fn backward(step: &mut Backward<'_>, hidden: usize) = backward_body
}

#[inline(always)]
fn backward_body<const FMA: bool>(step: &mut Backward<'_>, hidden: usize) {
    let rows = step.z.chunks_exact_mut(4 * hidden).zip(step.c_before.chunks_exact(hidden)).zip(
        step.tanh_c
            .chunks_exact(hidden)
            .zip(step.dh.chunks_exact(hidden).zip(step.dc.chunks_exact_mut(hidden))),
    );
    for ((z, c_before), (tanh_c, (dh, dc))) in rows {
        let [zi, zf, zg, zo] = gates_mut(z, hidden);
        let n = hidden;
        let (zi, zf, zg, zo) = (&mut zi[..n], &mut zf[..n], &mut zg[..n], &mut zo[..n]);
        let (c_before, tanh_c, dh, dc) = (&c_before[..n], &tanh_c[..n], &dh[..n], &mut dc[..n]);
        for u in 0..n {
            let (i, f, g, o) = (zi[u], zf[u], zg[u], zo[u]);
            let squashed = tanh_c[u];
            let do_ = dh[u] * squashed;
            let dcell = mul_add::<FMA>(dh[u] * o, 1.0 - squashed * squashed, dc[u]);
            zi[u] = dcell * g * i * (1.0 - i);
            zf[u] = dcell * c_before[u] * f * (1.0 - f);
            zg[u] = dcell * i * (1.0 - g * g);
            zo[u] = do_ * o * (1.0 - o);
            dc[u] = dcell * f;
        }
    }
}

#[inline(always)]
fn gates(row: &[f32], hidden: usize) -> [&[f32]; 4] {
    let (first, second) = row.split_at(2 * hidden);
    let (i, f) = first.split_at(hidden);
    let (g, o) = second.split_at(hidden);
    [i, f, g, o]
}

#[inline(always)]
fn gates_mut(row: &mut [f32], hidden: usize) -> [&mut [f32]; 4] {
    let (first, second) = row.split_at_mut(2 * hidden);
    let (i, f) = first.split_at_mut(hidden);
    let (g, o) = second.split_at_mut(hidden);
    [i, f, g, o]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_code_equals_the_portable_code_within_rounding() {
        const H: usize = 21;
        const B: usize = 3;
        let number = |place: usize| f32::from(u16::try_from(place * 37 % 101).expect("small")) / 25.0 - 2.0;
        let make = |count: usize| (0..count).map(number).collect::<Vec<f32>>();
        let run = |fast: bool| {
            let (mut z, bias, c_before) = (make(4 * H * B), make(4 * H), make(H * B));
            let (mut c, mut tanh_c, mut h) = (vec![0.0; H * B], vec![0.0; H * B], vec![0.0; H * B]);
            let mut step = Forward {
                z: &mut z,
                bias: &bias,
                c_before: &c_before,
                c: &mut c,
                tanh_c: &mut tanh_c,
                h: &mut h,
            };
            if fast {
                forward(&mut step, H)
            } else {
                forward_body::<false>(&mut step, H)
            }
            let mut dc = make(H * B);
            let dh = make(H * B);
            let mut step = Backward { z: &mut z, c_before: &c_before, tanh_c: &tanh_c, dh: &dh, dc: &mut dc };
            if fast {
                backward(&mut step, H)
            } else {
                backward_body::<false>(&mut step, H)
            }
            [z, c, h, dc].concat()
        };
        for (fast, portable) in run(true).into_iter().zip(run(false)) {
            assert!((fast - portable).abs() <= 2e-6 * portable.abs().max(1.0), "{fast} {portable}");
        }
    }
}
