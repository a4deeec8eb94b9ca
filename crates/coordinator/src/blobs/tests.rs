//! Uploads whose disk fails, and those under way when the clock jumps.

use super::*;
use crate::disk::RealDisk;
use crate::live::Live;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_fsync_fails_starts_over_and_ends_the_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let live = Arc::new(Live::new(Duration::from_secs(30)));
    let (store, _, failed) = crate::store::open(&dir.path().join("kapell.db"), live).await.unwrap();
    let blobs = Blobs::open(dir.path(), store, Arc::new(RealDisk)).unwrap();
    let name = digest::of_bytes(b"bytes");
    let mut upload = blobs.begin(&name, 5, 0).await.unwrap().push(b"bytes".to_vec()).await.unwrap();
    let part = upload.part.clone();
    assert!(part.exists());
    // Linux refuses to fsync this device.
    upload.file = File::open("/dev/null").unwrap();
    assert!(matches!(blobs.finish(upload).await, Err(StoreError::Failed(_))));
    assert!(failed.await.unwrap().contains("fsync"));
    assert!(!part.exists());
    assert_eq!(blobs.stat(&name).await.unwrap(), Here::Partly { received: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_under_way_outlives_a_sweep_behind_a_jump_of_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let live = Arc::new(Live::new(Duration::from_secs(30)));
    let (store, _, _) = crate::store::open(&dir.path().join("kapell.db"), live).await.unwrap();
    let blobs = Blobs::open(dir.path(), store, Arc::new(RealDisk)).unwrap();
    let name = digest::of_bytes(b"bytes");
    let upload = blobs.begin(&name, 5, 0).await.unwrap().push(b"by".to_vec()).await.unwrap();
    let long_ago = std::time::SystemTime::now() - 3652 * Duration::from_secs(24 * 3600);
    upload.file.set_modified(long_ago).unwrap();
    blobs.sweep(Duration::ZERO).await.unwrap();
    drop(upload);
    assert_eq!(blobs.stat(&name).await.unwrap(), Here::Partly { received: 2 });
    blobs.sweep(Duration::ZERO).await.unwrap();
    let upload = blobs.begin(&name, 5, 2).await.unwrap().push(b"tes".to_vec()).await.unwrap();
    assert_eq!(blobs.finish(upload).await.unwrap(), 5, "with the hash that was parked");
}
