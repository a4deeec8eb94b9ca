//! Too many connections, too many calls, calls that take too long: said, and gone when there is room again.

use std::time::Duration;

use kapell_rpc::{Client, v1};
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::{House, reason};

fn info() -> v1::ServerInfoRequest {
    v1::ServerInfoRequest {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_beyond_the_limit_is_told_to_come_back_and_is_served_when_there_is_room() {
    let house = House::with(|c| c.limits.connections = 2).await;
    house.studies().server_info(info()).await.unwrap();
    let url = house.running.url();
    let connect = async || Channel::from_shared(url.clone()).unwrap().connect().await.unwrap();
    let second = connect().await;
    let mut of_second = v1::study_service_client::StudyServiceClient::new(second);
    of_second.server_info(info()).await.unwrap();
    let mut third = v1::study_service_client::StudyServiceClient::new(connect().await);
    let refused = third.server_info(info()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, "overloaded"));

    // A client of ours backs off, and gets through on the connection it has.
    let client = Client::connect(&url, None).unwrap().with_patience(Duration::from_secs(20));
    let patient = tokio::spawn(async move { client.server_info(info()).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!patient.is_finished());
    drop(of_second);
    patient.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_too_many_on_one_connection_is_refused_and_the_others_go_on() {
    let house = House::with(|c| c.limits.calls_per_connection = 1).await;
    let hand = house.worker("w", "1").await;
    let waiting = tokio::spawn({
        let hand = hand.clone();
        async move {
            loop {
                match hand.lease_for("r1", 1, 20_000).await {
                    // The other call came first.
                    Err(refused) if reason(&refused) == "overloaded" => tokio::task::yield_now().await,
                    answer => break answer,
                }
            }
        }
    });
    let refused = loop {
        match house.studies().server_info(info()).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, "overloaded"));
    // Another connection is not concerned, and what it creates is what the waiting call gets.
    let other = House::of_url(&house.running.url()).await;
    other.studies().server_info(info()).await.unwrap();
    let client = Client::connect(&house.running.url(), None).unwrap();
    let corpus_digest = client.upload_bytes(b"a corpus".to_vec()).await.unwrap().digest;
    let request = v1::CreateStudyRequest {
        request_id: "c".into(),
        spec_toml: crate::harness::SPEC.into(),
        split_digest: corpus_digest.clone(),
        corpus_digest,
        vocabulary: 5,
    };
    client.create_study(request).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_the_coordinator_does_not_get_to_in_time_is_ended() {
    // An upload ends by silence only.
    let house = House::with(|c| c.limits.call_deadline = Duration::from_micros(250)).await;
    let widths: Vec<String> = (1..=4000).map(|n| n.to_string()).collect();
    let spec = crate::harness::SPEC.replace("8, 16", &widths.join(", "));
    let refused = house.create_as("c", &spec).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    // What was begun is done all the same: whoever asks again finds it.
    let house = house.restart(|_| {}).await;
    assert_eq!(house.study().await.trials.unwrap().total, 4000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_long_is_refused() {
    let house = House::open().await;
    let text = "x".repeat(5 << 20);
    let request = v1::CreateStudyRequest { spec_toml: text, ..Default::default() };
    let refused = house.studies().create_study(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_never_says_a_word_is_closed_and_one_that_lives_is_not() {
    let house = House::with(|c| c.limits.silence = Duration::from_secs(1)).await;
    let mut silent = tokio::net::TcpStream::connect(house.running.addr()).await.unwrap();
    let hand = house.worker("w", "1").await;
    let begun = std::time::Instant::now();
    let mut heard = Vec::new();
    // The server may greet it before it goes.
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut heard).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "it is not closed");
    // A client comes back by itself where its connection is gone, however slow the machine is just now.
    while let Err(refused) = hand.lease("r1", 1).await {
        assert!(begun.elapsed() < Duration::from_secs(10), "{refused:?}");
    }
}
