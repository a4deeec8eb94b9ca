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
        // Pass after pass over a row that stays in the first-level cache: few enough slices in each loop for the
        // compiler to prove them apart, which one loop over all of them is not.
        let [i, f, g, o] = gates_mut(z, hidden);
        for (gate, bias) in [(&mut *i, bias[0]), (&mut *f, bias[1]), (&mut *o, bias[3])] {
            for (gate, &bias) in gate.iter_mut().zip(bias) {
                *gate = sigmoid::<FMA>(*gate + bias);
            }
        }
        for (gate, &bias) in g.iter_mut().zip(bias[2]) {
            *gate = tanh::<FMA>(*gate + bias);
        }
        for ((c, &c_before), ((&i, &f), &g)) in c.iter_mut().zip(c_before).zip(i.iter().zip(&*f).zip(&*g)) {
            *c = mul_add::<FMA>(f, c_before, i * g);
        }
        for (tanh_c, &c) in tanh_c.iter_mut().zip(&*c) {
            *tanh_c = tanh::<FMA>(c);
        }
        for ((h, &o), &tanh_c) in h.iter_mut().zip(&*o).zip(&*tanh_c) {
            *h = o * tanh_c;
        }
    }
}

/// A step's backward pass; every slice is [B, H] but `z` [B, 4H].
pub(crate) struct Backward<'a> {
    /// In: the activated gates. Out: the gradient of the sums that went into them.
    pub(crate) z: &'a mut [f32],
    pub(crate) c_before: &'a [f32],
    pub(crate) tanh_c: &'a [f32],
    /// The gradient of h by way of the layer's output.
    pub(crate) dy: &'a [f32],
    /// That by way of the next step.
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
    let dh = step.dy.chunks_exact(hidden).zip(step.dh.chunks_exact(hidden));
    let rows = step
        .z
        .chunks_exact_mut(4 * hidden)
        .zip(step.c_before.chunks_exact(hidden))
        .zip(step.tanh_c.chunks_exact(hidden).zip(dh.zip(step.dc.chunks_exact_mut(hidden))));
    for ((z, c_before), (tanh_c, ((dy, dh), dc))) in rows {
        // In passes, as forward; each uses a gate's value before the pass that turns it into its gradient.
        let [i, f, g, o] = gates_mut(z, hidden);
        let grown = dy.iter().zip(dh).map(|(&dy, &dh)| dy + dh);
        for ((dc, o), (dh, &tanh_c)) in dc.iter_mut().zip(o.iter_mut()).zip(grown.zip(tanh_c)) {
            *dc = mul_add::<FMA>(dh * *o, 1.0 - tanh_c * tanh_c, *dc);
            *o = dh * tanh_c * *o * (1.0 - *o);
        }
        for ((i, g), &dc) in i.iter_mut().zip(g.iter_mut()).zip(&*dc) {
            (*i, *g) = (dc * *g * *i * (1.0 - *i), dc * *i * (1.0 - *g * *g));
        }
        for ((&c_before, f), dc) in c_before.iter().zip(f.iter_mut()).zip(dc.iter_mut()) {
            let carried = *dc * *f;
            *f = carried * c_before * (1.0 - *f);
            *dc = carried;
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
    use crate::kernels::level::at_each_level;

    #[test]
    fn every_level_equals_the_portable_code_within_rounding() {
        at_each_level(|_| {
            const H: usize = 21;
            const B: usize = 3;
            let number =
                |place: usize| f32::from(u16::try_from(place * 37 % 101).expect("small")) / 25.0 - 2.0;
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
                let mut step = Backward {
                    z: &mut z,
                    c_before: &c_before,
                    tanh_c: &tanh_c,
                    dy: &dh,
                    dh: &dh,
                    dc: &mut dc,
                };
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
        });
    }
}
