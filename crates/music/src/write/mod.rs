//! Scores out: MusicXML for notation programs, MIDI and WAV for ears, SVG for eyes.

mod layout;
mod midi;
mod musicxml;
pub mod spelling;
mod svg;
pub mod wav;

pub use midi::write_midi;
pub use musicxml::write_musicxml;
pub use svg::write_svg;
