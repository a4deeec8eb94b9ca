//! The arguments of those who look after a coordinator: backup, restore, doctor.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum CoordinatorCommand {
    /// Write a backup into a new folder: the database and every checkpoint, consistent, while the coordinator runs.
    #[command(after_help = BACKUP_HELP)]
    Backup {
        /// A folder on this machine that is not there yet.
        dir: PathBuf,
    },
    /// Check a backup and make a data folder of it.
    #[command(after_help = RESTORE_HELP)]
    Restore {
        /// A folder that `backup` has written.
        dir: PathBuf,
    },
}

const BACKUP_HELP: &str = "Examples:
  kapell coordinator backup /backups/kapell-$(date +%F) --coordinator http://head:7070
  kapell coordinator backup /backups/kapell --data-dir /var/lib/kapell

From the coordinator that runs, over the network too; or from the data folder itself where none holds it. What is not a
whole backup never has the folder's name. The data folder's disk needs room for a copy of the database meanwhile.

Exit codes: 0 written; 2 the folder is there already; 7 a stored file is damaged (see `kapell doctor`); 75 try again.";

const RESTORE_HELP: &str = "Example:
  kapell coordinator restore /backups/kapell-2026-01-31 --data-dir /var/lib/kapell

Every byte is checked before the data folder is touched, which must be empty or not there yet. Then start a coordinator on
it. Workers may stay up: what they held of the state that is gone they are told to drop, and they get work again.

Exit codes: 0 restored; 2 the data folder is used; 7 the backup is damaged; 75 no room.";

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Mend what can be mended. The coordinator must be stopped.
    #[arg(long)]
    pub fix: bool,
    /// The data folder to look at.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

pub(crate) const DOCTOR_HELP: &str = "Examples:
  kapell doctor --data-dir /var/lib/kapell
  kapell doctor --fix --json

Reads the database and every stored byte. A line for each finding: a stable code, what it is about, what is wrong, what
--fix does. Beside a coordinator that runs it only looks.

Exit codes: 0 nothing is wrong, or all is mended; 7 something stays wrong; 2 --fix beside a coordinator that runs.

With --json an object a finding, then the result:
  {\"type\":\"finding\",\"code\":\"blob-damaged\",\"subject\":\"sha256:...\",\"problem\":true,\"what\":\"...\",\"remedy\":\"...\",\"fixed\":false}
  {\"type\":\"result\",\"data_dir\":\"...\",\"problems\":1,\"fixed\":0,\"blobs\":12,\"bytes\":123456,\"exit_code\":7}";
