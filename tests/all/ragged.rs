//! Sequences of different lengths, one after the other: each as it is alone, bit for bit.

use crate::common::{bits, encoder_config, scramble, sequence};
use linformer::ndarray::{Array2, Axis, s};
use linformer::{
    AttentionConfig, AttentionKind, CausalConfig, Encoder, EncoderConfig, Error, LanguageModel, LanguageModelConfig, LinformerConfig,
    LocalGlobalConfig, NormPlacement, PaddingMask, PositionKind,
};
use proptest::prelude::*;

/// The rows of sequences of these lengths.
fn rows(lengths: &[usize], dim: usize, seed: u64) -> Array2<f64> {
    sequence((1, lengths.iter().sum(), dim), seed).index_axis_move(Axis(0), 0)
}

/// Asserts that each sequence comes out as it does alone.
fn check(encoder: &Encoder<f64>, lengths: &[usize], seed: u64) {
    let x = rows(lengths, encoder.config().dim(), seed);
    let y = encoder.forward_ragged(&x, lengths).unwrap();
    let mut first = 0;
    for &length in lengths {
        let own = s![first..first + length, ..];
        let alone = encoder.forward(&x.slice(own).to_owned().insert_axis(Axis(0)), None).unwrap();
        assert_eq!(
            bits(&y.slice(own).to_owned()),
            bits(&alone.index_axis_move(Axis(0), 0)),
            "{length} of {lengths:?}"
        );
        first += length;
    }
    assert_eq!(y.nrows(), first);
}

fn in_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_linformer(config in encoder_config(1..=20), lengths in prop::collection::vec(0..=20_usize, 0..12), seed in 0..1000_u64) {
        let AttentionKind::Linformer(attention) = &config.attention else { unreachable!("an encoder of Linformer") };
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length.min(attention.seq_len)).collect();
        let mut encoder = Encoder::new(&config, seed).unwrap();
        scramble(&mut encoder, seed);
        check(&encoder, &lengths, seed);
    }
}

/// Short sequences go through a block together, long ones alone; threads share groups, or the rows of each.
#[test]
fn every_kind_of_attention_and_any_threads() {
    let kinds: [AttentionKind; 5] = [
        AttentionConfig::new(24, 4).into(),
        AttentionConfig::new(24, 4).with_causal(true).into(),
        LinformerConfig::new(24, 4, 700, 16).into(),
        LocalGlobalConfig::new(24, 4).with_block(8).with_slots(4).into(),
        CausalConfig::new(24, 4, 700, 4).into(),
    ];
    let of_many: Vec<usize> = (0..60).map(|index| index * 17 % 70).collect();
    for kind in kinds {
        for norm in [NormPlacement::Pre, NormPlacement::Post] {
            let mut encoder = Encoder::new(&EncoderConfig::new(kind.clone(), 2).with_norm(norm), 0).unwrap();
            scramble(&mut encoder, 1);
            for lengths in [&[650, 400, 341, 342, 264, 1, 0][..], &[3, 650, 3], &[5], &[700], &[], &of_many] {
                for threads in [1, 2, 5] {
                    in_pool(threads, || check(&encoder, lengths, 3));
                }
            }
            // The last of a thread's rows are so few that products of them could add up in another order.
            for (length, threads) in [(254, 8), (289, 16)] {
                let x = rows(&[length], 24, 3);
                let found = in_pool(threads, || bits(&encoder.forward_ragged(&x, &[length]).unwrap()));
                let expected = in_pool(1, || bits(&encoder.forward_ragged(&x, &[length]).unwrap()));
                assert_eq!(found, expected, "{length} by {threads}");
            }
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let encoder = Encoder::<f64>::new(&EncoderConfig::new(LinformerConfig::new(8, 2, 10, 4), 1), 0).unwrap();
    let x = rows(&[12], 8, 0);
    for (lengths, says) in [
        (&[6, 5][..], "(11, 8)"),
        (&[], "(0, 8)"),
        (&[usize::MAX, 13], "more rows than can be counted"),
    ] {
        let error = encoder.forward_ragged(&x, lengths).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(encoder.forward_ragged(&rows(&[4], 7, 0), &[4]).is_err());
    // A view of more numbers than there can be.
    let row = Array2::<f64>::zeros((1, 8));
    let endless = row.broadcast((1 << 58, 8)).unwrap();
    let exact = Encoder::<f64>::new(&EncoderConfig::new(AttentionConfig::new(8, 2), 1), 0).unwrap();
    let error = exact.forward_ragged(&endless, &[1 << 58]).unwrap_err();
    assert!(matches!(error, Error::Overflow { .. }), "{error}");
    let error = encoder.forward_ragged(&x, &[1, 11]).unwrap_err();
    assert!(error.to_string().contains("11"), "{error}");
}

fn model(position: PositionKind) -> LanguageModel<f64> {
    let encoder = EncoderConfig::new(AttentionConfig::new(24, 3), 2).with_norm(NormPlacement::Post);
    let config = LanguageModelConfig::new(30, encoder)
        .with_embedding_dim(Some(40))
        .with_embedding_norm(true)
        .with_token_types(3)
        .with_position(position);
    let mut model = LanguageModel::new(&config, 0).unwrap();
    scramble(&mut model, 1);
    model
}

/// Token 1 is padding to some positions, and a token like any other here.
fn tokens() -> (Vec<Vec<usize>>, Vec<Vec<usize>>) {
    let lengths = [9, 0, 4, 1, 12];
    let sequences = lengths
        .iter()
        .map(|&length| (0..length).map(|index| (index * 7 + length) % 30).collect());
    let types = lengths
        .iter()
        .map(|&length| (0..length).map(|index| (index + length) % 3).collect());
    (sequences.collect(), types.collect())
}

#[test]
fn features_are_those_of_each_sequence() {
    let after_padding = PositionKind::LearnedAfterPadding {
        max_len: 12,
        padding_token: 1,
    };
    for position in [PositionKind::Learned { max_len: 12 }, after_padding, PositionKind::sinusoidal()] {
        let model = model(position);
        let (sequences, types) = tokens();
        let found = model.features_ragged_with_types(&sequences, &types).unwrap();
        let untyped = model.features_ragged(&sequences).unwrap();
        let mut first = 0;
        for (sequence, types) in sequences.iter().zip(&types) {
            let length = sequence.len();
            let array = |values: &Vec<usize>| Array2::from_shape_vec((1, length), values.clone()).unwrap();
            let mask = PaddingMask::from_lengths(&[length], length).unwrap();
            let own = s![first..first + length, ..];
            let alone = model.features_with_types(&array(sequence), &array(types), Some(&mask)).unwrap();
            assert_eq!(bits(&found.slice(own).to_owned()), bits(&alone.index_axis_move(Axis(0), 0)));
            let alone = model.features(&array(sequence), Some(&mask)).unwrap();
            assert_eq!(bits(&untyped.slice(own).to_owned()), bits(&alone.index_axis_move(Axis(0), 0)));
            first += length;
        }
        assert_eq!(found.dim(), (first, 40));
    }
}

#[test]
fn errors_name_the_sequence() {
    let model = model(PositionKind::Learned { max_len: 12 });
    let says = |sequences: &[Vec<usize>], types: &[Vec<usize>], parts: &[&str]| {
        let error = model.features_ragged_with_types(sequences, types).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let zeros = vec![vec![0; 3], vec![0; 2]];
    says(&[vec![1, 2, 3], vec![4, 30]], &zeros, &["30", "item 1", "position 1"]);
    says(&[vec![1, 2, 3], vec![4, 5]], &zeros[..1], &["1 sequences", "2"]);
    says(&[vec![1, 2, 3], vec![4, 5, 6]], &zeros, &["sequence 1", "3 tokens", "2 types"]);
    says(
        &[vec![1, 2, 3], vec![4, 5]],
        &[vec![0; 3], vec![0, 3]],
        &["sequence 1", "type 3", "3 types"],
    );
    says(&[vec![1], vec![2; 13]], &[vec![0], vec![0; 13]], &["13", "12"]);
    let untyped = LanguageModel::<f64>::new(&LanguageModelConfig::new(30, EncoderConfig::new(AttentionConfig::new(8, 2), 1)), 0).unwrap();
    let error = untyped.features_ragged_with_types(&zeros, &zeros).unwrap_err().to_string();
    assert!(error.contains("use features_ragged"), "{error}");
}

/// One slice many times, which takes no memory: features of more numbers than there can be.
#[test]
fn sums_that_cannot_be_are_errors() {
    let encoder = EncoderConfig::new(AttentionConfig::new(1 << 20, 1), 0).with_final_norm(false);
    let config = LanguageModelConfig::new(1, encoder).with_position(PositionKind::None);
    let model = LanguageModel::<f32>::new(&config, 0).unwrap();
    let tokens = vec![0; 1 << 22];
    let error = model.features_ragged(&vec![tokens.as_slice(); 1 << 21]).unwrap_err();
    assert!(matches!(error, Error::Overflow { .. }), "{error}");
}
