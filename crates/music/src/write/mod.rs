//! Scores out: MusicXML for notation programs, MIDI and WAV for ears.

mod layout;
mod midi;
mod musicxml;
pub mod spelling;
pub mod wav;

pub use midi::write_midi;
pub use musicxml::write_musicxml;
