//! The parameters of a model as one flat vector with named views, and their file form.
//!
//! Names, shapes and gate order (input, forget, cell, output) are those of a plain PyTorch module with
//! `embedding = nn.Embedding(V, E)`, `lstm = nn.ModuleList` of L one-layer `nn.LSTM`, `norm = nn.ModuleList` of
//! `nn.BatchNorm1d(H)` (with batch normalisation), and `linear = nn.Linear(H, V)`. PyTorch has two biases a gate and
//! we have one: in a file ours is `bias_ih_l0` beside a `bias_hh_l0` of zeros; in reading the two are added.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::checkpoint::CheckpointError;
use crate::config::{Architecture, TrainConfig};
use crate::philox::{Purpose, Stream, normals, unit};

/// A named tensor's place in the flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// As in the file; the LSTM's single bias under the name of its `bias_ih_l0`.
    pub name: String,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

/// Places in the flat vector of one layer's tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerViews {
    /// [4H, D], D being E for the first layer and H for the others.
    pub weight_ih: Range<usize>,
    /// [4H, H]
    pub weight_hh: Range<usize>,
    /// [4H]
    pub bias: Range<usize>,
    /// [H]; empty without batch normalisation.
    pub norm_weight: Range<usize>,
    /// [H]; empty without batch normalisation.
    pub norm_bias: Range<usize>,
}

/// Where every tensor of an architecture lies in its flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub views: Vec<View>,
    /// [V, E]
    pub embedding: Range<usize>,
    pub layers: Vec<LayerViews>,
    /// [V, H]
    pub linear_weight: Range<usize>,
    /// [V]
    pub linear_bias: Range<usize>,
    /// Length of the flat vector.
    pub len: usize,
}

impl Layout {
    /// The layout that an architecture has in every build of this program.
    #[must_use]
    pub fn new(architecture: &Architecture) -> Self {
        let Architecture { vocabulary, layers, hidden, embedding, batch_norm } = *architecture;
        let mut views: Vec<View> = Vec::new();
        let mut len = 0;
        let mut add = |name: String, shape: &[usize]| {
            let range = len..len + shape.iter().product::<usize>();
            len = range.end;
            views.push(View { name, shape: shape.to_vec(), range: range.clone() });
            range
        };
        let embedding_range = add("embedding.weight".into(), &[vocabulary, embedding]);
        let mut layer_views = Vec::new();
        for layer in 0..layers {
            let input = if layer == 0 { embedding } else { hidden };
            let weight_ih = add(format!("lstm.{layer}.weight_ih_l0"), &[4 * hidden, input]);
            let weight_hh = add(format!("lstm.{layer}.weight_hh_l0"), &[4 * hidden, hidden]);
            let bias = add(format!("lstm.{layer}.bias_ih_l0"), &[4 * hidden]);
            let (norm_weight, norm_bias) = if batch_norm {
                (add(format!("norm.{layer}.weight"), &[hidden]), add(format!("norm.{layer}.bias"), &[hidden]))
            } else {
                (bias.end..bias.end, bias.end..bias.end)
            };
            layer_views.push(LayerViews { weight_ih, weight_hh, bias, norm_weight, norm_bias });
        }
        let linear_weight = add("linear.weight".into(), &[vocabulary, hidden]);
        let linear_bias = add("linear.bias".into(), &[vocabulary]);
        Self { views, embedding: embedding_range, layers: layer_views, linear_weight, linear_bias, len }
    }
}

/// Running statistics of one batch normalisation.
#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    /// [H]
    pub mean: Vec<f32>,
    /// [H], unbiased.
    pub var: Vec<f32>,
}

/// A model's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    pub architecture: Architecture,
    pub layout: Layout,
    /// All trained parameters, placed by `layout`.
    pub flat: Vec<f32>,
    /// One a layer; empty without batch normalisation.
    pub running: Vec<Running>,
    /// Training updates that the running statistics have seen.
    pub batches_tracked: u64,
}

impl Weights {
    /// All zeros, with running variance one.
    #[must_use]
    pub fn zeros(architecture: &Architecture) -> Self {
        let layout = Layout::new(architecture);
        let hidden = architecture.hidden;
        let running = Running { mean: vec![0.0; hidden], var: vec![1.0; hidden] };
        let norms = if architecture.batch_norm { architecture.layers } else { 0 };
        Self {
            architecture: *architecture,
            flat: vec![0.0; layout.len],
            layout,
            running: vec![running; norms],
            batches_tracked: 0,
        }
    }

    /// First values as BachBot's: LSTM weights normal with deviation 1/sqrt(D + H), forget bias 1 and the others 0,
    /// embedding standard normal, batch normalisation's weight uniform in (0, 1), the linear layer uniform within
    /// 1/sqrt(H).
    #[must_use]
    pub fn initial(config: &TrainConfig, vocabulary: usize) -> Self {
        let mut weights = Self::zeros(&config.architecture(vocabulary));
        let hidden = config.hidden;
        for (place, view) in weights.layout.views.iter().enumerate() {
            let stream = Stream::new(config.seed, config.replicate, Purpose::Init, 0, place);
            let values = &mut weights.flat[view.range.clone()];
            let width = |extra: usize| 1.0 / count(view.shape.last().copied().unwrap_or(1) + extra).sqrt();
            match first_values(&view.name) {
                First::Embedding => fill_normal(values, &stream, 1.0),
                First::Input => fill_normal(values, &stream, width(hidden)),
                First::Recurrent(layer) => {
                    let input = if layer == 0 { config.embedding } else { hidden };
                    fill_normal(values, &stream, width(input));
                }
                First::Gates => values[hidden..2 * hidden].fill(1.0),
                First::NormWeight => fill_uniform(values, &stream, 0.0, 1.0),
                First::Zero => {}
                First::Linear => {
                    let bound = 1.0 / count(hidden).sqrt();
                    fill_uniform(values, &stream, -bound, bound);
                }
            }
        }
        weights
    }

    /// [V, E]
    #[must_use]
    pub fn embedding(&self) -> &[f32] {
        &self.flat[self.layout.embedding.clone()]
    }

    /// [4H, D]
    #[must_use]
    pub fn weight_ih(&self, layer: usize) -> &[f32] {
        &self.flat[self.layout.layers[layer].weight_ih.clone()]
    }

    /// [4H, H]
    #[must_use]
    pub fn weight_hh(&self, layer: usize) -> &[f32] {
        &self.flat[self.layout.layers[layer].weight_hh.clone()]
    }

    /// [4H]
    #[must_use]
    pub fn bias(&self, layer: usize) -> &[f32] {
        &self.flat[self.layout.layers[layer].bias.clone()]
    }

    /// [H], empty without batch normalisation.
    #[must_use]
    pub fn norm_weight(&self, layer: usize) -> &[f32] {
        &self.flat[self.layout.layers[layer].norm_weight.clone()]
    }

    /// [H], empty without batch normalisation.
    #[must_use]
    pub fn norm_bias(&self, layer: usize) -> &[f32] {
        &self.flat[self.layout.layers[layer].norm_bias.clone()]
    }

    /// A layer's batch normalisation as it is applied outside training, y = h * scale + offset, each [H].
    #[must_use]
    pub fn frozen_norm(&self, layer: usize) -> Option<(Vec<f32>, Vec<f32>)> {
        let running = self.running.get(layer)?;
        let (weight, bias) = (self.norm_weight(layer), self.norm_bias(layer));
        Some(crate::kernels::norm::frozen(weight, bias, &running.mean, &running.var))
    }

    /// [V, H]
    #[must_use]
    pub fn linear_weight(&self) -> &[f32] {
        &self.flat[self.layout.linear_weight.clone()]
    }

    /// [V]
    #[must_use]
    pub fn linear_bias(&self) -> &[f32] {
        &self.flat[self.layout.linear_bias.clone()]
    }

    /// The bytes of `model.safetensors`: the same for equal weights, always.
    #[must_use]
    pub fn to_safetensors(&self) -> Vec<u8> {
        let mut tensors = BTreeMap::new();
        for view in &self.layout.views {
            let bytes = to_bytes(&self.flat[view.range.clone()]);
            if let Some(stem) = view.name.strip_suffix("bias_ih_l0") {
                let zeros = vec![0; bytes.len()];
                tensors.insert(format!("{stem}bias_hh_l0"), (Dtype::F32, view.shape.clone(), zeros));
            }
            tensors.insert(view.name.clone(), (Dtype::F32, view.shape.clone(), bytes));
        }
        for (layer, running) in self.running.iter().enumerate() {
            let shape = vec![self.architecture.hidden];
            let mut add = |name: &str, dtype, shape, bytes| {
                tensors.insert(format!("norm.{layer}.{name}"), (dtype, shape, bytes));
            };
            add("running_mean", Dtype::F32, shape.clone(), to_bytes(&running.mean));
            add("running_var", Dtype::F32, shape, to_bytes(&running.var));
            add("num_batches_tracked", Dtype::I64, vec![], self.batches_tracked.to_le_bytes().to_vec());
        }
        serialize(&tensors)
    }

    /// Reads `model.safetensors`, checking every name, type and shape; what other files hold is not looked at.
    ///
    /// # Errors
    /// A file that is not safetensors, a tensor that is missing, of another type or shape, or one too many.
    pub fn from_safetensors(bytes: &[u8], architecture: &Architecture) -> Result<Self, CheckpointError> {
        let file = Tensors::parse(bytes)?;
        let wanted = Layout::new(architecture).len;
        if bytes.len() / size_of::<f32>() < wanted {
            let size = bytes.len();
            return Err(CheckpointError::Tensors(format!("{wanted} parameters cannot be in {size} bytes")));
        }
        let mut weights = Self::zeros(architecture);
        let mut known = 0;
        for view in &weights.layout.views {
            let target = &mut weights.flat[view.range.clone()];
            file.read_f32(&view.name, &view.shape, target)?;
            known += 1;
            if let Some(stem) = view.name.strip_suffix("bias_ih_l0") {
                let mut second = vec![0.0; target.len()];
                file.read_f32(&format!("{stem}bias_hh_l0"), &view.shape, &mut second)?;
                known += 1;
                for (target, second) in target.iter_mut().zip(second) {
                    *target += second;
                }
            }
        }
        for (layer, running) in weights.running.iter_mut().enumerate() {
            let shape = [architecture.hidden];
            file.read_f32(&format!("norm.{layer}.running_mean"), &shape, &mut running.mean)?;
            file.read_f32(&format!("norm.{layer}.running_var"), &shape, &mut running.var)?;
            let tracked = file.bytes(&format!("norm.{layer}.num_batches_tracked"), Dtype::I64, &[])?;
            weights.batches_tracked = tracked.try_into().map(u64::from_le_bytes).unwrap_or_default();
            known += 3;
        }
        if file.len() != known {
            return Err(CheckpointError::Tensors(format!("{} tensors where {known} are known", file.len())));
        }
        Ok(weights)
    }
}

enum First {
    Embedding,
    Input,
    Recurrent(usize),
    Gates,
    NormWeight,
    Zero,
    Linear,
}

fn first_values(name: &str) -> First {
    let mut parts = name.split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("embedding"), ..) => First::Embedding,
        (Some("lstm"), _, Some("weight_ih_l0")) => First::Input,
        (Some("lstm"), Some(layer), Some("weight_hh_l0")) => {
            First::Recurrent(layer.parse().unwrap_or_default())
        }
        (Some("lstm"), ..) => First::Gates,
        (Some("norm"), _, Some("weight")) => First::NormWeight,
        (Some("linear"), ..) => First::Linear,
        _ => First::Zero,
    }
}

#[expect(clippy::cast_precision_loss, reason = "shapes are far below 2^53")]
fn count(value: usize) -> f64 {
    value as f64
}

#[expect(clippy::cast_possible_truncation, reason = "drawn in f64, kept in f32")]
fn fill_normal(values: &mut [f32], stream: &Stream, deviation: f64) {
    for (values, index) in values.chunks_mut(4).zip(0..) {
        for (value, drawn) in values.iter_mut().zip(normals(stream.block(index))) {
            *value = (drawn * deviation) as f32;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "drawn in f64, kept in f32")]
fn fill_uniform(values: &mut [f32], stream: &Stream, low: f64, high: f64) {
    for (values, index) in values.chunks_mut(4).zip(0..) {
        for (value, drawn) in values.iter_mut().zip(stream.block(index)) {
            *value = (low + (high - low) * unit(drawn)) as f32;
        }
    }
}

/// Tensors by name, as they go into a file: type, shape, little-endian bytes.
pub(crate) type Owned = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A safetensors file. Its header has one entry, so that equal tensors are equal bytes.
pub(crate) fn serialize(tensors: &Owned) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view =
            TensorView::new(*dtype, shape.clone(), bytes).expect("bytes were made for this shape and type");
        (name.as_str(), view)
    });
    let header = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(header)).expect("names are distinct and the header is text")
}

pub(crate) fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A parsed safetensors file, with errors that name the tensor.
pub(crate) struct Tensors<'a>(SafeTensors<'a>);

impl<'a> Tensors<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, CheckpointError> {
        SafeTensors::deserialize(bytes).map(Self).map_err(|error| CheckpointError::Tensors(error.to_string()))
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn bytes(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<&'a [u8], CheckpointError> {
        let tensor =
            self.0.tensor(name).map_err(|_| CheckpointError::Tensors(format!("no tensor {name}")))?;
        if tensor.dtype() != dtype || tensor.shape() != shape {
            let (got, has) = (tensor.dtype(), tensor.shape());
            return Err(CheckpointError::Tensors(format!(
                "{name} is {got:?} {has:?}, not {dtype:?} {shape:?}"
            )));
        }
        Ok(tensor.data())
    }

    pub(crate) fn read_f32(
        &self,
        name: &str,
        shape: &[usize],
        target: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let bytes = self.bytes(name, Dtype::F32, shape)?;
        for (target, bytes) in target.iter_mut().zip(bytes.chunks_exact(4)) {
            *target = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn architecture() -> Architecture {
        Architecture { vocabulary: 7, layers: 2, hidden: 5, embedding: 3, batch_norm: true }
    }

    #[test]
    fn files_have_pytorchs_names_and_shapes() {
        let weights = Weights::zeros(&architecture());
        let bytes = weights.to_safetensors();
        let file = SafeTensors::deserialize(&bytes).expect("well formed");
        let mut found: Vec<(String, Vec<usize>)> =
            file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect();
        found.sort();
        let mut wanted = vec![("embedding.weight".to_owned(), vec![7, 3])];
        for (layer, input) in [(0, 3), (1, 5)] {
            wanted.push((format!("lstm.{layer}.bias_hh_l0"), vec![20]));
            wanted.push((format!("lstm.{layer}.bias_ih_l0"), vec![20]));
            wanted.push((format!("lstm.{layer}.weight_hh_l0"), vec![20, 5]));
            wanted.push((format!("lstm.{layer}.weight_ih_l0"), vec![20, input]));
            wanted.push((format!("norm.{layer}.num_batches_tracked"), vec![]));
            for name in ["bias", "running_mean", "running_var", "weight"] {
                wanted.push((format!("norm.{layer}.{name}"), vec![5]));
            }
        }
        wanted.push(("linear.bias".into(), vec![7]));
        wanted.push(("linear.weight".into(), vec![7, 5]));
        wanted.sort();
        assert_eq!(found, wanted);
    }

    #[test]
    fn the_two_biases_of_another_programs_file_are_added() {
        let mut weights = Weights::zeros(&architecture());
        weights.flat.iter_mut().zip(0_u16..).for_each(|(value, place)| *value = f32::from(place));
        let mut tensors = Owned::new();
        let bytes = weights.to_safetensors();
        for (name, view) in SafeTensors::deserialize(&bytes).expect("well formed").tensors() {
            tensors.insert(name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
        }
        tensors.get_mut("lstm.1.bias_hh_l0").expect("there").2 = to_bytes(&[0.5; 20]);
        let read = Weights::from_safetensors(&serialize(&tensors), &architecture()).expect("complete");
        assert_eq!(read.bias(0), weights.bias(0));
        assert_eq!(read.bias(1)[3], weights.bias(1)[3] + 0.5);
        tensors.remove("lstm.1.bias_hh_l0");
        assert!(Weights::from_safetensors(&serialize(&tensors), &architecture()).is_err());
    }

    #[test]
    fn a_file_too_small_for_its_architecture_is_refused_before_memory_is_taken() {
        let bytes = Weights::zeros(&architecture()).to_safetensors();
        let huge = Architecture { layers: 32, hidden: 16_384, ..architecture() };
        let error = Weights::from_safetensors(&bytes, &huge).expect_err("17 billion parameters a layer pair");
        assert!(error.to_string().contains("parameters cannot be in"), "{error}");
    }

    #[test]
    fn first_values_have_bachbots_distributions() {
        let config = TrainConfig { layers: 2, hidden: 128, embedding: 32, ..TrainConfig::default() };
        let weights = Weights::initial(&config, 108);
        let deviation = |values: &[f32]| {
            let squares: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
            (squares / count(values.len())).sqrt()
        };
        for (values, wanted) in [
            (weights.embedding(), 1.0),
            (weights.weight_ih(0), 1.0 / f64::sqrt(32.0 + 128.0)),
            (weights.weight_hh(0), 1.0 / f64::sqrt(32.0 + 128.0)),
            (weights.weight_ih(1), 1.0 / f64::sqrt(256.0)),
            (weights.weight_hh(1), 1.0 / f64::sqrt(256.0)),
            (weights.linear_weight(), 1.0 / f64::sqrt(3.0 * 128.0)),
        ] {
            assert!((deviation(values) / wanted - 1.0).abs() < 0.04, "{} {wanted}", deviation(values));
        }
        let gates = |gate: usize| &weights.bias(1)[gate * 128..][..128];
        assert!(
            gates(1).iter().all(|&b| b == 1.0)
                && [0, 2, 3].iter().all(|&g| gates(g).iter().all(|&b| b == 0.0))
        );
        assert!(weights.norm_weight(0).iter().all(|&w| w > 0.0 && w < 1.0));
        assert!(weights.norm_bias(0).iter().all(|&b| b == 0.0));
        assert!(weights.linear_bias().iter().all(|b| b.abs() < 1.0 / f32::sqrt(128.0)));
    }
}
