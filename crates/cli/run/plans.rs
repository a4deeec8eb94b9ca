//! How the workers of `kapell run` share this machine's cores.

use kapell_music::corpus::PartOfSplit;
use kapell_worker::cores;
use kapell_worker::plan::{self, Choice, Plan};

use super::children::WorkerPlan;
use super::{DRAIN_TIMEOUT, Search};
use crate::corpus::LoadedCorpus;
use crate::estimate::trial_flop;
use crate::study::StudyFile;
use crate::{output, paths};

/// What is left to train and takes less than this on one core is begun at once, without measuring.
const SHORT_S: f64 = 30.0;
/// A core's floating-point operations a second in training, about.
const CORE_FLOPS: f64 = 5e10;

impl Search<'_> {
    /// A worker for each part of the cores. Measures, if this machine has not been measured, and says so.
    pub(super) async fn plans(
        &self,
        file: &StudyFile,
        corpus: &LoadedCorpus,
        trials: u64,
    ) -> Vec<WorkerPlan> {
        let available = cores::available();
        let workers = self.args.workers.map_or(1, |n| usize::try_from(n).unwrap_or(1));
        if workers > available {
            output::remark(format!(
                "{workers} workers share {available} cores: each trains one trial at a time"
            ));
        }
        let is_short = seconds_of_a_core(file, corpus, trials) < SHORT_S;
        let mut known: Vec<(usize, Plan)> = Vec::new();
        let mut plans = Vec::new();
        for (index, share) in cores::shares(available, workers).into_iter().enumerate() {
            let plan = match known.iter().find(|(cores, _)| *cores == share) {
                Some((_, plan)) => *plan,
                None if trials <= workers as u64 => Plan::with_slots(1, share),
                None if is_short => Plan::single_threaded(share),
                None => self.choose(share).await.plan,
            };
            known.push((share, plan));
            plans.push(self.worker_plan(index + 1, share, plan));
        }
        plans
    }

    async fn choose(&self, share: usize) -> Choice {
        let cache_dir =
            paths::cache_dir().map_or_else(|_| self.data_dir.join("workers"), |dir| dir.join("worker"));
        let choice = plan::choose(share, None, cache_dir).await;
        if share > 1 {
            output::remark(format!("{share} cores: {choice}"));
        }
        choice
    }

    fn worker_plan(&self, number: usize, cores: usize, plan: Plan) -> WorkerPlan {
        WorkerPlan {
            coordinator: self.url.to_owned(),
            name: format!("local-{number}"),
            kernels: self.kernels.to_owned(),
            cores,
            slots: plan.slots,
            // The coordinator's lock on the data folder keeps other runs away from it.
            cache_dir: self.data_dir.join("workers").join(number.to_string()),
            log: self.data_dir.join("logs").join(format!("worker-{number}.log")),
            log_format: self.args.log_format,
            drain_timeout: DRAIN_TIMEOUT,
        }
    }
}

/// About how long one core would train so many trials like the one in the middle of the grid.
fn seconds_of_a_core(file: &StudyFile, corpus: &LoadedCorpus, trials: u64) -> f64 {
    let middle = file.spec.planned(u32::try_from(file.spec.trials() / 2 + 1).unwrap_or(1)).config;
    let pieces = corpus.corpus.pieces.iter().filter(|p| p.part == PartOfSplit::Train);
    let tokens = pieces.map(|p| p.tokens.len()).sum();
    trial_flop(&middle, corpus.corpus.vocabulary.len(), tokens) * trials as f64 / CORE_FLOPS
}
