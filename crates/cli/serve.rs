//! `kapell serve`: the promoted model behind HTTP, and the eye that is kept on its alias.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kapell_rpc::client::Backoff;
use kapell_rpc::view::ModelView;
use kapell_rpc::{Client, ClientError, Kind, v1};
use kapell_serve::{Config, Limits, ModelFolder, Offer, StartError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::args::{Global, ServeArgs};
use crate::daemon::{stop_signal, stopped};
use crate::error::{CliError, exit};
use crate::logging::{self, LogFormat};
use crate::{Outcome, connect, music, paths, resolve};

/// What is served where nobody says otherwise.
const CHAMPION: &str = "champion";
/// Between looks at a coordinator that is away, at most.
const AWAY_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: ServeArgs, global: &Global) -> Outcome {
    logging::to_stderr(if global.json { LogFormat::Json } else { args.log_format });
    let stop = stop_signal()?;
    let (offer, offers) = watch::channel(Offer::default());
    let source = Source::new(&args, global)?;
    let following = match source {
        Source::Folder(folder) => {
            offer.send_replace(Offer { folder: Some(folder), trouble: None });
            None
        }
        Source::Registry(mut eye) => {
            // Once before the port is open: what will never work ends the command.
            let first = eye.look().await;
            if let Err(error) = &first
                && matches!(error.kind, Kind::Usage | Kind::NotAuthorised)
            {
                return Err(error.clone().into());
            }
            eye.tell(&offer, first);
            Some((eye, args.poll))
        }
    };
    let running = kapell_serve::start(config(&args), offers).await?;
    let following = following.map(|(eye, poll)| tokio::spawn(eye.follow(offer.clone(), poll)));
    stopped(stop).await;
    tracing::info!("told to stop: answering what was asked");
    running.shutdown().await;
    if let Some(following) = following {
        following.abort();
    }
    Ok(0)
}

fn config(args: &ServeArgs) -> Config {
    let available = kapell_worker::cores::available();
    let cores = args.cores.map_or(available, |n| usize::try_from(n).unwrap_or(available));
    Config {
        listen: args.http,
        melodies: &music::MELODIES,
        cores: cores.min(available),
        allow_origins: args.allow_origin.clone(),
        limits: Limits {
            body_bytes_max: usize::try_from(args.max_body).unwrap_or(usize::MAX),
            frames_max: args.max_frames,
            requests_max: args.max_requests,
            batch_max: args.max_batch,
            request_time_max: args.request_timeout,
            client_time_max: args.client_timeout,
            ..Limits::default()
        },
    }
}

/// Where models come from.
enum Source {
    /// A folder, which does not change.
    Folder(ModelFolder),
    Registry(Box<Eye>),
}

impl Source {
    fn new(args: &ServeArgs, global: &Global) -> Result<Self, CliError> {
        let cache_dir = args.cache_dir.clone().map_or_else(paths::cache_dir, Ok)?;
        if let Some(dir) = args.model.as_deref().map(Path::new).filter(|path| path.is_dir()) {
            // Read once here, for the exit code.
            music::load(dir)?;
            let label = label_of(dir);
            let folder =
                ModelFolder { dir: dir.to_owned(), label, digest: None, generation: 0, about: Map::new() };
            return Ok(Self::Folder(folder));
        }
        let reference = args.model.clone().unwrap_or_else(|| CHAMPION.to_owned());
        let memory = format!("{}\n{reference}", global.coordinator);
        let memory = hex::encode(Sha256::digest(memory.as_bytes()));
        Ok(Self::Registry(Box::new(Eye {
            client: connect(global)?.with_patience(Duration::ZERO),
            reference,
            memory: cache_dir.join("served").join(format!("{memory}.json")),
            cache_dir,
            seen: None,
            trouble: None,
        })))
    }
}

/// A folder's name, with the one above it where that is a number, as `kapell run` leaves versions. Not its path: that is
/// nobody's business.
fn label_of(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut names = whole.iter().rev().map(|name| name.to_string_lossy().into_owned());
    let name = names.next().unwrap_or_default();
    match names.next() {
        Some(above) if name.parse::<u32>().is_ok() => format!("{above}:{name}"),
        _ => name,
    }
}

/// What an alias was found to point at, kept on disk for a start without the coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Seen {
    label: String,
    digest: String,
    generation: u64,
    /// As `kapell model show --json` prints it.
    about: Map<String, Value>,
}

/// Looks where a reference points.
struct Eye {
    client: Client,
    reference: String,
    cache_dir: PathBuf,
    /// A file with what was [`Seen`] last.
    memory: PathBuf,
    seen: Option<Seen>,
    /// Said last, so that the log says a trouble once.
    trouble: Option<String>,
}

impl Eye {
    /// What the registry says, its files fetched and in the cache.
    async fn look(&mut self) -> Result<ModelFolder, ClientError> {
        let version = self.client.get_model(v1::ModelRef { r#ref: self.reference.clone() }).await?;
        let seen = Seen {
            label: format!("{}:{}", version.name, version.version),
            digest: version.digest.clone(),
            generation: version.generation,
            about: match serde_json::to_value(ModelView::from(&version)) {
                Ok(Value::Object(about)) => about,
                _ => Map::new(),
            },
        };
        let folder = self.folder_of(&seen)?;
        if self.seen.as_ref().is_none_or(|before| before.digest != seen.digest) {
            resolve::fetch(&self.client, &version, &folder.dir).await?;
        }
        if self.seen.as_ref() != Some(&seen) {
            self.remember(&seen);
            self.seen = Some(seen);
        }
        Ok(folder)
    }

    fn folder_of(&self, seen: &Seen) -> Result<ModelFolder, ClientError> {
        let Seen { label, digest, generation, about } = seen.clone();
        let dir = resolve::cached(&self.cache_dir, &digest)?;
        Ok(ModelFolder { dir, label, digest: Some(digest), generation, about })
    }

    /// What can be served while the coordinator is away: what it said last, or what `kapell run` left here.
    fn without_coordinator(&self) -> Option<ModelFolder> {
        let text = std::fs::read_to_string(&self.memory).ok();
        let seen: Option<Seen> = text.and_then(|text| serde_json::from_str(&text).ok());
        let remembered =
            seen.and_then(|seen| self.folder_of(&seen).ok()).filter(|folder| folder.dir.is_dir());
        remembered.or_else(|| {
            let local = resolve::from_data_dir(&paths::data_dir(None).ok()?, &self.reference).ok()?;
            let resolve::Local { dir, label } = local;
            Some(ModelFolder { dir, label, digest: None, generation: 0, about: Map::new() })
        })
    }

    /// The next start may find no coordinator; that this cannot be written down harms nothing else.
    fn remember(&self, seen: &Seen) {
        let write = || {
            let fresh = self.memory.with_extension("json.tmp");
            std::fs::create_dir_all(self.memory.parent().unwrap_or(&self.cache_dir))?;
            std::fs::write(&fresh, serde_json::to_vec(seen)?)?;
            std::fs::rename(&fresh, &self.memory)
        };
        if let Err(error) = write() {
            tracing::warn!("cannot note what is served in {}: {error}", self.memory.display());
        }
    }

    /// Offers what was seen, or tells why nothing new was.
    fn tell(&mut self, offer: &watch::Sender<Offer>, seen: Result<ModelFolder, ClientError>) {
        let (folder, trouble) = match seen {
            Ok(folder) => (Some(folder), None),
            // What the registry said in this life stays.
            Err(error) if self.seen.is_some() => (offer.borrow().folder.clone(), Some(error.to_string())),
            Err(error) if error.is_temporary() => (self.without_coordinator(), Some(error.to_string())),
            Err(error) => (offer.borrow().folder.clone(), Some(error.to_string())),
        };
        if trouble != self.trouble {
            match &trouble {
                Some(trouble) => tracing::warn!(model = self.reference, "{trouble}"),
                None => tracing::info!(model = self.reference, "the coordinator answers"),
            }
            self.trouble.clone_from(&trouble);
        }
        let new = Offer { folder, trouble };
        offer.send_if_modified(|offer| {
            let other = offer.folder != new.folder || offer.trouble != new.trouble;
            *offer = new;
            other
        });
    }

    /// Looks again and again, ever more seldom while the coordinator is away.
    async fn follow(mut self, offer: watch::Sender<Offer>, poll: Duration) {
        let mut away = Backoff::new(poll, AWAY_MAX.max(poll));
        loop {
            let wait = if self.trouble.is_some() { away.delay() } else { poll };
            tokio::time::sleep(wait).await;
            let seen = self.look().await;
            if seen.is_ok() {
                away = Backoff::new(poll, AWAY_MAX.max(poll));
            }
            self.tell(&offer, seen);
        }
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        let (exit, code, hint) = match &error {
            StartError::PortInUse(_) => (exit::USAGE, "port-in-use", "name another with --http"),
            StartError::Listen { .. } => {
                (exit::USAGE, "listen", "name an address of this machine with --http")
            }
            StartError::Thread(_) => (exit::TEMPORARY, "temporary", "try again, or with fewer --cores"),
        };
        Self::new(exit, code, error.to_string(), hint)
    }
}
