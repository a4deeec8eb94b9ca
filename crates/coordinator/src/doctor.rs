//! Looks for damage in a data folder, and mends what can be mended.
//!
//! It only looks where a coordinator holds the folder: what that coordinator does meanwhile is no damage, so whatever
//! seems wrong with a file is looked at twice. To mend, it holds the folder itself.

mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kapell_dispatch::Held;
use sqlx::SqliteConnection;

use crate::backup::BackupError;
use crate::data_dir::{DataDir, DataDirError};
use crate::disk::RealDisk;
use crate::live::Live;
use crate::store::doctor::{self as rows, Mend};
use crate::store::{self, backup, now_ms};

/// A worker that nobody has heard of for so long has gone.
const GONE_MS: i64 = 24 * 3600 * 1000;

/// Something that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// kebab-case, stable.
    pub code: &'static str,
    /// A digest, a trial, a study, a file.
    pub subject: String,
    /// False: it is worth knowing, and nothing is wrong.
    pub problem: bool,
    pub what: String,
    /// What --fix does; empty where nothing can be done from here.
    pub remedy: String,
    pub fixed: bool,
    /// Something stays lost whatever is done.
    lost: bool,
    cure: Cure,
}

/// How a finding is mended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cure {
    None,
    Rows(Mend),
    /// The file goes.
    Remove(PathBuf),
}

impl Finding {
    fn problem(code: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        let (subject, what) = (subject.into(), what.into());
        let (remedy, cure) = (String::new(), Cure::None);
        Self { code, subject, problem: true, what, remedy, fixed: false, lost: false, cure }
    }

    fn note(code: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self { problem: false, ..Self::problem(code, subject, what) }
    }

    fn cured(self, remedy: impl Into<String>, cure: Cure) -> Self {
        Self { remedy: remedy.into(), cure, ..self }
    }
}

/// What the doctor has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub data_dir: PathBuf,
    /// A coordinator held the folder: it was only looked at.
    pub online: bool,
    pub findings: Vec<Finding>,
    /// Blobs whose bytes were all read, and how many those are.
    pub blobs: u64,
    pub bytes: u64,
}

impl Report {
    /// Problems that are there still.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.findings.iter().filter(|f| f.problem && !f.fixed).count()
    }
}

/// Examines a data folder; with `fix`, mends it.
///
/// # Errors
/// There is no database, or a coordinator holds the folder that is to be mended, or it cannot be read at all.
pub async fn examine(data_dir: &Path, fix: bool) -> Result<Report, BackupError> {
    let held = match DataDir::existing(data_dir, &RealDisk) {
        Ok(held) => Some(held),
        Err(DataDirError::Locked { .. }) if !fix => None,
        Err(error) => return Err(error.into()),
    };
    let path = data_dir.canonicalize().map_err(|e| BackupError::io(data_dir, e))?;
    let online = held.is_none();
    let database = path.join("kapell.db");
    let mut report = Report { data_dir: path.clone(), online, findings: Vec::new(), blobs: 0, bytes: 0 };
    let (mut conn, found) = match open(&database, online, &mut report).await {
        Ok(opened) => opened,
        // So damaged that not even that can be told.
        Err(BackupError::Damaged(what)) => {
            report.findings.push(Finding::problem("database-damaged", "kapell.db", what));
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    if !report.findings.is_empty() {
        // What else it says cannot be relied on.
        return Ok(report);
    }
    examine_rows(&mut conn, found, &mut report).await?;
    files::examine(&mut conn, &mut report).await?;
    drop(conn);
    if fix && report.findings.iter().any(|f| f.cure != Cure::None) {
        mend_all(&path, &mut report).await?;
    }
    drop(held);
    Ok(report)
}

/// Opens the database, and notes what SQLite itself finds wrong with it. Gives its schema as well.
async fn open(
    database: &Path,
    online: bool,
    report: &mut Report,
) -> Result<(SqliteConnection, i64), BackupError> {
    let mut conn =
        if online { backup::open_beside(database).await? } else { backup::open_quiet(database).await? };
    let found = store::open::schema(&mut conn).await.map_err(store::StoreError::from)?;
    let known = store::open::known_schema();
    if found > known {
        let text = format!("the data folder has schema {found}, and this program knows {known} at most");
        return Err(BackupError::usage(text, "use the newer program"));
    }
    for line in backup::unsound(&mut conn).await? {
        report.findings.push(Finding::problem("database-damaged", "kapell.db", line));
    }
    Ok((conn, found))
}

async fn examine_rows(
    conn: &mut SqliteConnection,
    schema: i64,
    report: &mut Report,
) -> Result<(), BackupError> {
    let online = report.online;
    let findings = &mut report.findings;
    let expanding = rows::expanding(conn, schema).await?;
    for (study, name, state, on_record, counted) in rows::miscounts(conn).await? {
        // Schema 4 counted the trials of a study once they were all there.
        if schema == 4 && expanding.contains(&study) {
            continue;
        }
        let what = format!("{on_record} trials are on record as {state}, and {counted} are");
        let finding = Finding::problem("counts-differ", name, what);
        findings.push(finding.cured("counts them again", Cure::Rows(Mend::Recount { study })));
    }
    for (study, name, open) in rows::unfinished(conn).await? {
        let what = format!("is COMPLETE, and {open} of its trials are open");
        let finding = Finding::problem("study-unfinished", name, what);
        findings.push(finding.cured("makes it ACTIVE again", Cure::Rows(Mend::Judge { study })));
    }
    for (study, name) in rows::overdue(conn).await? {
        if expanding.contains(&study) {
            continue;
        }
        let finding = Finding::problem("study-overdue", name, "has no open trial, and is not COMPLETE");
        findings.push(finding.cured("completes it", Cure::Rows(Mend::Judge { study })));
    }
    for (name, what) in rows::hollow(conn).await? {
        findings.push(Finding::problem("trial-hollow", name, format!("is COMPLETE and {what}")));
    }
    for (trial, attempt, name) in rows::unheld(conn).await? {
        let what = format!("is RUNNING, and its attempt {attempt} is not");
        let cure = Cure::Rows(Mend::Requeue { held: Held { trial, attempt } });
        findings.push(Finding::problem("lease-stuck", name, what).cured("queues it again", cure));
    }
    for open in rows::open_attempts(conn).await? {
        findings.extend(examine_attempt(&open, online));
    }
    Ok(())
}

/// An attempt that has not ended is as it should be beside a coordinator; without one it waits for the next.
fn examine_attempt(open: &rows::OpenAttempt, online: bool) -> Option<Finding> {
    let held = Held { trial: open.trial, attempt: open.attempt };
    let (name, attempt, worker) = (open.name.clone(), open.attempt, &open.worker);
    if !open.holds {
        let what = format!("attempt {attempt} has not ended, and does not hold its trial");
        let cure = Cure::Rows(Mend::EndLeftOver { held });
        return Some(Finding::problem("lease-stuck", name, what).cured("ends the attempt as LOST", cure));
    }
    let gone = if !open.known {
        Some(format!("the process of worker {worker} that took it is not on record any more"))
    } else if open.last_seen_ms.is_some_and(|seen| now_ms().saturating_sub(seen) > GONE_MS) {
        Some(format!("worker {worker} has not been heard of for a day"))
    } else {
        None
    };
    match gone {
        // The coordinator gives up on it by itself.
        _ if online => None,
        Some(why) => {
            let what = format!("attempt {attempt} runs, and {why}");
            let cure = Cure::Rows(Mend::Lose { held, why });
            Some(
                Finding::problem("lease-stuck", name, what)
                    .cured("ends it as LOST and queues the trial again", cure),
            )
        }
        None => {
            let what = format!(
                "attempt {attempt} runs on {worker}: the next coordinator waits for its worker, and then queues it again"
            );
            Some(Finding::note("lease-open", name, what))
        }
    }
}

/// Does what each finding says. What fails stays as it is.
async fn mend_all(path: &Path, report: &mut Report) -> Result<(), BackupError> {
    let live = Arc::new(Live::new(Duration::from_secs(30)));
    let (store, writer, _failed) = store::open(&path.join("kapell.db"), live).await?;
    for finding in report.findings.iter_mut() {
        let (file, mend) = match finding.cure.clone() {
            Cure::None => continue,
            Cure::Rows(mend) => (None, Some(mend)),
            Cure::Remove(file) => (Some(file), None),
        };
        if let Some(mend) = mend {
            let done = store.writer.write(move |tx| Box::pin(async move { rows::mend(tx, &mend).await }));
            if let Err(error) = done.await {
                finding.what.push_str(&format!(" (not mended: {error})"));
                continue;
            }
        }
        if let Some(file) = file
            && let Err(error) = files::remove(&file)
        {
            finding.what.push_str(&format!(" (not mended: {error})"));
            continue;
        }
        finding.fixed = !finding.lost;
    }
    store.readers.close().await;
    drop(store);
    writer.await.map_err(|e| BackupError::Unexpected(e.to_string()))
}
