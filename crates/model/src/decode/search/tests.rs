//! Decoding with a table in place of a model.

use super::*;
use crate::decode::task::{Frame, Given, Rules, VOICES};
use crate::decode::vocabulary::tests::music;

/// Logits by what was said so far.
struct Table<F> {
    vocabulary: Vocabulary,
    logits: F,
    /// Every line of tokens that was fed, to see that none is fed twice.
    fed: Vec<Vec<Token>>,
}

impl<F: Fn(&[Token]) -> Vec<(Token, f32)>> NextToken for Table<F> {
    type State = Vec<Token>;

    fn start(&self) -> Vec<Token> {
        Vec::new()
    }

    fn step(&mut self, rows: &mut [&mut Vec<Token>], tokens: &[u16], logits: &mut [f32]) {
        let width = self.vocabulary.len();
        for ((row, &token), logits) in rows.iter_mut().zip(tokens).zip(logits.chunks_exact_mut(width)) {
            row.push(self.vocabulary.token(token).expect("a known token"));
            self.fed.push(row.clone());
            logits.fill(0.0);
            for (token, logit) in (self.logits)(row) {
                logits[usize::from(self.vocabulary.id(token).expect("a known token"))] = logit;
            }
        }
    }
}

fn table<F: Fn(&[Token]) -> Vec<(Token, f32)>>(logits: F) -> Table<F> {
    Table { vocabulary: music(48, 72), logits, fed: Vec::new() }
}

const fn note(midi: u8, tied: bool) -> Token {
    Token::Note { midi, tied }
}

/// A soprano and nothing else.
fn melody(notes: &[(u8, bool)], rules: Rules) -> Arc<Task> {
    let frame = |&(midi, tied): &(u8, bool)| {
        let mut voices = [Given::Free; VOICES];
        voices[0] = Given::Note { midi, tied };
        Frame { voices, fermata: Some(false), ..Frame::default() }
    };
    Task::harmonize(notes.iter().map(frame).collect(), &rules, 0, &music(48, 72)).expect("known notes")
}

fn run<M: NextToken>(model: &mut M, task: &Arc<Task>, search: Search) -> Decoded {
    let mut runs = [Run::new(model.start(), Arc::clone(task), Arc::new(music(48, 72)), search)];
    drive(model, &mut runs);
    runs[0].decoded().expect("a way to the end")
}

const fn beam(width: usize) -> Search {
    Search::Beam(Beam { width, look_ahead: 1 })
}

#[test]
fn greedy_takes_the_likeliest_of_what_is_allowed() {
    // What is not allowed has the highest scores: the end, a fermata, notes above the melody, a tie from nothing.
    let mut model = table(|said| {
        let mut logits =
            vec![(Token::End, 90.0), (Token::Start, 95.0), (Token::Fermata, 80.0), (note(72, false), 70.0)];
        logits.extend([(note(60, true), 60.0), (note(64, false), 5.0), (note(55, false), 4.0)]);
        logits.push((Token::FrameEnd, if said.last() == Some(&note(55, false)) { 10.0 } else { 1.0 }));
        logits
    });
    let decoded = run(&mut model, &melody(&[(67, false), (67, true)], Rules::NONE), Search::Greedy);
    let first = [Token::Start, note(67, false), note(64, false), note(55, false), Token::FrameEnd];
    assert_eq!(decoded.tokens[..5], first);
    assert_eq!(decoded.tokens[5..], [note(67, true), Token::End]);
    let fed: Vec<Token> = model.fed.iter().filter_map(|line| line.last().copied()).collect();
    assert_eq!(fed, decoded.tokens[..decoded.tokens.len() - 1], "every token but the last is fed once");
}

#[test]
fn equally_likely_tokens_are_chosen_by_id() {
    let decoded = run(&mut table(|_| Vec::new()), &melody(&[(67, false)], Rules::NONE), Search::Greedy);
    assert_eq!(decoded.tokens, [Token::Start, note(67, false), Token::End]);
}

#[test]
fn the_likelihood_counts_all_tokens_after_start_among_the_whole_vocabulary() {
    let mut model = table(|_| vec![(note(48, false), 2.0)]);
    for search in [Search::Greedy, beam(3)] {
        let decoded = run(&mut model, &melody(&[(50, false)], Rules::NONE), search);
        // 54 tokens: one with e^2, the others with 1.
        let total = 2.0_f64.exp() + 53.0;
        let (other, best) = ((1.0 / total).ln(), (2.0_f64.exp() / total).ln());
        let wanted = match decoded.tokens.len() {
            3 => 2.0 * other,
            _ => 2.0 * other + best,
        };
        assert!((decoded.log_likelihood - wanted).abs() < 1e-9, "{} {wanted}", decoded.log_likelihood);
    }
}

/// Greedy falls for 60, behind which nothing is likely; 64 is less likely and leads on.
fn trap(said: &[Token]) -> Vec<(Token, f32)> {
    let mut logits: Vec<(Token, f32)> = music(48, 72).iter().map(|(_, token)| (token, -20.0)).collect();
    match said {
        [Token::Start, Token::Note { .. }] => {
            logits.extend([(note(60, false), 1.0), (note(64, false), 0.5)]);
        }
        [.., Token::Note { midi: 64, .. }] => logits.extend([(Token::FrameEnd, 5.0), (Token::End, 5.0)]),
        [.., Token::Note { midi: 60, .. }] => {
            logits.extend([(Token::FrameEnd, 0.0), (Token::End, 0.0), (note(50, false), 0.0)]);
            logits.extend([(note(51, false), 0.0), (note(52, false), 0.0)]);
        }
        _ => logits.extend([(Token::FrameEnd, 0.0), (note(67, true), 0.0), (Token::End, 0.0)]),
    }
    logits
}

#[test]
fn a_beam_sees_past_the_likeliest_next_token() {
    let task = melody(&[(67, false), (67, true)], Rules::NONE);
    let greedy = run(&mut table(trap), &task, Search::Greedy);
    assert_eq!(greedy.tokens[2], note(60, false));
    let wide = run(&mut table(trap), &task, beam(4));
    assert_eq!(wide.tokens[2], note(64, false));
    assert!(wide.log_likelihood > greedy.log_likelihood);
}

#[test]
fn a_beam_feeds_no_token_twice_but_greedys() {
    let mut model = table(trap);
    run(&mut model, &melody(&[(67, false), (67, true), (67, true)], Rules::NONE), beam(4));
    let mut lines = model.fed.clone();
    lines.sort();
    for same in lines.chunk_by(|a, b| a == b) {
        assert!(same.len() <= 2, "{:?} was fed {} times", same[0], same.len());
    }
}

#[test]
fn a_wide_enough_beam_finds_the_likeliest_of_all_pieces() {
    // Scores that depend on all that was said, so that only the whole search space shows the best.
    let noisy = |said: &[Token]| -> Vec<(Token, f32)> {
        let mut hash = 17_u32;
        for token in said {
            for byte in token.to_string().bytes() {
                hash = hash.wrapping_mul(31).wrapping_add(u32::from(byte));
            }
        }
        let word = |at: u32| crate::philox::block([hash, at, 0, 0], [3, 4])[0] >> 16;
        let logit = |at| f32::from(u16::try_from(word(at)).expect("a half")) / 16_384.0;
        (0..).zip(music(48, 72).iter()).map(|(at, (_, token))| (token, logit(at))).collect()
    };
    let rules = Rules { ranges: Some([(60, 72), (58, 60), (53, 55), (48, 50)]), ..Rules::default() };
    let task = melody(&[(67, false), (67, true)], Rules { cadences: false, ..rules });
    let all = run(&mut table(noisy), &task, beam(100_000));
    for width in [1, 2, 5, 20] {
        let found = run(&mut table(noisy), &task, beam(width));
        assert!(found.log_likelihood <= all.log_likelihood + 1e-9);
    }
    let found = run(&mut table(noisy), &task, beam(400));
    assert_eq!(found.tokens, all.tokens);
}

#[test]
fn a_beam_is_never_worse_than_greedy() {
    for salt in 0..40_u32 {
        let noisy = |said: &[Token]| -> Vec<(Token, f32)> {
            let length = u32::try_from(said.len()).expect("short");
            let last = said.last().map_or(0, |token| token.to_string().bytes().map(u32::from).sum());
            let word = |at| crate::philox::block([salt, at, length, last], [5, 6])[0] >> 16;
            let logit = |at| f32::from(u16::try_from(word(at)).expect("a half")) / 8192.0;
            (0..).zip(music(48, 72).iter()).map(|(at, (_, token))| (token, logit(at))).collect()
        };
        let task = melody(&[(67, false), (67, true), (65, false), (64, false)], Rules::default());
        let greedy = run(&mut table(noisy), &task, Search::Greedy);
        for search in [beam(1), beam(2), Search::Beam(Beam { width: 2, look_ahead: 3 })] {
            let found = run(&mut table(noisy), &task, search);
            assert!(found.log_likelihood >= greedy.log_likelihood, "{salt}: {search:?}");
        }
    }
}

#[test]
fn runs_together_give_what_each_gives_alone() {
    let task = melody(&[(67, false), (67, true), (65, false)], Rules::default());
    let vocabulary = Arc::new(music(48, 72));
    let searches = [Search::Greedy, beam(3), sampling(1.0, 0.9, 4), sampling(0.7, 1.0, 5)];
    let alone = searches.map(|search| run(&mut table(trap), &task, search));
    let mut model = table(trap);
    let new = |search| Run::new(model.start(), Arc::clone(&task), Arc::clone(&vocabulary), search);
    let mut together = searches.map(new);
    drive(&mut model, &mut together);
    for (run, alone) in together.iter().zip(alone) {
        assert!(run.is_done() && run.fed() > 0);
        assert_eq!(run.decoded(), Ok(alone));
    }
}

#[test]
fn a_given_note_that_the_model_lacks_is_an_error() {
    let mut voices = [Given::Free; VOICES];
    voices[0] = Given::Note { midi: 90, tied: false };
    let frame = Frame { voices, ..Frame::default() };
    let task = Task::harmonize(vec![frame], &Rules::default(), 0, &music(48, 72));
    assert_eq!(task.map(|_| ()), Err(crate::decode::Unknown(90)));
}

fn sampling(temperature: f64, top_p: f64, seed: u64) -> Search {
    Search::Sample(Sampling { temperature, top_p, seed })
}

/// A frame holds one of two notes, with odds of e to 1 for the lower, or none.
fn two_notes(_: &[Token]) -> Vec<(Token, f32)> {
    let mut logits: Vec<(Token, f32)> = music(48, 72).iter().map(|(_, token)| (token, -50.0)).collect();
    logits.extend([(note(55, false), 1.0), (note(60, false), 0.0)]);
    logits
}

#[test]
fn draws_follow_the_models_odds_and_the_temperature() {
    let task = melody(&[(67, false)], Rules::NONE);
    let share = |temperature: f64| {
        let draw = |seed| run(&mut table(two_notes), &task, sampling(temperature, 1.0, seed)).tokens[2];
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
    let task = melody(&[(67, false)], Rules::NONE);
    for seed in 0..200 {
        let drawn = run(&mut table(two_notes), &task, sampling(1.0, 0.7, seed));
        assert_eq!(drawn.tokens[2], note(55, false));
    }
}

#[test]
fn a_seed_gives_the_same_piece_and_another_seed_another() {
    let task = Task::compose(40, &Rules::NONE, &music(48, 72));
    let piece = |seed| run(&mut table(|_| Vec::new()), &task, sampling(1.0, 1.0, seed)).tokens;
    assert_eq!(piece(1), piece(1));
    assert_ne!(piece(1), piece(2));
}

#[test]
fn a_composition_ends_at_its_limit_at_the_latest() {
    let task = Task::compose(5, &Rules::NONE, &music(48, 72));
    let decoded = run(&mut table(|_| vec![(Token::End, -90.0)]), &task, sampling(1.0, 1.0, 3));
    assert_eq!(decoded.tokens.iter().filter(|token| **token == Token::FrameEnd).count(), 4);
    assert_eq!(decoded.tokens.last(), Some(&Token::End));
}

#[test]
fn scores_that_are_no_numbers_still_end() {
    let task = melody(&[(67, false), (67, true)], Rules::default());
    for search in [Search::Greedy, beam(3), sampling(1.0, 0.9, 1)] {
        let mut model = table(|_| music(48, 72).iter().map(|(_, token)| (token, f32::NAN)).collect());
        assert_eq!(run(&mut model, &task, search).tokens.last(), Some(&Token::End));
    }
}
