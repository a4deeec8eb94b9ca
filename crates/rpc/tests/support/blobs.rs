//! A blob service in memory that can be told to cut transfers and to damage what it sends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use kapell_rpc::v1::blob_service_server::BlobService;
use kapell_rpc::{digest, v1};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

/// Whole and unfinished blobs by digest, and what goes wrong next.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    pub(crate) whole: HashMap<String, Vec<u8>>,
    pub(crate) parts: HashMap<String, Vec<u8>>,
    /// Breaks each of so many next uploads after its first chunk.
    pub(crate) cut_uploads: u32,
    /// Breaks each of so many next downloads after its first chunk.
    pub(crate) cut_downloads: u32,
    /// Damages so many next downloads.
    pub(crate) damage: u32,
    /// Refuses uploads as a bug would.
    pub(crate) refuse_uploads: bool,
    /// Offsets at which uploads and downloads began, in order.
    pub(crate) offsets: Vec<u64>,
}

/// The service over a shared [`Blobs`].
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeBlobs(pub(crate) Arc<Mutex<Blobs>>);

const CHUNK_BYTES: usize = 1000;

fn count_down(counter: &mut u32) -> bool {
    let left = *counter > 0;
    *counter = counter.saturating_sub(1);
    left
}

#[tonic::async_trait]
impl BlobService for FakeBlobs {
    async fn stat(&self, request: Request<v1::StatRequest>) -> Result<Response<v1::StatResponse>, Status> {
        let blobs = self.0.lock().unwrap();
        let status = |digest: String| v1::BlobStatus {
            complete: blobs.whole.contains_key(&digest),
            received: blobs.parts.get(&digest).map_or(0, |p| p.len() as u64),
            size: blobs.whole.get(&digest).map_or(0, |p| p.len() as u64),
            digest,
        };
        let blobs = request.into_inner().digests.into_iter().map(status).collect();
        Ok(Response::new(v1::StatResponse { blobs }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadChunk>>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let mut chunks = request.into_inner();
        let head = chunks.message().await?.ok_or_else(|| Status::invalid_argument("no chunk"))?;
        let cut = {
            let mut blobs = self.0.lock().unwrap();
            if blobs.refuse_uploads {
                return Err(Status::internal("no upload"));
            }
            blobs.offsets.push(head.offset);
            let part = blobs.parts.entry(head.digest.clone()).or_default();
            part.truncate(usize::try_from(head.offset).unwrap());
            part.extend_from_slice(&head.data);
            count_down(&mut blobs.cut_uploads)
        };
        if cut {
            return Err(Status::unavailable("cut"));
        }
        while let Some(chunk) = chunks.message().await? {
            let mut blobs = self.0.lock().unwrap();
            blobs.parts.entry(head.digest.clone()).or_default().extend_from_slice(&chunk.data);
        }
        let mut blobs = self.0.lock().unwrap();
        let bytes = blobs.parts.remove(&head.digest).unwrap_or_default();
        if digest::of_bytes(&bytes) != head.digest {
            return Err(Status::data_loss("digest mismatch"));
        }
        let received = bytes.len() as u64;
        blobs.whole.insert(head.digest, bytes);
        Ok(Response::new(v1::UploadResponse { received, complete: true }))
    }

    type DownloadStream = std::pin::Pin<
        Box<dyn tokio_stream::Stream<Item = Result<v1::DownloadChunk, Status>> + Send + 'static>,
    >;

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let request = request.into_inner();
        let mut blobs = self.0.lock().unwrap();
        blobs.offsets.push(request.offset);
        let whole = blobs.whole.get(&request.digest).ok_or_else(|| Status::not_found("no such blob"))?;
        let start = usize::try_from(request.offset).unwrap();
        let mut bytes = whole.get(start..).unwrap_or_default().to_vec();
        if count_down(&mut blobs.damage) {
            bytes[0] ^= 1;
        }
        let mut chunks: Vec<_> =
            bytes.chunks(CHUNK_BYTES).map(|c| Ok(v1::DownloadChunk { data: c.to_vec() })).collect();
        if count_down(&mut blobs.cut_downloads) {
            chunks.truncate(1);
            chunks.push(Err(Status::unavailable("cut")));
        }
        // Pauses, so that the chunk before a cut is on its way before the cut is.
        let paced = tokio_stream::iter(chunks).then(|chunk| async {
            tokio::task::yield_now().await;
            chunk
        });
        Ok(Response::new(Box::pin(paced)))
    }
}
