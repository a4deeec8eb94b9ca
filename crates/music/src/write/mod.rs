//! Scores out: MusicXML for notation programs, MIDI for ears.

mod cut;
mod layout;
mod midi;
mod musicxml;
mod note;
pub mod spelling;
mod xml;

pub use midi::write_midi;
pub(crate) use musicxml::key_markup;
pub use musicxml::write_musicxml;
