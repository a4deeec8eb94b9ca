//! `kapell study watch`: follows a study through the coordinator's restarts, to its end.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use kapell_rpc::view::EventView;
use kapell_rpc::{Client, ClientError, v1};

use crate::error::{CliError, exit};
use crate::progress::Progress;
use crate::{Outcome, output, study};

/// Between two tries to reach a coordinator that went away.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How often a coordinator is asked what is wrong.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Follows the study and says how it ended: 0 complete, 3 complete with FAILED trials, 4 canceled.
pub(crate) async fn watch(client: &Client, reference: &str, after: u64, json: bool) -> Outcome {
    // By id from here on, so that a study deleted and made again under the name is not taken for it.
    let id = client.get_study(v1::StudyRef { study: reference.to_owned() }).await?.id;
    let mut progress = if json { None } else { Some(Progress::start(client, &id).await?) };
    let ended = tokio::select! {
        ended = follow(client, &id, after, progress.as_mut(), json) => ended?,
        never = warn(client), if !json => match never {},
        _ = tokio::signal::ctrl_c() => {
            return Err(CliError::interrupted(format!("stopped watching; the study goes on: kapell study watch {reference}")));
        }
    };
    if let Some(progress) = progress {
        progress.finish();
    }
    if !json {
        study::show(&ended, false);
    }
    Ok(exit_code(&ended))
}

/// Says what keeps the coordinator from its work, once each, as it comes up.
pub(crate) async fn warn(client: &Client) -> Infallible {
    let mut told = BTreeSet::new();
    loop {
        // A coordinator that is away is told of elsewhere.
        let info = client.server_info(v1::ServerInfoRequest {}).await.unwrap_or_default();
        for warning in info.warnings {
            // What a sentence measures changes all the time.
            let kind: String = warning.chars().filter(|c| !c.is_ascii_digit()).collect();
            if told.insert(kind) {
                output::remark(format!("warning: {warning}"));
            }
        }
        tokio::time::sleep(WARN_EVERY).await;
    }
}

/// How a study that ended is told to a script.
pub(crate) fn exit_code(study: &v1::Study) -> u8 {
    let failed = study.trials.is_some_and(|t| t.failed > 0);
    match study.state() {
        v1::StudyState::Canceled => exit::INCONCLUSIVE,
        _ if failed => exit::REFUSED,
        _ => 0,
    }
}

/// Feeds every event to `progress` or prints it, until the study has ended; connects again as often as needed.
pub(crate) async fn follow(
    client: &Client,
    id: &str,
    after: u64,
    mut progress: Option<&mut Progress>,
    json: bool,
) -> Result<v1::Study, CliError> {
    let mut seen = progress.as_ref().map_or(after, |p| p.seen().max(after));
    let mut told_outage = false;
    loop {
        let ended = match events(client, id, &mut seen, progress.as_deref_mut(), json).await {
            Ok(()) => client.get_study(v1::StudyRef { study: id.to_owned() }).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(study) if matches!(study.state(), v1::StudyState::Complete | v1::StudyState::Canceled) => {
                return Ok(study);
            }
            Ok(_) => told_outage = false,
            Err(error) if error.is_temporary() => {
                if !told_outage {
                    output::remark(format!("{error}; waiting for it"));
                    told_outage = true;
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

async fn events(
    client: &Client,
    id: &str,
    seen: &mut u64,
    mut progress: Option<&mut Progress>,
    json: bool,
) -> Result<(), ClientError> {
    let request = v1::WatchStudyRequest { study: id.to_owned(), after: *seen, follow_forever: false };
    let mut watch = client.watch_study(request);
    while let Some(event) = watch.next().await? {
        *seen = event.seq;
        if json {
            output::json(&EventView::from(&event));
        } else if let Some(progress) = progress.as_deref_mut() {
            progress.event(&event);
        }
    }
    Ok(())
}
