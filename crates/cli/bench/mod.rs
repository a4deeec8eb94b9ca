//! `kapell bench`: what this machine does.

mod dispatch;
mod noop;
mod train;

use crate::Outcome;
use crate::args::{BenchCommand, Global};

pub(crate) async fn run(command: BenchCommand, global: &Global) -> Outcome {
    match command {
        BenchCommand::Train(args) => train::train(&args, global.json)?,
        BenchCommand::Dispatch(args) => dispatch::dispatch(&args, global.json).await?,
    }
    Ok(0)
}
