//! Whole training runs on a tiny corpus: repeatable, resumable anywhere, learning, and failing cleanly.

use kapell_music::corpus::{Kind, Piece};

use super::*;
use crate::config::{GradClip, LrDecay};
use crate::evaluate::evaluate;
use crate::philox::{Purpose, Stream};

mod interrupted;

/// Twelve pieces of a noisy scale on eleven tokens.
fn corpus() -> Arc<Corpus> {
    let piece = |place: u32| {
        let stream = Stream::new(42, place, Purpose::Bench, 0, 0);
        let length = 40 + 7 * place;
        let token = |at: u32| {
            let noise = u32::from(stream.block(at)[0].is_multiple_of(10)) * (stream.block(at)[1] % 11);
            u16::try_from((at + place + noise) % 11).expect("small")
        };
        let part = match place % 6 {
            4 => PartOfSplit::Val,
            5 => PartOfSplit::Test,
            _ => PartOfSplit::Train,
        };
        Piece { id: format!("scale-{place:02}"), part, tokens: (0..length).map(token).collect() }
    };
    Arc::new(Corpus {
        name: "scales".into(),
        kind: Kind::Text,
        protocol: Protocol::Pieces,
        vocabulary: (0..11).map(|token| format!("t{token}")).collect(),
        pieces: (0..12).map(piece).collect(),
    })
}

fn config() -> TrainConfig {
    TrainConfig {
        layers: 2,
        hidden: 14,
        embedding: 6,
        seq_len: 8,
        batch_size: 5,
        dropout: 0.2,
        batch_norm: true,
        learning_rate: 1e-2,
        lr_decay: LrDecay { every: 2, factor: 0.5, reset_moments: true },
        grad_clip: GradClip::Norm(1.0),
        epochs: 3,
        seed: 7,
        replicate: 1,
        threads: 1,
    }
}

/// Everything of a step but its duration.
fn figures(step: Step) -> (u64, Vec<u64>, String) {
    match step {
        Step::Updated { update, loss } => (update, vec![loss.to_bits()], String::new()),
        Step::EpochEnded(result) => {
            let mut bits = vec![result.train_loss.to_bits(), result.val_loss.to_bits()];
            bits.extend(result.val_nats_per_piece.iter().map(|piece| piece.nats.to_bits()));
            (result.epoch.into(), bits, result.weights_digest)
        }
        Step::Finished => (0, Vec::new(), String::from("finished")),
    }
}

fn run_to_end(trainer: &mut Trainer) -> Vec<(u64, Vec<u64>, String)> {
    let mut all = Vec::new();
    loop {
        let step = trainer.step().expect("finite");
        let finished = step == Step::Finished;
        all.push(figures(step));
        if finished {
            return all;
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_replicate_another_one() {
    let run = |replicate: u32, threads: usize| {
        let config = TrainConfig { replicate, threads, ..config() };
        run_to_end(&mut Trainer::new(config, corpus()).expect("valid"))
    };
    let first = run(1, 1);
    assert!(first == run(1, 1) && first == run(1, 2));
    assert_ne!(first, run(2, 1));
}

#[test]
fn a_run_interrupted_anywhere_goes_on_to_the_same_bytes() {
    for batch_norm in [true, false] {
        let config = TrainConfig { batch_norm, ..config() };
        let whole = run_to_end(&mut Trainer::new(config.clone(), corpus()).expect("valid"));
        assert!(whole.len() > 20, "{} steps", whole.len());
        let dir = tempfile::tempdir().expect("a temporary folder");
        // Every place there is: before the first update, within epochs, before and after validations, at the end.
        let mut trainer = Trainer::new(config.clone(), corpus()).expect("valid");
        for at in 0..whole.len() {
            let saved = dir.path().join(at.to_string());
            trainer.save(&saved).expect("saved");
            let mut resumed = Trainer::resume(config.clone(), corpus(), &saved).expect("resumable");
            assert_eq!(resumed.weights_digest(), trainer.weights_digest());
            assert!(run_to_end(&mut resumed) == whole[at..], "interrupted before step {at}");
            // And the run itself goes on in the resumed process.
            trainer = Trainer::resume(config.clone(), corpus(), &saved).expect("resumable");
            trainer.step().expect("finite");
        }
    }
}

#[test]
fn a_checkpoint_saved_again_has_the_same_bytes_and_says_what_it_is() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut trainer = Trainer::new(config(), corpus()).expect("valid");
    trainer.provenance.insert("study".into(), "test".into());
    while !matches!(trainer.step().expect("finite"), Step::EpochEnded(_)) {}
    let (first, second) = (dir.path().join("a"), dir.path().join("b"));
    trainer.save(&first).expect("saved");
    assert!(matches!(trainer.save(&first), Err(TrainError::Checkpoint(CheckpointError::Exists(_)))));
    Trainer::resume(config(), corpus(), &first).expect("resumable").save(&second).expect("saved");
    let manifest = crate::checkpoint::build_manifest(&first).expect("complete");
    assert_eq!(manifest, crate::checkpoint::build_manifest(&second).expect("complete"));
    let model = manifest.entries.iter().find(|entry| entry.name == MODEL_FILE).expect("a model");
    assert_eq!(model.digest, trainer.weights_digest());
    let checkpoint = load(&first).expect("readable");
    assert_eq!(checkpoint.weights, *trainer.weights());
    assert_eq!(checkpoint.vocabulary, corpus().vocabulary);
    assert_eq!(checkpoint.config.train, config());
    assert_eq!((checkpoint.config.progress.epoch, checkpoint.config.progress.update), (1, trainer.update()));
    assert_eq!(checkpoint.config.corpus.digest, corpus().digest());
    assert_eq!(checkpoint.config.provenance["study"], "test");
}

#[test]
fn training_learns_and_its_validation_loss_is_the_evaluations() {
    let mut trainer = Trainer::new(TrainConfig { epochs: 8, ..config() }, corpus()).expect("valid");
    let mut losses = Vec::new();
    loop {
        match trainer.step().expect("finite") {
            Step::Updated { .. } => {}
            Step::EpochEnded(result) => {
                let again = evaluate(trainer.weights(), &corpus(), PartOfSplit::Val, 8, 2).expect("held out");
                assert_eq!((again.loss, &again.pieces), (result.val_loss, &result.val_nats_per_piece));
                assert_eq!(again.tokens, (40 + 7 * 4 - 1) + (40 + 7 * 10 - 1));
                losses.push(result.val_loss);
            }
            Step::Finished => break,
        }
    }
    assert!(losses[7] < 1.3 && losses[7] < losses[0] - 0.8, "{losses:?}");
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let saved = dir.path().join("c");
    Trainer::new(config(), corpus()).expect("valid").save(&saved).expect("saved");
    let resume = |config: TrainConfig, corpus: Arc<Corpus>| {
        Trainer::resume(config, corpus, &saved)
            .map(|trainer| trainer.epoch())
            .map_err(|error| error.to_string())
    };
    assert_eq!(resume(TrainConfig { epochs: 50, threads: 2, ..config() }, corpus()), Ok(0));
    let error = resume(TrainConfig { seed: 8, ..config() }, corpus()).expect_err("another seed");
    assert!(error.contains("another set of options"), "{error}");
    let mut other = Corpus::clone(&corpus());
    other.pieces[0].tokens[3] ^= 1;
    let error = resume(config(), Arc::new(other)).expect_err("another corpus");
    assert!(error.contains("another corpus"), "{error}");
    for name in [MODEL_FILE, CONFIG_FILE, VOCABULARY_FILE, TRAINING_FILE] {
        let path = saved.join(name);
        let whole = std::fs::read(&path).expect("there");
        for length in [0, 7, whole.len() / 2, whole.len() - 2] {
            std::fs::write(&path, &whole[..length]).expect("written");
            assert!(resume(config(), corpus()).is_err(), "{name} cut to {length} bytes");
        }
        std::fs::write(&path, &whole).expect("written");
    }
    assert_eq!(resume(config(), corpus()), Ok(0));
}

#[test]
fn a_loss_that_is_not_a_number_ends_the_run_with_its_place() {
    let wild = TrainConfig { learning_rate: 1e38, batch_norm: false, dropout: 0.0, ..config() };
    let mut trainer = Trainer::new(wild, corpus()).expect("valid");
    let error = loop {
        match trainer.step() {
            Ok(Step::Finished) => panic!("a rate of 1e38 went well"),
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.starts_with("loss became NaN at epoch 1, update "), "{error}");
}

#[test]
fn the_rate_falls_by_the_factor_every_so_many_epochs() {
    let config = TrainConfig { learning_rate: 0.8, ..config() };
    let rates: Vec<f64> = (0..6).map(|epoch| learning_rate(&config, epoch)).collect();
    assert_eq!(rates, [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]);
}

/// Sets a flag amid a step that would take many seconds, and gives how long the step went on.
fn abandoned_after(mut trainer: Trainer) -> std::time::Duration {
    let flag = Arc::new(AtomicBool::new(false));
    trainer.abandon_on(flag.clone());
    let setter = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        flag.store(true, Ordering::Relaxed);
        Instant::now()
    });
    let error = trainer.step().expect_err("it is abandoned");
    let ended = Instant::now();
    assert!(matches!(error, TrainError::Abandoned), "{error}");
    let set = setter.join().expect("set");
    assert!(ended >= set, "the step ended before it was told to: it is too short for this test");
    ended - set
}

/// Sequences so long that an update or a validation takes many times the second that is asked for.
fn long_corpus() -> Arc<Corpus> {
    let piece = |place: u16, part| Piece {
        id: format!("long-{place}"),
        part,
        tokens: (0..40_000_u16).map(|at| at.wrapping_mul(7 + place) % 11).collect(),
    };
    let pieces = vec![piece(0, PartOfSplit::Train), piece(1, PartOfSplit::Val)];
    Arc::new(Corpus { pieces, ..(*corpus()).clone() })
}

#[test]
fn a_run_is_abandoned_amid_an_update_and_amid_a_validation() {
    let second = std::time::Duration::from_secs(1);
    let large = TrainConfig { hidden: 128, seq_len: 8000, batch_size: 4, layers: 4, ..config() };
    assert!(abandoned_after(Trainer::new(large, long_corpus()).expect("valid")) < second);

    let small = TrainConfig { hidden: 256, layers: 4, ..config() };
    let mut trainer = Trainer::new(small, long_corpus()).expect("valid");
    trainer.state.window = trainer.updates_per_epoch();
    assert!(abandoned_after(trainer) < second);
}
