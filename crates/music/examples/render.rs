//! Reads a score and writes it as a picture or as sound: `render SCORE OUT.svg|OUT.wav [SOUNDFONT.sf2]`.

use std::error::Error;
use std::fs;

use kapell_music::read::read_score;
use kapell_music::write::wav::{Instrument, SoundFont, write_wav};
use kapell_music::write::write_svg;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [score, out, font @ ..] = arguments.as_slice() else {
        return Err("usage: render SCORE OUT.svg|OUT.wav [SOUNDFONT.sf2]".into());
    };
    let score = read_score(&fs::read(score)?, score)?;
    let instrument = match font.first() {
        Some(path) => Instrument::SoundFont(SoundFont::read(&fs::read(path)?)?),
        None => Instrument::Organ,
    };
    let bytes =
        if out.ends_with(".svg") { write_svg(&score).into_bytes() } else { write_wav(&score, &instrument)? };
    Ok(fs::write(out, bytes)?)
}
