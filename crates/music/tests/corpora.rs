//! Corpora: blobs, vocabularies, splits, text.

use std::collections::BTreeMap;

use kapell_music::corpus::blob::BlobError;
use kapell_music::corpus::build::{self, BuildError, SplitPlan};
use kapell_music::corpus::text::{self, TextError};
use kapell_music::corpus::{Corpus, Kind, PartOfSplit, Piece, Protocol, similarity, split};
use kapell_music::encode::Token;
use proptest::prelude::*;

/// A stream in which the soprano sings `line`, a frame a note, over a resting choir.
fn stream(line: &[u8]) -> Vec<Token> {
    let mut tokens = vec![Token::Start];
    for (i, &midi) in line.iter().enumerate() {
        if i > 0 {
            tokens.push(Token::FrameEnd);
        }
        tokens.extend([Token::Note { midi, tied: false }, Token::Note { midi: 48, tied: i > 0 }]);
    }
    tokens.push(Token::End);
    tokens
}

/// A line of its own for each number: no two share a run of intervals.
fn own_line(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..40)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            60 + u8::try_from((state >> 33) % 20).unwrap()
        })
        .collect()
}

fn scores(pieces: &[(String, Vec<Token>)], known: BTreeMap<String, PartOfSplit>) -> Corpus {
    build::from_scores("test", Protocol::Pieces, pieces, &SplitPlan { seed: 1, known }).unwrap()
}

fn many(count: u64) -> Vec<(String, Vec<Token>)> {
    (0..count).map(|i| (format!("piece-{i:03}"), stream(&own_line(i)))).collect()
}

fn part_of(corpus: &Corpus, id: &str) -> PartOfSplit {
    corpus.piece(id).unwrap().part
}

fn any_corpus() -> impl Strategy<Value = Corpus> {
    let part = prop_oneof![Just(PartOfSplit::Train), Just(PartOfSplit::Val), Just(PartOfSplit::Test)];
    let kind = prop_oneof![Just(Kind::Scores), Just(Kind::Text)];
    let protocol = prop_oneof![Just(Protocol::Pieces), Just(Protocol::Contiguous)];
    let piece = (part, prop::collection::vec(0_u16..9, 0..30));
    (kind, protocol, "[a-zäö ]{0,12}", prop::collection::vec(piece, 0..8)).prop_map(
        |(kind, protocol, name, pieces)| {
            let named = pieces.into_iter().enumerate().map(|(i, (part, tokens))| Piece {
                id: format!("piece {i}"),
                part,
                tokens: std::iter::once(0).chain(tokens).collect(),
            });
            let vocabulary = (0..9).map(|i| format!("token {i}")).collect();
            Corpus { name, kind, protocol, vocabulary, pieces: named.collect() }
        },
    )
}

proptest! {
    #[test]
    fn a_corpus_comes_back_from_its_bytes(corpus in any_corpus()) {
        let bytes = corpus.to_bytes();
        let back = Corpus::from_bytes(&bytes);
        prop_assert_eq!(back.as_ref(), Ok(&corpus));
        prop_assert_eq!(back.unwrap().to_bytes(), bytes);
    }

    #[test]
    fn a_cut_blob_is_refused(corpus in any_corpus(), at in any::<prop::sample::Index>()) {
        let bytes = corpus.to_bytes();
        prop_assert!(Corpus::from_bytes(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn a_changed_blob_is_refused_or_another_corpus(
        corpus in any_corpus(),
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let mut bytes = corpus.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        if let Ok(other) = Corpus::from_bytes(&bytes) {
            prop_assert_ne!(&other, &corpus);
            prop_assert_eq!(other.to_bytes(), bytes);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = b"kapell-corpus 1\n".to_vec();
        bytes.extend(tail);
        if let Ok(corpus) = Corpus::from_bytes(&bytes) {
            prop_assert_eq!(corpus.to_bytes(), bytes);
        }
    }
}

#[test]
fn a_count_that_the_bytes_cannot_hold_is_refused_before_anything_is_allocated() {
    let mut bytes = b"kapell-corpus 1\n\x00\x00".to_vec();
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(u32::MAX.to_le_bytes());
    bytes.extend([0; 64]);
    assert_eq!(Corpus::from_bytes(&bytes), Err(BlobError::Truncated { what: "the vocabulary" }));
}

#[test]
fn a_token_outside_the_vocabulary_is_refused() {
    let mut corpus = scores(&many(3), BTreeMap::new());
    let token = u16::try_from(corpus.vocabulary.len()).unwrap();
    corpus.pieces[1].tokens.push(token);
    let id = "piece-001".to_owned();
    assert_eq!(Corpus::from_bytes(&corpus.to_bytes()), Err(BlobError::UnknownToken { id, token }));
}

#[test]
fn two_pieces_of_one_name_are_refused() {
    let mut corpus = scores(&many(3), BTreeMap::new());
    corpus.pieces[2].id = corpus.pieces[0].id.clone();
    let id = "piece-000".to_owned();
    assert_eq!(Corpus::from_bytes(&corpus.to_bytes()), Err(BlobError::DuplicatePiece { id: id.clone() }));
    let twice = [(id.clone(), stream(&[60])), (id.clone(), stream(&[62]))];
    let built = build::from_scores("test", Protocol::Pieces, &twice, &SplitPlan::default());
    assert_eq!(built, Err(BuildError::DuplicatePiece { id }));
}

#[test]
fn ids_are_in_the_stated_order() {
    let mut tokens = stream(&[72, 60]);
    tokens.insert(1, Token::Fermata);
    let corpus = scores(&[("a".to_owned(), tokens)], BTreeMap::new());
    let expected = ["START", "END", "|||", "(.)", "(48, False)", "(48, True)", "(60, False)", "(72, False)"];
    assert_eq!(corpus.vocabulary, expected);
    assert_eq!(corpus.pieces[0].tokens, [0, 3, 7, 4, 2, 6, 5, 1]);
}

#[test]
fn the_order_in_which_pieces_come_does_not_change_their_parts() {
    let pieces = many(60);
    let mut reversed = pieces.clone();
    reversed.reverse();
    let (one, other) = (scores(&pieces, BTreeMap::new()), scores(&reversed, BTreeMap::new()));
    for piece in &one.pieces {
        assert_eq!(piece.part, part_of(&other, &piece.id), "{}", piece.id);
    }
}

#[test]
fn ten_pieces_are_split_eight_one_one_and_a_hundred_eighty_ten_ten() {
    for (count, wanted) in
        [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (10, [8, 1, 1]), (100, [80, 10, 10])]
    {
        let split = scores(&many(count), BTreeMap::new()).statistics().split;
        assert_eq!([split.train.pieces, split.val.pieces, split.test.pieces], wanted, "{count} pieces");
    }
}

#[test]
fn another_seed_gives_another_split() {
    let pieces = many(100);
    let split_of = |seed: u64| {
        let plan = SplitPlan { seed, known: BTreeMap::new() };
        build::from_scores("test", Protocol::Pieces, &pieces, &plan).unwrap().split_digest()
    };
    assert_eq!(split_of(1), split_of(1));
    assert_ne!(split_of(1), split_of(2));
}

#[test]
fn chorales_on_one_tune_are_never_parted() {
    let mut pieces = many(60);
    let settings = ["bwv227.1", "bwv227.11", "bwv227.3", "bwv358", "bwv253", "bwv414"];
    for (i, id) in (0_u64..).zip(settings) {
        pieces.push((id.to_owned(), stream(&own_line(500 + i))));
    }
    for seed in 0..40 {
        let plan = SplitPlan { seed, known: BTreeMap::new() };
        let corpus = build::from_scores("test", Protocol::Pieces, &pieces, &plan).unwrap();
        let parts: Vec<_> = settings.iter().map(|id| part_of(&corpus, id)).collect();
        assert!(parts[..4].iter().all(|p| *p == parts[0]), "Jesu, meine Freude is parted by seed {seed}");
        assert_eq!(parts[4], parts[5], "the near-duplicates are parted by seed {seed}");
    }
}

#[test]
fn a_transposed_and_ornamented_copy_stays_with_its_original() {
    let line = own_line(7);
    let mut copy: Vec<u8> = line.iter().map(|m| m - 3).collect();
    copy.insert(20, copy[20] + 1);
    let mut pieces = many(50);
    pieces.push(("original".to_owned(), stream(&line)));
    pieces.push(("copy".to_owned(), stream(&copy)));
    let corpus = scores(&pieces, BTreeMap::new());
    let group = split::groups(&corpus).into_iter().find(|g| g.contains(&50)).unwrap();
    let ids: Vec<&str> = group.iter().map(|&i| corpus.pieces[i].id.as_str()).collect();
    assert_eq!(ids, ["piece-007", "original", "copy"]);
    assert_eq!(part_of(&corpus, "original"), part_of(&corpus, "copy"));
}

#[test]
fn lines_that_share_nothing_are_not_similar() {
    let corpus = scores(&many(30), BTreeMap::new());
    assert_eq!(split::groups(&corpus).len(), 30);
    let sketch = |i: usize| similarity::sketch(&corpus, &corpus.pieces[i]);
    assert!(!similarity::similar(&sketch(0), &sketch(1)));
    assert!(similarity::similar(&sketch(0), &sketch(0)));
}

#[test]
fn pieces_that_are_known_keep_their_part_when_others_come() {
    let before = scores(&many(40), BTreeMap::new());
    let known: BTreeMap<String, PartOfSplit> = before.pieces.iter().map(|p| (p.id.clone(), p.part)).collect();
    let mut pieces = many(90);
    // A new setting of a tune that tests: it must not train.
    let tested = before.pieces.iter().find(|p| p.part == PartOfSplit::Test).unwrap();
    let index: usize = tested.id.trim_start_matches("piece-").parse().unwrap();
    pieces.push(("again".to_owned(), pieces[index].1.clone()));
    let after = scores(&pieces, known);
    for piece in &before.pieces {
        assert_eq!(part_of(&after, &piece.id), piece.part, "{}", piece.id);
    }
    assert_eq!(part_of(&after, "again"), PartOfSplit::Test);
    let split = after.statistics().split;
    assert_eq!([split.val.pieces, split.test.pieces], [9, 9], "the new pieces fill the parts up");
}

#[test]
fn the_contiguous_protocol_holds_out_the_last_tenth_of_the_tokens() {
    let pieces = many(10);
    let corpus = build::from_scores("test", Protocol::Contiguous, &pieces, &SplitPlan::default()).unwrap();
    let statistics = corpus.statistics();
    assert_eq!(statistics.split.val.tokens, statistics.tokens / 10);
    assert_eq!(statistics.split.train.tokens + statistics.split.val.tokens, statistics.tokens);
    assert_eq!(statistics.split.test.pieces, 0);
    assert_eq!(part_of(&corpus, "piece-008"), PartOfSplit::Train);
    assert_eq!(part_of(&corpus, "piece-009"), PartOfSplit::Val);
}

#[test]
fn a_text_is_its_characters_between_start_and_end() {
    let texts = text::pieces("poem", "\u{feff}ba\r\nß".as_bytes()).unwrap();
    let corpus = build::from_texts("poems", &texts, &SplitPlan::default()).unwrap();
    assert_eq!(corpus.vocabulary, ["START", "END", "\n", "a", "b", "ß"]);
    assert_eq!(corpus.pieces[0].tokens, [0, 4, 3, 2, 5, 1]);
    assert_eq!(corpus.statistics().frames, None);
}

#[test]
fn a_long_text_is_cut_into_passages_that_lose_nothing() {
    let paragraph = "Ein feste Burg ist unser Gott, ein gute Wehr und Waffen.\n".repeat(20) + "\n";
    let whole = paragraph.repeat(60);
    let passages = text::pieces("luther", whole.as_bytes()).unwrap();
    assert!(passages.len() > 5, "{} passages", passages.len());
    assert_eq!(passages[0].0, "luther#0001");
    assert!(passages.iter().all(|(_, p)| p.len() <= 16 << 10));
    assert_eq!(passages.into_iter().map(|(_, p)| p).collect::<String>(), whole);
}

#[test]
fn what_is_no_text_is_told_why() {
    assert_eq!(text::pieces("a", b"ab\xff"), Err(TextError::NotUtf8 { byte: 2 }));
    assert_eq!(text::pieces("a", b"a\x00b"), Err(TextError::Control { code: 0, byte: 1 }));
    assert_eq!(text::pieces("a", b" \n"), Err(TextError::Empty));
}
