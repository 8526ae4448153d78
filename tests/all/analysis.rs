//! What attention looks at: inputs, maps and singular values, each against its definition.

mod fidelity;

use linformer::analysis::{Map, Spectrum, attention_inputs, attention_map};
use linformer::ndarray::{Array2, Array3, ArrayView2, Axis, array, s};
use linformer::{
    Attention, AttentionConfig, Encoder, EncoderConfig, Error, LanguageModel, LanguageModelConfig, LayerNorm, LinformerConfig,
    NormPlacement, PaddingMask, Sharing,
};

pub fn sequences(batch: usize, length: usize, dim: usize) -> Array3<f64> {
    Array3::from_shape_fn((batch, length, dim), |(b, t, i)| ((b * 97 + t * dim + i) as f64 * 0.37).sin())
}

fn largest(difference: impl IntoIterator<Item = f64>) -> f64 {
    difference.into_iter().fold(0.0, |largest, value| value.abs().max(largest))
}

#[test]
fn the_inputs_are_what_each_attention_reads() -> Result<(), Error> {
    let x = sequences(2, 9, 8);
    for placement in [NormPlacement::Pre, NormPlacement::Post] {
        let config = EncoderConfig::new(AttentionConfig::new(8, 2), 2).with_norm(placement);
        let encoder = Encoder::<f64>::new(&config, 3)?;
        let inputs = attention_inputs(&encoder, &x, None)?;
        let after = encoder.blocks()[0].forward(&x, None)?;
        let norm = LayerNorm::<f64>::new(8, config.norm_eps)?;
        let expected = if placement == NormPlacement::Pre {
            [norm.forward(&x)?, norm.forward(&after)?]
        } else {
            [x.clone(), after]
        };
        assert_eq!(inputs.len(), 2);
        for (input, expected) in inputs.iter().zip(&expected) {
            assert!(largest(input - expected) < 1e-12);
        }
    }
    Ok(())
}

/// In the reversible form the second stream is read, which the first block changes by its feed-forward alone.
#[test]
fn reversible_encoders_show_their_second_stream() -> Result<(), Error> {
    let x = sequences(1, 9, 8);
    let config = EncoderConfig::new(LinformerConfig::new(8, 2, 9, 3), 2)
        .with_reversible(true)
        .with_final_norm(false);
    let encoder = Encoder::<f64>::new(&config, 3)?;
    let inputs = attention_inputs(&encoder, &x, None)?;
    let norm = LayerNorm::<f64>::new(8, config.norm_eps)?;
    let Attention::Linformer(attention) = encoder.blocks()[0].attention() else {
        panic!("it is a Linformer")
    };
    let first = &x + &attention.forward(&norm.forward(&x)?, None)?;
    let feed_forward = encoder.blocks()[0].feed_forward().expect("it has one").layer();
    let second = &x + &feed_forward.forward(&norm.forward(&first)?)?;
    assert!(largest(&inputs[1] - &norm.forward(&second)?) < 1e-12);
    Ok(())
}

#[test]
fn a_language_model_shows_what_its_encoder_reads() -> Result<(), Error> {
    let encoder = EncoderConfig::new(LinformerConfig::new(8, 2, 16, 4), 2);
    let model = LanguageModel::<f64>::new(&LanguageModelConfig::new(20, encoder), 0)?;
    let tokens = array![[1, 2, 3, 4], [5, 6, 7, 8]];
    let inputs = model.attention_inputs(&tokens, None)?;
    assert_eq!(inputs.len(), 2);
    assert!(inputs.iter().all(|input| input.dim() == (2, 4, 8)));
    assert!(matches!(model.attention_inputs(&array![[20]], None), Err(Error::Token { .. })));
    Ok(())
}

/// P·V, P̄·V̄ and (P̄·F)·V are what the layers multiply: rows sum to 1, padding has no share, and P̄·F is P̄ times F.
#[test]
fn maps_are_their_definitions() -> Result<(), Error> {
    let (length, k) = (12, 4);
    let x = sequences(2, length, 8);
    let mask = PaddingMask::from_lengths(&[length, 7], length)?;
    for sharing in [Sharing::None, Sharing::Layerwise] {
        let config = EncoderConfig::new(LinformerConfig::new(8, 2, length, k).with_sharing(sharing), 2);
        let encoder = Encoder::<f64>::new(&config, 1)?;
        let inputs = attention_inputs(&encoder, &x, Some(&mask))?;
        for (layer, input) in inputs.iter().enumerate() {
            let map = |kind| attention_map(&encoder, layer, kind, input, Some(&mask));
            let (exact, compressed, effective) = (map(Map::Exact)?, map(Map::Compressed)?, map(Map::Effective)?);
            assert_eq!(exact.dim(), (2, 2, length, length));
            assert_eq!(compressed.dim(), (2, 2, length, k));
            assert!(largest(exact.sum_axis(Axis(3)) - 1.0) < 1e-12);
            assert!(largest(compressed.sum_axis(Axis(3)) - 1.0) < 1e-12);
            for map in [&exact, &effective] {
                assert!(map.slice(s![1, .., .., 7..]).iter().all(|&share| share == 0.0));
            }
            let Attention::Linformer(attention) = encoder.blocks()[layer].attention() else {
                panic!("it is a Linformer")
            };
            let projections = attention.projections().or(encoder.projections()).expect("one of them has it");
            let matrix = projections.value().matrix().expect("it is learned");
            let (map, matrix): (ArrayView2<'_, f64>, ArrayView2<'_, f64>) =
                (compressed.slice(s![0, 1, .., ..]), matrix.slice(s![0, .., ..]));
            let difference = map.dot(&matrix) - effective.slice(s![0, 1, .., ..]);
            assert!(largest(difference) < 1e-12);
        }
    }
    Ok(())
}

#[test]
fn singular_values_are_those_of_known_matrices() -> Result<(), Error> {
    let diagonal = array![[0.0, -3.0, 0.0], [1.0, 0.0, 0.0]];
    let spectrum = Spectrum::of(diagonal.view())?;
    assert!(largest(spectrum.values().iter().zip([3.0, 1.0]).map(|(value, expected)| value - expected)) < 1e-14);
    assert!(
        largest(
            spectrum
                .cumulative()
                .iter()
                .zip([0.75, 1.0])
                .map(|(value, expected)| value - expected)
        ) < 1e-14
    );
    for (share, rank) in [(0.0, 1), (0.75, 1), (0.76, 2), (1.0, 2)] {
        assert_eq!(spectrum.rank_for(share)?, rank);
    }
    // A product of (30, 4) and (4, 20) has four, and squares sum to the squared norm.
    let of =
        |rows: usize, cols: usize, factor: f64| Array2::from_shape_fn((rows, cols), |(i, j)| ((i * cols + j).pow(2) as f64 * factor).sin());
    let product = of(30, 4, 0.71).dot(&of(4, 20, 1.3));
    let spectrum = Spectrum::of(product.view())?;
    assert_eq!(spectrum.values().len(), 20);
    assert!(spectrum.values().is_sorted_by(|a, b| a >= b));
    assert!(spectrum.values()[3] > 1e-3 && spectrum.values()[4] < 1e-12);
    assert_eq!(spectrum.rank_for(1.0)?, 4);
    let squares: f64 = spectrum.values().iter().map(|value| value * value).sum();
    assert!((squares / product.iter().map(|value| value * value).sum::<f64>() - 1.0).abs() < 1e-12);
    Ok(())
}
