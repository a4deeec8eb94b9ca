//! What those ask who look after the coordinator: a backup, while everything goes on.

use std::io::Read;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use kapell_rpc::v1::admin_service_server::AdminService;
use kapell_rpc::v1::backup_part::Part;
use kapell_rpc::{reason, v1};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Shared, refuse};
use crate::data_dir::{BACKUP_PREFIX, free_bytes};
use crate::store::{StoreError, backup};

/// Bytes of one message at most.
const CHUNK_BYTES: usize = 1 << 20;
/// How often somebody who waits is told so.
const WAIT_EVERY: Duration = Duration::from_secs(2);

pub(crate) struct Admin(pub(crate) Shared);

type Out = mpsc::Sender<Result<v1::BackupPart, Status>>;

#[tonic::async_trait]
impl AdminService for Admin {
    type BackupStream = Pin<Box<dyn Stream<Item = Result<v1::BackupPart, Status>> + Send>>;

    async fn backup(&self, _: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let Some(keep) = self.0.blobs.keep_all().await else {
            return Err(refuse(reason::OVERLOADED, "another backup is being taken: try again later"));
        };
        let (out, stream) = mpsc::channel(2);
        let shared = self.0.clone();
        tokio::spawn(async move {
            if let Err(status) = send(&shared, &out).await {
                tracing::warn!(error = status.message(), "the backup ended early");
                // Who has gone does not hear it.
                drop(out.send(Err(status)).await);
            }
            drop(keep);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Copies the database beside itself, and sends the copy and every blob that it knows.
async fn send(shared: &Shared, out: &Out) -> Result<(), Status> {
    let mut conn = shared.store.readers.acquire().await.map_err(StoreError::from)?;
    let (bytes, free) =
        (backup::bytes(&mut conn).await?, free_bytes(&shared.config.data_dir).map_err(StoreError::from)?);
    if free < bytes {
        let text =
            format!("the copy of the database needs {bytes} bytes, and the data folder's disk has {free}");
        return Err(refuse(reason::DISK_FULL, text));
    }
    let folder = tempfile::Builder::new()
        .prefix(BACKUP_PREFIX)
        .tempdir_in(&shared.config.data_dir)
        .map_err(StoreError::from)?;
    let path = folder.path().join("kapell.db");
    {
        let mut copy = std::pin::pin!(backup::copy(&mut conn, &path));
        loop {
            tokio::select! {
                done = &mut copy => break done?,
                () = tokio::time::sleep(WAIT_EVERY) => tell(out, Part::Wait(v1::BackupWait {})).await?,
            }
        }
    }
    drop(conn);
    let mut copy = backup::open_copy(&path).await?;
    let contents = backup::contents(&mut copy).await?;
    drop(copy);
    let start = v1::BackupStart {
        schema: contents.schema,
        program_version: env!("CARGO_PKG_VERSION").to_owned(),
        damaged: contents.damaged,
    };
    tell(out, Part::Start(start)).await?;
    send_file(out, &path, String::new()).await?;
    drop(folder);
    for (digest, _) in &contents.blobs {
        // A file that is missing is noted as damaged by the way.
        drop(shared.blobs.read(digest, 0).await?);
        send_file(out, &shared.blobs.place(digest)?, digest.clone()).await?;
    }
    tell(out, Part::End(v1::BackupEnd {})).await?;
    tracing::info!(blobs = contents.blobs.len(), database_bytes = bytes, "backup sent");
    Ok(())
}

async fn tell(out: &Out, part: Part) -> Result<(), Status> {
    let sent = out.send(Ok(v1::BackupPart { part: Some(part) })).await;
    sent.map_err(|_| Status::cancelled("whoever wanted the backup has gone"))
}

async fn send_file(out: &Out, path: &Path, digest: String) -> Result<(), Status> {
    let (out, path) = (out.clone(), path.to_owned());
    let sent = tokio::task::spawn_blocking(move || {
        let tell = |part| {
            let sent = out.blocking_send(Ok(v1::BackupPart { part: Some(part) }));
            sent.map_err(|_| Status::cancelled("whoever wanted the backup has gone"))
        };
        let mut file = std::fs::File::open(path).map_err(StoreError::from)?;
        let size = file.metadata().map_err(StoreError::from)?.len();
        tell(Part::File(v1::BackupFile { digest, size }))?;
        loop {
            let mut data = Vec::new();
            let n = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut data).map_err(StoreError::from)?;
            if n == 0 {
                return Ok(());
            }
            tell(Part::Data(data))?;
        }
    });
    sent.await.map_err(|_| Status::unavailable("the coordinator is ending"))?
}
