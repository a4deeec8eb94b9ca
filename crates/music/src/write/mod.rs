//! Scores out: MusicXML for notation programs, MIDI for ears.

mod layout;
mod midi;
mod musicxml;
pub mod spelling;

pub use midi::write_midi;
pub use musicxml::write_musicxml;
