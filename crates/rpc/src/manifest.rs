//! The manifest of a checkpoint: which files it has, how long they are and what they hash to. Its canonical
//! bytes are a blob, and that blob's digest is the checkpoint's name.

use serde::{Deserialize, Serialize};

use crate::digest;

/// The files that a checkpoint may have, sorted. Names never come from a peer: others are refused.
pub const CHECKPOINT_FILES: [&str; 4] =
    ["config.json", "model.safetensors", "training.safetensors", "vocab.json"];

/// What a model's version leaves out: it is needed for going on with training, not for using the model.
pub const TRAINING_FILE: &str = "training.safetensors";

/// No manifest is longer than this.
pub const MANIFEST_BYTES_MAX: u64 = 64 * 1024;

/// The files of a checkpoint, by name in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest {
    pub files: Vec<ManifestFile>,
}

/// One file of a checkpoint. The order of fields is part of the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    pub name: String,
    pub size: u64,
    /// "sha256:<hex>"
    pub digest: String,
}

/// Bytes that are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("a manifest is no JSON of the right form: {0}")]
    Json(String),
    #[error("a manifest names the file {0:?}, which no checkpoint has")]
    Name(String),
    #[error("a manifest gives {name} the digest {digest:?}, which is none")]
    Digest { name: String, digest: String },
    #[error("a manifest is not in its canonical form")]
    NotCanonical,
}

impl Manifest {
    /// A manifest of these files, in whatever order they come.
    #[must_use]
    pub fn new(mut files: Vec<ManifestFile>) -> Self {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Self { files }
    }

    /// The canonical bytes: compact JSON, files by name.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The name of the checkpoint.
    #[must_use]
    pub fn digest(&self) -> String {
        digest::of_bytes(&self.to_bytes())
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// The manifest of a model's version: without the state of training.
    #[must_use]
    pub fn without_training(&self) -> Self {
        Self { files: self.files.iter().filter(|f| f.name != TRAINING_FILE).cloned().collect() }
    }

    /// Reads a manifest that somebody sent.
    ///
    /// # Errors
    /// Where it is not JSON of this form, names another file, has a malformed digest, or has not the canonical
    /// bytes (order, duplicates, white space).
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| ManifestError::Json(error.to_string()))?;
        for file in &manifest.files {
            if !CHECKPOINT_FILES.contains(&file.name.as_str()) {
                return Err(ManifestError::Name(file.name.clone()));
            }
            if digest::hex_part(&file.digest).is_none() {
                return Err(ManifestError::Digest { name: file.name.clone(), digest: file.digest.clone() });
            }
        }
        let ascending = manifest.files.windows(2).all(|w| matches!(w, [a, b] if a.name < b.name));
        if !ascending || manifest.to_bytes() != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> ManifestFile {
        ManifestFile { name: name.to_owned(), size: 3, digest: digest::of_bytes(name.as_bytes()) }
    }

    #[test]
    fn the_canonical_bytes_are_compact_json_sorted_by_name() {
        let manifest = Manifest::new(vec![file("vocab.json"), file("config.json")]);
        let text = String::from_utf8(manifest.to_bytes()).unwrap();
        let (config, vocab) = (digest::of_bytes(b"config.json"), digest::of_bytes(b"vocab.json"));
        assert_eq!(
            text,
            format!(
                r#"[{{"name":"config.json","size":3,"digest":"{config}"}},{{"name":"vocab.json","size":3,"digest":"{vocab}"}}]"#
            )
        );
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(manifest));
    }

    #[test]
    fn a_version_leaves_the_state_of_training_out() {
        let all = Manifest::new(CHECKPOINT_FILES.map(file).to_vec());
        let version = all.without_training();
        assert_eq!(version.files.len(), 3);
        assert_ne!(all.digest(), version.digest());
        assert_eq!(all.total_bytes(), 12);
    }

    #[test]
    fn a_manifest_of_another_form_is_refused() {
        let json = |files: &[ManifestFile]| serde_json::to_vec(files).unwrap();
        let cases: [(Vec<u8>, &str); 6] = [
            (b"[{\"name\":1}]".to_vec(), "no JSON of the right form"),
            (json(&[file("../../.bashrc")]), "which no checkpoint has"),
            (json(&[ManifestFile { digest: "sha256:12".into(), ..file("config.json") }]), "which is none"),
            (json(&[file("vocab.json"), file("config.json")]), "canonical"),
            (json(&[file("vocab.json"), file("vocab.json")]), "canonical"),
            ([json(&[file("vocab.json")]), b"\n".to_vec()].concat(), "canonical"),
        ];
        for (bytes, expected) in cases {
            let error = Manifest::parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
