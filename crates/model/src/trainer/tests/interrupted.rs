//! Runs that are killed at random places and resumed elsewhere, with other threads: to the last byte as if never stopped.

use super::*;
use crate::checkpoint::{Manifest, build_manifest};

/// Interruptions in all.
const INTERRUPTIONS: u32 = 200;
/// Steps between two checkpoints, and steps that are lost behind one: less than this.
const STEPS_MAX: usize = 9;

/// Draws of a test, the same each time.
struct Dice {
    stream: Stream,
    drawn: u32,
}

impl Dice {
    fn new(seed: u64) -> Self {
        Self { stream: Stream::new(seed, 0, Purpose::Bench, 0, 0), drawn: 0 }
    }

    /// From 0, below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.drawn += 1;
        usize::try_from(self.stream.block(self.drawn)[0]).expect("32 bits") % bound
    }
}

/// Runs that keep different things from update to update.
fn kinds() -> Vec<(TrainConfig, Arc<Corpus>)> {
    let long = corpus()
        .pieces
        .iter()
        .map(|piece| Piece { tokens: piece.tokens.repeat(6), ..piece.clone() })
        .collect();
    let contiguous = Corpus { protocol: Protocol::Contiguous, pieces: long, ..(*corpus()).clone() };
    let (contiguous, rows) = (Arc::new(contiguous), 20);
    let decay = LrDecay { reset_moments: false, ..config().lr_decay };
    vec![
        (config(), corpus()),
        (TrainConfig { batch_norm: false, grad_clip: GradClip::Value(0.01), ..config() }, corpus()),
        (TrainConfig { batch_size: rows, dropout: 0.0, layers: 1, ..config() }, contiguous.clone()),
        (TrainConfig { batch_size: rows, lr_decay: decay, ..config() }, contiguous),
    ]
}

/// Where checkpoints were made.
#[derive(Debug, Default)]
struct Places {
    amid_epochs: u32,
    before_validations: u32,
    at_epoch_ends: u32,
}

impl Places {
    fn count(&mut self, trainer: &Trainer) {
        *match trainer.state.window {
            0 => &mut self.at_epoch_ends,
            window if window == trainer.updates_per_epoch() => &mut self.before_validations,
            _ => &mut self.amid_epochs,
        } += 1;
    }

    fn all(&self) -> u32 {
        self.amid_epochs + self.before_validations + self.at_epoch_ends
    }
}

/// Every figure of every step of a run in one piece, and the files that it ends with.
fn in_one_piece(mut trainer: Trainer, dir: &Path) -> (Vec<(u64, Vec<u64>, String)>, Manifest) {
    let steps = run_to_end(&mut trainer);
    (steps, files_of(&trainer, dir))
}

fn files_of(trainer: &Trainer, dir: &Path) -> Manifest {
    trainer.save(dir).expect("saved");
    build_manifest(dir).expect("complete")
}

/// Makes the next steps, which must be these.
fn step_through(trainer: &mut Trainer, wanted: &[(u64, Vec<u64>, String)]) {
    for wanted in wanted {
        assert_eq!(figures(trainer.step().expect("finite")), *wanted);
    }
}

#[test]
fn two_hundred_interruptions_anywhere_change_no_byte_of_weights_or_losses() {
    let (mut dice, mut places) = (Dice::new(200), Places::default());
    for round in 0.. {
        if places.all() >= INTERRUPTIONS {
            break;
        }
        let (config, corpus) = &kinds()[round % kinds().len()];
        let any_threads = |dice: &mut Dice| TrainConfig { threads: 1 + dice.below(3), ..config.clone() };
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = Trainer::new(config.clone(), corpus.clone()).expect("valid");
        let (whole, files) = in_one_piece(first, &dir.path().join("whole"));
        let (steps, mut at) = (&whole[..whole.len() - 1], 0);
        let mut trainer = Trainer::new(any_threads(&mut dice), corpus.clone()).expect("valid");
        for checkpoint in 0.. {
            let next = steps.len().min(at + dice.below(STEPS_MAX));
            step_through(&mut trainer, &steps[at..next]);
            at = next;
            if at == steps.len() {
                break;
            }
            let saved = dir.path().join(format!("checkpoint-{checkpoint}"));
            trainer.save(&saved).expect("saved");
            places.count(&trainer);
            // What it does from here on is lost, the last of it amid an update or a validation.
            let killed = steps.len().min(at + dice.below(STEPS_MAX));
            step_through(&mut trainer, &steps[at..killed]);
            trainer.abandon_on(Arc::new(AtomicBool::new(true)));
            assert!(matches!(trainer.step(), Err(TrainError::Abandoned) | Ok(Step::Finished)));
            trainer = Trainer::resume(any_threads(&mut dice), corpus.clone(), &saved).expect("resumable");
        }
        assert_eq!(trainer.step().expect("finite"), Step::Finished);
        assert_eq!(files_of(&trainer, &dir.path().join("end")), files, "round {round}");
    }
    let Places { amid_epochs, before_validations, at_epoch_ends } = places;
    assert!(amid_epochs > 100 && before_validations >= 5 && at_epoch_ends >= 5, "{places:?}");
}

#[test]
fn everything_in_the_training_file_matters() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut trainer = Trainer::new(config(), corpus()).expect("valid");
    for _ in 0..trainer.updates_per_epoch() + 4 {
        trainer.step().expect("finite");
    }
    let saved = dir.path().join("c");
    trainer.save(&saved).expect("saved");
    let path = saved.join(TRAINING_FILE);
    let bytes = std::fs::read(&path).expect("there");
    let whole = run_to_end(&mut trainer);
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("readable");
    for name in file.names() {
        let (whole_number, width) = match name {
            "adam_steps" | "epoch" | "window" | "update" => (true, 8),
            "loss_sum" | "train_seconds" => (false, 8),
            _ => (false, 4),
        };
        let data = file.tensor(name).expect("listed").data();
        let start = data.as_ptr().addr() - bytes.as_ptr().addr();
        let number = data.chunks(width).position(|number| number.iter().any(|&byte| byte != 0));
        let number = number.unwrap_or_else(|| panic!("{name} is all zero"));
        // One more or one less; of a real number, a tenth or so.
        let byte = if whole_number { 0 } else { width - 2 };
        let mut other = bytes.clone();
        other[start + number * width + byte] ^= if whole_number { 1 } else { 8 };
        std::fs::write(&path, &other).expect("written");
        let goes_on = Trainer::resume(config(), corpus(), &saved).map(|mut t| run_to_end(&mut t));
        let is_same = goes_on.is_ok_and(|steps| steps == whole);
        assert_eq!(is_same, name == "train_seconds", "{name}");
    }
}
