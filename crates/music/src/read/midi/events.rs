//! What a MIDI file says: its events, gathered by what they are about.

use std::collections::BTreeMap;

use midly::{EventIter, Format, MetaMessage, MidiMessage, Timing, TrackEventKind};

use super::{NOTES_MAX, TICKS_MAX};
use crate::read::ReadError;
use crate::score::{KeySignature, Mode, Note, Pitch, TICKS_PER_QUARTER};

/// Channel 10, counted from 0.
const DRUMS: u8 = 9;
/// Microseconds a quarter note, where the file does not say.
const USUAL_TEMPO: u32 = 500_000;
/// Signatures and tempi, and words, that are kept.
const SIGNS_MAX: usize = 2_000;
const WORDS_MAX: usize = 20_000;
const TRACKS_MAX: usize = 1_000;

/// From pulses to ticks: `pulses * numerator / denominator` quarter notes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    numerator: i128,
    denominator: i128,
}

impl Clock {
    fn ticks(self, pulses: u64) -> i64 {
        let ticks = i128::from(pulses) * self.numerator * i128::from(TICKS_PER_QUARTER);
        let ticks = (2 * ticks + self.denominator) / (2 * self.denominator);
        i64::try_from(ticks).unwrap_or(i64::MAX)
    }

    /// What a pulse lasts, rounded up.
    pub(super) fn pulse_ticks(self) -> i64 {
        self.ticks(1).max(1)
    }
}

/// A note as it was played, in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Played {
    pub(super) onset: i64,
    pub(super) end: i64,
    pub(super) key: u8,
    /// Before it was moved to a grid.
    pub(super) struck: i64,
}

impl Played {
    pub(super) fn note(&self) -> Note {
        let pitch = Pitch { midi: self.key, step: 0, alter: 0 };
        Note { onset: self.onset, duration: self.end - self.onset, pitch, ..Note::default() }
    }
}

/// The notes of a channel of a track.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) track: usize,
    pub(super) name: String,
    pub(super) notes: Vec<Played>,
}

/// A MIDI file, in ticks.
pub(super) struct Song {
    pub(super) clock: Clock,
    pub(super) title: Option<String>,
    pub(super) rights: Option<String>,
    pub(super) lines: Vec<Line>,
    /// There were notes, but for drums.
    pub(super) drums: bool,
    /// Quarter notes a minute.
    pub(super) tempi: Vec<(i64, f64)>,
    pub(super) times: Vec<(i64, (u32, u32))>,
    pub(super) keys: Vec<(i64, KeySignature)>,
    /// Track, place, text as it stands.
    pub(super) words: Vec<(usize, i64, String)>,
    pub(super) remarks: Vec<String>,
}

/// A track as it is read, in pulses.
#[derive(Default)]
struct Track {
    name: Option<String>,
    /// By channel: onset, end, key.
    notes: BTreeMap<u8, Vec<(u64, u64, u8)>>,
    texts: Vec<(u64, String)>,
    lyrics: Vec<(u64, String)>,
}

impl Song {
    pub(super) fn read(bytes: &[u8], name: &str) -> Result<Self, ReadError> {
        let damaged = |place: &str, what: &str| ReadError::Midi {
            name: name.to_owned(),
            place: place.to_owned(),
            what: what.to_owned(),
        };
        let cut_short = "it is damaged or was cut short; copy or export it again";
        let (header, tracks) =
            midly::parse(bytes).map_err(|error| damaged("the head", &format!("{error}: {cut_short}")))?;
        if header.format == Format::Sequential {
            let what = "it is of format 2, patterns that are no piece; export it as format 0 or 1";
            return Err(damaged("the head", what));
        }
        let promised = tracks.size_hint().0;
        let lacks_bytes = lacks_bytes(bytes);
        let mut reader = Reader::default();
        for (track, index) in tracks.zip(0..) {
            let place = format!("track {}", index + 1);
            if index >= TRACKS_MAX {
                return Err(damaged(&place, "more than 1000 tracks, which no piece has"));
            }
            let events = track.map_err(|error| damaged(&place, &format!("{error}: {cut_short}")))?;
            let ended = reader.track(events);
            let ended = ended.map_err(|what| damaged(&place, &format!("{what}; {cut_short}")))?;
            if !ended && lacks_bytes && reader.notes <= NOTES_MAX {
                return Err(damaged(&place, &format!("it ends in the middle: {cut_short}")));
            }
            if reader.notes > NOTES_MAX {
                return Err(damaged(&place, "more than 200000 notes; cut the piece into movements"));
            }
        }
        if reader.tracks.len() < promised {
            let there = reader.tracks.len();
            let what = format!("it promises {promised} tracks, and {there} are there: {cut_short}");
            return Err(damaged("the head", &what));
        }
        let clock = clock(header.timing, reader.tempi.first().map_or(USUAL_TEMPO, |&(_, tempo)| tempo))
            .ok_or_else(|| damaged("the head", &format!("a beat of no length: {cut_short}")))?;
        let mut song = reader.finish(clock, header.format == Format::SingleTrack);
        if matches!(header.timing, Timing::Timecode(..)) {
            song.remarks
                .push("the MIDI file counts in seconds, not beats: its tempo made them beats".to_owned());
        }
        let ends = song.lines.iter().flat_map(|line| &line.notes).map(|note| note.end);
        if ends.max().unwrap_or(0) > TICKS_MAX {
            return Err(song.fail(name, "the file", "more than 100000 quarter notes; cut it into movements"));
        }
        Ok(song)
    }

    pub(super) fn fail(&self, name: &str, place: &str, what: &str) -> ReadError {
        ReadError::Midi { name: name.to_owned(), place: place.to_owned(), what: what.to_owned() }
    }
}

fn clock(timing: Timing, tempo: u32) -> Option<Clock> {
    let (numerator, denominator) = match timing {
        Timing::Metrical(pulses) => (1, i128::from(pulses.as_int())),
        Timing::Timecode(rate, parts) => {
            // 29 means 30000/1001 frames a second.
            let frames = i128::from(rate.as_int());
            let (frames, seconds) = if frames == 29 { (30_000, 1_001) } else { (frames, 1) };
            (seconds * 1_000_000, frames * i128::from(parts) * i128::from(tempo))
        }
    };
    (denominator > 0).then_some(Clock { numerator, denominator })
}

/// A key of a channel, in pulses.
#[derive(Default)]
struct Struck {
    /// Sounding since then.
    since: Option<u64>,
    /// Ends that are still to come, of notes that the key's next one has ended.
    owed: u32,
    /// When a note ended that had not begun.
    ended_early: Option<u64>,
}

impl Struck {
    /// The onset of the note that ends now, if one does.
    ///
    /// Programs that sort ends before beginnings write a note of no length, such as a grace note, the wrong way round.
    /// It would sound on and on; it is none.
    fn event(&mut self, struck: bool, now: u64) -> Option<u64> {
        if !struck {
            if self.since.is_none() && self.owed == 0 {
                self.ended_early = Some(now);
            }
            self.owed = if self.since.is_none() { self.owed.saturating_sub(1) } else { self.owed };
            return self.since.take();
        }
        if self.ended_early.take() == Some(now) {
            return None;
        }
        self.owed += u32::from(self.since.is_some());
        self.since.replace(now)
    }
}

#[derive(Default)]
struct Reader {
    tracks: Vec<Track>,
    notes: usize,
    drums: bool,
    /// In pulses; tempi in microseconds a quarter.
    tempi: Vec<(u64, u32)>,
    times: Vec<(u64, (u32, u32))>,
    keys: Vec<(u64, KeySignature)>,
    rights: Option<String>,
    /// Words and texts so far.
    words: usize,
}

impl Reader {
    /// Reads a track; whether it says that it ends.
    fn track(&mut self, events: EventIter<'_>) -> Result<bool, String> {
        let mut track = Track::default();
        let mut keys: BTreeMap<(u8, u8), Struck> = BTreeMap::new();
        let (mut now, mut ended) = (0_u64, false);
        for (event, number) in events.zip(1_usize..) {
            let event = event.map_err(|error| format!("event {number}: {error}"))?;
            now += u64::from(event.delta.as_int());
            match event.kind {
                TrackEventKind::Midi { channel, message } => {
                    let channel = channel.as_int();
                    let (key, struck) = match message {
                        MidiMessage::NoteOn { key, vel } => (key.as_int(), vel.as_int() > 0),
                        MidiMessage::NoteOff { key, .. } => (key.as_int(), false),
                        _ => continue,
                    };
                    if let Some(onset) = keys.entry((channel, key)).or_default().event(struck, now) {
                        self.note(&mut track, channel, (onset, now, key));
                    }
                }
                TrackEventKind::Meta(MetaMessage::EndOfTrack) => {
                    ended = true;
                    break;
                }
                TrackEventKind::Meta(message) => self.meta(&mut track, now, message),
                _ => {}
            }
            if self.notes > NOTES_MAX {
                break;
            }
        }
        // What nobody ended does so with the track.
        for ((channel, key), struck) in keys {
            if let Some(onset) = struck.since {
                self.note(&mut track, channel, (onset, now, key));
            }
        }
        self.tracks.push(track);
        Ok(ended)
    }

    fn note(&mut self, track: &mut Track, channel: u8, note: (u64, u64, u8)) {
        if channel == DRUMS {
            self.drums = true;
        } else if note.1 > note.0 {
            self.notes += 1;
            track.notes.entry(channel).or_default().push(note);
        }
    }

    fn meta(&mut self, track: &mut Track, now: u64, message: MetaMessage<'_>) {
        match message {
            MetaMessage::TrackName(bytes) if track.name.is_none() => {
                track.name = Some(text(bytes).trim().to_owned()).filter(|name| !name.is_empty());
            }
            MetaMessage::Copyright(bytes) if self.rights.is_none() => {
                self.rights = Some(text(bytes).trim().to_owned()).filter(|rights| !rights.is_empty());
            }
            MetaMessage::Tempo(tempo) if tempo.as_int() > 0 && self.tempi.len() < SIGNS_MAX => {
                self.tempi.push((now, tempo.as_int()))
            }
            MetaMessage::TimeSignature(beats, power, ..)
                if (1..=64).contains(&beats) && power <= 6 && self.times.len() < SIGNS_MAX =>
            {
                self.times.push((now, (u32::from(beats), 1 << power)));
            }
            MetaMessage::KeySignature(fifths, minor)
                if (-7..=7).contains(&fifths) && self.keys.len() < SIGNS_MAX =>
            {
                let mode = Some(if minor { Mode::Minor } else { Mode::Major });
                self.keys.push((now, KeySignature { fifths, mode }));
            }
            MetaMessage::Lyric(bytes) if self.words < WORDS_MAX => {
                self.words += 1;
                track.lyrics.push((now, text(bytes)));
            }
            MetaMessage::Text(bytes) if self.words < WORDS_MAX => {
                self.words += 1;
                track.texts.push((now, text(bytes)));
            }
            _ => {}
        }
    }

    fn finish(mut self, clock: Clock, is_single: bool) -> Song {
        let sounding = |track: &Track| !track.notes.is_empty();
        // The first track's name is the piece's, where it has no notes, or stands for all.
        let names_piece = is_single || self.tracks.first().is_some_and(|track| !sounding(track));
        let title = self.tracks.first_mut().filter(|_| names_piece).and_then(|track| track.name.take());
        // A karaoke file has its words as texts.
        let is_karaoke = self.tracks.iter().flat_map(|t| &t.texts).any(|(_, text)| text.starts_with("@K"));
        let mut words = Vec::new();
        let mut lines = Vec::new();
        for (index, track) in self.tracks.iter().enumerate() {
            let sung = if is_karaoke && track.lyrics.is_empty() { &track.texts } else { &track.lyrics };
            words.extend(sung.iter().map(|(at, text)| (index, clock.ticks(*at), text.clone())));
            for (&channel, notes) in &track.notes {
                let name = match (&track.name, track.notes.len()) {
                    (Some(name), 1) => name.clone(),
                    (Some(name), _) => format!("{name} (channel {})", channel + 1),
                    (None, 1) if !is_single => format!("Track {}", index + 1),
                    (None, _) => format!("Channel {}", channel + 1),
                };
                let ticks = |pulses: u64| clock.ticks(pulses);
                let played = |&(onset, end, key): &(u64, u64, u8)| {
                    let onset = ticks(onset);
                    Played { onset, end: ticks(end).max(onset + 1), key, struck: onset }
                };
                lines.push(Line { track: index, name, notes: notes.iter().map(played).collect() });
            }
        }
        self.tempi.sort_by_key(|&(at, _)| at);
        self.times.sort_by_key(|&(at, _)| at);
        self.keys.sort_by_key(|&(at, _)| at);
        let tempo = |&(at, tempo): &(u64, u32)| {
            (clock.ticks(at), (60_000_000.0 / f64::from(tempo) * 100.0).round().max(1.0) / 100.0)
        };
        Song {
            clock,
            title,
            rights: self.rights,
            lines,
            drums: self.drums,
            tempi: self.tempi.iter().map(tempo).collect(),
            times: self.times.iter().map(|&(at, time)| (clock.ticks(at), time)).collect(),
            keys: self.keys.iter().map(|&(at, key)| (clock.ticks(at), key)).collect(),
            words,
            remarks: Vec::new(),
        }
    }
}

/// Whether the last chunk says that it is longer than the file is.
fn lacks_bytes(bytes: &[u8]) -> bool {
    let head = bytes.windows(4).take(64).position(|window| window == b"MThd").unwrap_or(0);
    let mut rest = &bytes[head..];
    while let [_, _, _, _, a, b, c, d, ..] = *rest {
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        match rest[8..].get(length..) {
            Some(after) => rest = after,
            None => return true,
        }
    }
    false
}

/// A text of a MIDI file: UTF-8, else Latin-1.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}
