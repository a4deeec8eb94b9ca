//! Blobs on the wire: in chunks, resumable, with memory bounded by a chunk.

use std::io::Read;
use std::pin::Pin;
use std::time::Duration;

use kapell_rpc::v1::blob_service_server::BlobService;
use kapell_rpc::{reason, v1};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, bad_request, refuse};
use crate::blobs::{Blobs, Here};

/// Bytes of one chunk at most.
const CHUNK_BYTES: usize = 1 << 20;
/// Digests that one request asks for at most.
const DIGESTS_MAX: usize = 4096;
/// An upload that is silent for so long is given up; what has come stays.
const SILENCE_MAX: Duration = Duration::from_secs(20);

pub(crate) struct BlobCalls(pub(crate) Shared);

#[tonic::async_trait]
impl BlobService for BlobCalls {
    async fn stat(&self, request: Request<v1::StatRequest>) -> Result<Response<v1::StatResponse>, Status> {
        let digests = request.into_inner().digests;
        if digests.len() > DIGESTS_MAX {
            return Err(bad_request(format!("at most {DIGESTS_MAX} digests are asked for at once")));
        }
        let mut blobs = Vec::with_capacity(digests.len());
        for digest in digests {
            self.0.blobs.settled(&digest).await;
            blobs.push(match self.0.blobs.stat(&digest).await? {
                Here::Complete { size } => v1::BlobStatus { digest, complete: true, received: size, size },
                Here::Partly { received } => v1::BlobStatus { digest, complete: false, received, size: 0 },
            });
        }
        Ok(Response::new(v1::StatResponse { blobs }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadChunk>>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let receiving = receive(self.0.blobs.clone(), request.into_inner());
        // On its own: what has come is written although its connection, and with it this call, is gone.
        let received = tokio::spawn(receiving).await;
        received
            .map_err(|error| refuse(reason::INTERNAL, format!("an upload ended early: {error}")))?
            .map(Response::new)
    }

    type DownloadStream = Pin<Box<dyn Stream<Item = Result<v1::DownloadChunk, Status>> + Send>>;

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let request = request.into_inner();
        let mut file = self.0.blobs.read(&request.digest, request.offset).await?;
        let (chunks, stream) = mpsc::channel(2);
        let (blobs, runtime) = (self.0.blobs.clone(), tokio::runtime::Handle::current());
        // What is read as a whole is checked on the way: other bytes are damage here, which an upload heals.
        let mut hasher = (request.offset == 0).then(Sha256::new);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut data = Vec::with_capacity(CHUNK_BYTES);
                let sent = match (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut data) {
                    Ok(0) => {
                        let found = hasher.take().map(|h| format!("sha256:{}", hex::encode(h.finalize())));
                        if found.is_some_and(|found| found != request.digest) {
                            let error = runtime.block_on(blobs.damaged(&request.digest));
                            drop(chunks.blocking_send(Err(error.into())));
                        }
                        return;
                    }
                    Ok(_) => {
                        if let Some(hasher) = &mut hasher {
                            hasher.update(&data);
                        }
                        chunks.blocking_send(Ok(v1::DownloadChunk { data }))
                    }
                    Err(error) => {
                        let status = refuse(reason::INTERNAL, format!("a blob cannot be read: {error}"));
                        drop(chunks.blocking_send(Err(status)));
                        return;
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn receive(blobs: Blobs, mut chunks: Streaming<v1::UploadChunk>) -> Result<v1::UploadResponse, Status> {
    let first = chunk(&mut chunks).await?.ok_or_else(|| bad_request("an upload has a first chunk"))?;
    let there = |size| v1::UploadResponse { received: size, complete: true };
    if let Here::Complete { size } = blobs.stat(&first.digest).await? {
        return Ok(there(size));
    }
    let mut upload = blobs.begin(&first.digest, first.size, first.offset).await?;
    // Somebody else may have finished it while this one waited.
    if let Here::Complete { size } = blobs.stat(&first.digest).await? {
        return Ok(there(size));
    }
    let mut next = Some(first);
    while let Some(c) = next {
        if c.data.len() > CHUNK_BYTES {
            return Err(bad_request(format!("a chunk has at most {CHUNK_BYTES} bytes")));
        }
        upload = upload.push(c.data).await?;
        next = if upload.received < upload.size { chunk(&mut chunks).await? } else { None };
    }
    if upload.received < upload.size {
        return Ok(v1::UploadResponse { received: upload.received, complete: false });
    }
    Ok(there(blobs.finish(upload).await?))
}

async fn chunk(chunks: &mut Streaming<v1::UploadChunk>) -> Result<Option<v1::UploadChunk>, Status> {
    match tokio::time::timeout(SILENCE_MAX, chunks.next()).await {
        Ok(chunk) => chunk.transpose(),
        Err(_) => Err(Status::deadline_exceeded("the upload fell silent; what has come is kept")),
    }
}
