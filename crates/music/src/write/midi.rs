//! Standard MIDI files, format 1: a track of tempo, metre and key, then a track a part.

use midly::num::{u4, u7, u15, u24, u28};
use midly::{Format, Header, MetaMessage, MidiMessage, Smf, Timing, Track, TrackEvent, TrackEventKind};

use super::{cut, layout};
use crate::score::{Measure, Mode, Note, Part, Score, TICKS_PER_QUARTER};

/// Pulses in a quarter: sixteenths, triplets and quintuplets are exact.
const PULSES_PER_QUARTER: u16 = 480;
const TEMPO: f64 = 72.0;
/// General MIDI "Choir Aahs".
const CHOIR: u8 = 52;
const VELOCITY: u8 = 80;

/// The score as a MIDI file: tied notes sound once, every part has a channel and a track of its name, the first verse
/// is sung, tempi, metres and keys are told. Repeats are not played.
#[must_use]
pub fn write_midi(score: &Score) -> Vec<u8> {
    let timing = Timing::Metrical(u15::from(PULSES_PER_QUARTER));
    let words: Vec<Vec<(u32, String)>> = score.parts.iter().map(words).collect();
    let mut tracks = vec![conductor(score)];
    let parts = score.parts.iter().zip(&words).enumerate();
    tracks.extend(parts.map(|(i, (part, words))| part_track(i, part, words)));
    let file = Smf { header: Header::new(Format::Parallel, timing), tracks };
    let mut bytes = Vec::new();
    // Writing into memory fails only above 4 GiB a track.
    if file.write_std(&mut bytes).is_err() {
        bytes.clear();
    }
    bytes
}

fn conductor(score: &Score) -> Track<'_> {
    let mut timed = vec![];
    if let Some(title) = &score.title {
        timed.push((0, meta(MetaMessage::TrackName(title.as_bytes()))));
    }
    let measures = layout::measures(score);
    timed.extend(tempi(score, &measures));
    for (i, measure) in measures.iter().enumerate() {
        let before = i.checked_sub(1).map(|b| &measures[b]);
        let at = pulses(measure.start);
        if before.is_none_or(|b| b.time != measure.time || is_pickup(b, i)) {
            let (beats, beat_type) =
                if is_pickup(measure, i + 1) { pickup_time(measure) } else { measure.time };
            let beats = u8::try_from(beats).unwrap_or(4);
            let power = u8::try_from(beat_type.max(1).ilog2()).unwrap_or(2);
            timed.push((at, meta(MetaMessage::TimeSignature(beats, power, 24, 8))));
        }
        if before.is_none_or(|b| b.key != measure.key) {
            let minor = measure.key.mode == Some(Mode::Minor);
            timed.push((at, meta(MetaMessage::KeySignature(measure.key.fifths.clamp(-7, 7), minor))));
        }
    }
    timed.sort_by_key(|(at, _)| *at);
    track(timed, pulses(score.duration()))
}

/// The tempi, and a usual one before the first.
fn tempi<'a>(score: &Score, measures: &[Measure]) -> Vec<(u32, TrackEventKind<'a>)> {
    let told = measures.iter().flat_map(|measure| &measure.notation.directions);
    let mut tempi: Vec<(u32, f64)> =
        told.filter_map(|direction| Some((pulses(direction.onset), direction.tempo?))).collect();
    if tempi.first().is_none_or(|&(at, _)| at > 0) {
        tempi.insert(0, (0, score.tempo.unwrap_or(TEMPO)));
    }
    let event = |(at, tempo): (u32, f64)| {
        let tempo = if (4.0..=1000.0).contains(&tempo) { tempo } else { TEMPO };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "60,000 to 15,000,000")]
        let microseconds = (60_000_000.0 / tempo).round() as u32;
        (at, meta(MetaMessage::Tempo(u24::from(microseconds))))
    };
    tempi.into_iter().map(event).collect()
}

/// Whether the measure, counted from 1, is a pickup: MIDI knows them as bars of a metre of their own.
fn is_pickup(measure: &Measure, number: usize) -> bool {
    number == 1 && measure.duration < cut::full(measure.time)
}

fn pickup_time(measure: &Measure) -> (u32, u32) {
    let fits = |beat_type: u32| {
        let beat = 4 * TICKS_PER_QUARTER / i64::from(beat_type);
        let beats = u32::try_from(measure.duration / beat).ok().filter(|beats| *beats > 0)?;
        (measure.duration % beat == 0).then_some((beats, beat_type))
    };
    [measure.time.1.clamp(1, 64), 4, 8, 16, 32].into_iter().find_map(fits).unwrap_or(measure.time)
}

/// The first verse; "-" at a syllable's end says that its word goes on.
fn words(part: &Part) -> Vec<(u32, String)> {
    let sung = part.notes.iter().filter(|note| note.onset >= 0);
    sung.filter_map(|note| Some((pulses(note.onset), note.lyric()?))).collect()
}

fn part_track<'a>(index: usize, part: &'a Part, words: &'a [(u32, String)]) -> Track<'a> {
    // Channel 10 is for drums.
    let channel = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15][index % 15];
    let midi = |message| TrackEventKind::Midi { channel: u4::from(channel), message };
    let mut timed = vec![
        (0, meta(MetaMessage::TrackName(part.name.as_bytes()))),
        (0, midi(MidiMessage::ProgramChange { program: u7::from(CHOIR) })),
    ];
    let lyric = |(at, text): &'a (u32, String)| (*at, meta(MetaMessage::Lyric(text.as_bytes())));
    timed.extend(words.iter().map(lyric));
    let sounding = sounding(&part.notes);
    for &(onset, end, key) in &sounding {
        let (key, vel) = (u7::from(key), u7::from(VELOCITY));
        timed.push((onset, midi(MidiMessage::NoteOn { key, vel })));
        timed.push((end, midi(MidiMessage::NoteOff { key, vel: u7::from(0) })));
    }
    // At one instant what ends does so before what begins.
    timed.sort_by_key(|(at, kind)| {
        let rank = match kind {
            TrackEventKind::Midi { message: MidiMessage::NoteOff { .. }, .. } => 1,
            TrackEventKind::Midi { message: MidiMessage::NoteOn { .. }, .. } => 2,
            _ => 0,
        };
        (*at, rank)
    });
    let end = sounding.iter().map(|&(_, end, _)| end).max().unwrap_or(0);
    track(timed, end)
}

/// Onset, end (pulses) and key of what is heard: tied notes as one, and a key that is struck while it still
/// sounds ends the note before.
fn sounding(notes: &[Note]) -> Vec<(u32, u32, u8)> {
    let mut heard: Vec<(u32, u32, u8)> = Vec::new();
    for note in notes.iter().filter(|n| n.duration > 0 && n.onset >= 0) {
        let (onset, end, key) =
            (pulses(note.onset), pulses(note.onset + note.duration), note.pitch.midi.min(127));
        let end = end.max(onset + 1);
        let before = heard.iter_mut().rev().take(64).find(|h| h.2 == key && h.1 >= onset);
        match before {
            Some(tied) if note.tie_from || tied.0 == onset => tied.1 = tied.1.max(end),
            Some(still) => {
                still.1 = still.1.min(onset);
                heard.push((onset, end, key));
            }
            None => heard.push((onset, end, key)),
        }
    }
    heard
}

fn track<'a>(timed: Vec<(u32, TrackEventKind<'a>)>, end: u32) -> Track<'a> {
    let mut at = 0;
    let mut track: Track<'a> = Vec::with_capacity(timed.len() + 1);
    for (when, kind) in timed.into_iter().chain([(end, meta(MetaMessage::EndOfTrack))]) {
        let delta = when.saturating_sub(at);
        track.push(TrackEvent { delta: u28::from_int_lossy(delta), kind });
        at = at.max(when);
    }
    track
}

fn meta(message: MetaMessage<'_>) -> TrackEventKind<'_> {
    TrackEventKind::Meta(message)
}

/// Ticks as pulses, rounded.
fn pulses(ticks: i64) -> u32 {
    let per_pulse = TICKS_PER_QUARTER / i64::from(PULSES_PER_QUARTER);
    u32::try_from((ticks + per_pulse / 2) / per_pulse).unwrap_or(0)
}
