//! A plain organ: a few drawbars of sines, soft in attack and release.

use std::collections::HashMap;
use std::f32::consts::{FRAC_PI_4, PI, TAU};

use super::timeline::{Timeline, Tone};
use super::{SAMPLE_RATE, Source, WavError, sample_at};

/// Partials (8', 4', 2 2/3', 2', 1 1/3') and how loud they are.
const DRAWBARS: [(f32, f32); 5] = [(1.0, 1.0), (2.0, 0.45), (3.0, 0.2), (4.0, 0.22), (6.0, 0.06)];
/// No partial above this, in hertz: well below half the sample rate.
const HIGHEST: f32 = 18_000.0;
/// Samples of one period in a table.
const TABLE: usize = 2048;
const ATTACK_SECONDS: f32 = 0.03;
const RELEASE_SECONDS: f32 = 0.09;
/// So much of a note's end belongs to its release, so that a repeated note is heard as struck again.
const LIFT_SECONDS: f64 = 0.04;
/// Where the parts stand from left (-1) to right (1), in turn.
const PAN: [f32; 4] = [-0.25, 0.15, -0.1, 0.25];

pub(super) struct Organ<'a> {
    /// By start; those before `next` have begun.
    tones: &'a [Tone],
    next: usize,
    sounding: Vec<Pipe>,
    /// One period by pitch.
    tables: HashMap<u8, Vec<f32>>,
    /// Samples rendered.
    at: usize,
}

/// A sounding note.
struct Pipe {
    midi: u8,
    /// Position in the table and step a sample.
    phase: f32,
    step: f32,
    start: usize,
    /// The first sample of the release.
    lifted: usize,
    left: f32,
    right: f32,
}

impl<'a> Organ<'a> {
    pub(super) fn new(timeline: &'a Timeline) -> Self {
        Self { tones: &timeline.tones, next: 0, sounding: Vec::new(), tables: HashMap::new(), at: 0 }
    }

    fn begin(&mut self, tone: &Tone) {
        let frequency = 440.0 * ((f32::from(tone.midi) - 69.0) / 12.0).exp2();
        self.tables.entry(tone.midi).or_insert_with(|| period(frequency));
        let angle = (PAN[tone.part % PAN.len()] + 1.0) * FRAC_PI_4;
        let lift = LIFT_SECONDS.min((tone.end - tone.start) / 4.0);
        self.sounding.push(Pipe {
            midi: tone.midi,
            phase: 0.0,
            step: frequency * TABLE as f32 / SAMPLE_RATE as f32,
            start: sample_at(tone.start),
            lifted: sample_at(tone.end - lift),
            left: angle.cos(),
            right: angle.sin(),
        });
    }
}

impl Source for Organ<'_> {
    fn render(&mut self, left: &mut [f32], right: &mut [f32]) -> Result<(), WavError> {
        let end = self.at + left.len();
        while let Some(tone) = self.tones.get(self.next).filter(|tone| sample_at(tone.start) < end) {
            self.begin(tone);
            self.next += 1;
        }
        for pipe in &mut self.sounding {
            if let Some(table) = self.tables.get(&pipe.midi) {
                pipe.sound(table, self.at, left, right);
            }
        }
        self.sounding.retain(|pipe| pipe.silent_from() > end);
        self.at = end;
        Ok(())
    }
}

impl Pipe {
    fn silent_from(&self) -> usize {
        self.lifted + sample_at(f64::from(RELEASE_SECONDS))
    }

    /// Adds its share of the samples from `at` on.
    fn sound(&mut self, table: &[f32], at: usize, left: &mut [f32], right: &mut [f32]) {
        let first = self.start.saturating_sub(at).min(left.len());
        for (place, (left, right)) in left.iter_mut().zip(right).enumerate().skip(first) {
            let sample = interpolated(table, self.phase) * self.loudness(at + place);
            *left += sample * self.left;
            *right += sample * self.right;
            self.phase += self.step;
            if self.phase >= TABLE as f32 {
                self.phase -= TABLE as f32;
            }
        }
    }

    /// Rises and falls like half a cosine, so that nothing clicks; a release may come before the attack is done.
    fn loudness(&self, sample: usize) -> f32 {
        let part = |samples: usize, seconds: f32| (samples as f32 / (seconds * SAMPLE_RATE as f32)).min(1.0);
        let rising = part(sample.saturating_sub(self.start), ATTACK_SECONDS);
        let falling = part(sample.saturating_sub(self.lifted), RELEASE_SECONDS);
        (0.5 - 0.5 * (PI * rising).cos()) * (0.5 + 0.5 * (PI * falling).cos())
    }
}

/// One period of the drawbars that this pitch can have.
fn period(frequency: f32) -> Vec<f32> {
    let audible = DRAWBARS.iter().filter(|(partial, _)| partial * frequency < HIGHEST);
    let partials: Vec<&(f32, f32)> = audible.collect();
    let at = |place: usize| {
        let angle = TAU * place as f32 / TABLE as f32;
        partials.iter().map(|(partial, loudness)| loudness * (partial * angle).sin()).sum()
    };
    (0..TABLE).map(at).collect()
}

fn interpolated(table: &[f32], phase: f32) -> f32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the table")]
    let place = phase as usize % TABLE;
    let between = phase.fract();
    table[place] * (1.0 - between) + table[(place + 1) % TABLE] * between
}
