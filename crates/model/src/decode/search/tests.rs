//! Decoding with a table in place of a model.

use std::cell::RefCell;

use super::*;
use crate::decode::grammar::MelodyFrame;
use crate::decode::vocabulary::tests::music;

/// Logits by what was said so far.
struct Table<F: Fn(&[Token]) -> Vec<(Token, f32)>> {
    vocabulary: Vocabulary,
    logits: F,
    /// Every token fed, to see that none is fed twice.
    fed: RefCell<Vec<Token>>,
}

impl<F: Fn(&[Token]) -> Vec<(Token, f32)>> NextToken for Table<F> {
    type State = Vec<Token>;

    fn state(&self, rows: usize) -> Vec<Token> {
        assert_eq!(rows, 1);
        Vec::new()
    }

    fn step(&self, state: &mut Vec<Token>, tokens: &[u16], logits: &mut [f32]) {
        let token = self.vocabulary.token(tokens[0]).expect("a known token");
        state.push(token);
        self.fed.borrow_mut().push(token);
        logits.fill(0.0);
        for (token, logit) in (self.logits)(state) {
            logits[usize::from(self.vocabulary.id(token).expect("a known token"))] = logit;
        }
    }
}

fn table<F: Fn(&[Token]) -> Vec<(Token, f32)>>(logits: F) -> Table<F> {
    Table { vocabulary: music(48, 72), logits, fed: RefCell::default() }
}

const fn note(midi: u8, tied: bool) -> Token {
    Token::Note { midi, tied }
}

fn melody(notes: &[(u8, bool)]) -> Vec<MelodyFrame> {
    notes.iter().map(|&soprano| MelodyFrame { soprano: Some(soprano), fermata: false }).collect()
}

fn run<M: NextToken>(model: &M, task: Task<'_>, search: Search) -> Decoded {
    decode(model, &music(48, 72), task, search).expect("known notes")
}

#[test]
fn greedy_takes_the_likeliest_of_what_is_allowed() {
    // What is not allowed has the highest scores: the end, a fermata, notes above the melody, a tie from nothing.
    let model = table(|said| {
        let mut logits =
            vec![(Token::End, 90.0), (Token::Start, 95.0), (Token::Fermata, 80.0), (note(72, false), 70.0)];
        logits.extend([(note(60, true), 60.0), (note(64, false), 5.0), (note(55, false), 4.0)]);
        logits.push((Token::FrameEnd, if said.last() == Some(&note(55, false)) { 10.0 } else { 1.0 }));
        logits
    });
    let frames = melody(&[(67, false), (67, true)]);
    let decoded = run(&model, Task::Harmonize(&frames), Search::Greedy);
    let first = [Token::Start, note(67, false), note(64, false), note(55, false), Token::FrameEnd];
    assert_eq!(decoded.tokens[..5], first);
    assert_eq!(decoded.tokens[5..], [note(67, true), Token::End]);
    assert_eq!(*model.fed.borrow(), decoded.tokens, "every token is fed once");
}

#[test]
fn equally_likely_tokens_are_chosen_by_id() {
    let model = table(|_| Vec::new());
    let frames = melody(&[(67, false)]);
    let decoded = run(&model, Task::Harmonize(&frames), Search::Greedy);
    assert_eq!(decoded.tokens, [Token::Start, note(67, false), Token::End]);
}

#[test]
fn the_likelihood_counts_all_tokens_after_start_among_the_whole_vocabulary() {
    let model = table(|_| vec![(note(48, false), 2.0)]);
    let frames = melody(&[(50, false)]);
    let decoded = run(&model, Task::Harmonize(&frames), Search::Greedy);
    assert_eq!(decoded.tokens, [Token::Start, note(50, false), note(48, false), Token::End]);
    // 54 tokens: one with e^2, the others with 1.
    let total = 2.0_f64.exp() + 53.0;
    let wanted = (1.0 / total).ln() + (2.0_f64.exp() / total).ln() + (1.0 / total).ln();
    assert!((decoded.log_likelihood - wanted).abs() < 1e-9, "{} {wanted}", decoded.log_likelihood);
}

#[test]
fn a_given_note_that_the_model_lacks_is_an_error() {
    let model = table(|_| Vec::new());
    let frames = melody(&[(90, false)]);
    let result = decode(&model, &music(48, 72), Task::Harmonize(&frames), Search::Greedy);
    assert_eq!(result, Err(Unknown(note(90, false))));
}

fn sampling(temperature: f64, top_p: f64, seed: u64) -> Search {
    Search::Sample(Sampling { temperature, top_p, seed })
}

/// A frame holds one of two notes, with odds of e to 1 for the lower, or none.
fn two_notes() -> Table<impl Fn(&[Token]) -> Vec<(Token, f32)>> {
    table(|_| {
        let mut logits: Vec<(Token, f32)> = music(48, 72).iter().map(|(_, token)| (token, -50.0)).collect();
        logits.extend([(note(55, false), 1.0), (note(60, false), 0.0)]);
        logits
    })
}

#[test]
fn draws_follow_the_models_odds_and_the_temperature() {
    let model = two_notes();
    let frames = melody(&[(67, false)]);
    let share = |temperature: f64| {
        let draw = |seed| run(&model, Task::Harmonize(&frames), sampling(temperature, 1.0, seed)).tokens[2];
        let lower = (0..2000_u32).filter(|&seed| draw(u64::from(seed)) == note(55, false)).count();
        f64::from(u32::try_from(lower).expect("small")) / 2000.0
    };
    for temperature in [0.5, 1.0, 2.0] {
        let odds = (1.0_f64 / temperature).exp();
        let (got, wanted) = (share(temperature), odds / (odds + 1.0));
        assert!((got - wanted).abs() < 0.04, "{temperature}: {got}, not {wanted}");
    }
}

#[test]
fn the_nucleus_leaves_unlikely_tokens_out() {
    let model = two_notes();
    let frames = melody(&[(67, false)]);
    for seed in 0..200 {
        let drawn = run(&model, Task::Harmonize(&frames), sampling(1.0, 0.7, seed));
        assert_eq!(drawn.tokens[2], note(55, false));
    }
}

#[test]
fn a_seed_gives_the_same_piece_and_another_seed_another() {
    let model = table(|_| Vec::new());
    let task = Task::Compose { frames_max: 40 };
    let piece = |seed| run(&model, task, sampling(1.0, 1.0, seed)).tokens;
    assert_eq!(piece(1), piece(1));
    assert_ne!(piece(1), piece(2));
}

#[test]
fn a_composition_ends_at_its_limit_at_the_latest() {
    let model = table(|_| vec![(Token::End, -90.0)]);
    let decoded = run(&model, Task::Compose { frames_max: 5 }, sampling(1.0, 1.0, 3));
    assert_eq!(decoded.tokens.iter().filter(|token| **token == Token::FrameEnd).count(), 4);
    assert_eq!(decoded.tokens.last(), Some(&Token::End));
}

#[test]
fn scores_that_are_no_numbers_still_end() {
    let model = table(|_| music(48, 72).iter().map(|(_, token)| (token, f32::NAN)).collect());
    let frames = melody(&[(67, false), (67, true)]);
    for search in [Search::Greedy, sampling(1.0, 0.9, 1)] {
        assert_eq!(run(&model, Task::Harmonize(&frames), search).tokens.last(), Some(&Token::End));
    }
}
