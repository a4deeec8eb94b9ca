//! Scores out: MusicXML for notation programs, MIDI and WAV for ears, SVG for eyes.

mod cut;
mod layout;
mod midi;
mod musicxml;
mod note;
pub mod spelling;
mod svg;
pub mod wav;
mod xml;

pub use midi::write_midi;
pub(crate) use musicxml::key_markup;
pub use musicxml::write_musicxml;
pub use svg::write_svg;
