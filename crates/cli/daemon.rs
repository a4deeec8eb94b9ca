//! `kapell coordinator` and `kapell worker`: the daemons, their logs and their signals.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::args::{CoordinatorArgs, CoordinatorCommand, Global, WorkerArgs};
use crate::error::{CliError, exit};
use crate::logging::{self, LogFormat};
use crate::{Outcome, backup, output, paths};

pub(crate) async fn coordinator(args: CoordinatorArgs, global: &Global) -> Outcome {
    match &args.command {
        Some(CoordinatorCommand::Backup { dir }) => {
            return backup::backup(dir, args.data_dir.as_deref(), global).await;
        }
        Some(CoordinatorCommand::Restore { dir }) => {
            return backup::restore(dir, args.data_dir.as_deref(), global).await;
        }
        None => {}
    }
    logging::to_stderr(if global.json { LogFormat::Json } else { args.log_format });
    let stop = stop_signal()?;
    let config = kapell_coordinator::Config {
        data_dir: paths::data_dir(args.data_dir.as_deref())?,
        listen: args.listen,
        lease: args.lease,
        heartbeat: args.heartbeat,
        outage_grace: args.outage_grace,
        min_free_bytes: args.min_free,
        disk: std::sync::Arc::new(kapell_coordinator::RealDisk),
        limits: kapell_coordinator::Limits { connections: args.max_connections, ..Default::default() },
    };
    let mut running = kapell_coordinator::start(config).await?;
    tokio::select! {
        () = stopped(stop) => tracing::info!("told to stop"),
        failed = running.wait() => return Err(failed.into()),
    }
    running.shutdown().await;
    Ok(0)
}

pub(crate) async fn worker(args: WorkerArgs, global: &Global) -> Outcome {
    logging::to_stderr(if global.json { LogFormat::Json } else { args.log_format });
    let stop = stop_signal()?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let available = kapell_worker::cores::available();
    let cores = args.cores.map_or(available, |n| usize::try_from(n).unwrap_or(available));
    if cores > available {
        tracing::warn!("--cores {cores}: this process may use {available}");
    }
    let config = kapell_worker::WorkerConfig {
        coordinator: global.coordinator.clone(),
        token: None,
        name: args.name.unwrap_or(host),
        cores: cores.min(available),
        slots: args.slots.map(|n| usize::try_from(n).unwrap_or(1)),
        cache_dir: args.cache_dir.map_or_else(|| paths::cache_dir().map(|d| d.join("worker")), Ok)?,
        study: args.study,
        exit_when_idle: args.exit_when_idle,
        max_runtime: args.max_runtime,
        drain_timeout: args.drain_timeout,
        die_with_parent: args.die_with_parent,
    };
    kapell_worker::run(config, stop).await?;
    Ok(0)
}

/// Turns true at SIGTERM or SIGINT; a second one ends the process at once.
pub(crate) fn stop_signal() -> Result<watch::Receiver<bool>, CliError> {
    let (tell, told) = watch::channel(false);
    let cannot = |e: std::io::Error| CliError::from(anyhow::anyhow!("cannot listen for signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    tokio::spawn(async move {
        for second in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if second {
                output::remark("stopped at once; what was acknowledged is kept");
                std::process::exit(i32::from(exit::INTERRUPTED));
            }
            tell.send_replace(true);
        }
    });
    Ok(told)
}

/// Waits for the stop signal.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that nobody is left who could tell; then nobody will.
    if stop.wait_for(|told| *told).await.is_err() {
        std::future::pending::<()>().await;
    }
}
