//! Large studies: studies like any other while they are expanded, and whole in the end whatever comes in between.

use std::path::Path;
use std::time::Duration;

use kapell_rpc::v1;
use sqlx::Connection;

use crate::harness::{House, config, reason};

/// A study of one trial more than two pieces have.
const LARGE: u64 = 2 * 20_000 + 1;

fn large() -> String {
    let seeds: Vec<String> = (1..=LARGE).map(|n| n.to_string()).collect();
    format!(
        "name = \"demo\"\ncorpus = \"exercises\"\n[space]\nseed = [{}]\n[train]\nepochs = 3\n",
        seeds.join(", ")
    )
}

async fn sql(dir: &Path, statements: &str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("kapell.db"));
    let mut db = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned())).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

/// What the coordinator says of it, from its creation on.
fn counts_as_whole(study: &v1::Study) {
    let (trials, coverage) = (study.trials.unwrap(), study.coverage.unwrap());
    assert_eq!((trials.total, trials.total - trials.running), (LARGE, trials.queued));
    assert_eq!((coverage.configurations, coverage.duplicates), (LARGE, 0));
}

/// Waits until its last trial is there.
async fn whole(house: &House) -> v1::Study {
    let last = u32::try_from(LARGE).unwrap();
    let wanted = v1::TrialRef { study: "demo".into(), number: last };
    loop {
        match house.studies().get_trial(wanted.clone()).await {
            Ok(_) => break,
            Err(status) => assert_eq!(reason(&status), "overloaded", "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let study = house.studies().get_study(v1::StudyRef { study: "demo".into() }).await.unwrap();
    study.into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_study_is_taken_at_once_and_leased_from_while_it_is_expanded() {
    let house = House::open().await;
    let small = crate::harness::SPEC.replace("demo", "small");
    house.create_as("small", &small).await.unwrap();
    let hand = house.worker("w", "1").await;
    let spec = large();
    let (made, again, work) = tokio::join!(house.create_as("a", &spec), house.create_as("a", &spec), async {
        [hand.one("r1").await, hand.one("r2").await]
    },);
    for made in [made.unwrap(), again.unwrap()] {
        assert!(made.created, "the same request, the same answer");
        counts_as_whole(&made.study.unwrap());
    }
    let is_large = |work: &v1::Work| crate::harness::train(work).study == "demo";
    let mut first = work.into_iter().find(is_large);
    for asked in 1.. {
        if first.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        first = hand.lease(&format!("again {asked}"), 1).await.unwrap().into_iter().find(is_large);
    }
    assert_eq!(first.map(|work| crate::harness::train(&work).number), Some(1));
    let study = whole(&house).await;
    counts_as_whole(&study);
    assert_eq!(study.state(), v1::StudyState::Active);
    let beyond = v1::TrialRef { study: "demo".into(), number: u32::try_from(LARGE).unwrap() + 1 };
    let refused = house.studies().get_trial(beyond).await.unwrap_err();
    assert_eq!(reason(&refused), "not-found", "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_whose_expansion_was_interrupted_is_completed_by_the_next_start() {
    let house = House::open().await;
    house.create_as("a", &large()).await.unwrap();
    whole(&house).await;
    let House { dir, running, .. } = house;
    running.shutdown().await;
    // As a crash behind the first piece leaves it.
    sql(
        dir.path(),
        "DELETE FROM trials WHERE number > 20000; UPDATE study_counts SET n = 20000;
         INSERT INTO expansions (study, next) SELECT id, 20001 FROM studies;",
    )
    .await;
    let running = kapell_coordinator::start(config(dir.path().to_owned())).await.unwrap();
    let house = House::of(running).await;
    let again = house.create_as("a", &large()).await.unwrap();
    assert!(again.created);
    counts_as_whole(&again.study.unwrap());
    counts_as_whole(&whole(&house).await);
    let refused = house.create_as("b", &large().replace("epochs = 3", "epochs = 4")).await.unwrap_err();
    assert_eq!(reason(&refused), "study-differs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_study_is_canceled_and_deleted_while_it_is_expanded() {
    let house = House::open().await;
    house.create_as("a", &large()).await.unwrap();
    let of = v1::StudyRef { study: "demo".into() };
    let canceled = house.studies().cancel_study(of.clone()).await.unwrap().into_inner();
    assert_eq!(canceled.trials.unwrap().canceled, LARGE, "those to come as well");
    let study = whole(&house).await;
    assert_eq!((study.state(), study.trials.unwrap().canceled), (v1::StudyState::Canceled, LARGE));
    house.studies().delete_study(of.clone()).await.unwrap();
    house.create_as("b", &large()).await.unwrap();
    house.studies().cancel_study(of.clone()).await.unwrap();
    house.studies().delete_study(of.clone()).await.unwrap();
    let House { dir, running, .. } = house;
    running.shutdown().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("kapell.db"));
    let mut db = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    for table in ["studies", "trials", "expansions", "study_counts", "events"] {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let left: i64 = sqlx::query_scalar(sql).fetch_one(&mut db).await.unwrap();
        assert_eq!(left, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_that_differs_in_a_long_list_is_refused_with_a_short_text() {
    let house = House::open().await;
    house.create_as("a", &large()).await.unwrap();
    let refused = house.create_as("b", &large().replace("[1, 2, ", "[1, 40009, ")).await.unwrap_err();
    assert_eq!(reason(&refused), "study-differs");
    let text = refused.message();
    assert!(text.contains("space.seed: [1, 2, 3") && text.contains("[1, 40009, 3"), "{text}");
    assert!(text.len() < 1000, "{} bytes", text.len());
    let long = v1::StudyRef { study: "\u{e4}".repeat(20_000) };
    let refused = house.studies().get_study(long).await.unwrap_err();
    assert_eq!(reason(&refused), "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expansion_waits_while_there_is_little_space() {
    let house = House::with(|c| c.min_free_bytes = u64::MAX).await;
    house.create_as("a", &large()).await.unwrap();
    let first = v1::TrialRef { study: "demo".into(), number: 1 };
    for _ in 0..20 {
        let refused = house.studies().get_trial(first.clone()).await.unwrap_err();
        assert_eq!(reason(&refused), "overloaded", "{refused}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It can be got rid of, and goes on where there is room.
    let house = house.restart(|_| {}).await;
    counts_as_whole(&whole(&house).await);
}
