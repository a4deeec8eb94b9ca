//! The choir of a SoundFont that the user names, played by `rustysynth`.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustysynth::{Synthesizer, SynthesizerSettings};

use super::timeline::Timeline;
use super::{SAMPLE_RATE, Source, WavError, sample_at};

/// General MIDI "Choir Aahs", counted from 0; a SoundFont without it plays its first preset.
const CHOIR: i32 = 52;
const VELOCITY: i32 = 84;
/// MIDI's pan, 64 in the middle, of the parts in turn.
const PAN: [i32; 4] = [48, 74, 58, 80];
const PROGRAM_CHANGE: i32 = 0xC0;
const CONTROL_CHANGE: i32 = 0xB0;
const PAN_CONTROL: i32 = 0x0A;

/// A SoundFont in memory. Cloning shares it.
#[derive(Clone)]
pub struct SoundFont(Arc<rustysynth::SoundFont>);

impl fmt::Debug for SoundFont {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SoundFont").field(&self.0.get_info().get_bank_name()).finish()
    }
}

impl SoundFont {
    /// From the bytes of an SF2 file.
    ///
    /// # Errors
    /// What is no SoundFont, a damaged one, or a compressed one (SF3).
    pub fn read(bytes: &[u8]) -> Result<Self, WavError> {
        check_chunks(bytes)?;
        let font = guarded(|| rustysynth::SoundFont::new(&mut &*bytes))?;
        let font = font.map_err(|error| WavError::SoundFont(error.to_string()))?;
        if font.get_presets().is_empty() || font.get_wave_data().is_empty() {
            return Err(WavError::SoundFont("it has no instruments".to_owned()));
        }
        Ok(Self(Arc::new(font)))
    }
}

/// The outermost frame: what is said of its size must be there. The reader behind believes the sizes that it reads.
fn check_chunks(bytes: &[u8]) -> Result<(), WavError> {
    let bad = |why: &str| Err(WavError::SoundFont(why.to_owned()));
    if bytes.get(..4) != Some(b"RIFF") || bytes.get(8..12) != Some(b"sfbk") {
        return bad("a SoundFont (.sf2) begins with RIFF and sfbk");
    }
    let mut rest = &bytes[12..];
    while let Some(size) = rest.get(4..8).and_then(|size| <[u8; 4]>::try_from(size).ok()) {
        let size = usize::try_from(u32::from_le_bytes(size)).unwrap_or(usize::MAX);
        let Some(after) = rest[8..].get(size..) else { return bad("it is cut off") };
        rest = after.get(size % 2..).unwrap_or_default();
    }
    Ok(())
}

/// A damaged SoundFont may make its reader panic: that is an error, too.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, WavError> {
    let told = |panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        WavError::SoundFont(format!("it is damaged ({text})"))
    };
    catch_unwind(AssertUnwindSafe(work)).map_err(told)
}

/// A note that begins or ends.
struct Event {
    sample: usize,
    is_start: bool,
    channel: i32,
    midi: i32,
}

pub(super) struct Synth {
    synth: Synthesizer,
    /// By sample; ends before beginnings.
    events: Vec<Event>,
    next: usize,
    at: usize,
}

impl Synth {
    pub(super) fn new(timeline: &Timeline, font: &SoundFont) -> Result<Self, WavError> {
        let settings = SynthesizerSettings::new(i32::try_from(SAMPLE_RATE).unwrap_or(44_100));
        let synth = guarded(|| Synthesizer::new(&font.0, &settings))?;
        let mut synth = synth.map_err(|error| WavError::SoundFont(error.to_string()))?;
        for (part, pan) in (0..15).zip(PAN.into_iter().cycle()) {
            synth.process_midi_message(channel(part), PROGRAM_CHANGE, CHOIR, 0);
            synth.process_midi_message(channel(part), CONTROL_CHANGE, PAN_CONTROL, pan);
        }
        let mut events = Vec::with_capacity(2 * timeline.tones.len());
        for tone in &timeline.tones {
            let (channel, midi) = (channel(tone.part), i32::from(tone.midi));
            events.push(Event { sample: sample_at(tone.start), is_start: true, channel, midi });
            events.push(Event { sample: sample_at(tone.end), is_start: false, channel, midi });
        }
        events.sort_by_key(|event| (event.sample, event.is_start));
        Ok(Self { synth, events, next: 0, at: 0 })
    }

    fn play(&mut self, left: &mut [f32], right: &mut [f32]) {
        let end = self.at + left.len();
        let mut done = 0;
        while let Some(event) = self.events.get(self.next).filter(|event| event.sample < end) {
            let until = (event.sample.max(self.at) - self.at).max(done);
            self.synth.render(&mut left[done..until], &mut right[done..until]);
            done = until;
            if event.is_start {
                self.synth.note_on(event.channel, event.midi, VELOCITY);
            } else {
                self.synth.note_off(event.channel, event.midi);
            }
            self.next += 1;
        }
        self.synth.render(&mut left[done..], &mut right[done..]);
        self.at = end;
    }
}

impl Source for Synth {
    fn render(&mut self, left: &mut [f32], right: &mut [f32]) -> Result<(), WavError> {
        guarded(|| self.play(left, right))
    }
}

/// A channel a part; the tenth is for drums.
fn channel(part: usize) -> i32 {
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15][part % 15]
}
