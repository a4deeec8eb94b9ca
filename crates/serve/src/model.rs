//! The model that is served: offered as a folder, checked, loaded beside the old one, and put in its place.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use kapell_model::checkpoint::{self, CheckpointError};
use kapell_model::decode::{Vocabulary, VocabularyError};
use kapell_model::infer::{LoadError, Model};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::metrics::Metrics;

/// What to serve now.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// None until there is one. What is served stays until another is whole.
    pub folder: Option<ModelFolder>,
    /// Why the offer may be out of date, or there is none, in a sentence for people.
    pub trouble: Option<String>,
}

/// A model's folder, and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFolder {
    pub dir: PathBuf,
    /// "demo:1", or the folder's name.
    pub label: String,
    /// The digest that the folder's files must have; a folder whose digest nobody knows is taken as it is.
    pub digest: Option<String>,
    /// Of the alias; 0 where there is none.
    pub generation: u64,
    /// What `GET /v1/model` says beside what the files tell: the fields of `kapell model show`.
    pub about: Map<String, Value>,
}

/// Why a folder is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    #[error("its files have the digest {found}, and it should be {expected}")]
    Digest { found: String, expected: String },
}

/// A model at work.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) model: Arc<Model>,
    pub(crate) vocabulary: Arc<Vocabulary>,
    pub(crate) label: String,
    pub(crate) digest: String,
    pub(crate) generation: u64,
    /// What `GET /v1/model` says.
    pub(crate) card: Value,
}

impl Loaded {
    /// Reads and checks a folder. Takes a moment: it is no work for the event loop.
    fn read(folder: ModelFolder) -> Result<Self, FolderError> {
        let ModelFolder { dir, label, digest: expected, generation, about } = folder;
        let found = checkpoint::build_manifest(&dir)?.without_training().digest();
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(FolderError::Digest { found, expected });
        }
        let config = checkpoint::read_config(&dir)?;
        let model = Model::load(&dir)?;
        let vocabulary = Vocabulary::new(model.vocabulary())?;
        let card = json!({
            "name": label, "version": null, "aliases": [], "generation": generation, "digest": found,
            "study": config.provenance.get("study"), "trial": config.provenance.get("trial"),
            "config": config.train, "val_loss": config.progress.val_loss, "test_loss": null,
            "created_at": null, "lineage": null, "corpus": config.corpus.name,
            "vocabulary": vocabulary.len(),
        });
        let (model, vocabulary) = (Arc::new(model), Arc::new(vocabulary));
        let loaded = Self { model, vocabulary, label, digest: found, generation, card: Value::Null };
        Ok(loaded.with_card(card, about))
    }

    /// The same files under what is known of them now: an alias has come or gone.
    fn renamed(&self, folder: ModelFolder) -> Self {
        let ModelFolder { label, generation, about, .. } = folder;
        let (model, vocabulary) = (Arc::clone(&self.model), Arc::clone(&self.vocabulary));
        let digest = self.digest.clone();
        Self { model, vocabulary, label, digest, generation, card: Value::Null }
            .with_card(self.card.clone(), about)
    }

    fn with_card(mut self, mut card: Value, about: Map<String, Value>) -> Self {
        if let Some(card) = card.as_object_mut() {
            card.extend(about);
        }
        self.card = card;
        self
    }
}

/// The model that new requests get, and what its source says.
#[derive(Debug, Default)]
pub(crate) struct Served {
    current: RwLock<Option<Arc<Loaded>>>,
    trouble: RwLock<Option<String>>,
}

impl Served {
    /// The model for a new request.
    pub(crate) fn current(&self) -> Option<Arc<Loaded>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What keeps the newest model away.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn put(&self, loaded: Arc<Loaded>) -> Option<Arc<Loaded>> {
        self.current.write().unwrap_or_else(PoisonError::into_inner).replace(loaded)
    }
}

/// Serves what is offered, as long as somebody may offer.
pub(crate) async fn follow(mut offers: watch::Receiver<Offer>, served: Arc<Served>, metrics: Arc<Metrics>) {
    let mut taken: Option<ModelFolder> = None;
    loop {
        let Offer { folder, trouble } = offers.borrow_and_update().clone();
        metrics.source_up(trouble.is_none());
        served.set_trouble(trouble);
        if let Some(folder) = folder.filter(|folder| taken.as_ref() != Some(folder)) {
            // What could not be served is tried again with the next offer.
            taken = swap(folder.clone(), &served, &metrics).await.then_some(folder);
        }
        if offers.changed().await.is_err() {
            return;
        }
    }
}

/// Whether what the folder holds is served now.
async fn swap(folder: ModelFolder, served: &Served, metrics: &Metrics) -> bool {
    let label = folder.label.clone();
    let same = served.current().filter(|loaded| folder.digest.as_ref() == Some(&loaded.digest));
    if let Some(loaded) = same {
        let loaded = Arc::new(loaded.renamed(folder));
        metrics.serving(&loaded);
        served.put(loaded);
        return true;
    }
    let read = tokio::task::spawn_blocking(move || Loaded::read(folder)).await;
    let loaded = match read {
        Ok(Ok(loaded)) => Arc::new(loaded),
        failed => {
            let why = match failed {
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
                Ok(Ok(_)) => return false,
            };
            tracing::error!(model = label, "this model cannot be served, and what is served stays: {why}");
            metrics.swap_failures.inc();
            served.set_trouble(Some(format!("{label} cannot be served: {why}")));
            return false;
        }
    };
    metrics.serving(&loaded);
    let (digest, generation) = (loaded.digest.clone(), loaded.generation);
    match served.put(loaded) {
        Some(old) => {
            metrics.swaps.inc();
            tracing::info!(model = label, digest, generation, before = old.label, "another model is served");
        }
        None => tracing::info!(model = label, digest, generation, "the model is loaded"),
    }
    true
}
