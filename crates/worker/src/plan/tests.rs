//! What is chosen, with a measurer that says what the test wants.

use super::measure::measure;
use super::*;

const fn plan(slots: usize, threads: usize) -> Plan {
    Plan { slots, threads }
}

/// Chooses in this cache folder, and counts the measurements.
fn chosen(
    cores: usize,
    slots: Option<usize>,
    cache_dir: &Path,
    mut speed: impl FnMut(Plan) -> Result<f64, String>,
) -> (Choice, usize) {
    let mut count = 0;
    let mut measure = |plan: Plan| {
        count += 1;
        speed(plan)
    };
    let key = remembered::key(cores);
    let never = AtomicBool::new(false);
    let choice = choose_by(cores, slots, cache_dir, &key, &never, &mut measure);
    (choice, count)
}

fn threads_help(plan: Plan) -> Result<f64, String> {
    Ok(if plan.slots == 1 { 300.0 } else { 100.0 })
}

#[test]
fn no_candidate_and_no_given_number_of_slots_takes_more_than_all_cores() {
    for cores in 1..200 {
        let plans = candidates(cores);
        assert_eq!((plans[0], *plans.last().unwrap()), (plan(cores, 1), plan(1, cores)));
        assert!(plans.len() <= 8);
        assert!(plans.iter().all(|p| p.slots * p.threads <= cores), "{plans:?}");
        for slots in 0..300 {
            let given = Plan::with_slots(slots, cores);
            assert!(given.slots >= 1 && given.threads >= 1 && given.slots * given.threads <= cores);
        }
    }
    assert_eq!(candidates(12), [plan(12, 1), plan(6, 2), plan(3, 4), plan(1, 12)]);
}

#[test]
fn the_fastest_plan_is_chosen_and_a_tie_goes_to_more_trials() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[f64], Plan); 4] = [
        (&[100.0, 100.0, 100.0], plan(4, 1)),
        (&[100.0, 104.0, 104.0], plan(4, 1)),
        (&[100.0, 120.0, 122.0], plan(2, 2)),
        (&[100.0, 50.0, 106.0], plan(1, 4)),
    ];
    for (i, (speeds, wanted)) in cases.into_iter().enumerate() {
        let at = |plan: Plan| Ok(speeds[usize::try_from(plan.threads.ilog2()).unwrap()]);
        let (choice, count) = chosen(4, None, &dir.path().join(i.to_string()), at);
        assert_eq!((choice.plan, count), (wanted, 6), "{speeds:?}");
    }
}

#[test]
fn what_was_measured_is_remembered_for_the_same_machine_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (first, count) = chosen(2, None, dir.path(), threads_help);
    assert_eq!((first.plan, count), (plan(1, 2), 4));
    let (again, count) = chosen(2, None, dir.path(), |_| panic!("it is known"));
    assert_eq!((again.plan, count), (plan(1, 2), 0));
    assert!(matches!(&again.reason, Reason::Remembered(speeds) if speeds.len() == 2));
    let (other, count) = chosen(4, None, dir.path(), threads_help);
    assert_eq!((other.plan, count), (plan(1, 4), 6));
}

#[test]
fn damaged_memories_are_measured_again() {
    let dir = tempfile::tempdir().unwrap();
    for damage in ["", "{}", "[1", "null"] {
        chosen(2, None, dir.path(), threads_help);
        let path = remembered::path(dir.path(), &remembered::key(2));
        std::fs::write(path, damage).unwrap();
        let (choice, count) = chosen(2, None, dir.path(), threads_help);
        assert_eq!((choice.plan, count), (plan(1, 2), 4), "{damage}");
    }
}

#[test]
fn a_memory_that_takes_more_than_all_cores_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let speeds = [Speed { plan: plan(64, 64), tokens_per_s: 1e9 }];
    remembered::write(dir.path(), &remembered::key(2), &speeds);
    assert_eq!(chosen(2, None, dir.path(), threads_help).0.plan, plan(1, 2));
}

#[test]
fn measurements_that_do_not_agree_are_used_and_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let mut calls = 0;
    let mut noisy = |plan: Plan| {
        calls += 1;
        Ok(if plan.slots == 1 { 100.0 } else { f64::from(calls) * 100.0 })
    };
    let (choice, _) = chosen(2, None, dir.path(), &mut noisy);
    assert_eq!(choice.plan, plan(2, 1));
    assert_eq!(chosen(2, None, dir.path(), threads_help).1, 4);
}

#[test]
fn nothing_is_measured_on_one_core_or_where_the_slots_are_given() {
    let dir = tempfile::tempdir().unwrap();
    let never = |_: Plan| -> Result<f64, String> { panic!("nothing to measure") };
    let one = chosen(1, None, dir.path(), never).0;
    assert_eq!(one, Choice { plan: plan(1, 1), reason: Reason::OneCore });
    let given = chosen(16, Some(5), dir.path(), never).0;
    assert_eq!(given, Choice { plan: plan(5, 3), reason: Reason::Given });
    let too_many = chosen(2, Some(7), dir.path(), never).0;
    assert_eq!(too_many, Choice { plan: plan(2, 1), reason: Reason::Clamped { given: 7 } });
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn where_nothing_can_be_measured_every_core_gets_a_trial() {
    let dir = tempfile::tempdir().unwrap();
    let (choice, count) = chosen(8, None, dir.path(), |_| Err("broken".into()));
    assert_eq!((choice.plan, count), (plan(8, 1), 1));
    assert_eq!(choice.reason, Reason::Failed("broken".into()));
}

#[test]
fn a_cache_folder_that_cannot_be_written_only_costs_the_memory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(chosen(2, None, file.path(), threads_help).0.plan, plan(1, 2));
}

#[test]
fn a_choice_says_what_it_is_and_why() {
    let speeds = vec![
        Speed { plan: plan(2, 1), tokens_per_s: 61_200.4 },
        Speed { plan: plan(1, 2), tokens_per_s: 50_100.0 },
    ];
    let choice = Choice { plan: plan(2, 1), reason: Reason::Measured(speeds) };
    let text = "2 trials at once, 1 thread each (measured, trials x threads: 2 x 1 61200 tokens/s, 1 x 2 50100 tokens/s)";
    assert_eq!(choice.to_string(), text);
    let choice = Choice { plan: plan(1, 2), reason: Reason::Given };
    assert_eq!(choice.to_string(), "1 trial at once, 2 threads (as told)");
}

#[test]
fn real_updates_are_measured_and_an_abandoned_measurement_ends() {
    let go_on = Arc::new(AtomicBool::new(false));
    let speed = measure(plan(2, 1), 2, &go_on).unwrap();
    assert!(speed.is_finite() && speed > 1.0);
    let stop = Arc::new(AtomicBool::new(true));
    assert_eq!(measure(plan(2, 1), 2, &stop), Err("interrupted".into()));
}
