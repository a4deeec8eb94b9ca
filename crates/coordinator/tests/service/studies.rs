//! Studies: created once, watched, limited, deleted; and the folder they live in.

use std::time::Duration;

use kapell_coordinator::{DataDirError, StartError, start};
use kapell_rpc::v1::{Outcome, StudyState, TrialState};
use kapell_rpc::{digest, v1};

use crate::harness::{Hand, House, SPEC, config, reason};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_is_created_once_and_another_of_its_name_is_refused_with_the_difference() {
    let house = House::open().await;
    let first = house.create_as("a", SPEC).await.unwrap();
    assert!(first.created);
    assert!(house.create_as("a", SPEC).await.unwrap().created, "the same request, the same answer");
    let again = house.create_as("b", SPEC).await.unwrap();
    assert!(!again.created);
    assert_eq!(again.study.unwrap().id, first.study.unwrap().id);
    let refused = house.create_as("c", &SPEC.replace("epochs = 3", "epochs = 4")).await.unwrap_err();
    assert_eq!(reason(&refused), "study-differs");
    assert!(refused.message().contains("epochs: 3 -> 4"), "{}", refused.message());
    let refused = house.create_as("d", "nonsense = 1").await.unwrap_err();
    assert_eq!(reason(&refused), "bad-spec");
    assert_eq!(house.study().await.trials.unwrap().total, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_needs_its_corpus_first() {
    let house = House::open().await;
    let request = v1::CreateStudyRequest {
        request_id: "a".into(),
        spec_toml: SPEC.into(),
        corpus_digest: digest::of_bytes(b"not here"),
        ..Default::default()
    };
    let refused = house.studies().create_study(request).await.unwrap_err();
    assert_eq!(reason(&refused), "missing-blob");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_watches_gets_every_event_in_order_until_the_study_ends() {
    let house = House::open().await;
    house.create().await;
    let request = v1::WatchStudyRequest { study: "demo".into(), after: 0, follow_forever: false };
    let mut events = house.studies().watch_study(request).await.unwrap().into_inner();
    let hand = house.worker("w", "1").await;
    for number in [1, 2] {
        let work = hand.one(&format!("r{number}")).await;
        hand.complete(&work, 1.0).await;
    }
    let (mut kinds, mut seqs) = (Vec::new(), Vec::new());
    while let Some(event) = events.message().await.unwrap() {
        seqs.push(event.seq);
        kinds.push(event.r#type);
    }
    assert_eq!(
        (kinds.first().unwrap().as_str(), kinds.last().unwrap().as_str()),
        ("study.created", "study.completed")
    );
    assert!(seqs.is_sorted_by(|a, b| a < b));
    let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
    assert_eq!((count("trial.started"), count("trial.measured"), count("trial.ended")), (2, 6, 2));
    let request =
        v1::WatchStudyRequest { study: "demo".into(), after: seqs[seqs.len() - 2], follow_forever: false };
    let mut rest = house.studies().watch_study(request).await.unwrap().into_inner();
    assert_eq!(rest.message().await.unwrap().unwrap().r#type, "study.completed");
    assert_eq!(rest.message().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_reached_ends_the_study() {
    let house = House::open().await;
    let spec = SPEC.replace("[space]", "limits = { target = 0.9 }\n[space]");
    house.create_as("a", &spec).await.unwrap();
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    hand.complete(&work, 0.8).await;
    let study = house.study().await;
    assert_eq!(study.state(), StudyState::Complete);
    assert!(study.reason.contains("reached the target"), "{}", study.reason);
    assert_eq!(house.state(2).await, TrialState::Canceled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_whose_time_is_over_is_complete_and_says_so() {
    let house = House::open().await;
    let spec = SPEC.replace("[space]", "limits = { max_hours = 1e-6 }\n[space]");
    house.create_as("a", &spec).await.unwrap();
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    let request = v1::WatchStudyRequest { study: "demo".into(), after: 0, follow_forever: false };
    let mut events = house.studies().watch_study(request).await.unwrap().into_inner();
    while events.message().await.unwrap().is_some() {}
    let study = house.study().await;
    assert_eq!((study.state(), study.trials.unwrap().canceled), (StudyState::Complete, 2));
    assert!(study.reason.contains("time"), "{}", study.reason);
    let late = hand.finish(Hand::finish_request(&work, Outcome::Complete)).await.unwrap_err();
    assert_eq!(reason(&late), "stale-attempt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_that_has_ended_can_be_deleted_and_its_blobs_go_with_it() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    hand.complete(&work, 1.0).await;
    let study = || v1::StudyRef { study: "demo".into() };
    let refused = house.studies().delete_study(study()).await.unwrap_err();
    assert_eq!(reason(&refused), "illegal-event");
    house.studies().cancel_study(study()).await.unwrap();
    assert_eq!(house.running.sweep_blobs(Duration::ZERO).await.unwrap(), 0, "everything is referred to");
    let deleted = house.studies().delete_study(study()).await.unwrap().into_inner();
    assert_eq!(deleted.trials, 2);
    let refused = house.studies().get_study(study()).await.unwrap_err();
    assert_eq!(reason(&refused), "not-found");
    assert!(house.running.sweep_blobs(Duration::ZERO).await.unwrap() > 100);
    assert!(house.create_as("create-1", SPEC).await.unwrap().created, "the name is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trials_are_listed_sorted_and_filtered() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    for loss in [1.0, 0.5] {
        let work = hand.one(&format!("r{loss}")).await;
        hand.complete(&work, loss).await;
    }
    let list = |sort: &str, descending, filter| {
        let request = v1::ListTrialsRequest {
            studies: vec!["demo".into()],
            sort: sort.into(),
            descending,
            filter,
            ..Default::default()
        };
        let mut studies = house.studies();
        async move {
            let mut trials = studies.list_trials(request).await?.into_inner();
            let mut numbers = Vec::new();
            while let Some(trial) = trials.message().await? {
                numbers.push(trial.number);
            }
            Ok::<_, tonic::Status>(numbers)
        }
    };
    assert_eq!(list("", false, None).await.unwrap(), [1, 2]);
    assert_eq!(list("objective", false, None).await.unwrap(), [2, 1]);
    assert_eq!(list("hidden", true, None).await.unwrap(), [2, 1]);
    let value = Some(v1::option_value::Value::Int(16));
    let only = v1::Config { options: [("hidden".to_owned(), v1::OptionValue { value })].into() };
    assert_eq!(list("", false, Some(only)).await.unwrap(), [2]);
    let refused = list("hiden", false, None).await.unwrap_err();
    assert!(refused.message().contains("\"hidden\""), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_not_there_is_answered_with_the_nearest() {
    let house = House::open().await;
    house.create().await;
    let refused = house.studies().get_study(v1::StudyRef { study: "dem".into() }).await.unwrap_err();
    assert!(refused.message().contains("\"demo\""), "{}", refused.message());
    let request = v1::TrialRef { study: "demo".into(), number: 3 };
    let refused = house.studies().get_trial(request).await.unwrap_err();
    assert!(refused.message().contains("1 to 2"), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_held_a_port_in_use_and_a_newer_schema_are_told_apart() {
    let house = House::open().await;
    let locked = start(config(house.dir.path().to_owned())).await.unwrap_err();
    assert!(matches!(locked, StartError::DataDir(DataDirError::Locked { .. })), "{locked}");
    let other = tempfile::tempdir().unwrap();
    let mut in_use = config(other.path().to_owned());
    in_use.listen = house.running.addr();
    let refused = start(in_use).await.unwrap_err();
    assert!(matches!(refused, StartError::PortInUse(_)), "{refused}");

    let dir = house.dir;
    house.running.shutdown().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("kapell.db"));
    let mut db = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (99, 'from the future', 1, x'00', 0)";
    sqlx::query(newer).execute(&mut db).await.unwrap();
    sqlx::Connection::close(db).await.unwrap();
    let refused = start(config(dir.path().to_owned())).await.unwrap_err();
    assert!(matches!(refused, StartError::NewerSchema { found: 99, known: 6 }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_canceled_with_its_study_can_be_queued_again_and_the_others_stay() {
    let house = House::open().await;
    house.create().await;
    house.studies().cancel_study(v1::StudyRef { study: "demo".into() }).await.unwrap();
    let request = v1::TrialRef { study: "demo".into(), number: 2 };
    house.studies().retry_trial(request).await.unwrap();
    assert_eq!(house.study().await.state(), StudyState::Active);
    assert_eq!((house.state(1).await, house.state(2).await), (TrialState::Canceled, TrialState::Queued));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_database_is_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kapell.db"), "no database at all. ".repeat(400)).unwrap();
    let refused = start(config(dir.path().to_owned())).await.unwrap_err();
    assert!(matches!(refused, StartError::Damaged(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_misses_no_trial_that_changes_while_it_is_read() {
    let house = House::open().await;
    let widths: Vec<String> = (1..=1500).map(|n| n.to_string()).collect();
    let spec = SPEC.replace("8, 16", &widths.join(", "));
    house.create_as("a", &spec).await.unwrap();
    let request = v1::ListTrialsRequest {
        studies: vec!["demo".into()],
        state: TrialState::Queued.into(),
        ..Default::default()
    };
    let mut trials = house.studies().list_trials(request).await.unwrap().into_inner();
    let mut numbers = vec![trials.message().await.unwrap().unwrap().number];
    let hand = house.worker("w", "1").await;
    assert_eq!(hand.lease("r", 10).await.unwrap().len(), 10);
    while let Some(trial) = trials.message().await.unwrap() {
        numbers.push(trial.number);
    }
    assert_eq!(numbers, (1..=1500).collect::<Vec<u32>>());
}
