//! The hand-written update against the reference: every gradient tensor, the state, and a whole Adam update.

use super::*;
use crate::config::{GradClip, LrDecay};
use crate::kernels::level::at_each_level;
use crate::philox::{normals, unit};
use crate::update::{Carried, Moments, Update, Window};

const VOCABULARY: usize = 19;
const TOLERANCE: f64 = 1e-5;

fn config(layers: usize, batch_norm: bool, dropout: f64, grad_clip: GradClip) -> TrainConfig {
    TrainConfig {
        layers,
        hidden: 21,
        embedding: 10,
        seq_len: 9,
        batch_size: 6,
        dropout,
        batch_norm,
        learning_rate: 2e-3,
        lr_decay: LrDecay { every: 5, factor: 0.5, reset_moments: false },
        grad_clip,
        epochs: 1,
        seed: 11,
        replicate: 2,
        threads: 1,
    }
}

fn all_configs() -> Vec<TrainConfig> {
    let mut all = Vec::new();
    for layers in 1..=3 {
        for batch_norm in [false, true] {
            for dropout in [0.0, 0.3] {
                // Small enough that both really clip.
                for grad_clip in [GradClip::Norm(0.05), GradClip::Value(0.002), GradClip::Norm(1e6)] {
                    all.push(config(layers, batch_norm, dropout, grad_clip));
                }
            }
        }
    }
    all
}

/// Weights, tokens and a state that are nowhere zero, so that no term of a gradient can hide.
struct Case {
    config: TrainConfig,
    weights: Weights,
    carried: Carried,
    inputs: Vec<u16>,
    targets: Vec<u16>,
    update: u64,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "test data")]
fn case(config: TrainConfig) -> Case {
    let stream = |layer| Stream::new(99, 0, Purpose::Bench, 0, layer);
    let mut weights = Weights::initial(&config, VOCABULARY);
    for (place, value) in weights.flat.iter_mut().enumerate() {
        *value += (0.2 * normals(stream(0).block(u32::try_from(place).expect("small")))[0]) as f32;
    }
    let positions = config.seq_len * config.batch_size;
    let tokens = |layer| {
        let word = |place: usize| unit(stream(layer).block(u32::try_from(place).expect("small"))[1]);
        (0..positions).map(|place| (word(place) * 19.0) as u16).collect::<Vec<u16>>()
    };
    let len = config.batch_size * config.hidden;
    let mut carried = Carried::zeros(config.layers, len);
    for (layer, state) in carried.h.iter_mut().chain(&mut carried.c).enumerate() {
        for (value, place) in state.iter_mut().zip(0..) {
            *value = (0.5 * normals(stream(3 + layer).block(place))[2]) as f32;
        }
    }
    let (inputs, targets) = (tokens(1), tokens(2));
    Case { config, weights, carried, inputs, targets, update: 1234 }
}

fn reference_of(case: &Case) -> ReferenceUpdate {
    let window = ReferenceWindow {
        inputs: &case.inputs,
        targets: &case.targets,
        h: &case.carried.h,
        c: &case.carried.c,
        update: case.update,
    };
    update(&case.weights, &case.config, &window).expect("shapes fit")
}

/// |ours - theirs| / |theirs|
fn apart(ours: &[f32], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |x: f64| x * x;
    let error: f64 = ours.iter().zip(theirs).map(|(&a, &b)| square(f64::from(a) - b)).sum();
    let norm: f64 = theirs.iter().map(|&b| square(b)).sum();
    (error / norm).sqrt()
}

#[test]
fn every_gradient_equals_candles_in_double_precision_at_every_level_and_number_of_threads() {
    for config in all_configs() {
        let mut case = case(config);
        let reference = reference_of(&case);
        at_each_level(|_| check_gradients(&mut case, &reference));
        for threads in [2, 4, 9] {
            case.config.threads = threads;
            check_gradients(&mut case, &reference);
        }
    }
}

fn check_gradients(case: &mut Case, reference: &ReferenceUpdate) {
    let mut engine = Update::new(&case.config, VOCABULARY);
    let window = Window { inputs: &case.inputs, targets: &case.targets };
    let loss = engine.forward(&mut case.weights, &case.carried, &window, case.update);
    engine.backward(&case.weights, &window, case.update);
    assert!((loss / reference.loss - 1.0).abs() < 1e-6, "{loss} {} {:?}", reference.loss, case.config);
    for view in &case.weights.layout.views {
        let error = apart(&engine.gradient[view.range.clone()], &reference.gradient[view.range.clone()]);
        assert!(error < TOLERANCE, "{} is {error:e} apart, {:?}", view.name, case.config);
    }
}

#[test]
fn a_whole_update_equals_adam_in_double_precision() {
    for config in all_configs() {
        let mut case = case(config);
        let mut moments = Moments::zeros(case.weights.flat.len());
        // Moments as after eight earlier updates, so that bias correction is neither absent nor at its first step.
        for (place, (first, second)) in moments.first.iter_mut().zip(&mut moments.second).enumerate() {
            *first = 1e-3 * f32::from(u16::try_from(place % 7).expect("small"));
            *second = 1e-5 * f32::from(u16::try_from(1 + place % 5).expect("small"));
        }
        moments.steps = 8;
        let reference = reference_of(&case);
        let wanted = adam(&case, &moments, &reference.gradient);
        let before = case.weights.flat.clone();
        let mut engine = Update::new(&case.config, VOCABULARY);
        let window = Window { inputs: &case.inputs, targets: &case.targets };
        let rate = case.config.learning_rate;
        engine
            .run(&mut case.weights, &mut moments, &mut case.carried, &window, rate, case.update)
            .expect("finite");
        for view in &case.weights.layout.views {
            let range = view.range.clone();
            let error = apart(&case.weights.flat[range.clone()], &wanted[range.clone()]);
            // Of the parameters' own change, whose f32 result is rounded to the parameter's precision.
            let moved = |after: f64, place: usize| after - f64::from(before[place]);
            let change: Vec<f64> = range.clone().map(|place| moved(wanted[place], place)).collect();
            let ours = range.clone().map(|place| moved(f64::from(case.weights.flat[place]), place));
            let difference: f64 = ours.zip(&change).map(|(a, b)| (a - b).powi(2)).sum();
            let relative = (difference / change.iter().map(|b| b * b).sum::<f64>()).sqrt();
            assert!(
                error < TOLERANCE && relative < 2e-4,
                "{} {error:e} {relative:e} {:?}",
                view.name,
                case.config
            );
        }
        for layer in 0..case.config.layers {
            assert!(apart(&case.carried.h[layer], &reference.h[layer]) < TOLERANCE, "h of layer {layer}");
            assert!(apart(&case.carried.c[layer], &reference.c[layer]) < TOLERANCE, "c of layer {layer}");
        }
    }
}

/// Clip and Adam as their papers have them.
fn adam(case: &Case, moments: &Moments, gradient: &[f64]) -> Vec<f64> {
    let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    match case.config.grad_clip {
        GradClip::Norm(max) => assert!(max == 1e6 || norm > max, "nothing to clip: {norm}"),
        GradClip::Value(max) => assert!(gradient.iter().any(|g| g.abs() > max), "nothing to clip"),
    }
    let (steps, rate) = (9, case.config.learning_rate);
    let one = |place: usize| {
        let clipped = match case.config.grad_clip {
            GradClip::Norm(max) if norm > max => gradient[place] * max / norm,
            GradClip::Norm(_) => gradient[place],
            GradClip::Value(max) => gradient[place].clamp(-max, max),
        };
        let first = 0.9 * f64::from(moments.first[place]) + 0.1 * clipped;
        let second = 0.999 * f64::from(moments.second[place]) + 0.001 * clipped * clipped;
        let root = (second / (1.0 - 0.999_f64.powi(steps))).sqrt() + 1e-8;
        f64::from(case.weights.flat[place]) - rate * first / (1.0 - 0.9_f64.powi(steps)) / root
    };
    (0..gradient.len()).map(one).collect()
}

#[test]
fn a_gradient_that_is_not_finite_changes_no_weight() {
    let mut case = case(config(2, true, 0.3, GradClip::Value(5.0)));
    let place = case.weights.layout.linear_bias.start;
    case.weights.flat[place] = f32::NAN;
    let before = case.weights.flat.clone();
    let mut moments = Moments::zeros(before.len());
    let mut engine = Update::new(&case.config, VOCABULARY);
    let window = Window { inputs: &case.inputs, targets: &case.targets };
    let result = engine.run(&mut case.weights, &mut moments, &mut case.carried, &window, 1e-3, 0);
    assert!(result.is_err());
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&before), bits(&case.weights.flat));
    assert_eq!(moments, Moments::zeros(before.len()));
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let base = TrainConfig {
        hidden: 96,
        seq_len: 16,
        batch_size: 50,
        embedding: 32,
        ..config(2, true, 0.2, GradClip::Norm(5.0))
    };
    let run = |threads: usize| {
        let mut case = case(TrainConfig { threads, ..base.clone() });
        let mut moments = Moments::zeros(case.weights.flat.len());
        let mut engine = Update::new(&case.config, VOCABULARY);
        let window = Window { inputs: &case.inputs, targets: &case.targets };
        let losses: Vec<f64> = (0..3)
            .map(|update| {
                engine
                    .run(&mut case.weights, &mut moments, &mut case.carried, &window, 2e-3, update)
                    .expect("finite")
            })
            .collect();
        (losses, case.weights, moments, case.carried)
    };
    let one = run(1);
    assert!(one == run(2) && one == run(3));
}
