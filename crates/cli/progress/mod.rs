//! The progress of a study as a person follows it: live bars on a terminal, plain lines elsewhere.

mod live;
mod tally;

use kapell_rpc::v1;

use crate::error::CliError;
use crate::output;
use kapell_rpc::Client;
use live::Live;
use tally::{Change, Tally};

/// A study being followed.
pub(crate) struct Progress {
    tally: Tally,
    live: Option<Live>,
}

impl Progress {
    /// Takes the study's present state from the coordinator.
    pub(crate) async fn start(client: &Client, id: &str) -> Result<Self, CliError> {
        let study = client.get_study(v1::StudyRef { study: id.to_owned() }).await?;
        let request = v1::ListTrialsRequest {
            studies: vec![id.to_owned()],
            sort: "number".into(),
            ..Default::default()
        };
        let tally = Tally::new(&study, &client.list_trials(request).await?);
        let live = output::interactive().then(|| Live::new(&tally));
        Ok(Self { tally, live })
    }

    /// The newest event that the state it started from may hold.
    pub(crate) fn seen(&self) -> u64 {
        self.tally.seen
    }

    /// Takes in an event and shows it.
    pub(crate) fn event(&mut self, event: &v1::Event) {
        let change = self.tally.event(event);
        match (&mut self.live, change) {
            (_, Change::Nothing) => {}
            (Some(live), _) => live.show(&self.tally),
            (None, Change::Line(text)) => output::remark(text),
        }
    }

    /// Takes the bars away.
    pub(crate) fn finish(self) {
        if let Some(live) = self.live {
            live.clear();
        }
    }
}
