//! The registry on the wire.

use kapell_rpc::v1::model_service_server::ModelService;
use kapell_rpc::v1::promote_response::Decision as WireDecision;
use kapell_rpc::{reason, v1};
use tonic::{Request, Response, Status};

use super::{Shared, bad_request, refuse, wire};
use crate::store::StoreError;
use crate::store::models::{self, LineageAttempt, VersionView};
use crate::store::promote::{self, Ask, Decision, Promotion};

/// How often a promotion is planned again when the study moves on under it.
const PLANS_MAX: u32 = 5;

pub(crate) struct Models(pub(crate) Shared);

#[tonic::async_trait]
impl ModelService for Models {
    async fn promote(
        &self,
        request: Request<v1::PromoteRequest>,
    ) -> Result<Response<v1::PromoteResponse>, Status> {
        let request = request.into_inner();
        let dry_run = request.dry_run;
        let ask = ask(request)?;
        for _ in 0..PLANS_MAX {
            let plan = promote::plan(&mut *self.read().await?, &self.0.store.specs, &ask).await?;
            if dry_run {
                return self.answer(plan.promotion).await;
            }
            // The version's manifest is a blob before a row refers to it.
            let prepared = match (&plan.candidate, plan.promotion.decision) {
                (Some(candidate), Decision::Promoted) => {
                    for file in &candidate.manifest.files {
                        self.0.blobs.stat(&file.digest).await?;
                    }
                    self.0.blobs.put(candidate.manifest.to_bytes()).await?
                }
                _ => String::new(),
            };
            let ask = ask.clone();
            let done = self
                .0
                .store
                .writer
                .write(move |tx| Box::pin(async move { promote::promote(tx, &ask, &prepared).await }))
                .await?;
            if let Some(promotion) = done {
                return self.answer(promotion).await;
            }
        }
        Err(refuse(reason::OVERLOADED, "the study's best trial changes too fast: try again"))
    }

    async fn list_models(
        &self,
        _: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let views = models::list(&mut *self.read().await?).await?;
        let versions = views.into_iter().map(version).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ListModelsResponse { versions }))
    }

    async fn get_model(&self, request: Request<v1::ModelRef>) -> Result<Response<v1::ModelVersion>, Status> {
        let view = models::resolve(&mut *self.read().await?, &request.into_inner().r#ref).await?;
        Ok(Response::new(version(view)?))
    }

    async fn model_history(
        &self,
        request: Request<v1::ModelRef>,
    ) -> Result<Response<v1::ModelHistoryResponse>, Status> {
        let rows = models::history(&mut *self.read().await?, &request.into_inner().r#ref).await?;
        let changes = rows.into_iter().map(|row| v1::AliasChange {
            name: row.name,
            alias: row.alias,
            generation: unsigned(row.generation),
            version: row.version,
            previous_version: row.previous_version,
            at_ms: row.at_ms,
            actor: row.actor,
            action: row.action,
            reason: row.reason,
        });
        Ok(Response::new(v1::ModelHistoryResponse { changes: changes.collect() }))
    }
}

impl Models {
    async fn read(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Sqlite>, Status> {
        Ok(self.0.store.readers.acquire().await.map_err(StoreError::from)?)
    }

    async fn answer(&self, p: Promotion) -> Result<Response<v1::PromoteResponse>, Status> {
        let mut conn = self.read().await?;
        let previous = match models::model_id(&mut conn, &p.name).await? {
            Some(model) if p.previous > 0 => models::version(&mut conn, model, p.previous).await?,
            _ => None,
        };
        let previous = match previous {
            Some(row) => Some(version(models::view(&mut conn, row, Some(&p.alias)).await?)?),
            None => None,
        };
        let gates = p.gates.into_iter().map(|g| v1::Gate {
            name: g.name,
            passed: g.passed,
            value: g.value,
            threshold: g.threshold,
            reason: g.reason,
        });
        let decision = match p.decision {
            Decision::Promoted => WireDecision::Promoted,
            Decision::Unchanged => WireDecision::Unchanged,
            Decision::Refused => WireDecision::Refused,
            Decision::LostRace => WireDecision::LostRace,
            Decision::NotReady => WireDecision::NotReady,
        };
        Ok(Response::new(v1::PromoteResponse {
            decision: decision.into(),
            name: p.name,
            version: p.version,
            digest: p.digest,
            alias: p.alias,
            generation: unsigned(p.generation),
            previous,
            gates: gates.collect(),
        }))
    }
}

fn ask(r: v1::PromoteRequest) -> Result<Ask, Status> {
    if r.max_val_loss.is_some_and(|max| !max.is_finite()) {
        return Err(bad_request("max_val_loss is a finite number of nats per token"));
    }
    if r.request_id.is_empty() && !r.dry_run {
        return Err(bad_request("the request has no request_id"));
    }
    Ok(Ask {
        request_id: r.request_id,
        study: r.study,
        trial: r.trial,
        name: r.name,
        alias: if r.alias.is_empty() { "champion".to_owned() } else { r.alias },
        max_val_loss: r.max_val_loss,
        expect_generation: r.expect_generation,
        expect_digest: r.expect_digest,
        allow_partial: r.allow_partial,
        actor: r.actor,
    })
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn version(view: VersionView) -> Result<v1::ModelVersion, StoreError> {
    let lineage = view.row.lineage()?;
    let files = view.manifest.files.into_iter().map(|f| v1::ModelFile {
        name: f.name,
        digest: f.digest,
        bytes: f.size,
    });
    Ok(v1::ModelVersion {
        name: view.row.name,
        version: view.row.version,
        aliases: view.aliases.into_iter().map(|a| a.alias).collect(),
        digest: view.row.digest,
        study: view.row.study,
        trial: view.row.trial,
        config: Some(wire::config(&view.row.config)?),
        val_loss: view.row.val_loss,
        test_loss: view.row.test_loss,
        created_at_ms: view.row.created_at_ms,
        files: files.collect(),
        lineage: Some(v1::Lineage {
            study_id: lineage.study_id,
            study: lineage.study,
            trial: lineage.trial,
            attempt: lineage.attempt,
            epoch: lineage.epoch,
            checkpoint: lineage.checkpoint,
            corpus: lineage.corpus,
            corpus_digest: lineage.corpus_digest,
            split_digest: lineage.split_digest,
            config_hash: lineage.config_hash,
            numerics: lineage.numerics.map(wire::numerics),
            attempts: lineage.attempts.into_iter().map(lineage_attempt).collect(),
        }),
        generation: unsigned(view.generation),
    })
}

fn lineage_attempt(a: LineageAttempt) -> v1::Attempt {
    let outcome = a.outcome.as_deref().and_then(kapell_rpc::convert::outcome_from_name).unwrap_or_default();
    v1::Attempt {
        attempt: a.attempt,
        worker: a.worker,
        started_at_ms: a.started_at_ms,
        ended_at_ms: a.ended_at_ms,
        outcome: outcome.into(),
        reason: a.reason,
        numerics: Some(wire::numerics(a.numerics)),
        start_epoch: a.start_epoch,
        start_checkpoint: a.start_checkpoint.unwrap_or_default(),
    }
}
