//! What an attempt sends while it trains: measurements in order, checkpoints when there are newer ones.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use kapell_rpc::client::Backoff;
use kapell_rpc::manifest::CHECKPOINT_FILES;
use kapell_rpc::{Client, ClientError, Kind, reason, v1};
use tokio::sync::watch;

use super::log::Log;
use super::outbox::{Batch, Outbox};
use super::saved::{Latest, Saved};
use crate::control::{Control, Stop};

/// Measurements of one report.
const BATCH_MAX: usize = 256;

/// How often new lines of a log are given on, and how much of them at once.
const LOG_EVERY: Duration = Duration::from_secs(2);
const LOG_PIECE_MAX: usize = 64 * 1024;

/// The pauses while the coordinator is away: short enough to be there soon after it.
pub(crate) fn pauses() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(2))
}

/// An attempt's way to the coordinator.
#[derive(Clone)]
pub(crate) struct Sender {
    pub(crate) client: Client,
    pub(crate) trial_id: i64,
    pub(crate) attempt: u32,
    pub(crate) control: Arc<Control>,
    pub(crate) log: Arc<Log>,
}

/// The attempt's checkpoints that the coordinator has.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    best: Option<(Arc<Saved>, v1::Checkpoint)>,
    last: Option<(Arc<Saved>, v1::Checkpoint)>,
}

impl Sent {
    pub(crate) fn best(&self) -> Option<v1::Checkpoint> {
        self.best.as_ref().map(|(_, checkpoint)| checkpoint.clone())
    }

    pub(crate) fn last(&self) -> Option<v1::Checkpoint> {
        self.last.as_ref().map(|(_, checkpoint)| checkpoint.clone())
    }

    fn find(&self, saved: &Arc<Saved>) -> Option<v1::Checkpoint> {
        let known = [&self.best, &self.last].into_iter().flatten();
        known.filter(|(of, _)| Arc::ptr_eq(of, saved)).map(|(_, checkpoint)| checkpoint.clone()).next()
    }
}

impl Sender {
    /// Sends what comes into the outbox until it is closed, over any outage; gives what is left then, as much as one
    /// request carries, for the attempt's end to carry. `acknowledged` gets the newest epoch that the coordinator has. A
    /// refusal raises the control and ends it.
    pub(crate) async fn report(
        &self,
        outbox: &Outbox,
        acknowledged: watch::Sender<u32>,
    ) -> Vec<v1::Measurement> {
        let mut pauses = pauses();
        loop {
            let batch = match outbox.peek(BATCH_MAX).await {
                Ok(Some(batch)) if batch.is_last => return batch.measurements,
                Ok(Some(batch)) => batch,
                Ok(None) => return Vec::new(),
                Err(error) => {
                    self.stop(Stop::Local, &format!("measurements cannot be read: {error}"));
                    return Vec::new();
                }
            };
            match self.report_batch(&batch).await {
                Ok(last_epoch) => {
                    pauses = self::pauses();
                    if let Err(error) = outbox.acknowledge(&batch) {
                        self.stop(Stop::Local, &format!("measurements cannot be written: {error}"));
                        return Vec::new();
                    }
                    acknowledged.send_replace(last_epoch);
                }
                Err(error) if error.is_temporary() => {
                    tracing::debug!(%error, "measurements wait");
                    tokio::time::sleep(pauses.delay()).await;
                }
                Err(error) => {
                    self.refused(&error);
                    return Vec::new();
                }
            }
        }
    }

    async fn report_batch(&self, batch: &Batch) -> Result<u32, ClientError> {
        let request = v1::ReportRequest {
            trial_id: self.trial_id,
            attempt: self.attempt,
            measurements: batch.measurements.clone(),
        };
        Ok(self.client.report(request).await?.last_epoch)
    }

    /// Uploads and records the latest checkpoints, one at a time, over any outage, until nobody can make newer ones.
    /// The very last are uploaded, and recorded by the attempt's end. What finally fails raises the control: to train
    /// on would be in vain.
    pub(crate) async fn upload(
        &self,
        mut latest: watch::Receiver<Latest>,
        mut acknowledged: watch::Receiver<u32>,
    ) -> Sent {
        let mut sent = Sent::default();
        while latest.changed().await.is_ok() {
            let mut pauses = pauses();
            while let Err(error) = self.pass(&mut latest, &mut acknowledged, &mut sent).await {
                if error.has_reason(reason::STALE_ATTEMPT) {
                    self.refused(&error);
                    return sent;
                }
                if !error.is_temporary() && !error.has_reason(reason::MISSING_BLOB) {
                    let stop = if is_about_trial(&error) { Stop::Fault } else { Stop::Local };
                    self.stop(stop, &format!("the checkpoint could not be uploaded: {error}"));
                    return Sent::default();
                }
                tracing::debug!(%error, "a checkpoint waits");
                tokio::time::sleep(pauses.delay()).await;
            }
        }
        sent
    }

    async fn pass(
        &self,
        latest: &mut watch::Receiver<Latest>,
        acknowledged: &mut watch::Receiver<u32>,
        sent: &mut Sent,
    ) -> Result<(), ClientError> {
        let wanted = latest.borrow_and_update().clone();
        if let Some(best) = wanted.best {
            sent.best = Some((best.clone(), self.upload_one(&best, sent).await?));
        }
        if let Some(last) = wanted.last {
            sent.last = Some((last.clone(), self.upload_one(&last, sent).await?));
        }
        if latest.has_changed().is_err() {
            return Ok(());
        }
        // A checkpoint must not be ahead of the curve: a next attempt would start without these epochs.
        let epoch = [&sent.best, &sent.last].into_iter().flatten().map(|(saved, _)| saved.epoch).max();
        if acknowledged.wait_for(|known| Some(*known) >= epoch).await.is_err() {
            return Ok(());
        }
        self.client
            .record_checkpoint(v1::RecordCheckpointRequest {
                trial_id: self.trial_id,
                attempt: self.attempt,
                best: sent.best(),
                last: sent.last(),
            })
            .await?;
        self.log.info(&format!("checkpoint of epoch {} is kept", epoch.unwrap_or_default()));
        Ok(())
    }

    async fn upload_one(&self, saved: &Arc<Saved>, sent: &Sent) -> Result<v1::Checkpoint, ClientError> {
        if let Some(known) = sent.find(saved) {
            return Ok(known);
        }
        let names = CHECKPOINT_FILES.into_iter().filter(|name| saved.dir.join(name).exists());
        let names: Vec<&str> = names.collect();
        let uploaded = self.client.upload_directory(&saved.dir, &names).await?;
        Ok(v1::Checkpoint {
            digest: uploaded.digest,
            epoch: saved.epoch,
            val_loss: saved.val_loss,
            bytes: uploaded.bytes,
        })
    }

    /// Gives what is logged on to the coordinator now and then, so that it is there if this worker is lost. What cannot
    /// be sent is sent later, or with the attempt's end.
    pub(crate) async fn send_log(&self) -> Infallible {
        let (mut sent, mut pauses) = (0, pauses());
        loop {
            tokio::time::sleep(LOG_EVERY).await;
            let (start, text) = self.log.since(sent, LOG_PIECE_MAX);
            if text.is_empty() {
                continue;
            }
            let (trial_id, attempt) = (self.trial_id, self.attempt);
            match self.client.append_log(v1::AppendLogRequest { trial_id, attempt, start, text }).await {
                Ok(answer) => (sent, pauses) = (answer.end, self::pauses()),
                Err(error) if error.is_temporary() => tokio::time::sleep(pauses.delay()).await,
                Err(error) => {
                    if error.has_reason(reason::STALE_ATTEMPT) {
                        self.refused(&error);
                    }
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Ends the attempt at the coordinator, over any outage. Refusals end it as well, on this side.
    pub(crate) async fn finish(&self, mut request: v1::FinishRequest) {
        let mut pauses = pauses();
        loop {
            let error = match self.client.finish(request.clone()).await {
                Ok(_) => return,
                Err(error) => error,
            };
            if error.is_temporary() {
                tracing::debug!(%error, "the attempt's end waits");
                tokio::select! {
                    () = tokio::time::sleep(pauses.delay()) => continue,
                    () = self.control.reaches(Stop::Forget) => return,
                }
            }
            if error.has_reason(reason::STALE_ATTEMPT) || request.outcome() == v1::Outcome::Failed {
                tracing::warn!(%error, "the attempt's end was refused");
                return;
            }
            self.log.warn(&format!("{} was refused: {error}", request.outcome().as_str_name()));
            request.set_outcome(v1::Outcome::Failed);
            request.reason = error.to_string();
            (request.best, request.last) = (None, None);
            request.measurements.clear();
            (request.log_tail, request.log_bytes) = self.log.tail();
        }
    }

    fn refused(&self, error: &ClientError) {
        if error.has_reason(reason::STALE_ATTEMPT) {
            self.log.warn("the trial is no longer ours");
            self.control.raise(Stop::Forget, "another attempt holds the trial");
        } else {
            self.stop(Stop::Fault, &error.to_string());
        }
    }

    fn stop(&self, stop: Stop, reason: &str) {
        self.log.warn(reason);
        self.control.raise(stop, reason);
    }
}

/// Whether the coordinator refused this trial's request: another worker would meet the same. All else is a matter of
/// this machine, of the coordinator's, or of the way between them.
pub(crate) fn is_about_trial(error: &ClientError) -> bool {
    matches!(error.kind, Kind::NotFound | Kind::Usage | Kind::Differs | Kind::LostRace | Kind::NotReady)
}
