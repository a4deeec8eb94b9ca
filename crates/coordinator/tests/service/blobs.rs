//! Blobs: resumed where they were cut, refused where they are not what they are called.

use std::time::Duration;

use kapell_rpc::{digest, v1};

use crate::harness::{House, reason};

fn chunks(digest: &str, size: usize, offset: usize, data: &[&[u8]]) -> Vec<v1::UploadChunk> {
    let rest = |data: &[u8]| v1::UploadChunk { data: data.to_vec(), ..Default::default() };
    let mut chunks: Vec<_> = data.iter().map(|d| rest(d)).collect();
    chunks[0].digest = digest.to_owned();
    (chunks[0].size, chunks[0].offset) = (size as u64, offset as u64);
    chunks
}

async fn stat(house: &House, digest: &str) -> v1::BlobStatus {
    let request = v1::StatRequest { digests: vec![digest.to_owned()] };
    house.blobs().stat(request).await.unwrap().into_inner().blobs.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_upload_goes_on_where_it_was_cut_even_after_a_restart() {
    let house = House::open().await;
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let name = digest::of_bytes(&bytes);
    assert_eq!(stat(&house, &name).await.received, 0);
    let first = chunks(&name, bytes.len(), 0, &[&bytes[..70_000], &bytes[70_000..90_000]]);
    let cut = house.blobs().upload(tokio_stream::iter(first)).await.unwrap().into_inner();
    assert_eq!((cut.received, cut.complete), (90_000, false));
    let house = house.restart(|_| {}).await;
    let status = stat(&house, &name).await;
    assert_eq!((status.received, status.complete), (90_000, false));
    let wrong = chunks(&name, bytes.len(), 90_001, &[&bytes[90_001..]]);
    let refused = house.blobs().upload(tokio_stream::iter(wrong)).await.unwrap_err();
    assert_eq!(reason(&refused), "offset-differs");
    let rest = chunks(&name, bytes.len(), 90_000, &[&bytes[90_000..]]);
    assert!(house.blobs().upload(tokio_stream::iter(rest)).await.unwrap().into_inner().complete);
    assert_eq!(stat(&house, &name).await.size, 200_000);

    let request = v1::DownloadRequest { digest: name, offset: 150_000 };
    let mut download = house.blobs().download(request).await.unwrap().into_inner();
    let mut back = Vec::new();
    while let Some(chunk) = download.message().await.unwrap() {
        back.extend(chunk.data);
    }
    assert!(back == bytes[150_000..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_another_digest_are_refused_and_leave_nothing() {
    let house = House::open().await;
    let name = digest::of_bytes(b"what it should be");
    let sent = chunks(&name, 5, 0, &[b"other"]);
    let refused = house.blobs().upload(tokio_stream::iter(sent)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (tonic::Code::DataLoss, "digest-mismatch"));
    let status = stat(&house, &name).await;
    assert_eq!((status.received, status.complete), (0, false));
    let refused = house.blobs().download(v1::DownloadRequest { digest: name, offset: 0 }).await.unwrap_err();
    assert_eq!(reason(&refused), "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_no_digests_and_more_bytes_than_announced_are_refused() {
    let house = House::open().await;
    for name in ["", "sha256:../../../etc/passwd", "md5:00"] {
        let sent = chunks(name, 1, 0, &[b"x"]);
        let refused = house.blobs().upload(tokio_stream::iter(sent)).await.unwrap_err();
        assert_eq!(reason(&refused), "bad-request", "{name}");
    }
    let name = digest::of_bytes(b"four");
    let refused =
        house.blobs().upload(tokio_stream::iter(chunks(&name, 4, 0, &[b"fourteen"]))).await.unwrap_err();
    assert_eq!(reason(&refused), "bad-request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_upload_the_same_blob_at_once() {
    let house = House::open().await;
    let data = b"the same vocabulary for every trial";
    let name = digest::of_bytes(data);
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (mut blobs, sent) = (house.blobs(), chunks(&name, data.len(), 0, &[data]));
        tasks.push(tokio::spawn(async move { blobs.upload(tokio_stream::iter(sent)).await }));
    }
    for task in tasks {
        assert!(task.await.unwrap().unwrap().into_inner().complete);
    }
    assert!(stat(&house, &name).await.complete);
}

fn file_of(house: &House, digest: &str) -> std::path::PathBuf {
    let (head, tail) = digest.strip_prefix("sha256:").unwrap().split_at(2);
    house.dir.path().join("blobs").join(head).join(tail)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_file_that_is_missing_or_damaged_is_said_and_healed_by_an_upload() {
    let house = House::open().await;
    let name = house.upload(b"a corpus").await;
    house.create().await;
    let read = || {
        let request = v1::DownloadRequest { digest: name.clone(), offset: 0 };
        let mut blobs = house.blobs();
        async move {
            let mut stream = blobs.download(request).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(chunk) = stream.message().await? {
                bytes.extend(chunk.data);
            }
            Ok::<_, tonic::Status>(bytes)
        }
    };
    for damage in ["", "short", "a c0rpus"] {
        let file = file_of(&house, &name);
        if damage.is_empty() {
            std::fs::remove_file(&file).unwrap();
        } else {
            std::fs::write(&file, damage).unwrap();
        }
        for _ in 0..2 {
            let refused = read().await.unwrap_err();
            let told = (refused.code(), reason(&refused));
            assert_eq!(told, (tonic::Code::DataLoss, "digest-mismatch"), "{damage:?}");
        }
        assert!(!stat(&house, &name).await.complete, "{damage:?}");
        house.upload(b"a corpus").await;
        assert_eq!(read().await.unwrap(), b"a corpus");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_without_a_row_are_gone_after_a_start_and_others_stay() {
    let house = House::open().await;
    let name = house.upload(b"known").await;
    let orphan = file_of(&house, &digest::of_bytes(b"orphan"));
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "orphan").unwrap();
    let house = house.restart(|_| {}).await;
    let gone = async {
        while orphan.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the file is removed");
    assert!(stat(&house, &name).await.complete);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_cannot_fit_is_refused_before_it_begins() {
    let house = House::open().await;
    let name = digest::of_bytes(b"large");
    let sent = chunks(&name, 1 << 60, 0, &[b"large"]);
    let refused = house.blobs().upload(tokio_stream::iter(sent)).await.unwrap_err();
    assert_eq!(reason(&refused), "disk-full");
}
