//! The model as one reads it, in double precision with candle's automatic gradients.
//!
//! This is what the hand-written update is compared with: plain, slow, and right. One training window gives a loss
//! and its gradient with respect to every parameter.
//!
//! Embedding -> [LSTM -> batch normalisation over all T x B positions -> dropout] x L -> linear -> cross-entropy.

use candle_core::{D, DType, Device, Result, Tensor, Var};

use crate::config::{Architecture, TrainConfig};
use crate::philox::{Purpose, Stream};
use crate::weights::Weights;

/// A window of T steps of B rows, time-major, with the state before it.
#[derive(Debug, Clone, Copy)]
pub struct ReferenceWindow<'a> {
    /// [T * B]
    pub inputs: &'a [u16],
    /// [T * B]
    pub targets: &'a [u16],
    /// [B, H] a layer.
    pub h: &'a [Vec<f32>],
    /// [B, H] a layer.
    pub c: &'a [Vec<f32>],
    /// The update's number, which keys the dropout masks.
    pub update: u64,
}

/// What a window gives.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceUpdate {
    /// Nats per token.
    pub loss: f64,
    /// In the layout of [`Weights::flat`].
    pub gradient: Vec<f64>,
    /// [B, H] a layer, after the window.
    pub h: Vec<Vec<f64>>,
    /// [B, H] a layer, after the window.
    pub c: Vec<Vec<f64>>,
}

/// Loss, gradient and next state of one training window.
///
/// # Errors
/// Those of candle, for shapes that do not fit together.
pub fn update(
    weights: &Weights,
    config: &TrainConfig,
    window: &ReferenceWindow<'_>,
) -> Result<ReferenceUpdate> {
    let device = Device::Cpu;
    let mut parameters = Vec::new();
    for view in &weights.layout.views {
        let values: Vec<f64> = weights.flat[view.range.clone()].iter().map(|&x| f64::from(x)).collect();
        parameters.push(Var::from_vec(values, view.shape.as_slice(), &device)?);
    }
    let named = |name: &str| {
        let place = weights.layout.views.iter().position(|view| view.name == name);
        place.map(|place| parameters[place].as_tensor().clone()).ok_or_else(|| missing(name))
    };
    let (loss, states) = forward(&named, &weights.architecture, config, window)?;
    let gradients = loss.backward()?;
    let mut gradient = vec![0.0; weights.flat.len()];
    for (view, parameter) in weights.layout.views.iter().zip(&parameters) {
        if let Some(found) = gradients.get(parameter) {
            gradient[view.range.clone()].copy_from_slice(&found.flatten_all()?.to_vec1::<f64>()?);
        }
    }
    let flat = |state: &Tensor| state.flatten_all()?.to_vec1::<f64>();
    Ok(ReferenceUpdate {
        loss: loss.to_scalar()?,
        gradient,
        h: states.iter().map(|(h, _)| flat(h)).collect::<Result<_>>()?,
        c: states.iter().map(|(_, c)| flat(c)).collect::<Result<_>>()?,
    })
}

fn missing(name: &str) -> candle_core::Error {
    candle_core::Error::Msg(format!("no parameter {name}"))
}

type States = Vec<(Tensor, Tensor)>;

fn forward(
    named: &dyn Fn(&str) -> Result<Tensor>,
    architecture: &Architecture,
    config: &TrainConfig,
    window: &ReferenceWindow<'_>,
) -> Result<(Tensor, States)> {
    let device = Device::Cpu;
    let (steps, rows, hidden) = (config.seq_len, config.batch_size, architecture.hidden);
    let ids = |tokens: &[u16]| {
        Tensor::from_vec(
            tokens.iter().map(|&token| u32::from(token)).collect::<Vec<_>>(),
            steps * rows,
            &device,
        )
    };
    // [T * B, E]
    let mut x = named("embedding.weight")?.index_select(&ids(window.inputs)?, 0)?;
    let mut states = Vec::new();
    for layer in 0..architecture.layers {
        let state =
            |values: &[f32]| Tensor::from_slice(values, (rows, hidden), &device)?.to_dtype(DType::F64);
        let (mut h, mut c) = (state(&window.h[layer])?, state(&window.c[layer])?);
        let weight_ih = named(&format!("lstm.{layer}.weight_ih_l0"))?;
        let weight_hh = named(&format!("lstm.{layer}.weight_hh_l0"))?;
        let bias = named(&format!("lstm.{layer}.bias_ih_l0"))?;
        let mut outputs = Vec::new();
        for step in 0..steps {
            let now = x.narrow(0, step * rows, rows)?;
            // [B, 4H]
            let z = (now.matmul(&weight_ih.t()?)? + h.matmul(&weight_hh.t()?)?)?.broadcast_add(&bias)?;
            let gate = |place: usize| z.narrow(1, place * hidden, hidden)?.contiguous();
            let (i, f) = (sigmoid(&gate(0)?)?, sigmoid(&gate(1)?)?);
            let (g, o) = (gate(2)?.tanh()?, sigmoid(&gate(3)?)?);
            c = ((f * c)? + (i * g)?)?;
            h = (o * c.tanh()?)?;
            outputs.push(h.clone());
        }
        states.push((h, c));
        // [T * B, H]
        x = Tensor::cat(&outputs, 0)?;
        if architecture.batch_norm {
            let weight = named(&format!("norm.{layer}.weight"))?;
            x = normalise(&x)?
                .broadcast_mul(&weight)?
                .broadcast_add(&named(&format!("norm.{layer}.bias"))?)?;
        }
        if config.dropout > 0.0 {
            x = (x * Tensor::from_vec(mask(config, window.update, layer), (steps * rows, hidden), &device)?)?;
        }
    }
    let logits = x.matmul(&named("linear.weight")?.t()?)?.broadcast_add(&named("linear.bias")?)?;
    let chosen =
        candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&ids(window.targets)?.unsqueeze(1)?, 1)?;
    Ok((chosen.mean_all()?.neg()?, states))
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// Columns of mean 0 and variance 1, up to epsilon.
fn normalise(x: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(0)?)?;
    let variance = centred.sqr()?.mean_keepdim(0)?;
    centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)
}

/// 1 / (1 - p) for units that are kept and 0 for those that are dropped, [T * B * H].
fn mask(config: &TrainConfig, update: u64, layer: usize) -> Vec<f64> {
    let stream = Stream::new(config.seed, config.replicate, Purpose::Dropout, update, layer);
    let count = config.seq_len * config.batch_size * config.hidden;
    let words = (0..).flat_map(|index| stream.block(index)).take(count);
    words
        .map(|word| {
            if f64::from(word) < config.dropout * 4_294_967_296.0 - 0.5 {
                0.0
            } else {
                1.0 / (1.0 - config.dropout)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
