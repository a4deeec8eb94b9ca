//! Large studies: expanded in pieces, whole in the end whatever comes in between.

use std::path::Path;

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

fn is_whole(study: &v1::Study) {
    let (trials, coverage) = (study.trials.unwrap(), study.coverage.unwrap());
    assert_eq!((trials.total, trials.queued), (LARGE, LARGE));
    assert_eq!((coverage.configurations, coverage.duplicates), (LARGE, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_study_is_whole_when_its_creation_is_answered_and_others_work_meanwhile() {
    let house = House::open().await;
    let small = crate::harness::SPEC.replace("demo", "small");
    house.create_as("small", &small).await.unwrap();
    let hand = house.worker("w", "1").await;
    let spec = large();
    let (made, again, work) = tokio::join!(house.create_as("a", &spec), house.create_as("a", &spec), async {
        (hand.one("r1").await, hand.one("r2").await)
    },);
    for made in [made.unwrap(), again.unwrap()] {
        assert!(made.created, "the same request, the same answer");
        is_whole(&made.study.unwrap());
    }
    let number = |work: &v1::Work| crate::harness::train(work).number;
    assert_eq!((number(&work.0), number(&work.1)), (1, 2));
    house.trial(u32::try_from(LARGE).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_whose_creation_was_interrupted_is_completed_by_the_next_start() {
    let house = House::open().await;
    house.create_as("a", &large()).await.unwrap();
    let House { dir, running, .. } = house;
    running.shutdown().await;
    // As a crash behind the first piece leaves it.
    sql(
        dir.path(),
        "DELETE FROM trials WHERE number > 20000; DELETE FROM study_counts;
         INSERT INTO expansions (study, next) SELECT id, 20001 FROM studies;",
    )
    .await;
    let running = kapell_coordinator::start(config(dir.path().to_owned())).await.unwrap();
    let house = House::of(running).await;
    let again = house.create_as("a", &large()).await.unwrap();
    assert!(again.created);
    is_whole(&again.study.unwrap());
    let canceled = house.studies().cancel_study(v1::StudyRef { study: "demo".into() }).await.unwrap();
    assert_eq!(canceled.into_inner().trials.unwrap().canceled, LARGE);
    let refused = house.create_as("b", &large().replace("epochs = 3", "epochs = 4")).await.unwrap_err();
    assert_eq!(reason(&refused), "study-differs");
}
