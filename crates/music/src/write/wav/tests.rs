//! What is written is heard: by frequency, length, loudness and silence.

use super::*;
use crate::score::{Measure, Note, Part, TICKS_PER_QUARTER};
use crate::write::spelling::spell;

const Q: i64 = TICKS_PER_QUARTER;

fn note(onset: i64, duration: i64, midi: u8) -> Note {
    Note { onset, duration, pitch: spell(midi, 0), ..Note::default() }
}

fn score(parts: Vec<Vec<Note>>) -> Score {
    let part = |notes| Part { notes, ..Part::default() };
    Score { parts: parts.into_iter().map(part).collect(), tempo: Some(60.0), ..Score::default() }
}

/// Left and right.
fn played(score: &Score) -> (Vec<f64>, Vec<f64>) {
    let bytes = write_wav(score, &Instrument::Organ).expect("short enough");
    assert_eq!((&bytes[..4], &bytes[8..16]), (&b"RIFF"[..], &b"WAVEfmt "[..]));
    assert_eq!(u32::from_le_bytes([bytes[40], bytes[41], bytes[42], bytes[43]]) as usize, bytes.len() - 44);
    assert_eq!(u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize, bytes.len() - 8);
    let samples: Vec<f64> =
        bytes[44..].chunks_exact(2).map(|b| f64::from(i16::from_le_bytes([b[0], b[1]]))).collect();
    samples.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip()
}

/// The power at a frequency (Goertzel's algorithm), between two times in seconds.
fn power(samples: &[f64], frequency: f64, from: f64, to: f64) -> f64 {
    let samples = &samples[sample_at(from)..sample_at(to)];
    let turn = 2.0 * (std::f64::consts::TAU * frequency / f64::from(SAMPLE_RATE)).cos();
    let (mut before, mut last) = (0.0, 0.0);
    for sample in samples {
        (before, last) = (last, sample + turn * last - before);
    }
    (last * last + before * before - turn * last * before) / (samples.len() as f64).powi(2)
}

fn loudest(samples: &[f64]) -> f64 {
    samples.iter().fold(0.0, |most, sample| most.max(sample.abs()))
}

#[test]
fn a_held_note_sounds_at_its_frequency() {
    for (midi, frequency) in [(69, 440.0), (48, 130.8128), (81, 880.0)] {
        let (left, right) = played(&score(vec![vec![note(0, 2 * Q, midi)]]));
        for side in [&left, &right] {
            let at = |factor: f64| power(side, frequency * factor, 0.2, 1.8);
            let semitone = 2.0_f64.powf(1.0 / 12.0);
            assert!(at(1.0) > 1000.0 * at(semitone).max(at(1.0 / semitone)), "{midi}");
            assert!(at(1.0) > at(2.0) && at(2.0) > at(3.0), "{midi}: its octave and twelfth are softer");
        }
    }
}

#[test]
fn sound_lasts_as_long_as_the_score_and_then_there_is_silence() {
    let (left, _) = played(&score(vec![vec![note(0, Q, 60), note(Q, 2 * Q, 62)]]));
    assert_eq!(left.len(), sample_at(4.0));
    assert!(loudest(&left[sample_at(2.5)..sample_at(2.9)]) > 1000.0);
    assert_eq!(loudest(&left[sample_at(3.1)..]), 0.0);
}

#[test]
fn rests_are_silent_and_written_rests_at_the_end_count() {
    let mut rests = score(vec![vec![note(Q, Q, 60)]]);
    rests.measures.push(Measure::default());
    let (left, _) = played(&rests);
    assert_eq!(left.len(), sample_at(5.0));
    assert_eq!(loudest(&left[..sample_at(1.0)]), 0.0);
}

#[test]
fn nothing_clips_and_the_loudest_sample_is_near_full_scale() {
    let voices = [72, 67, 64, 48].map(|midi| vec![note(0, Q, midi), note(Q, Q, midi + 2)]);
    let quiet = vec![vec![note(0, Q, 60)]];
    for parts in [voices.to_vec(), quiet, vec![vec![note(0, Q, 60)]; 12]] {
        let (left, right) = played(&score(parts));
        let most = loudest(&left).max(loudest(&right));
        assert!((29_000.0..=29_500.0).contains(&most), "{most}");
    }
    let (left, right) = played(&score(vec![]));
    assert_eq!((loudest(&left), loudest(&right)), (0.0, 0.0));
}

#[test]
fn nothing_clicks() {
    // The steepest a sum of these partials can be, were it a single note at full scale; a click is far steeper.
    let (left, _) = played(&score(vec![vec![note(0, Q, 60), note(Q, Q / 8, 60), note(Q + Q / 4, Q, 67)]]));
    let steepest = left.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f64::max);
    assert!(steepest < 7_000.0, "{steepest}");
    assert!(left[0].abs() < 1.0);
}

#[test]
fn a_fermata_holds_and_what_follows_comes_later() {
    let plain = score(vec![vec![note(0, Q, 60), note(Q, Q, 62)], vec![note(0, 2 * Q, 48)]]);
    let mut held = plain.clone();
    held.parts[0].notes[0].fermata = true;
    let (plain, held) = (Timeline::new(&plain), Timeline::new(&held));
    assert!((plain.seconds - 2.0).abs() < 1e-9 && (held.seconds - 2.75).abs() < 1e-9);
    let starts: Vec<f64> = held.tones.iter().map(|tone| tone.start).collect();
    assert!((starts[2] - 1.75).abs() < 1e-9, "{starts:?}");
}

#[test]
fn a_fermata_in_four_voices_holds_once() {
    let mut chord = score([72, 67, 64, 48].map(|midi| vec![note(0, 2 * Q, midi)]).to_vec());
    chord.parts.iter_mut().for_each(|part| part.notes[0].fermata = true);
    // A quarter of the half note is held.
    assert!((Timeline::new(&chord).seconds - 2.75).abs() < 1e-9);
}

#[test]
fn tied_notes_sound_once_and_repeated_ones_twice() {
    let mut tied = score(vec![vec![note(0, Q, 60), note(Q, Q, 60)]]);
    tied.parts[0].notes[0].tie_to = true;
    tied.parts[0].notes[1].tie_from = true;
    assert_eq!(Timeline::new(&tied).tones.len(), 1);
    let (left, _) = played(&tied);
    assert!(loudest(&left[sample_at(0.97)..sample_at(1.03)]) > 20_000.0);
    let repeated = score(vec![vec![note(0, Q, 60), note(Q, Q, 60)]]);
    assert_eq!(Timeline::new(&repeated).tones.len(), 2);
}

#[test]
fn without_a_tempo_it_is_88_quarters_a_minute() {
    let mut silent = score(vec![vec![note(0, 88 * Q, 60)]]);
    for (tempo, seconds) in [(None, 60.0), (Some(176.0), 30.0), (Some(f64::NAN), 60.0), (Some(0.0), 60.0)] {
        silent.tempo = tempo;
        assert!((Timeline::new(&silent).seconds - seconds).abs() < 1e-9, "{tempo:?}");
    }
}

#[test]
fn half_an_hour_is_the_most() {
    let long = score(vec![vec![note(0, 1900 * Q, 60)]]);
    let refused = write_wav(&long, &Instrument::Organ);
    assert_eq!(refused, Err(WavError::TooLong { minutes: 32 }));
    let endless = score(vec![vec![note(i64::MAX - 2, 1, 60)]]);
    assert!(matches!(write_wav(&endless, &Instrument::Organ), Err(WavError::TooLong { .. })));
}

#[test]
fn what_is_no_soundfont_is_refused_with_a_reason() {
    let riff = |size: u32| [&b"RIFF\x10\0\0\0sfbkLIST"[..], &size.to_le_bytes(), b"INFO"].concat();
    for (bytes, told) in [
        (b"MThd".to_vec(), "begins with RIFF"),
        (Vec::new(), "begins with RIFF"),
        (riff(4000), "cut off"),
        (riff(u32::MAX), "cut off"),
        (riff(4), "no SoundFont"),
    ] {
        let error = SoundFont::read(&bytes).map(|_| ()).expect_err("refused");
        assert!(error.to_string().contains(told), "{error}");
    }
}
