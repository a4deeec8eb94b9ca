//! What people, dashboards and CI ask: studies, trials, workers.

use std::pin::Pin;

use kapell_dispatch::{StudyEvent, TrialState};
use kapell_rpc::v1::study_service_server::StudyService;
use kapell_rpc::{PROTOCOL_VERSION, convert, reason, v1};
use kapell_search::{Config, StudySpec};
use sqlx::Connection;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Shared, bad_request, refuse, wire};
use crate::store::query::{self, TrialFilter};
use crate::store::studies::{self, NewStudy};
use crate::store::{StoreError, divergence, events, logs, workers};

/// Events and trials that are read at once.
const EVENTS_PAGE: i64 = 500;
const TRIALS_PAGE: usize = 1000;
/// Messages that wait to be sent on a stream.
const STREAM_MAX: usize = 64;

pub(crate) struct Studies(pub(crate) Shared);

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl StudyService for Studies {
    async fn server_info(
        &self,
        _: Request<v1::ServerInfoRequest>,
    ) -> Result<Response<v1::ServerInfoResponse>, Status> {
        Ok(Response::new(v1::ServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol_version: PROTOCOL_VERSION,
            data_dir: self.0.config.data_dir.display().to_string(),
            warnings: self.0.warnings().await?,
        }))
    }

    async fn create_study(
        &self,
        request: Request<v1::CreateStudyRequest>,
    ) -> Result<Response<v1::CreateStudyResponse>, Status> {
        let r = request.into_inner();
        let spec = StudySpec::parse(&r.spec_toml).map_err(|e| refuse(reason::BAD_SPEC, e.to_string()))?;
        let new = NewStudy {
            spec,
            spec_toml: r.spec_toml,
            corpus_digest: r.corpus_digest,
            split_digest: r.split_digest,
            vocabulary: r.vocabulary,
        };
        let id = r.request_id;
        let (id, created) =
            self.0.store.writer.write(move |tx| Box::pin(async move { create(tx, &new, &id).await })).await?;
        self.0.expand.notify_one();
        Ok(Response::new(v1::CreateStudyResponse { study: Some(self.view(id).await?), created }))
    }

    async fn list_studies(
        &self,
        _: Request<v1::ListStudiesRequest>,
    ) -> Result<Response<v1::ListStudiesResponse>, Status> {
        let mut conn = self.read().await?;
        let mut studies = Vec::new();
        let mut moment = conn.begin().await.map_err(StoreError::from)?;
        for id in query::study_ids(&mut moment).await? {
            studies.push(wire::study(query::study(&mut moment, &self.0.store.specs, id).await?)?);
        }
        drop(moment);
        Ok(Response::new(v1::ListStudiesResponse { studies }))
    }

    async fn get_study(&self, request: Request<v1::StudyRef>) -> Result<Response<v1::Study>, Status> {
        let id = studies::find(&mut *self.read().await?, &request.into_inner().study).await?.id;
        Ok(Response::new(self.view(id).await?))
    }

    async fn pause_study(&self, request: Request<v1::StudyRef>) -> Result<Response<v1::Study>, Status> {
        self.put(request.into_inner().study, StudyEvent::Pause, "").await
    }

    async fn resume_study(&self, request: Request<v1::StudyRef>) -> Result<Response<v1::Study>, Status> {
        self.put(request.into_inner().study, StudyEvent::Resume, "").await
    }

    async fn cancel_study(&self, request: Request<v1::StudyRef>) -> Result<Response<v1::Study>, Status> {
        self.put(request.into_inner().study, StudyEvent::Cancel, "its study was canceled").await
    }

    async fn delete_study(
        &self,
        request: Request<v1::StudyRef>,
    ) -> Result<Response<v1::DeleteStudyResponse>, Status> {
        let study = request.into_inner().study;
        let trials = self
            .0
            .store
            .writer
            .write(move |tx| Box::pin(async move { studies::delete(tx, &study).await }))
            .await?;
        // What was in use a moment ago goes with a later sweep.
        let freed_bytes = self.0.blobs.sweep(crate::upkeep::SWEEP_GRACE).await?;
        Ok(Response::new(v1::DeleteStudyResponse { trials, freed_bytes }))
    }

    type WatchStudyStream = Out<v1::Event>;

    async fn watch_study(
        &self,
        request: Request<v1::WatchStudyRequest>,
    ) -> Result<Response<Self::WatchStudyStream>, Status> {
        let request = request.into_inner();
        let study = studies::find(&mut *self.read().await?, &request.study).await?;
        let after = i64::try_from(request.after).unwrap_or(i64::MAX);
        let (out, stream) = mpsc::channel(STREAM_MAX);
        let shared = self.0.clone();
        tokio::spawn(async move {
            if let Err(status) =
                watch(&shared, study.id, &study.name, after, request.follow_forever, &out).await
            {
                // Who has gone does not hear it.
                drop(out.send(Err(status)).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type ListTrialsStream = Out<v1::Trial>;

    async fn list_trials(
        &self,
        request: Request<v1::ListTrialsRequest>,
    ) -> Result<Response<Self::ListTrialsStream>, Status> {
        let request = request.into_inner();
        let limit = match request.limit {
            0 => i64::MAX,
            limit => i64::from(limit),
        };
        let filter = self.filter(request).await?;
        // A wrong option is an error of the call, not of the stream.
        let ids = query::trial_ids(&mut *self.read().await?, &filter, limit).await?;
        let (out, stream) = mpsc::channel(STREAM_MAX);
        let shared = self.0.clone();
        tokio::spawn(async move {
            if let Err(status) = list(&shared, &ids, &out).await {
                drop(out.send(Err(status)).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn get_trial(&self, request: Request<v1::TrialRef>) -> Result<Response<v1::TrialDetail>, Status> {
        let request = request.into_inner();
        let mut conn = self.read().await?;
        let study = studies::find(&mut conn, &request.study).await?;
        let id = query::trial_id(&mut conn, &study, request.number).await?;
        let measurements = query::measurements(&mut conn, id).await?;
        let attempts = query::attempts(&mut conn, id).await?;
        let divergences = divergence::divergences(&mut conn, id).await?;
        Ok(Response::new(v1::TrialDetail {
            trial: Some(wire::trial(query::trial(&mut conn, id).await?)?),
            measurements: measurements.into_iter().map(wire::measurement).collect(),
            attempts: attempts.into_iter().map(wire::attempt).collect(),
            divergences: divergences.into_iter().map(wire::divergence).collect(),
        }))
    }

    async fn trial_logs(
        &self,
        request: Request<v1::TrialLogsRequest>,
    ) -> Result<Response<v1::TrialLogsResponse>, Status> {
        let request = request.into_inner();
        let mut conn = self.read().await?;
        let study = studies::find(&mut conn, &request.study).await?;
        let id = query::trial_id(&mut conn, &study, request.number).await?;
        let after = i64::try_from(request.after).unwrap_or(i64::MAX);
        let Some(found) = logs::read(&mut conn, id, request.attempt, after).await? else {
            let text = format!("there is no log of {}/{} yet", study.name, request.number);
            return Err(refuse(reason::NOT_FOUND, text));
        };
        Ok(Response::new(v1::TrialLogsResponse {
            attempt: found.attempt,
            log: found.text,
            end: u64::try_from(found.end).unwrap_or(0),
            running: found.running,
        }))
    }

    async fn retry_trial(&self, request: Request<v1::TrialRef>) -> Result<Response<v1::Trial>, Status> {
        let r = request.into_inner();
        let id = self
            .0
            .store
            .writer
            .write(move |tx| Box::pin(async move { studies::retry(tx, &r.study, r.number).await }))
            .await?;
        Ok(Response::new(wire::trial(query::trial(&mut *self.read().await?, id).await?)?))
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let mut conn = self.read().await?;
        let mut list = Vec::new();
        for row in workers::list(&mut conn).await? {
            let trials = workers::trials_of(&mut conn, &row.name).await?;
            let seen = self.0.live.seen(&row.name);
            list.push(wire::worker(row, trials, seen));
        }
        Ok(Response::new(v1::ListWorkersResponse { workers: list }))
    }

    async fn control_worker(
        &self,
        request: Request<v1::ControlWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        use v1::control_worker_request::Action;
        let request = request.into_inner();
        let state = match request.action() {
            Action::Cordon => "cordoned",
            Action::Uncordon => "ready",
            Action::Drain => "draining",
            Action::Unspecified => return Err(bad_request("a worker's control needs an action")),
        };
        let name = request.name.clone();
        self.0
            .store
            .writer
            .write(move |tx| Box::pin(async move { workers::control(tx, &name, state).await }))
            .await?;
        let mut conn = self.read().await?;
        let row = workers::find(&mut conn, &request.name).await?;
        let row = row.ok_or_else(|| refuse(reason::NOT_FOUND, "the worker is gone"))?;
        let trials = workers::trials_of(&mut conn, &row.name).await?;
        let seen = self.0.live.seen(&row.name);
        Ok(Response::new(wire::worker(row, trials, seen)))
    }
}

impl Studies {
    async fn read(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Sqlite>, Status> {
        Ok(self.0.store.readers.acquire().await.map_err(StoreError::from)?)
    }

    async fn view(&self, id: i64) -> Result<v1::Study, Status> {
        let mut conn = self.read().await?;
        // All of it is of one moment.
        let mut moment = conn.begin().await.map_err(StoreError::from)?;
        Ok(wire::study(query::study(&mut moment, &self.0.store.specs, id).await?)?)
    }

    /// Puts an event to a study, by name or id.
    async fn put(
        &self,
        study: String,
        event: StudyEvent,
        why: &'static str,
    ) -> Result<Response<v1::Study>, Status> {
        let id = self
            .0
            .store
            .writer
            .write(move |tx| {
                Box::pin(async move {
                    let study = studies::find(&mut tx.conn, &study).await?;
                    studies::step(tx, study.id, event, why).await?;
                    Ok(study.id)
                })
            })
            .await?;
        Ok(Response::new(self.view(id).await?))
    }

    async fn filter(&self, request: v1::ListTrialsRequest) -> Result<TrialFilter, Status> {
        let mut conn = self.read().await?;
        let mut ids = Vec::new();
        for study in &request.studies {
            ids.push(studies::find(&mut conn, study).await?.id);
        }
        let state = match request.state() {
            v1::TrialState::Unspecified => None,
            v1::TrialState::Running => Some(TrialState::Running { attempt: 0 }),
            state => TrialState::parse(convert::trial_state_name(state), None),
        };
        let options = match &request.filter {
            Some(filter) => convert::options_from_wire(filter).map_err(bad_request)?,
            None => Config::default(),
        };
        Ok(TrialFilter { studies: ids, state, sort: request.sort, descending: request.descending, options })
    }
}

/// Creates a study, once for each request id.
async fn create(
    tx: &mut crate::store::Tx,
    new: &NewStudy,
    request_id: &str,
) -> Result<(i64, bool), StoreError> {
    let name = &new.spec.name;
    let known = query::answer(&mut tx.conn, "create", name, request_id).await?;
    let (id, created) = studies::create(tx, new).await?;
    if known.is_some() {
        // The first answer said that it was created, and this is that answer.
        return Ok((id, true));
    }
    if created {
        query::remember(tx, "create", name, request_id, &id.to_string()).await?;
    }
    Ok((id, created))
}

/// Sends events as they are written, until the study has ended and all are sent.
async fn watch(
    shared: &Shared,
    study: i64,
    name: &str,
    mut after: i64,
    forever: bool,
    out: &mpsc::Sender<Result<v1::Event, Status>>,
) -> Result<(), Status> {
    let (mut told, mut closing) = (shared.live.told(), shared.live.closing());
    loop {
        told.mark_unchanged();
        // The state is read before the events: what ended the study is then among them.
        let ended = {
            let mut conn = shared.store.readers.acquire().await.map_err(StoreError::from)?;
            let ended = studies::find(&mut conn, name).await?.state()?.ended();
            let page = events::after(&mut conn, study, after, EVENTS_PAGE).await?;
            drop(conn);
            for row in page.events {
                after = row.seq;
                if out.send(Ok(wire::event(name, row))).await.is_err() {
                    return Ok(());
                }
            }
            if page.is_full {
                continue;
            }
            ended
        };
        if ended && !forever {
            return Ok(());
        }
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return Ok(()) },
            () = out.closed() => return Ok(()),
            _ = closing.wait_for(|closing| *closing) => {
                return Err(refuse(reason::SHUTTING_DOWN, "the coordinator is ending"));
            }
        }
    }
}

async fn list(
    shared: &Shared,
    ids: &[i64],
    out: &mpsc::Sender<Result<v1::Trial, Status>>,
) -> Result<(), Status> {
    for ids in ids.chunks(TRIALS_PAGE) {
        let mut conn = shared.store.readers.acquire().await.map_err(StoreError::from)?;
        let page = query::trials(&mut conn, ids).await?;
        drop(conn);
        for row in page {
            if out.send(wire::trial(row).map_err(Into::into)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
