//! `training.safetensors`: what training needs to go on as if it had never stopped.

use safetensors::tensor::Dtype;

use super::CheckpointError;
use crate::update::{Carried, Moments};
use crate::weights::{Layout, Owned, Tensors, serialize, to_bytes};

/// Everything that changes while training but the weights.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrainingState {
    pub(crate) moments: Moments,
    pub(crate) carried: Carried,
    /// Finished epochs.
    pub(crate) epoch: u32,
    /// The next window of the epoch.
    pub(crate) window: u64,
    /// Updates in all.
    pub(crate) update: u64,
    /// The epoch's window losses so far, added in order.
    pub(crate) loss_sum: f64,
    /// Time spent in the epoch's updates so far, in seconds.
    pub(crate) train_seconds: f64,
}

impl TrainingState {
    pub(crate) fn to_safetensors(&self, layout: &Layout, rows: usize, hidden: usize) -> Vec<u8> {
        let mut tensors = Owned::new();
        for view in &layout.views {
            for (name, moment) in [("exp_avg", &self.moments.first), ("exp_avg_sq", &self.moments.second)] {
                let bytes = to_bytes(&moment[view.range.clone()]);
                tensors.insert(format!("{name}.{}", view.name), (Dtype::F32, view.shape.clone(), bytes));
            }
        }
        for (layer, (h, c)) in self.carried.h.iter().zip(&self.carried.c).enumerate() {
            tensors.insert(format!("state.{layer}.h"), (Dtype::F32, vec![rows, hidden], to_bytes(h)));
            tensors.insert(format!("state.{layer}.c"), (Dtype::F32, vec![rows, hidden], to_bytes(c)));
        }
        let mut whole = |name: &str, value: u64| {
            tensors.insert(name.into(), (Dtype::U64, vec![], value.to_le_bytes().to_vec()));
        };
        whole("adam_steps", self.moments.steps);
        whole("epoch", self.epoch.into());
        whole("window", self.window);
        whole("update", self.update);
        for (name, value) in [("loss_sum", self.loss_sum), ("train_seconds", self.train_seconds)] {
            tensors.insert(name.into(), (Dtype::F64, vec![], value.to_le_bytes().to_vec()));
        }
        serialize(&tensors)
    }

    pub(crate) fn from_safetensors(
        bytes: &[u8],
        layout: &Layout,
        rows: usize,
        hidden: usize,
    ) -> Result<Self, CheckpointError> {
        let file = Tensors::parse(bytes)?;
        let mut moments = Moments::zeros(layout.len);
        for view in &layout.views {
            for (name, moment) in [("exp_avg", &mut moments.first), ("exp_avg_sq", &mut moments.second)] {
                file.read_f32(
                    &format!("{name}.{}", view.name),
                    &view.shape,
                    &mut moment[view.range.clone()],
                )?;
            }
        }
        let mut carried = Carried::zeros(layout.layers.len(), rows * hidden);
        for (layer, (h, c)) in carried.h.iter_mut().zip(&mut carried.c).enumerate() {
            file.read_f32(&format!("state.{layer}.h"), &[rows, hidden], h)?;
            file.read_f32(&format!("state.{layer}.c"), &[rows, hidden], c)?;
        }
        let eight = |name: &str, dtype| {
            let bytes = file.bytes(name, dtype, &[])?;
            bytes.try_into().map_err(|_| CheckpointError::Tensors(format!("{name} is not eight bytes")))
        };
        let whole = |name: &str| eight(name, Dtype::U64).map(u64::from_le_bytes);
        let real = |name: &str| eight(name, Dtype::F64).map(f64::from_le_bytes);
        moments.steps = whole("adam_steps")?;
        let epoch = whole("epoch")?;
        let epoch = epoch.try_into().map_err(|_| CheckpointError::Tensors(format!("epoch {epoch}")))?;
        Ok(Self {
            moments,
            carried,
            epoch,
            window: whole("window")?,
            update: whole("update")?,
            loss_sum: real("loss_sum")?,
            train_seconds: real("train_seconds")?,
        })
    }
}
