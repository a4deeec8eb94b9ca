//! One row of scores: probabilities among the whole vocabulary, the likeliest of some tokens, a draw among them.

use kapell_music::encode::Token;

use crate::philox::{Purpose, Stream, unit};

/// A draw among the allowed tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0.
    pub temperature: f64,
    /// Only the most likely tokens that together have this probability; in (0, 1].
    pub top_p: f64,
    /// The same seed, model and melody give the same piece.
    pub seed: u64,
}

/// The scores of the next token.
pub(super) struct Scores<'a> {
    logits: &'a [f32],
    /// ln of the sum of e^logit.
    total: f64,
}

impl<'a> Scores<'a> {
    pub(super) fn new(logits: &'a [f32]) -> Self {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit) - f64::from(highest))).sum();
        Self { logits, total: f64::from(highest) + libm::log(sum) }
    }

    fn logit(&self, id: u16) -> f64 {
        f64::from(self.logits[usize::from(id)])
    }

    /// Among the whole vocabulary; minus infinity for what is no number.
    pub(super) fn log_probability(&self, id: u16) -> f64 {
        let value = self.logit(id) - self.total;
        if value.is_nan() { f64::NEG_INFINITY } else { value }
    }

    /// The first of the highest.
    pub(super) fn likeliest(&self, choices: &[(Token, u16)]) -> Option<(Token, u16)> {
        let first = choices.first()?;
        let better = |best: &'_ (Token, u16), next: &'_ (Token, u16)| self.logit(next.1) > self.logit(best.1);
        Some(choices.iter().fold(*first, |best, next| if better(&best, next) { *next } else { best }))
    }

    /// A draw; `place` counts the draws of a piece.
    pub(super) fn draw(
        &self,
        choices: &[(Token, u16)],
        sampling: Sampling,
        place: usize,
    ) -> Option<(Token, u16)> {
        let likeliest = self.likeliest(choices)?;
        if choices.len() == 1 {
            return Some(likeliest);
        }
        let highest = self.logit(likeliest.1);
        let weigh = |&choice: &(Token, u16)| {
            (choice, libm::exp((self.logit(choice.1) - highest) / sampling.temperature))
        };
        let mut weighed: Vec<((Token, u16), f64)> = choices.iter().map(weigh).collect();
        if sampling.top_p < 1.0 {
            // A stable sort: equals stay in order of id, so that the draw is the same everywhere.
            weighed.sort_by(|a, b| b.1.total_cmp(&a.1));
            let total: f64 = weighed.iter().map(|(_, weight)| weight).sum();
            let mut before = 0.0;
            let mut within = |(_, weight): &(_, f64)| {
                let inside = before < sampling.top_p * total;
                before += weight;
                inside
            };
            let kept = weighed.iter().take_while(|choice| within(choice)).count();
            weighed.truncate(kept);
        }
        let stream = Stream::new(sampling.seed, 0, Purpose::Sample, place as u64, 0);
        let mut left = unit(stream.block(0)[0]) * weighed.iter().map(|(_, weight)| weight).sum::<f64>();
        for (choice, weight) in weighed {
            left -= weight;
            if left < 0.0 {
                return Some(choice);
            }
        }
        Some(likeliest)
    }
}
