//! Study files, good and bad: what is read, and what a bad one is told.

use kapell_search::study::{apply_overrides, parse_duration};
use kapell_search::{OptionValue, StudySpec};

const TABLE_1: &str = include_str!("../../../examples/bachbot-table-1.toml");
const SEEDS: &str = include_str!("../../../examples/reproduction/seeds.toml");
const DROPOUT: &str = include_str!("../../../examples/reproduction/dropout.toml");

fn complaint(text: &str) -> String {
    StudySpec::parse(text).expect_err("a bad file is refused").to_string()
}

#[test]
fn table_1_of_the_article_has_864_configurations_in_144_shapes() {
    let spec = StudySpec::parse(TABLE_1).unwrap();
    assert_eq!(spec.trials(), 864);
    let shapes: std::collections::BTreeSet<String> = spec.expand().map(|t| t.config.shape_key()).collect();
    assert_eq!(shapes.len(), 144);
    let identities: std::collections::BTreeSet<String> =
        spec.expand().map(|t| t.config.hash("c", "s")).collect();
    assert_eq!(identities.len(), 864);
}

#[test]
fn the_reproduction_trains_the_best_model_with_three_seeds_and_its_shape_with_six_dropouts() {
    let (seeds, dropout) = (StudySpec::parse(SEEDS).unwrap(), StudySpec::parse(DROPOUT).unwrap());
    assert_eq!((seeds.trials(), dropout.trials()), (3, 6));
    let shapes: std::collections::BTreeSet<String> =
        seeds.expand().chain(dropout.expand()).map(|trial| trial.config.shape_key()).collect();
    assert_eq!(shapes.len(), 1);
    // Epochs are no part of an identity: the dropout 0.3 is the beginning of the first seed.
    let seeds: std::collections::BTreeSet<String> = seeds.expand().map(|t| t.config.hash("c", "s")).collect();
    assert_eq!(dropout.expand().filter(|t| seeds.contains(&t.config.hash("c", "s"))).count(), 1);
}

#[test]
fn every_bad_line_is_told_with_its_place_and_what_to_do() {
    for (file, expect) in [
        (
            "name = \"a\"\nreplicas = 2",
            "line 2, column 1: unknown key \"replicas\"; did you mean \"replicates\"?",
        ),
        (
            "name = \"a\"\n[space]\nhiden = [8]",
            "line 3, column 1: unknown option \"hiden\"; did you mean \"hidden\"?",
        ),
        ("name = \"a\"\n[train]\nlr_decay = { evry = 3 }", "did you mean \"lr_decay.every\"?"),
        (
            "name = \"a\"\n[train]\nhidden = \"big\"",
            "line 3, column 10: hidden wants a whole number, not the text \"big\"",
        ),
        ("name = \"a\"\n[space]\nlayers = []", "line 3, column 10: the axis layers is empty"),
        ("name = \"a\"\n[space]\nlayers = [1, 2, 1]", "line 3, column 17: the axis layers names 1 twice"),
        ("name = \"a\"\n[space]\ndropout = [0, 0.0]", "names 0.0 twice"),
        ("name = \"a\"\n[train]\ndropout = 1.0", "from 0 and below 1"),
        ("name = \"a\"\n[train]\nhidden = 0", "from 1 to"),
        ("name = \"a\"\n[space]\nhidden = 128", "wants a list of values"),
        ("name = \"a\"\n[space]\nepochs = [1, 2]", "line 3, column 10: epochs cannot be searched"),
        ("name = \"a\"\n[space]\nlearning_rate = { min = 1e-4, max = 1e-2 }", "a range needs the sampler"),
        ("name = \"a\"\nsampler = { kind = \"tpe\" }", "sampler \"tpe\" is not in this version"),
        ("name = \"a\"\nsampler = { kind = \"gird\" }", "\"gird\" is no sampler"),
        ("name = \"a\"\nobjective = { metric = \"accuracy\" }", "metric is one of val_loss, train_loss"),
        ("name = \"a/b\"", "a name is 1 to 100 letters"),
        ("corpus = \"chorales\"", "the study has no name"),
        ("name = \"a\"\n[space]\nlayers = [1]\n[train]\nlayers = 2", "stands in [space] and in [train]"),
        ("name = \"a\"\ncheckpoint = { every = \"soon\" }", "is no duration"),
        ("name = \"a\"\nname = \"b\"", "not TOML"),
        ("name = ", "line 1"),
    ] {
        let told = complaint(file);
        assert!(told.contains(expect), "{file:?} was told {told:?}, not {expect:?}");
    }
}

#[test]
fn a_grid_of_a_million_million_is_refused_with_its_size() {
    let many: Vec<String> = (1..=1000).map(|i| i.to_string()).collect();
    let list = many.join(", ");
    let file = format!(
        "name = \"a\"\n[space]\nlayers = [1, 2]\nhidden = [{list}]\nembedding = [{list}]\nseq_len = [{list}]\nseed = [{list}]"
    );
    let told = complaint(&file);
    assert!(told.contains("the grid has 2000000000000 trials"), "{told}");
}

#[test]
fn replicates_of_a_configuration_stand_together_and_numbers_start_at_1() {
    let spec = StudySpec::parse("name = \"a\"\nreplicates = 2\n[space]\nlayers = [1, 2]").unwrap();
    let got: Vec<_> = spec.expand().map(|t| (t.number, t.config.int("layers"), t.replicate)).collect();
    assert_eq!(got, [(1, Some(1), 0), (2, Some(1), 1), (3, Some(2), 0), (4, Some(2), 1)]);
}

#[test]
fn an_override_of_a_searched_option_fixes_it_and_a_list_searches_it() {
    let sets =
        ["layers=2", "epochs=3", "hidden=[8, 16]", "lr_decay.every=7", "retry.max_lost=1"].map(String::from);
    let text = apply_overrides(TABLE_1, &sets, &["git_sha=abc".into()]).unwrap();
    let spec = StudySpec::parse(&text).unwrap();
    assert_eq!(spec.trials(), 2 * 3 * 3 * 6);
    assert_eq!(spec.train.get("layers"), Some(OptionValue::Int(2)));
    assert_eq!(spec.train.int("lr_decay.every"), Some(7));
    assert_eq!((spec.train.int("epochs"), spec.retry.max_lost), (Some(3), 1));
    assert_eq!(spec.tags["git_sha"], "abc");
}

#[test]
fn two_files_of_the_same_content_do_not_differ_and_a_changed_option_is_named() {
    let a = StudySpec::parse("name = \"a\"\n[train]\nepochs = 30").unwrap();
    let b = StudySpec::parse("name = \"a\"  # a remark\n[train]\nepochs = 20").unwrap();
    assert_eq!(a.difference(&a), Vec::<String>::new());
    assert_eq!(a.difference(&b), ["train.epochs: 30 -> 20"]);
}

#[test]
fn durations_are_read_as_people_type_them() {
    assert_eq!(parse_duration("1m").map(|d| d.as_secs()), Some(60));
    assert_eq!(parse_duration("500ms").map(|d| d.as_millis()), Some(500));
    assert_eq!(parse_duration("90d").map(|d| d.as_secs()), Some(90 * 86_400));
    assert_eq!(parse_duration("soon"), None);
    assert_eq!(parse_duration("1e400s"), None);
}
