//! Promotion: gates, versions, aliases, races.

use kapell_rpc::v1;
use kapell_rpc::v1::Outcome;
use kapell_rpc::v1::promote_response::Decision;

use crate::harness::{Hand, House, SPEC, reason};

fn ask(request_id: &str) -> v1::PromoteRequest {
    v1::PromoteRequest {
        request_id: request_id.into(),
        study: "demo".into(),
        actor: "me@here".into(),
        ..Default::default()
    }
}

async fn promote(house: &House, request: v1::PromoteRequest) -> v1::PromoteResponse {
    house.models().promote(request).await.unwrap().into_inner()
}

async fn get(house: &House, reference: &str) -> Result<v1::ModelVersion, tonic::Status> {
    let request = v1::ModelRef { r#ref: reference.into() };
    house.models().get_model(request).await.map(tonic::Response::into_inner)
}

/// The study, with its trials complete at these losses.
async fn trained(losses: &[f64]) -> (House, Hand) {
    let house = House::open().await;
    house.create_as("c", SPEC).await.unwrap();
    let hand = house.worker("w", "1").await;
    for (i, loss) in losses.iter().enumerate() {
        let work = hand.one(&format!("r{i}")).await;
        hand.complete(&work, *loss).await;
    }
    (house, hand)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_best_is_promoted_once_and_found_by_every_kind_of_name() {
    let (house, _) = trained(&[1.0, 0.5]).await;
    let dry = promote(&house, v1::PromoteRequest { dry_run: true, ..ask("") }).await;
    assert_eq!((dry.decision(), dry.version, dry.generation), (Decision::Promoted, 1, 1));
    assert!(
        house.models().list_models(v1::ListModelsRequest {}).await.unwrap().into_inner().versions.is_empty()
    );

    let done = promote(&house, ask("p1")).await;
    assert_eq!((done.decision(), done.version, done.generation), (Decision::Promoted, 1, 1));
    assert_eq!(done.digest, dry.digest);
    assert_eq!((done.name.as_str(), done.alias.as_str()), ("demo", "champion"));
    assert!(done.gates.iter().all(|g| g.passed), "{:?}", done.gates);
    assert_eq!(promote(&house, ask("p1")).await, done, "the same request, the same answer");
    let again = promote(&house, ask("p2")).await;
    assert_eq!((again.decision(), again.generation), (Decision::Unchanged, 1));

    for reference in ["demo", "demo@champion", "demo:1", "champion", done.digest.as_str()] {
        let model = get(&house, reference).await.unwrap();
        assert_eq!((model.version, model.trial, model.generation), (1, 2, 1), "{reference}");
    }
    let model = get(&house, "demo").await.unwrap();
    let names: Vec<_> = model.files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["config.json", "model.safetensors", "vocab.json"], "no state of training");
    assert_eq!(model.val_loss, Some(0.5));
    let lineage = model.lineage.unwrap();
    assert_eq!((lineage.trial, lineage.epoch, lineage.attempts.len()), (2, 2, 1));
    for (reference, hint) in [("demu", "demo"), ("demo@champian", "champion"), ("demo:7", "1 to 1")] {
        let refused = get(&house, reference).await.unwrap_err();
        assert_eq!(reason(&refused), "not-found");
        assert!(refused.message().contains(hint), "{}", refused.message());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_say_no_with_their_reasons() {
    let (house, hand) = trained(&[1.0]).await;
    let early = promote(&house, ask("p1")).await;
    assert_eq!(early.decision(), Decision::NotReady);
    let partly = promote(&house, v1::PromoteRequest { allow_partial: true, dry_run: true, ..ask("") }).await;
    assert_eq!(partly.decision(), Decision::Promoted);
    assert_eq!(partly.gates[0].reason, "1 of 2 trials are done, 0 FAILED, 0 CANCELED");
    let work = hand.one("last").await;
    let failed = v1::FinishRequest { r#final: true, ..Hand::finish_request(&work, Outcome::Failed) };
    hand.finish(failed).await.unwrap();
    let refused = promote(&house, ask("p2")).await;
    assert_eq!(refused.decision(), Decision::Refused);
    let coverage = refused.gates.iter().find(|g| g.name == "coverage").unwrap();
    assert_eq!((coverage.passed, coverage.value), (false, Some(0.5)));
    assert!(coverage.reason.contains("1 FAILED"), "{}", coverage.reason);
    let strict = v1::PromoteRequest { allow_partial: true, max_val_loss: Some(0.9), ..ask("p3") };
    let refused = promote(&house, strict.clone()).await;
    assert_eq!(refused.decision(), Decision::Refused);
    let gate = refused.gates.iter().find(|g| g.name == "max_val_loss").unwrap();
    assert_eq!((gate.passed, gate.value, gate.threshold), (false, Some(1.0), Some(0.9)));
    let loose = v1::PromoteRequest { max_val_loss: Some(1.0), request_id: "p4".into(), ..strict };
    assert_eq!(promote(&house, loose).await.decision(), Decision::Promoted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_promoters_that_expect_a_generation_one_wins() {
    let (house, _) = trained(&[1.0, 0.5]).await;
    let mut tasks = Vec::new();
    for i in 0..8_u32 {
        let request =
            v1::PromoteRequest { trial: 1 + i % 2, expect_generation: Some(0), ..ask(&format!("p{i}")) };
        let mut models = house.models();
        tasks.push(tokio::spawn(
            async move { models.promote(request).await.unwrap().into_inner().decision() },
        ));
    }
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Decision::Promoted => won += 1,
            Decision::LostRace => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(won, 1);
    let champion = get(&house, "demo@champion").await.unwrap();
    assert_eq!(champion.generation, 1);
    let other = v1::PromoteRequest { trial: 3 - champion.trial, ..ask("next") };
    let lost =
        promote(&house, v1::PromoteRequest { expect_digest: Some("sha256:0".into()), ..other.clone() }).await;
    assert_eq!(lost.decision(), Decision::LostRace);
    let expects =
        v1::PromoteRequest { expect_digest: Some(champion.digest), request_id: "n2".into(), ..other };
    let done = promote(&house, expects).await;
    assert_eq!((done.decision(), done.generation), (Decision::Promoted, 2));
    assert_eq!(done.previous.unwrap().version, champion.version);
    let request = v1::ModelRef { r#ref: "demo".into() };
    let history = house.models().model_history(request).await.unwrap().into_inner().changes;
    assert_eq!(history.iter().map(|c| c.generation).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(history[0].actor, "me@here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_outlives_its_study_and_the_sweep() {
    let (house, _) = trained(&[1.0, 0.5]).await;
    let done = promote(&house, ask("p1")).await;
    house.studies().delete_study(v1::StudyRef { study: "demo".into() }).await.unwrap();
    assert!(house.running.sweep_blobs(std::time::Duration::ZERO).await.unwrap() > 0);
    let model = get(&house, "demo@champion").await.unwrap();
    assert_eq!(model.digest, done.digest);
    for digest in model.files.iter().map(|f| &f.digest).chain([&model.digest]) {
        let request = v1::DownloadRequest { digest: digest.clone(), offset: 0 };
        let mut stream = house.blobs().download(request).await.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_that_ended_without_a_complete_trial_is_refused_and_not_waited_for() {
    let (house, hand) = trained(&[]).await;
    for number in 1..=2 {
        let early = promote(&house, v1::PromoteRequest { allow_partial: true, ..ask("early") }).await;
        assert_eq!(early.decision(), Decision::NotReady);
        let work = hand.one(&format!("r{number}")).await;
        let failed = v1::FinishRequest { r#final: true, ..Hand::finish_request(&work, Outcome::Failed) };
        hand.finish(failed).await.unwrap();
    }
    for allow_partial in [false, true] {
        let refused = promote(&house, v1::PromoteRequest { allow_partial, ..ask("late") }).await;
        assert_eq!((refused.decision(), refused.version), (Decision::Refused, 0), "{allow_partial}");
    }
}
