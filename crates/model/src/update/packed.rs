//! An update's weights as the products want them, packed once when the update begins.

use crate::config::Architecture;
use crate::kernels::aligned::Aligned;
use crate::kernels::matmul::{Into, Panels, product};
use crate::kernels::team::Team;
use crate::weights::Weights;

/// One layer's weights.
pub(crate) struct PackedLayer {
    layer: usize,
    /// [D, 4H]: input to gates.
    pub(crate) input: Panels,
    /// [H, 4H]: state to gates.
    pub(crate) recurrent: Panels,
    /// [4H, D] and [4H, H]: the gates' gradient to that of input and state; absent where nothing is trained.
    pub(crate) back: Option<(Panels, Panels)>,
}

/// All weights of a model, packed.
pub(crate) struct Packed {
    pub(crate) layers: Vec<PackedLayer>,
    /// [H, V]
    pub(crate) linear: Panels,
    /// [V, H]; absent where nothing is trained.
    pub(crate) linear_back: Option<Panels>,
    /// [V, 4H]: the first layer's input products by token.
    pub(crate) table: Aligned,
}

impl Packed {
    /// Room for a model's weights; for its backward pass, too, if it is `trained`.
    pub(crate) fn new(architecture: &Architecture, trained: bool) -> Self {
        let Architecture { vocabulary, layers, hidden, embedding, .. } = *architecture;
        let gates = 4 * hidden;
        let layer = |layer| {
            let width = if layer == 0 { embedding } else { hidden };
            PackedLayer {
                layer,
                input: Panels::new(width, gates),
                recurrent: Panels::new(hidden, gates),
                back: trained.then(|| (Panels::new(gates, width), Panels::new(gates, hidden))),
            }
        };
        Self {
            layers: (0..layers).map(layer).collect(),
            linear: Panels::new(hidden, vocabulary),
            linear_back: trained.then(|| Panels::new(vocabulary, hidden)),
            table: Aligned::zeros(vocabulary * gates),
        }
    }

    /// Packs the weights, a layer a thread.
    pub(crate) fn pack(&mut self, weights: &Weights, team: &mut Team) {
        team.each(&mut self.layers, |packed| {
            let (input, recurrent) = (weights.weight_ih(packed.layer), weights.weight_hh(packed.layer));
            packed.input.pack_transposed(input);
            packed.recurrent.pack_transposed(recurrent);
            if let Some((input_back, recurrent_back)) = &mut packed.back {
                input_back.pack_rows(0, input);
                recurrent_back.pack_rows(0, recurrent);
            }
        });
        self.linear.pack_transposed(weights.linear_weight());
        if let Some(back) = &mut self.linear_back {
            back.pack_rows(0, weights.linear_weight());
        }
        product(&mut self.table, Into::Set, weights.embedding(), &self.layers[0].input);
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(|layer| {
            let back = layer.back.as_ref().map_or(0, |(input, recurrent)| input.bytes() + recurrent.bytes());
            layer.input.bytes() + layer.recurrent.bytes() + back
        });
        let linear = self.linear.bytes() + self.linear_back.as_ref().map_or(0, Panels::bytes);
        layers.sum::<usize>() + linear + self.table.bytes()
    }
}
