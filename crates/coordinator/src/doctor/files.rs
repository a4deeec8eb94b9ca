//! The files of a data folder against their rows: every byte of every blob is read.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kapell_rpc::digest;
use sqlx::SqliteConnection;

use super::{Cure, Finding, Report};
use crate::backup::BackupError;
use crate::blobs::place_in;
use crate::data_dir::BACKUP_PREFIX;
use crate::store::doctor::{self as rows, BlobRow, Mend};

/// Unfinished uploads that nobody has gone on with for so long are given up.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Beside a coordinator a file may be younger than its row.
const YOUNG: Duration = Duration::from_secs(60);

/// Examines blobs, uploads and what backups have left.
pub(super) async fn examine(conn: &mut SqliteConnection, report: &mut Report) -> Result<(), BackupError> {
    let root = report.data_dir.join("blobs");
    let mut files = stored(&root).map_err(|e| BackupError::io(&root, e))?;
    for row in rows::blobs(conn).await? {
        files.remove(&row.digest);
        let place = place_in(&root, &row.digest)?;
        if let Some((code, what)) = examine_blob(&place, &row, report)?
            // A coordinator may have swept it meanwhile.
            && (!report.online || rows::has_blob(conn, &row.digest).await?)
        {
            report.findings.extend(damaged(conn, code, &row, what).await?);
        }
    }
    for (digest, path) in files {
        let young = report.online && age(&path) < YOUNG;
        if !young && (!report.online || !rows::has_blob(conn, &digest).await? && path.exists()) {
            let finding = Finding::problem("blob-orphan", digest, format!("{} has no row", path.display()));
            report.findings.push(finding.cured("removes the file", Cure::Remove(path)));
        }
    }
    examine_left_overs(report)
}

/// What is wrong with a blob's file.
fn examine_blob(
    place: &Path,
    row: &BlobRow,
    report: &mut Report,
) -> Result<Option<(&'static str, String)>, BackupError> {
    let size = u64::try_from(row.size).unwrap_or(0);
    match digest::of_file(place) {
        Ok((found, bytes)) => {
            report.blobs += 1;
            report.bytes += bytes;
            if (found.as_str(), bytes) == (row.digest.as_str(), size) {
                return Ok(None);
            }
            Ok(Some(("blob-damaged", format!("its file has {bytes} of {size} bytes, which hash to {found}"))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Some(("blob-missing", "its file is missing".to_owned())))
        }
        Err(error) => Err(BackupError::io(place, error)),
    }
}

/// A blob whose file is missing or wrong. Once the rows know, it counts as absent, and whoever has it uploads it again.
/// What has ended, a model or a corpus cannot be brought back from here.
async fn damaged(
    conn: &mut SqliteConnection,
    code: &'static str,
    row: &BlobRow,
    what: String,
) -> Result<Option<Finding>, BackupError> {
    let (users, resumers) = (rows::users(conn, &row.digest).await?, rows::resumers(conn, &row.digest).await?);
    if users.is_empty() && row.damaged {
        // Noted before; the next sweep forgets it.
        return Ok(None);
    }
    let (mut what, mut remedy) =
        (what, "notes that it is not here, so that an upload can heal it".to_owned());
    if !users.is_empty() {
        let names: Vec<&str> = users.iter().map(|u| u.0.as_str()).collect();
        what.push_str(&format!("; it belongs to {}", names.join(", ")));
    }
    if !resumers.is_empty() {
        let names: Vec<&str> = resumers.iter().map(|r| r.1.as_str()).collect();
        remedy.push_str(&format!("; {} will begin anew", names.join(", ")));
    }
    let finding =
        Finding { lost: users.iter().any(|u| u.1), ..Finding::problem(code, row.digest.clone(), what) };
    if row.damaged && resumers.is_empty() {
        return Ok(Some(finding));
    }
    let resumers = resumers.into_iter().map(|r| r.0).collect();
    let mend = Mend::Damaged { digest: row.digest.clone(), resumers };
    Ok(Some(finding.cured(remedy, Cure::Rows(mend))))
}

/// Every file under `blobs` that is named like one, by digest.
fn stored(root: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for folder in entries(root)? {
        if !folder.is_dir() {
            continue;
        }
        for file in entries(&folder)? {
            let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let digest = format!("sha256:{}{}", name(&folder), name(&file));
            if digest::hex_part(&digest).is_some() {
                files.insert(digest, file);
            }
        }
    }
    Ok(files)
}

/// The entries of a folder; none, if it is not there.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
    }
}

fn age(path: &Path) -> Duration {
    let modified = std::fs::metadata(path).and_then(|m| m.modified());
    modified.ok().and_then(|at| at.elapsed().ok()).unwrap_or_default()
}

fn examine_left_overs(report: &mut Report) -> Result<(), BackupError> {
    let failed = |e| BackupError::io(&report.data_dir, e);
    let mut findings = Vec::new();
    for path in entries(&report.data_dir.join("uploads")).map_err(failed)? {
        if age(&path) > STALE {
            let finding =
                Finding::problem("upload-stale", path.display().to_string(), "was given up by its sender");
            findings.push(finding.cured("removes it", Cure::Remove(path)));
        }
    }
    for path in entries(&report.data_dir).map_err(failed)? {
        let left = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(BACKUP_PREFIX));
        // Beside a coordinator it may be a backup under way.
        if left && path.is_dir() && !report.online {
            let finding = Finding::problem(
                "backup-left",
                path.display().to_string(),
                "is of a backup that was cut short",
            );
            findings.push(finding.cured("removes it", Cure::Remove(path)));
        }
    }
    report.findings.extend(findings);
    Ok(())
}

/// Removes a file or a folder; one that is gone is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
