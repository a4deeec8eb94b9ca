//! Four-part exercises out of a seed: a corpus for machines that cannot fetch the chorales.
//!
//! A piece is a plan of phrases in the home key and its neighbours, each a walk through a table of functional
//! harmony to a cadence (`harmony`); the cheapest path through all voicings of its chords that breaks no rule of
//! voice leading (`voicing`, `rules`); and passing notes, suspensions and held notes (`figuration`). Every draw is
//! counted, not sequenced, and all arithmetic is on integers: the same seed gives the same notes everywhere.

mod figuration;
mod harmony;
mod rules;
mod voicing;

use crate::corpus::build::{self, BuildError, SplitPlan};
use crate::corpus::{Corpus, Protocol};
use crate::encode;
use crate::mix::mix;
use crate::score::{KeySignature, Measure, Notation, Note, Part, Score, TICKS_PER_QUARTER};
use crate::write::spelling;
use figuration::{SLOTS_PER_BEAT, Texture};
use harmony::Plan;

/// Pieces in the built-in corpus.
pub const PIECES: u32 = 200;
/// The seed of the built-in corpus.
pub const SEED: u64 = 1;
/// Plans that are tried before the least bad one is taken. Of the built-in pieces none needs more than a few.
const ATTEMPTS: u64 = 64;

/// The built-in corpus `exercises`: `pieces` of them, from one seed, split by tune as any other.
///
/// # Errors
/// Where `pieces` is 0.
pub fn corpus(seed: u64, pieces: u32) -> Result<Corpus, BuildError> {
    let encoded: Vec<_> = (1..=pieces)
        .filter_map(|index| {
            let chorale = encode::encode_chorale(&score(seed, index)).ok()?;
            Some((format!("exercise-{index:04}"), chorale.tokens))
        })
        .collect();
    build::from_scores("exercises", Protocol::Pieces, &encoded, &SplitPlan::default())
}

/// Exercise number `index`: soprano, alto, tenor and bass, with fermatas at the ends of phrases.
#[must_use]
pub fn score(seed: u64, index: u32) -> Score {
    let mut attempt = 0;
    loop {
        let key = [seed, u64::from(index), attempt];
        let plan = harmony::plan(&key);
        let stream = mix(&key);
        let (path, keeps_rules) = voicing::voice(&plan.chords, stream);
        attempt += 1;
        if keeps_rules || attempt == ATTEMPTS {
            let texture = figuration::figure(&plan.chords, &path, stream);
            return to_score(index, &plan, &texture);
        }
    }
}

fn to_score(index: u32, plan: &Plan, texture: &Texture) -> Score {
    let key = KeySignature { fifths: plan.fifths(), mode: Some(plan.mode) };
    let parts = ["Soprano", "Alto", "Tenor", "Bass"].iter().enumerate().map(|(voice, name)| Part {
        id: format!("P{}", voice + 1),
        name: (*name).to_owned(),
        notes: notes(texture, voice, key.fifths),
        ..Part::default()
    });
    Score {
        title: Some(format!("Exercise {index}")),
        composer: None,
        parts: parts.collect(),
        measures: measures(plan, ticks(texture.pitches.len()), key),
        tempo: Some(72.0),
        ..Score::default()
    }
}

fn notes(texture: &Texture, voice: usize, fifths: i8) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for (slot, (pitches, strikes)) in texture.pitches.iter().zip(&texture.strikes).enumerate() {
        match notes.last_mut() {
            Some(note) if !strikes[voice] => note.duration += ticks(1),
            _ => notes.push(Note {
                onset: ticks(slot),
                duration: ticks(1),
                pitch: spelling::spell(pitches[voice], fifths),
                tie_from: false,
                tie_to: false,
                fermata: false,
                voice: 1,
                notation: Notation::default(),
            }),
        }
    }
    for &slot in &texture.fermatas {
        let sounding = notes.iter_mut().rfind(|note| note.onset <= ticks(slot) + ticks(1));
        if let Some(note) = sounding {
            note.fermata = true;
        }
    }
    notes
}

fn measures(plan: &Plan, end: i64, key: KeySignature) -> Vec<Measure> {
    let beats = i64::try_from(plan.beats_per_measure).unwrap_or(4);
    let pickup = ticks(plan.pickup_beats * SLOTS_PER_BEAT);
    let mut measures = Vec::new();
    let mut start = 0;
    while start < end {
        let implicit = start == 0 && pickup > 0;
        let full = if implicit { pickup } else { beats * TICKS_PER_QUARTER };
        let number = measures.len() + usize::from(pickup == 0);
        measures.push(Measure {
            number: number.to_string(),
            start,
            duration: full.min(end - start),
            time: (u32::try_from(plan.beats_per_measure).unwrap_or(4), 4),
            key,
            implicit,
            ..Measure::default()
        });
        start += full;
    }
    measures
}

fn ticks(slots: usize) -> i64 {
    i64::try_from(slots).unwrap_or(0) * TICKS_PER_QUARTER / 2
}
