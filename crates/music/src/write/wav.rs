//! Sound: a score as a WAV file, 16 bits, stereo, 44,100 samples a second.
//!
//! Played once, repeats not expanded, as the MIDI file is; at the score's tempo, or 88 quarters a minute. A note under a
//! fermata is held longer. The loudest sample is at nine tenths of full scale, so that nothing clips.

mod organ;
mod soundfont;
mod timeline;

use crate::score::Score;
use organ::Organ;
pub use soundfont::SoundFont;
use soundfont::Synth;
use timeline::{Clock, Timeline};

/// Samples a second.
pub const SAMPLE_RATE: u32 = 44_100;
/// Seconds of sound, at most: 500 bars of 4/4 at 72 quarters a minute, and some.
pub const SECONDS_MAX: f64 = 1800.0;

/// The loudest sample.
const PEAK: f32 = 0.9 * 32_767.0;
/// Samples that are rendered at once.
const BLOCK: usize = 4096;

/// What plays.
#[derive(Debug, Clone)]
pub enum Instrument {
    /// The built-in plain organ.
    Organ,
    /// Voices of a SoundFont: its choir (General MIDI 53), or what it has first.
    SoundFont(SoundFont),
}

/// Why there is no sound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WavError {
    #[error(
        "the score would sound for {minutes} minutes, more than the 30 that are written; cut it into movements"
    )]
    TooLong { minutes: u64 },
    #[error("this is no SoundFont that can be played: {0}")]
    SoundFont(String),
}

/// A source of stereo sound, from the beginning on.
trait Source {
    /// The next samples; both slices are as long as the other, and hold zeros.
    fn render(&mut self, left: &mut [f32], right: &mut [f32]) -> Result<(), WavError>;
}

/// When these ticks of the score sound in its WAV file, in seconds.
#[must_use]
pub fn seconds_at(score: &Score, ticks: impl IntoIterator<Item = i64>) -> Vec<f64> {
    let clock = Clock::new(score);
    ticks.into_iter().map(|tick| clock.seconds(tick)).collect()
}

/// The score as the bytes of a WAV file.
///
/// # Errors
/// A score that sounds for more than [`SECONDS_MAX`]; a SoundFont that turns out to be damaged.
pub fn write_wav(score: &Score, instrument: &Instrument) -> Result<Vec<u8>, WavError> {
    let timeline = Timeline::new(score);
    let seconds = timeline.seconds + tail(instrument);
    if seconds > SECONDS_MAX || !seconds.is_finite() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates")]
        let minutes = (seconds / 60.0).ceil() as u64;
        return Err(WavError::TooLong { minutes });
    }
    let samples = sample_at(seconds);
    // Twice: once to know the loudest sample, once to write. Nothing as long as the piece is held in floats.
    let mut loudest = 0.0_f32;
    render(source(&timeline, instrument)?, samples, |left, right| {
        loudest = left.iter().chain(right).fold(loudest, |most, sample| most.max(sample.abs()));
    })?;
    let gain = if loudest > 0.0 && loudest.is_finite() { PEAK / loudest } else { 0.0 };
    let mut bytes = header(samples);
    // What a SoundFont leaves sounding is faded out.
    let fade = sample_at(FADE_SECONDS);
    let mut written = 0;
    render(source(&timeline, instrument)?, samples, |left, right| {
        for (left, right) in left.iter().zip(right) {
            let remaining = samples - written;
            let fading = if remaining < fade { remaining as f32 / fade as f32 } else { 1.0 };
            for sample in [left, right] {
                bytes.extend_from_slice(&to_i16(sample * gain * fading).to_le_bytes());
            }
            written += 1;
        }
    })?;
    Ok(bytes)
}

/// The last of the silence after the end, or of what then still sounds.
const FADE_SECONDS: f64 = 0.5;

/// Seconds after the end of the last note.
fn tail(instrument: &Instrument) -> f64 {
    match instrument {
        Instrument::Organ => 1.0,
        Instrument::SoundFont(_) => 2.5,
    }
}

fn source<'a>(timeline: &'a Timeline, instrument: &'a Instrument) -> Result<Box<dyn Source + 'a>, WavError> {
    Ok(match instrument {
        Instrument::Organ => Box::new(Organ::new(timeline)),
        Instrument::SoundFont(font) => Box::new(Synth::new(timeline, font)?),
    })
}

fn render(
    mut source: Box<dyn Source + '_>,
    samples: usize,
    mut sink: impl FnMut(&[f32], &[f32]),
) -> Result<(), WavError> {
    let (mut left, mut right) = ([0.0; BLOCK], [0.0; BLOCK]);
    let mut done = 0;
    while done < samples {
        let length = BLOCK.min(samples - done);
        let (left, right) = (&mut left[..length], &mut right[..length]);
        left.fill(0.0);
        right.fill(0.0);
        source.render(left, right)?;
        sink(left, right);
        done += length;
    }
    Ok(())
}

/// The sample at a time in seconds, rounded.
fn sample_at(seconds: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates")]
    let sample = (seconds.max(0.0) * f64::from(SAMPLE_RATE)).round() as usize;
    sample
}

fn to_i16(sample: f32) -> i16 {
    #[expect(clippy::cast_possible_truncation, reason = "a float saturates, and none is beyond")]
    let sample = sample.round() as i16;
    sample
}

/// RIFF, "fmt " and the head of "data", for so many stereo samples.
fn header(samples: usize) -> Vec<u8> {
    const CHANNELS: u16 = 2;
    const BYTES: u16 = 2 * CHANNELS;
    // Thirty minutes are 318 MB.
    let data = u32::try_from(samples * usize::from(BYTES)).unwrap_or(u32::MAX - 36);
    let mut bytes = Vec::with_capacity(44 + samples * usize::from(BYTES));
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&(36 + data).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt ");
    bytes.extend_from_slice(&16_u32.to_le_bytes());
    // Plain PCM.
    bytes.extend_from_slice(&1_u16.to_le_bytes());
    bytes.extend_from_slice(&CHANNELS.to_le_bytes());
    bytes.extend_from_slice(&SAMPLE_RATE.to_le_bytes());
    bytes.extend_from_slice(&(SAMPLE_RATE * u32::from(BYTES)).to_le_bytes());
    bytes.extend_from_slice(&BYTES.to_le_bytes());
    bytes.extend_from_slice(&16_u16.to_le_bytes());
    bytes.extend_from_slice(b"data");
    bytes.extend_from_slice(&data.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests;
