//! Uploads and downloads against a blob service that cuts and damages them.

#[path = "support/blobs.rs"]
mod support;

use std::time::Duration;

use kapell_rpc::manifest::{CHECKPOINT_FILES, Manifest};
use kapell_rpc::v1::blob_service_server::BlobServiceServer;
use kapell_rpc::{Client, Kind, digest};
use support::FakeBlobs;
use tokio_stream::wrappers::TcpListenerStream;

async fn serve() -> (Client, FakeBlobs) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let blobs = FakeBlobs::default();
    let service = BlobServiceServer::new(blobs.clone());
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (Client::connect(&url, None).unwrap().with_patience(Duration::from_secs(10)), blobs)
}

/// More than two chunks of an upload.
fn long() -> Vec<u8> {
    (0..1_300_000_u32).map(|i| u8::try_from(i * i % 251).unwrap()).collect()
}

#[tokio::test]
async fn a_cut_upload_goes_on_where_it_was_cut() {
    let (client, blobs) = serve().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, long()).unwrap();
    blobs.0.lock().unwrap().cut_uploads = 2;

    let uploaded = client.upload_file(&path).await.unwrap();

    assert_eq!((uploaded.digest.clone(), uploaded.bytes), (digest::of_bytes(&long()), 1_300_000));
    let blobs = blobs.0.lock().unwrap();
    assert_eq!(blobs.whole[&uploaded.digest], long());
    assert_eq!(blobs.offsets, [0, 524_288, 1_048_576]);
}

#[tokio::test]
async fn what_is_there_already_is_not_sent_again() {
    let (client, blobs) = serve().await;
    client.upload_bytes(*b"abc").await.unwrap();
    client.upload_bytes(*b"abc").await.unwrap();
    client.upload_bytes([]).await.unwrap();
    assert_eq!(blobs.0.lock().unwrap().offsets, [0, 0]);
    assert_eq!(blobs.0.lock().unwrap().whole.len(), 2);
}

#[tokio::test]
async fn an_upload_on_top_of_somebody_elses_wrong_bytes_starts_afresh() {
    let (client, blobs) = serve().await;
    blobs.0.lock().unwrap().parts.insert(digest::of_bytes(b"abc"), b"x".to_vec());
    client.upload_bytes(*b"abc").await.unwrap();
    assert_eq!(blobs.0.lock().unwrap().offsets, [1, 0]);
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_was_cut() {
    let (client, blobs) = serve().await;
    let name = digest::of_bytes(&long());
    {
        let mut blobs = blobs.0.lock().unwrap();
        blobs.whole.insert(name.clone(), long());
        blobs.cut_downloads = 1;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");

    client.download_file(&name, &path).await.unwrap();

    assert!(std::fs::read(&path).unwrap() == long());
    assert_eq!(blobs.0.lock().unwrap().offsets, [0, 1000]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no part is left");
}

#[tokio::test]
async fn a_download_drops_a_wrong_beginning_and_never_shows_wrong_bytes() {
    let (client, blobs) = serve().await;
    let name = digest::of_bytes(b"abcdef");
    blobs.0.lock().unwrap().whole.insert(name.clone(), b"abcdef".to_vec());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");

    std::fs::write(dir.path().join("file.part"), b"xy").unwrap();
    client.download_file(&name, &path).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"abcdef");
    assert_eq!(blobs.0.lock().unwrap().offsets, [2, 0]);

    std::fs::remove_file(&path).unwrap();
    blobs.0.lock().unwrap().damage = 1;
    let error = client.download_file(&name, &path).await.unwrap_err();
    assert_eq!((error.kind, error.exit_code()), (Kind::Integrity, 7));
    assert!(!path.exists());
    client.download_file(&name, &path).await.unwrap();
}

#[tokio::test]
async fn a_checkpoint_comes_back_as_it_went() {
    let (client, _blobs) = serve().await;
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    for name in CHECKPOINT_FILES {
        std::fs::write(from.join(name), name).unwrap();
    }

    let uploaded = client.upload_directory(&from, &CHECKPOINT_FILES).await.unwrap();
    let manifest = client.download_directory(&uploaded.digest, &to).await.unwrap();

    assert_eq!(manifest.digest(), uploaded.digest);
    assert_eq!(manifest.total_bytes(), uploaded.bytes);
    for name in CHECKPOINT_FILES {
        assert_eq!(std::fs::read(to.join(name)).unwrap(), name.as_bytes());
    }
}

#[tokio::test]
async fn a_manifest_with_a_foreign_name_writes_nothing() {
    let (client, _blobs) = serve().await;
    let evil = br#"[{"name":"../evil","size":0,"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]"#;
    assert!(Manifest::parse(evil).is_err());
    let uploaded = client.upload_bytes(*evil).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = client.download_directory(&uploaded.digest, &dir.path().join("to")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Integrity);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
