//! `kapell workers`: see and steer the workers.

use kapell_rpc::v1;
use kapell_rpc::view::WorkerView;
use v1::control_worker_request::Action;

use crate::args::{Global, WorkersCommand};
use crate::error::{CliError, exit};
use crate::{Outcome, connect, output, study};
use kapell_rpc::Client;

pub(crate) async fn run(command: WorkersCommand, global: &Global) -> Outcome {
    let client = connect(global)?;
    match command {
        WorkersCommand::List => {
            let workers = client.list_workers(v1::ListWorkersRequest {}).await?.workers;
            print(&workers, global.json);
            study::tell_warnings(&client, global.json).await?;
            if workers.is_empty() && !global.json {
                output::remark("no workers yet; start one with: kapell worker --coordinator URL");
            }
        }
        WorkersCommand::Show { name } => {
            let workers = client.list_workers(v1::ListWorkersRequest {}).await?.workers;
            let names: Vec<String> = workers.iter().map(|w| w.name.clone()).collect();
            let found: Vec<v1::Worker> = workers.into_iter().filter(|w| w.name == name).collect();
            if found.is_empty() {
                let hint = format!("known are: {}", names.join(", "));
                return Err(CliError::new(
                    exit::USAGE,
                    "not-found",
                    format!("no worker is named \"{name}\""),
                    hint,
                ));
            }
            print(&found, global.json);
        }
        WorkersCommand::Cordon { name } => control(&client, name, Action::Cordon, global).await?,
        WorkersCommand::Uncordon { name } => control(&client, name, Action::Uncordon, global).await?,
        WorkersCommand::Drain { name } => control(&client, name, Action::Drain, global).await?,
    }
    Ok(0)
}

async fn control(client: &Client, name: String, action: Action, global: &Global) -> Result<(), CliError> {
    let worker = client.control_worker(v1::ControlWorkerRequest { name, action: action.into() }).await?;
    print(&[worker], global.json);
    Ok(())
}

fn print(workers: &[v1::Worker], json: bool) {
    if json {
        workers.iter().for_each(|w| output::json(&WorkerView::from(w)));
        return;
    }
    let row = |w: &v1::Worker| {
        let devices: Vec<&str> = w.devices.iter().map(|d| d.name.as_str()).collect();
        let seen = WorkerView::from(w).last_seen.unwrap_or_default();
        vec![
            w.name.clone(),
            w.host.clone(),
            w.state.clone(),
            devices.join(", "),
            format!("{}/{}", w.busy, w.slots),
            seen,
            w.trials.join(" "),
            w.reason.clone(),
        ]
    };
    output::table(
        &["name", "host", "state", "devices", "busy", "last seen", "trials", "reason"],
        workers.iter().map(row).collect(),
    );
}
