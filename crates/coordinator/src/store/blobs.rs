//! The rows of blobs and manifests. The bytes are files (see [`crate::blobs`]); a row says that they are whole.

use kapell_rpc::manifest::{Manifest, ManifestFile};
use kapell_rpc::reason;
use sqlx::SqliteConnection;

use super::{Refusal, StoreError, Tx};

/// The size of a blob that is here.
pub(crate) async fn size(conn: &mut SqliteConnection, digest: &str) -> Result<Option<u64>, StoreError> {
    Ok(state(conn, digest).await?.filter(|(_, damaged)| !damaged).map(|(size, _)| size))
}

/// The size of a blob on record, and whether its file was found damaged.
pub(crate) async fn state(
    conn: &mut SqliteConnection,
    digest: &str,
) -> Result<Option<(u64, bool)>, StoreError> {
    let row: Option<(i64, bool)> = sqlx::query_as("SELECT size, damaged FROM blobs WHERE digest = ?")
        .bind(digest)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|(size, damaged)| (u64::try_from(size).unwrap_or(0), damaged)))
}

/// Notes that a blob's file is missing or has other bytes: it counts as absent until it is uploaded again. The row
/// stays, since others refer to it.
pub(crate) async fn damaged(tx: &mut Tx, digest: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE blobs SET damaged = 1 WHERE digest = ?").bind(digest).execute(&mut tx.conn).await?;
    Ok(())
}

/// The digests of the blobs on record whose hexadecimal digits begin with these.
pub(crate) async fn digests(conn: &mut SqliteConnection, head: &str) -> Result<Vec<String>, StoreError> {
    // 'g' comes behind every hexadecimal digit.
    let sql = "SELECT digest FROM blobs WHERE digest >= 'sha256:' || ?1 AND digest < 'sha256:' || ?1 || 'g'";
    Ok(sqlx::query_scalar(sql).bind(head).fetch_all(conn).await?)
}

/// Notes a blob whose file is in its place.
pub(crate) async fn add(tx: &mut Tx, digest: &str, size: u64) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO blobs (digest, size, created_at_ms) VALUES (?, ?, ?)
         ON CONFLICT (digest) DO UPDATE SET damaged = 0, size = excluded.size",
    )
    .bind(digest)
    .bind(i64::try_from(size).unwrap_or(i64::MAX))
    .bind(tx.at_ms)
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

/// Notes the files of a manifest. All blobs must be here, with the sizes that it says.
pub(crate) async fn add_manifest(tx: &mut Tx, digest: &str, manifest: &Manifest) -> Result<(), StoreError> {
    let missing =
        |what: &str| Refusal::new(reason::MISSING_BLOB, format!("{what} is not here: upload it first"));
    // Its digest says all that it says: whole once is whole, unless a file was found damaged since.
    let whole = "SELECT count(*) FROM manifest_files m
                 JOIN blobs f ON f.digest = m.digest AND f.damaged = 0 AND f.size = m.size
                 JOIN blobs b ON b.digest = m.manifest AND b.damaged = 0 WHERE m.manifest = ?";
    let n: i64 = sqlx::query_scalar(whole).bind(digest).fetch_one(&mut tx.conn).await?;
    if usize::try_from(n) == Ok(manifest.files.len()) {
        return Ok(());
    }
    if size(&mut tx.conn, digest).await?.is_none() {
        return Err(missing(&format!("the manifest {digest}")).into());
    }
    for file in &manifest.files {
        match size(&mut tx.conn, &file.digest).await? {
            Some(size) if size == file.size => {}
            Some(size) => {
                let text = format!("the manifest gives {} {} bytes, and it has {size}", file.name, file.size);
                return Err(Refusal::new(reason::BAD_MANIFEST, text).into());
            }
            None => return Err(missing(&format!("{} ({})", file.name, file.digest)).into()),
        }
        let sql = "INSERT INTO manifest_files (manifest, name, digest, size) VALUES (?, ?, ?, ?)
                   ON CONFLICT (manifest, name) DO NOTHING";
        sqlx::query(sql)
            .bind(digest)
            .bind(&file.name)
            .bind(&file.digest)
            .bind(i64::try_from(file.size).unwrap_or(i64::MAX))
            .execute(&mut tx.conn)
            .await?;
    }
    Ok(())
}

/// The files of a manifest on record.
pub(crate) async fn manifest(conn: &mut SqliteConnection, digest: &str) -> Result<Manifest, StoreError> {
    let sql = "SELECT name, digest, size FROM manifest_files WHERE manifest = ? ORDER BY name";
    let rows: Vec<(String, String, i64)> = sqlx::query_as(sql).bind(digest).fetch_all(conn).await?;
    let file = |(name, digest, size): (String, String, i64)| ManifestFile {
        name,
        digest,
        size: u64::try_from(size).unwrap_or(0),
    };
    Ok(Manifest::new(rows.into_iter().map(file).collect()))
}

/// Manifests that nothing refers to any more.
const LOOSE_MANIFESTS: &str = "SELECT DISTINCT manifest FROM manifest_files m
    WHERE NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.digest = m.manifest)
      AND NOT EXISTS (SELECT 1 FROM versions v WHERE v.digest = m.manifest)";

/// Blobs that nothing refers to any more.
const LOOSE_BLOBS: &str = "SELECT digest, size FROM blobs b
    WHERE NOT EXISTS (SELECT 1 FROM studies s WHERE s.corpus_digest = b.digest)
      AND NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.digest = b.digest)
      AND NOT EXISTS (SELECT 1 FROM versions v WHERE v.digest = b.digest)
      AND NOT EXISTS (SELECT 1 FROM manifest_files m WHERE m.digest = b.digest)
      AND NOT EXISTS (SELECT 1 FROM manifest_files m WHERE m.manifest = b.digest)
      AND NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.model_digest = b.digest OR e.corpus_digest = b.digest)";

/// Forgets what nothing refers to, but for what `spared` says was in use a moment ago. Gives the blobs whose files
/// can go, with their sizes.
pub(crate) async fn sweep(
    tx: &mut Tx,
    spared: &(dyn Fn(&str) -> bool + Send + Sync),
) -> Result<Vec<(String, u64)>, StoreError> {
    let manifests: Vec<String> = sqlx::query_scalar(LOOSE_MANIFESTS).fetch_all(&mut tx.conn).await?;
    for manifest in manifests.iter().filter(|m| !spared(m)) {
        sqlx::query("DELETE FROM manifest_files WHERE manifest = ?")
            .bind(manifest)
            .execute(&mut tx.conn)
            .await?;
    }
    let loose: Vec<(String, i64)> = sqlx::query_as(LOOSE_BLOBS).fetch_all(&mut tx.conn).await?;
    let mut gone = Vec::new();
    for (digest, size) in loose {
        if !spared(&digest) {
            sqlx::query("DELETE FROM blobs WHERE digest = ?").bind(&digest).execute(&mut tx.conn).await?;
            gone.push((digest, u64::try_from(size).unwrap_or(0)));
        }
    }
    Ok(gone)
}
