//! Compressed MusicXML: a zip with a table of contents, unpacked under caps.

use std::io::{Cursor, Read};

use zip::ZipArchive;

use super::xml::{Xml, decode_text};
use super::{ReadError, SCORE_BYTES_MAX};

type Zip<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// Bytes of the zip itself, at most: bounds what its directory can make us hold.
const MXL_BYTES_MAX: usize = 16 << 20;
const CONTENTS: &str = "META-INF/container.xml";
const CONTENTS_BYTES_MAX: usize = 1 << 20;

/// The score inside a .mxl, still as XML.
pub(super) fn inflate(bytes: &[u8], name: &str) -> Result<Vec<u8>, ReadError> {
    if bytes.len() > MXL_BYTES_MAX {
        return Err(ReadError::TooLarge {
            name: name.to_owned(),
            bytes: bytes.len(),
            bytes_max: MXL_BYTES_MAX,
        });
    }
    let broken = |what: String| ReadError::Container { name: name.to_owned(), what };
    let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(|error| broken(error.to_string()))?;
    let members = member_names(&mut zip);
    let holds = |ending: &str| members.iter().any(|member| member.to_lowercase().ends_with(ending));
    let foreign = |kind, hint| Err(ReadError::NotMusicXml { name: name.to_owned(), kind, hint });
    if holds(".mscx") {
        return foreign("a MuseScore file", "in MuseScore: File > Export > MusicXML");
    }
    if holds("notationmetadata.xml") {
        return foreign("a Finale file", "in Finale: File > Export > MusicXML");
    }
    let root = match members.iter().position(|member| member == CONTENTS) {
        Some(index) => {
            let contents = member(&mut zip, index, CONTENTS_BYTES_MAX, name)?;
            root_file(&contents, name)?
        }
        None => None,
    };
    let at = match &root {
        Some(path) => members.iter().position(|member| member == path),
        None => members.iter().position(|member| is_score(member)),
    };
    match (at, root) {
        (Some(index), _) => member(&mut zip, index, SCORE_BYTES_MAX, name),
        (None, Some(path)) => Err(broken(format!("its table of contents names {path}, which is not inside"))),
        (None, None) if holds(".mid") || holds(".mxl") || holds(".mscz") => {
            foreign("a zip of files, and no score itself", "unpack it and hand over one of them")
        }
        (None, None) => {
            foreign("a zip without a score inside", "export the score as compressed MusicXML (.mxl)")
        }
    }
}

/// Names in the order of the zip's directory; one that cannot be read is empty.
fn member_names(zip: &mut Zip<'_>) -> Vec<String> {
    let name = |index| zip.name_for_index(index).and_then(Result::ok).map(std::borrow::Cow::into_owned);
    (0..zip.len()).map(|index| name(index).unwrap_or_default()).collect()
}

fn is_score(member: &str) -> bool {
    let score = [".xml", ".musicxml"].iter().any(|extension| member.to_lowercase().ends_with(extension));
    score && !member.starts_with("META-INF/") && !member.starts_with("__MACOSX/")
}

fn member(zip: &mut Zip<'_>, index: usize, bytes_max: usize, name: &str) -> Result<Vec<u8>, ReadError> {
    let broken = |what: String| ReadError::Container { name: name.to_owned(), what };
    let file = zip.by_index(index).map_err(|error| broken(error.to_string()))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|error| broken(error.to_string()))?;
    if bytes.len() > bytes_max {
        return Err(ReadError::InflatesTooFar { name: name.to_owned() });
    }
    Ok(bytes)
}

/// The first `rootfile` of the table of contents.
fn root_file(contents: &[u8], name: &str) -> Result<Option<String>, ReadError> {
    let text = decode_text(contents, name)?;
    let mut xml = Xml::new(&text, name);
    let Some(root) = xml.root()? else { return Ok(None) };
    if root.name() != "container" {
        return Ok(None);
    }
    while let Some(child) = xml.child()? {
        if child.name() != "rootfiles" {
            xml.skip()?;
            continue;
        }
        while let Some(file) = xml.child()? {
            if file.name() == "rootfile" {
                return xml.attribute(&file, "full-path");
            }
            xml.skip()?;
        }
    }
    Ok(None)
}
