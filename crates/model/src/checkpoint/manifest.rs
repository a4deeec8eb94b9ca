//! The list of a checkpoint's files with sizes and digests, and the one digest that names them all.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CONFIG_FILE, CheckpointError, MODEL_FILE, TRAINING_FILE, VOCABULARY_FILE, digest, read};

/// The only names that a manifest may have: a peer cannot make us write anywhere else.
const FILES: [&str; 4] = [CONFIG_FILE, MODEL_FILE, TRAINING_FILE, VOCABULARY_FILE];

/// One file. The order of fields is part of the canonical form, which peers share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
}

/// A checkpoint's files in order of name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub entries: Vec<Entry>,
}

impl Manifest {
    /// The canonical form: a JSON list in order of name, fields in order of [`Entry`], no white space.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.entries).expect("plain data with text keys")
    }

    /// Reads what [`Self::to_bytes`] writes, and nothing else.
    ///
    /// # Errors
    /// Bytes that are not a canonical manifest, or a name that no checkpoint has.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let bad = |reason: String| CheckpointError::Manifest(reason);
        let entries: Vec<Entry> = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        if let Some(entry) = entries.iter().find(|entry| !FILES.contains(&entry.name.as_str())) {
            return Err(bad(format!("{:?} is not a checkpoint's file", entry.name)));
        }
        if !entries.is_sorted_by(|a, b| a.name < b.name) {
            return Err(bad("its files are not in order of name".into()));
        }
        let manifest = Self { entries };
        if manifest.to_bytes() == bytes {
            Ok(manifest)
        } else {
            Err(bad("it is not in canonical form".into()))
        }
    }

    /// The checkpoint's digest: SHA-256 of the canonical form.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.to_bytes())
    }

    /// The manifest of a model version: without what only training needs.
    #[must_use]
    pub fn without_training(&self) -> Self {
        let entries = self.entries.iter().filter(|entry| entry.name != TRAINING_FILE);
        Self { entries: entries.cloned().collect() }
    }
}

/// The manifest of the checkpoint's files that `dir` has.
///
/// # Errors
/// A folder that cannot be read, or that has no model.
pub fn build_manifest(dir: &Path) -> Result<Manifest, CheckpointError> {
    let mut entries = Vec::new();
    for name in FILES {
        if name == TRAINING_FILE && !dir.join(name).exists() {
            continue;
        }
        let bytes = read(dir, name)?;
        entries.push(Entry { name: name.into(), size: bytes.len() as u64, digest: digest(&bytes) });
    }
    Ok(Manifest { entries })
}

/// Whether `dir` has every file of the manifest, unchanged. Other files are not looked at.
///
/// # Errors
/// The first file that is missing or has another size or digest.
pub fn verify(dir: &Path, manifest: &Manifest) -> Result<(), CheckpointError> {
    for entry in &manifest.entries {
        let path = dir.join(&entry.name);
        let found = fs::metadata(&path).map_err(|source| CheckpointError::Io { path, source })?.len();
        let file = entry.name.clone();
        if found != entry.size {
            return Err(CheckpointError::Size { file, expected: entry.size, found });
        }
        let found = digest(&read(dir, &entry.name)?);
        if found != entry.digest {
            return Err(CheckpointError::Digest { file, expected: entry.digest.clone(), found });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (name, bytes) in
            [(CONFIG_FILE, "{}"), (MODEL_FILE, "m"), (TRAINING_FILE, "t"), (VOCABULARY_FILE, "[]")]
        {
            fs::write(dir.path().join(name), bytes).expect("written");
        }
        dir
    }

    #[test]
    fn a_manifest_survives_its_bytes_and_has_one_canonical_form() {
        let manifest = build_manifest(folder().path()).expect("complete");
        let bytes = manifest.to_bytes();
        assert_eq!(Manifest::from_bytes(&bytes).expect("canonical"), manifest);
        let text = String::from_utf8(bytes).expect("text");
        let first = r#"[{"name":"config.json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"#;
        assert!(text.starts_with(first), "{text}");
        for spoiled in [
            text.replace(":2,", ": 2,"),
            text.replace("config.json", "../config.json"),
            text.replace("config.json", "vocab.json"),
            text.replace("\"size\"", "\"length\""),
            String::from("{}"),
        ] {
            assert!(
                matches!(Manifest::from_bytes(spoiled.as_bytes()), Err(CheckpointError::Manifest(_))),
                "{spoiled}"
            );
        }
    }

    #[test]
    fn a_versions_digest_does_not_depend_on_training_state() {
        let dir = folder();
        let before = build_manifest(dir.path()).expect("complete");
        fs::write(dir.path().join(TRAINING_FILE), "other").expect("written");
        let after = build_manifest(dir.path()).expect("complete");
        assert_ne!(before.digest(), after.digest());
        assert_eq!(before.without_training().digest(), after.without_training().digest());
        fs::remove_file(dir.path().join(TRAINING_FILE)).expect("removed");
        assert_eq!(build_manifest(dir.path()).expect("a version"), before.without_training());
    }

    #[test]
    fn a_changed_or_missing_file_is_found() {
        let dir = folder();
        let manifest = build_manifest(dir.path()).expect("complete");
        verify(dir.path(), &manifest).expect("unchanged");
        let path = dir.path().join(MODEL_FILE);
        fs::write(&path, "n").expect("written");
        assert!(
            matches!(verify(dir.path(), &manifest), Err(CheckpointError::Digest { file, .. }) if file == MODEL_FILE)
        );
        fs::write(&path, "mm").expect("written");
        assert!(matches!(
            verify(dir.path(), &manifest),
            Err(CheckpointError::Size { expected: 1, found: 2, .. })
        ));
        fs::remove_file(&path).expect("removed");
        assert!(matches!(verify(dir.path(), &manifest), Err(CheckpointError::Io { .. })));
    }
}
