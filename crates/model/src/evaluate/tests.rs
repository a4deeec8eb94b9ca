//! Evaluation against a plain loop in double precision over one token at a time.

use kapell_music::corpus::{Kind, Piece, Protocol};

use super::*;
use crate::config::TrainConfig;
use crate::weights::Running;

/// The mean nats per token of each sequence, by the definition of every layer.
fn naive(weights: &Weights, tokens: &[u16]) -> f64 {
    let Architecture { vocabulary, layers, hidden, embedding, .. } = weights.architecture;
    let wide = |x: &f32| f64::from(*x);
    let row = |matrix: &[f32], at: usize, width: usize, x: &[f64]| -> f64 {
        matrix[at * width..][..width].iter().zip(x).map(|(a, b)| wide(a) * b).sum()
    };
    let mut states = vec![(vec![0.0; hidden], vec![0.0; hidden]); layers];
    let mut nats = 0.0;
    for pair in tokens.windows(2) {
        let at = usize::from(pair[0]) * embedding;
        let mut x: Vec<f64> = weights.embedding()[at..at + embedding].iter().map(wide).collect();
        for (layer, (h, c)) in states.iter_mut().enumerate() {
            let sum = |gate: usize| {
                row(weights.weight_ih(layer), gate, x.len(), &x)
                    + row(weights.weight_hh(layer), gate, hidden, h)
                    + wide(&weights.bias(layer)[gate])
            };
            let z: Vec<f64> = (0..4 * hidden).map(sum).collect();
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            for unit in 0..hidden {
                let gate = |place: usize| z[place * hidden + unit];
                c[unit] = sigmoid(gate(1)) * c[unit] + sigmoid(gate(0)) * gate(2).tanh();
                h[unit] = sigmoid(gate(3)) * c[unit].tanh();
            }
            x.clone_from(h);
            if let Some(running) = weights.running.get(layer) {
                for (unit, x) in x.iter_mut().enumerate() {
                    let apart = *x - wide(&running.mean[unit]);
                    let scaled = apart / (wide(&running.var[unit]) + 1e-5).sqrt();
                    *x = scaled * wide(&weights.norm_weight(layer)[unit])
                        + wide(&weights.norm_bias(layer)[unit]);
                }
            }
        }
        let logit = |token: usize| {
            row(weights.linear_weight(), token, hidden, &x) + wide(&weights.linear_bias()[token])
        };
        let logits: Vec<f64> = (0..vocabulary).map(logit).collect();
        nats += logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[usize::from(pair[1])];
    }
    nats
}

#[test]
fn batched_pieces_are_scored_as_each_alone_by_the_definition() {
    for batch_norm in [false, true] {
        let config = TrainConfig { layers: 2, hidden: 9, embedding: 5, batch_norm, ..TrainConfig::default() };
        let mut weights = Weights::initial(&config, 7);
        for running in &mut weights.running {
            let values = |from: f32| (0..9_u8).map(move |unit| from + f32::from(unit) / 20.0).collect();
            *running = Running { mean: values(-0.2), var: values(0.05) };
        }
        // More pieces than rows, in no order of length, some as short as can be, one much longer.
        let length = |place: u16| if place == 13 { 150 } else { 2 + place * 37 % 71 };
        let piece = |place: u16| Piece {
            id: format!("p{place}"),
            part: PartOfSplit::Test,
            tokens: (0..length(place)).map(|at| (at * at + place) % 7).collect(),
        };
        let corpus = Corpus {
            name: "squares".into(),
            kind: Kind::Text,
            protocol: Protocol::Pieces,
            vocabulary: (0..7).map(|token| token.to_string()).collect(),
            pieces: (0..70).map(piece).collect(),
        };
        let evaluation = evaluate(&weights, &corpus, PartOfSplit::Test, 1, 1).expect("held out");
        assert_eq!(evaluation.pieces.len(), 70);
        let mut total = 0.0;
        for (piece, loss) in corpus.pieces.iter().zip(&evaluation.pieces) {
            let wanted = naive(&weights, &piece.tokens);
            total += wanted;
            assert_eq!((&loss.piece, loss.tokens), (&piece.id, piece.tokens.len() as u64 - 1));
            assert!((loss.nats - wanted).abs() < 2e-6 * wanted, "{} {} {wanted}", piece.id, loss.nats);
        }
        assert!((evaluation.loss - total / wide(evaluation.tokens)).abs() < 1e-6);
        let none = evaluate(&weights, &corpus, PartOfSplit::Val, 1, 1);
        assert_eq!(none.map(|_| ()), Err(DataError::NothingHeldOut { part: "validation" }));
    }
}
